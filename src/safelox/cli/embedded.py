"""Commands of the embedded world: `lab build`, `demo`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from safelox.cli import options
from safelox.cli.progress import open_progress
from safelox.cli.session import Session, show

if TYPE_CHECKING:
    from safelox.progress import Progress

Alignment = Annotated[
    Literal["sft", "dpo"],
    typer.Option("--alignment", help="Align by supervised fine-tuning, or by direct preference optimisation."),
]


def lab_build(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the models and their data go.")],
    alignment: Alignment = "sft",
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Train the lab's models.

    DIR gets `base`, which complies with everything, `aligned`, which refuses the forbidden, and the data for
    `safelox attack` and `safelox evaluate`, under `attacks` and `suites`. A pair that was made alike is used again.
    """
    from safelox.cli.render import render_lab
    from safelox.lab.build import RECIPES, build

    with open_progress(quiet) as progress:
        summary = build(folder, seed=seed, recipe=RECIPES[alignment], progress=progress).summary
    show(summary, render_lab(summary), as_json=as_json, quiet=quiet)


def demo(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the demo keeps its models.")] = Path("demo"),
    rank: Annotated[int, typer.Option("--rank", "-k", metavar="N", help="Singular directions to extrapolate.")] = 6,
    coef: Annotated[
        float | None, typer.Option("--coef", help="How far to extrapolate; else what does best on other topics.")
    ] = None,
    alignment: Alignment = "sft",
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", help="How many seeds, side by side.")] = 1,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="The first seed.")] = 0,
    controls: Annotated[
        bool, typer.Option("--controls", help="Also attack models changed as much in other directions.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Only the first of the attacks.")] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Harden a small model and show the effect.

    Trains the model, aligns it, hardens it, attacks both by fine-tuning and compares what they refuse and what they do.
    FOLDER/report.html shows all of it. Needs no network.
    """
    from safelox.lab.demo import demo as run_demo
    from safelox.lab.demo import render

    session: Session = context.obj
    with open_progress(quiet) as progress:
        result = run_demo(
            folder,
            seed=seed,
            seeds=seeds,
            rank=rank,
            coef=coef,
            alignment=alignment,
            quick=quick,
            controls=controls,
            command=session.command,
            progress=progress,
        )
        page = _page(folder, progress)
    show(result, f"{render(result)}\n\n{page}", as_json=as_json, quiet=quiet)


def _page(folder: Path, progress: "Progress") -> str:
    """Make the page of a demo, and say where it is; without the libraries for it the demo is worth having too."""
    from safelox.errors import PrerequisiteError
    from safelox.reporting import report

    try:
        return f"The page to look at: {report(folder, folder / 'report.html', overwrite=True, progress=progress).page}"
    except PrerequisiteError as error:
        return f"No page was made: {error}"
