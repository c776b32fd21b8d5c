"""The commands in the order in which `--help` lists them: each parses, calls the library and prints.

The library is imported inside the commands, so that `--help` needs neither torch nor numpy.
"""

from typing import Annotated

import typer

from safelox import __version__
from safelox.cli.analysing import rank_curve
from safelox.cli.attacking import attack
from safelox.cli.drifting import drift, spectrum
from safelox.cli.embedded import demo, lab_build
from safelox.cli.evaluating import compare, evaluate
from safelox.cli.experimenting import run
from safelox.cli.exporting import export
from safelox.cli.judging import judge_check
from safelox.cli.known import data, data_fetch
from safelox.cli.planes import landscape
from safelox.cli.publishing import document
from safelox.cli.reporting import report
from safelox.cli.session import Session
from safelox.cli.tuning import tune
from safelox.cli.weights import decompose, harden, verify

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"safelox {__version__}")
        raise typer.Exit


@app.callback(epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.")
def safelox(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 (its callback does the work)
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error, as SAFELOX_DEBUG=1 does.")
    ] = False,
) -> None:
    """Make a safety-aligned LLM keep its safety through fine-tuning, without training (LoX)."""
    session: Session = context.obj
    session.debug |= debug


COMMANDS = (
    harden,
    decompose,
    spectrum,
    verify,
    drift,
    attack,
    evaluate,
    compare,
    rank_curve,
    landscape,
    tune,
    run,
    report,
    export,
    judge_check,
    document,
    demo,
)
for command in COMMANDS:
    app.command()(command)

lab = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="The embedded world: tiny models with an exact judge.",
)
lab.command("build")(lab_build)
app.add_typer(lab, name="lab")

known_data = typer.Typer(rich_markup_mode=None, invoke_without_command=True)
known_data.callback()(data)
known_data.command("fetch")(data_fetch)
app.add_typer(known_data, name="data")
