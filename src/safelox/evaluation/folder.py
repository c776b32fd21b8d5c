"""A results folder on disk: its samples are appended as they are scored, so that a killed run goes on where it was."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from safelox.errors import TargetError
from safelox.evaluation.results import EvaluationConfig, EvaluationManifest, Results, ScoredSample
from safelox.manifest import Record

CONFIG, SAMPLES, RESULTS, MANIFEST = "config.json", "samples.jsonl", "results.json", "manifest.json"


class ResultsFolder:
    """A results folder that is open for writing; `scored` holds what stood in it already."""

    def __init__(self, folder: Path, stream: BinaryIO) -> None:
        self.folder = folder
        self._stream = stream
        self.scored = {(sample.suite, sample.id): sample for sample in self._read()}

    def append(self, sample: ScoredSample) -> None:
        """Keep a scored sample: from here on it survives the end of the process."""
        self._stream.write(sample.model_dump_json().encode() + b"\n")
        self._stream.flush()
        self.scored[sample.suite, sample.id] = sample

    def finish(self, results: Results, manifest: EvaluationManifest) -> None:
        """Write results.json and, last, manifest.json."""
        _put(self.folder / RESULTS, results)
        _put(self.folder / MANIFEST, manifest)

    def _read(self) -> Iterator[ScoredSample]:
        """The samples that stand here; a last line that a killed run did not end is cut off."""
        content = self._stream.read()
        whole = content.rfind(b"\n") + 1
        self._stream.seek(whole)
        self._stream.truncate()
        yield from _parsed(self.folder / SAMPLES, content[:whole])


def read_scored(folder: Path) -> list[ScoredSample]:
    """Every scored sample of a results folder, in the order in which they were finished; a torn last line is left out.

    Raises:
        TargetError: there is none, or a line is not one.
    """
    path = folder / SAMPLES
    if not path.is_file():
        raise TargetError(f"{folder}: no {SAMPLES} here, so this is no results folder.")
    content = path.read_bytes()
    return list(_parsed(path, content[: content.rfind(b"\n") + 1]))


def _parsed(path: Path, lines: bytes) -> Iterator[ScoredSample]:
    for number, line in enumerate(lines.splitlines(), start=1):
        try:
            yield ScoredSample.model_validate_json(line)
        except ValidationError as error:
            raise TargetError(
                f"{path}, line {number}: not a scored sample of this version of safelox, so the run cannot go on from "
                "here; choose another OUT, or --overwrite to start over."
            ) from error


@contextmanager
def open_results(folder: Path, config: EvaluationConfig, *, overwrite: bool) -> Iterator[ResultsFolder]:
    """Open a new results folder, or one with the same config to go on in it.

    Args:
        overwrite: start over where results stand already, whatever their config.

    Raises:
        TargetError: the folder holds something else, results of another config, or another run is writing it.
    """
    stands = (folder / SAMPLES).exists()  # made first; a model has a config.json too
    if folder.exists() and not folder.is_dir():
        raise TargetError(f"{folder}: is a file; OUT has to be a folder.")
    if folder.exists() and not stands and any(folder.iterdir()):
        raise TargetError(f"{folder}: holds something else than results; OUT has to be a new or an empty folder.")
    before = _read_config(folder) if stands and not overwrite else None
    differences = [] if before is None else _differences(before, config)
    if differences:
        raise TargetError(
            f"{folder}: holds results of another evaluation: {'; '.join(differences)}. "
            "Choose another OUT, or --overwrite to start over."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / SAMPLES) as stream:
        if overwrite:
            stream.truncate(0)
            for name in (RESULTS, MANIFEST):
                (folder / name).unlink(missing_ok=True)
        if before is None:
            _put(folder / CONFIG, config)
        yield ResultsFolder(folder, stream)


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """The file, made if it is not there, open for reading and writing by this process alone."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TargetError(
                f"{path.parent}: another run is writing the same results. Wait for it or choose another OUT."
            ) from error
        yield stream


def _read_config(folder: Path) -> EvaluationConfig | None:
    """The config of the results in a folder; None where a run was killed before it had written any."""
    path = folder / CONFIG
    if not path.exists() and (folder / SAMPLES).stat().st_size == 0:
        return None
    try:
        return EvaluationConfig.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise TargetError(
            f"{path}: not the config of an evaluation by this version of safelox; choose another OUT, or --overwrite "
            "to start over if these are results."
        ) from error


def _differences(before: EvaluationConfig, now: EvaluationConfig) -> list[str]:
    """What differs in words. The same model at another place is the same."""
    found = []
    for name in type(now).model_fields:
        old, new = getattr(before, name), getattr(now, name)
        if old == new or (name == "model" and old.files == new.files):
            continue
        if name == "model":
            changed = "another model" if old.reference != new.reference else "files of the model have changed"
            found.append(f"model {old.reference} there and {new.reference} now ({changed})")
        elif name in ("suites", "judges") and list(old) == list(new):
            found.append(f"the same {name}, but changed since: {', '.join(key for key in new if old[key] != new[key])}")
        elif name in ("suites", "judges"):
            found.append(f"{name} {', '.join(old)} there and {', '.join(new)} now")
        else:
            found.append(f"{name} {old!r} there and {new!r} now")
    return found


def _put(path: Path, record: Record) -> None:
    """Write a file in one step, so that it is never seen half-written."""
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(record.model_dump_json(indent=1, by_alias=True) + "\n", encoding="utf-8")
    os.replace(unfinished, path)
