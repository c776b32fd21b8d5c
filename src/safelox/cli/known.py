"""The commands `data` and `data fetch`."""

from pathlib import Path
from typing import Annotated

import typer

from safelox.cli import options
from safelox.cli.progress import open_progress
from safelox.cli.session import show
from safelox.errors import UsageError


def data(
    context: typer.Context,
    folder: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Folder to look in first, before $SAFELOX_DATA and the cache."),
    ] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """List the known data sets, and which are there.

    For each: whether its file is the original, a known stand-in or unrecognised, by its checksum, its licence and its
    source. `safelox data fetch NAME` fetches.
    """
    if context.invoked_subcommand is not None:
        if folder is not None or as_json or quiet:
            raise UsageError(f"give options after `{context.invoked_subcommand}`, to which they belong.")
        return
    from safelox.cli.render_data import render_data
    from safelox.known_data import list_data

    listed = list_data(folder)
    show(listed, render_data(listed), as_json=as_json, quiet=quiet)


def data_fetch(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names from the list of `safelox data`.")],
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Fetch data sets into the cache.

    Their licences are those of their authors. What does not have the checksum of the original is not kept.
    """
    from safelox.cli.render_data import render_fetched
    from safelox.known_data import DataList, cache_folder, fetch, find_known
    from safelox.known_data.listing import state_of

    wanted = find_known(names)
    with open_progress(quiet) as progress:
        for known in wanted:
            fetch(known, progress=progress)
    cache = cache_folder()
    fetched = DataList(folders=(str(cache),), data=tuple(state_of(known, [cache]) for known in wanted))
    show(fetched, render_fetched(fetched), as_json=as_json, quiet=quiet)
