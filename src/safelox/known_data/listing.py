"""Every known data set, and what of it is there: what `safelox data` shows."""

from pathlib import Path
from typing import Literal

from safelox.errors import DataError
from safelox.known_data.fetching import address
from safelox.known_data.finding import look_for, recognise
from safelox.known_data.places import usual_folders
from safelox.known_data.table import KnownData, StandIn, known_data
from safelox.manifest import FileRecord, Record


class DataState(Record):
    """A known data set, and the file that `find` takes for it."""

    name: str
    state: Literal["original", "stand-in", "unrecognised", "missing"]
    label: str | None
    """What a run on the file is called."""
    path: str | None
    record: FileRecord | None
    stand_in: StandIn | None
    """The one that is there."""
    fetched_from: str | None
    """URL; None where it cannot be fetched."""
    known: KnownData


class DataList(Record):
    """All of them."""

    folders: tuple[str, ...]
    """Where they were looked for, in this order."""
    data: tuple[DataState, ...]


def list_data(data: Path | None = None) -> DataList:
    """What is known, and what of it is in the folder `data`, in $SAFELOX_DATA or in the cache.

    Raises:
        DataError: `data` is no folder, or a file cannot be read.
    """
    if data is not None and not data.is_dir():
        raise DataError(f"{data}: there is no such folder of data.")
    folders = [*([] if data is None else [data]), *usual_folders()]
    states = tuple(state_of(known, folders) for known in known_data().values())
    return DataList(folders=tuple(map(str, folders)), data=states)


def state_of(known: KnownData, folders: list[Path]) -> DataState:
    """What is there of one data set.

    Raises:
        DataError: its file cannot be read.
    """
    path = look_for(known.file, known, folders)
    found = None if path is None else recognise(path, known)
    return DataState(
        name=known.name,
        state="missing" if found is None else found.kind,
        label=None if found is None else found.label,
        path=None if path is None else str(path),
        record=None if found is None else found.record,
        stand_in=None if found is None else found.stand_in,
        fetched_from=None if known.source is None else address(known.source),
        known=known,
    )
