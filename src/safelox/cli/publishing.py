"""The command `document`."""

from pathlib import Path
from typing import Annotated

import typer

from safelox.cli import options
from safelox.cli.progress import open_progress
from safelox.cli.session import show


def document(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="Folder of a finished run, of `safelox run`.")],
    hardened: Annotated[Path, typer.Argument(metavar="HARDENED", help="A hardened model that the run asked.")],
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Go on although not all is done; the card then says what is missing.")
    ] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Put what a run found into a hardened model's card.

    The card gets a section with the figures before and after each attack, and their form for the Hugging Face hub;
    HARDENED/reproduce gets the recipe, versions, hashes and commands. Nothing is sent anywhere.
    """
    from safelox.cli.render_publication import render_documented
    from safelox.publication import document as document_model

    with open_progress(quiet) as progress:
        documented = document_model(results, hardened, unfinished=unfinished, progress=progress)
    show(documented, render_documented(documented), as_json=as_json, quiet=quiet)
