"""export: a results folder in the form that another tool reads."""

import os
from collections.abc import Callable
from pathlib import Path

from safelox.errors import UsageError
from safelox.evaluation.exports.finished import Finished, read_finished
from safelox.evaluation.exports.inspect import write_inspect
from safelox.evaluation.exports.tables import write_csv
from safelox.evaluation.exports.tamperbench import write_tamperbench
from safelox.evaluation.folder import SAMPLES
from safelox.manifest import Record
from safelox.writer.disk import explained
from safelox.writer.place import Place

EXPORTS: dict[str, Callable[[Finished, Path], None]] = {
    "csv": write_csv,
    "inspect": write_inspect,
    "tamperbench": write_tamperbench,
}
"""What writes each form into a folder, by the form's name."""


class Exported(Record):
    """What was written."""

    folder: str
    files: tuple[str, ...]
    """Relative to the folder."""


def export(results: str | os.PathLike[str], out: str | os.PathLike[str], *, to: str) -> Exported:
    """Write finished results into the folder `out`, in the form that another tool reads.

    Args:
        results: a results folder.
        out: a new or an empty folder; it is whole or not there.
        to: csv, the columns of the paper's own scripts; inspect, logs that `inspect view` shows; tamperbench, its
            three files.

    Raises:
        TargetError: `results` are no finished results, or `out` cannot be written.
        UsageError: there is no such form, or it has no place for any of the results.
        PrerequisiteError: a package is missing.
    """
    if to not in EXPORTS:
        raise UsageError(f"no form is called {to!r}; there are: {', '.join(EXPORTS)}.")
    source = Path(results)
    finished = read_finished(source)
    place = Place(Path(out), overwrite=False)
    place.open(2 * (source / SAMPLES).stat().st_size, [source])
    try:
        place.clear()
        with explained(place.folder):
            EXPORTS[to](finished, place.folder)
        journal = place.journal.path
        files = sorted(path for path in place.folder.rglob("*") if path.is_file() and path != journal)
        names = tuple(str(path.relative_to(place.folder)) for path in files)
        place.rename()
    except BaseException:
        place.remove()
        raise
    finally:
        place.close()
    return Exported(folder=str(place.out), files=names)
