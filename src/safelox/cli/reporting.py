"""The command `report`."""

from pathlib import Path
from typing import Annotated

import typer

from safelox.cli import options
from safelox.cli.progress import open_progress
from safelox.cli.session import show


def report(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="Folder of an experiment, finished or not, or of any results.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where the page goes.")] = Path(
        "report.html"
    ),
    figures: Annotated[
        Path | None,
        typer.Option("--figures", metavar="DIR", help="Also every chart as SVG and PNG, every table as CSV and LaTeX."),
    ] = None,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Make one page of results, that can be shown to people.

    One HTML file that needs no network: the ASR before and after each attack with intervals, what it cost, curves,
    landscapes and spectra as far as they are there, every reply with search and filters, and where each number comes
    from. No model is opened.
    """
    from safelox.cli.render_report import render_report
    from safelox.reporting import report as make_report

    with open_progress(quiet) as progress:
        result = make_report(results, out, figures=figures, overwrite=overwrite, progress=progress)
    show(result, render_report(result), as_json=as_json, quiet=quiet)
