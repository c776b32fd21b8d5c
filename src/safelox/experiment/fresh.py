"""Whether there is anything to do at all, found out from sizes and times of files, without loading what would do it."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safelox
from safelox.experiment.files import put
from safelox.experiment.record import FILE, ExperimentRecord

_SOURCE = Path(safelox.__file__).parent
FINISHED = "steps/finished.json"


def finished_record(out: Path, asked: Mapping[str, Any]) -> ExperimentRecord | None:
    """The experiment, if it was finished when the same was asked, and no file that goes in or came out has changed.

    Args:
        asked: the recipe, the code and whatever else decides what is to be done; as `note_finished` was told.
    """
    try:
        note = json.loads((out / FINISHED).read_bytes())
        same = note["asked"] == dict(asked) and all(
            stamp(Path(path)) == found for path, found in note["inputs"].items()
        )
        if same and all(stamp(out / path) == found for path, found in note["results"].items()):
            return ExperimentRecord.model_validate_json((out / FILE).read_bytes())
    except (OSError, ValueError, KeyError):
        pass  # whatever is not as it was left is looked at step by step
    return None


def note_finished(out: Path, asked: Mapping[str, Any], inputs: Iterable[str], results: Iterable[str]) -> None:
    """Remember that all is done.

    Args:
        inputs: absolute paths of the files that were read.
        results: paths of what came of it, inside `out`.
    """
    note = {
        "asked": dict(asked),
        "inputs": {path: stamp(Path(path)) for path in sorted(inputs)},
        "results": {path: stamp(out / path) for path in sorted({*results, FILE})},
    }
    put(out / FINISHED, json.dumps(note, indent=1) + "\n")


def forget_finished(out: Path) -> None:
    """Something is to be done: what was remembered holds no longer."""
    (out / FINISHED).unlink(missing_ok=True)


def source_hash(parts: Iterable[str] = ("",)) -> str:
    """Of the source of modules and packages of safelox, by their paths inside it; of all of it by default."""
    digest = hashlib.sha256()
    for part in parts:
        path = _SOURCE / part
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(f"{file.relative_to(_SOURCE).as_posix()}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def stamp(path: Path) -> list[int]:
    """Size and time of the last change; [-1, -1] where there is no such file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return [-1, -1]
    return [status.st_size, status.st_mtime_ns]
