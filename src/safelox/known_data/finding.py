"""Where the file of a data set is, and what its bytes say that it is."""

from pathlib import Path
from typing import Literal, NamedTuple

from safelox.errors import DataError
from safelox.known_data.checksums import Digests, digest
from safelox.known_data.fetching import fetch as fetch_known
from safelox.known_data.places import usual_folders
from safelox.known_data.table import KnownData, StandIn, find_known, known_data
from safelox.manifest import FileRecord
from safelox.progress import NULL, Progress

SHOWN_DIGITS = 12


class Found(NamedTuple):
    """A file of data, and what its checksum says about it."""

    path: Path
    record: FileRecord
    """Size and SHA-256."""
    known: KnownData | None
    """The data set that it was looked for as; for a file of the user's own, the one whose bytes it has, if any."""
    original: bool | None
    """Whether it is the original, byte for byte; None where there is no telling, for want of a known checksum."""
    stand_in: StandIn | None
    """The known stand-in that it is."""

    @property
    def kind(self) -> Literal["original", "stand-in", "unrecognised"]:
        """In one word. Whatever no checksum speaks for is unrecognised."""
        if self.original:
            return "original"
        return "unrecognised" if self.stand_in is None else "stand-in"

    @property
    def label(self) -> str:
        """What a run on this file is called.

        "gsm8k" for the original, "alpaca (stand-in: random 9k)", "alpaca (unrecognised file, sha256 12ab34cd56ef)",
        and the name of the file for one of the user's own.
        """
        if self.known is None:
            return self.path.name
        if self.original:
            return self.known.name
        if self.stand_in is not None:
            return f"{self.known.name} (stand-in: {self.stand_in.name})"
        return f"{self.known.name} (unrecognised file, sha256 {self.record.sha256[:SHOWN_DIGITS]})"


def find(name: str | None, file: str, data: Path | None, *, fetch: bool = False, progress: Progress = NULL) -> Found:
    """The file of a data set: `data` itself, or what is in the folder `data`, in $SAFELOX_DATA or in the cache.

    The first of these places that has it is taken. In each, `file` is looked for first, then the paths of the known
    data set, then those of its stand-ins: a file's name only leads to it, its checksum says what it is.

    Args:
        name: the known data set that is wanted (a name of `known_data()`); None for one that only the caller knows.
        file: its path inside a folder of data.
        data: the file, or a folder to look in first; None for the usual places only.
        fetch: whether it may be fetched into the cache if it is in none of these places.

    Raises:
        UsageError: there is no known data set of that name.
        DataError: it is nowhere, or cannot be read or fetched; the message says where it was looked for.
    """
    known = None if name is None else find_known([name])[0]
    if data is not None and not data.exists():
        raise DataError(f"{data}: there is no such file or folder of data.")
    if data is not None and not data.is_dir():
        return recognise(data, known)
    folders = [*([] if data is None else [data]), *usual_folders()]
    path = look_for(file, known, folders)
    if path is not None:
        return recognise(path, known)
    if fetch and known is not None and known.source is not None:
        return recognise(fetch_known(known, progress=progress), known)
    raise DataError(_nowhere(file, known, folders))


def look_for(file: str, known: KnownData | None, folders: list[Path]) -> Path | None:
    """The first file there is under one of the names that it may have; None where there is none."""
    names = [file]
    if known is not None:
        names += [known.file, *known.also, *(stand_in.file for stand_in in known.stand_ins)]
    return next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)


def recognise(path: Path, known: KnownData | None) -> Found:
    """What a file is, by its checksum: measured against one known data set, or against all if it is None.

    Raises:
        DataError: it cannot be read.
    """
    digests = digest(path)
    if known is None:
        known = next((each for each in known_data().values() if _has_bytes_of(digests, each)), None)
    if known is None:
        return Found(path, digests.record, None, None, None)
    stand_in = next((each for each in known.stand_ins if digests.match(each.checksum)), None)
    original = digests.match_any(known.originals) if known.originals else None
    return Found(path, digests.record, known, original, stand_in)


def _has_bytes_of(digests: Digests, known: KnownData) -> bool:
    return digests.match_any(known.originals) or any(digests.match(each.checksum) for each in known.stand_ins)


def _nowhere(file: str, known: KnownData | None, folders: list[Path]) -> str:
    looked = " nor ".join(str(folder / file) for folder in folders)
    what = "data that is asked for" if known is None else f"data set {known.name}"
    text = f"the {what} is not there: no file {looked}. Name the file, or the folder that it is in, with --data or in "
    text += "the variable SAFELOX_DATA."
    return text if known is None else f"{text} {known.how_to_get}"
