"""The command `export`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from safelox.cli import options
from safelox.cli.session import show


def export(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="Folder of results, of `safelox evaluate`.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new or an empty folder.")],
    to: Annotated[Literal["csv", "inspect", "tamperbench"], typer.Option("--to", help="The form of the files.")],
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Write results in the form that another tool reads.

    csv: the columns of the paper's own scripts, a file for each suite and judge. inspect: logs that `inspect view`
    shows. tamperbench: its three files, for the measures that it has as well.
    """
    from safelox.evaluation.exports import export as export_results

    exported = export_results(results, out, to=to)
    show(exported, "\n".join(f"{exported.folder}/{name}" for name in exported.files), as_json=as_json, quiet=quiet)
