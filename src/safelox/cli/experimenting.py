"""Commands that carry out whole experiments: `run`."""

from pathlib import Path
from typing import Annotated

import typer

from safelox.cli import options
from safelox.cli.progress import open_progress
from safelox.cli.session import Session, show
from safelox.errors import UsageError

IMPORTS = ("safelox.lab.source",)
"""Modules that register what recipes may name, besides what is always known."""


def _print_names(wanted: bool) -> None:
    from safelox.experiment.recipe.shipped import shipped_recipes

    if wanted:
        typer.echo("\n".join(shipped_recipes()))
        raise typer.Exit


def run(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or a name that --list shows.")],
    out: Annotated[
        Path | None,
        typer.Argument(metavar="OUT", help="Folder of the results, else runs/NAME; a run of the same goes on there."),
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="REF", help="Base model, in place of the recipe's.")
    ] = None,
    aligned: Annotated[
        str | None, typer.Option("--aligned", metavar="REF", help="Aligned model, in place of the recipe's.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", metavar="N", help="Processes side by side; each takes one GPU.")] = 1,
    part: Annotated[
        str | None,
        typer.Option("--slice", metavar="I/N", help="Do the I-th of N parts: several machines may share one OUT."),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep attacked models when all that needs them is done.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and what it takes; no more.")
    ] = False,
    names: Annotated[  # noqa: ARG001 (its callback does the work)
        bool,
        typer.Option("--list", is_eager=True, callback=_print_names, help="List the recipes that come with safelox."),
    ] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Carry out a recipe.

    Its models are hardened, attacked, asked, judged and measured, as a grid. What is done is not done again: the same
    command goes on after an interruption, and after a change of the recipe does what hangs on the change. A step that
    fails holds up only what needs it; the exit code is then 1, and the same command tries it again.
    """
    from safelox.cli.render_experiment import render_experiment, render_forecast
    from safelox.experiment import plan_run
    from safelox.experiment import run as run_recipe
    from safelox.experiment.summary import failures

    session: Session = context.obj
    folder = out or Path("runs") / Path(recipe).stem
    if dry_run:
        forecast = plan_run(recipe, folder, base=base, aligned=aligned, jobs=jobs, imports=IMPORTS)
        show(forecast, render_forecast(forecast, str(folder)), as_json=as_json, quiet=quiet)
        return
    with open_progress(quiet) as progress:
        record = run_recipe(
            recipe,
            folder,
            base=base,
            aligned=aligned,
            jobs=jobs,
            slice=None if part is None else _parse_slice(part),
            keep=keep,
            imports=IMPORTS,
            command=session.command,
            progress=progress,
        )
    show(record, render_experiment(record, folder), as_json=as_json, quiet=quiet)
    if failures(record):
        raise typer.Exit(1)


def _parse_slice(text: str) -> tuple[int, int]:
    """
    Raises:
        UsageError: it does not read like 1/4.
    """
    first, _, second = text.partition("/")
    if not (first.isdigit() and second.isdigit()):
        raise UsageError(f"--slice: {text!r} is not a number and how many parts there are, such as 1/4.")
    return int(first), int(second)
