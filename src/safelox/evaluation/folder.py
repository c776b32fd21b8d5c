"""A results folder on disk: replies and verdicts are kept as they come, so that a killed run goes on where it was.

samples.jsonl gets a line when all judges of a reply have spoken. Until then the reply stands in
unfinished/replies.jsonl and each verdict in unfinished/verdicts.jsonl; a finished run leaves neither behind.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

from pydantic import ValidationError

from safelox.errors import TargetError
from safelox.evaluation.outcomes import Verdict
from safelox.evaluation.results import (
    EvaluationConfig,
    EvaluationManifest,
    GivenVerdict,
    Key,
    ModelRecord,
    RepliedSample,
    Results,
    ScoredSample,
    SuiteConfig,
)
from safelox.manifest import Record
from safelox.writer.disk import put_text

CONFIG, SAMPLES, RESULTS, MANIFEST = "config.json", "samples.jsonl", "results.json", "manifest.json"
UNFINISHED = "unfinished"
_REPLIES, _VERDICTS = "replies.jsonl", "verdicts.jsonl"

_R = TypeVar("_R", bound=Record)


class _Journal(Generic[_R]):
    """A file of records, one a line, that is read once and appended to."""

    def __init__(self, path: Path, stream: BinaryIO, kind: type[_R]) -> None:
        self._path, self._stream, self._kind = path, stream, kind

    def read(self) -> list[_R]:
        """What stands here; a last line that a killed run did not end is cut off."""
        content = self._stream.read()
        whole = content.rfind(b"\n") + 1
        self._stream.seek(whole)
        self._stream.truncate()
        return list(_parsed(self._path, content[:whole], self._kind))

    def append(self, record: _R) -> None:
        """Keep a record: from here on it survives the end of the process."""
        self._stream.write(record.model_dump_json().encode() + b"\n")
        self._stream.flush()


class ResultsFolder:
    """A results folder that is open for writing, and all that stands in it."""

    def __init__(
        self,
        folder: Path,
        config: EvaluationConfig,
        samples: _Journal[ScoredSample],
        replies: _Journal[RepliedSample],
        verdicts: _Journal[GivenVerdict],
    ) -> None:
        self.folder = folder
        self._judges = {suite: settings.judges for suite, settings in config.suites.items()}
        self._samples, self._replies, self._verdicts = samples, replies, verdicts
        self.scored = {sample.key: sample for sample in samples.read()}
        self.replied: dict[Key, RepliedSample] = {sample.key: sample for sample in replies.read()} | self.scored
        self._given: dict[Key, dict[str, Verdict]] = {}
        for given in verdicts.read():
            self._given.setdefault(given.key, {})[given.judge] = given.verdict
        for key in self.replied:
            self._score(key)

    def keep_reply(self, sample: RepliedSample) -> None:
        self._replies.append(sample)
        self.replied[sample.key] = sample

    def keep_verdict(self, key: Key, judge: str, verdict: Verdict) -> None:
        self._verdicts.append(GivenVerdict(**key._asdict(), judge=judge, verdict=verdict))
        self._given.setdefault(key, {})[judge] = verdict
        self._score(key)

    def has_verdict(self, key: Key, judge: str) -> bool:
        return key in self.scored or judge in self._given.get(key, {})

    def finish(self, results: Results, manifest: EvaluationManifest) -> None:
        """Write results.json and, last, manifest.json."""
        _put(self.folder / RESULTS, results)
        _put(self.folder / MANIFEST, manifest)
        shutil.rmtree(self.folder / UNFINISHED)

    def _score(self, key: Key) -> None:
        """Write the line of a reply on which all its judges have spoken."""
        given = self._given.get(key, {})
        if key in self.scored or any(judge not in given for judge in self._judges[key.suite]):
            return
        verdicts = {judge: given[judge] for judge in self._judges[key.suite]}
        sample = ScoredSample(**dict(self.replied[key]), verdicts=verdicts)
        self._samples.append(sample)
        self.scored[key] = self.replied[key] = sample


def read_scored(folder: Path) -> list[ScoredSample]:
    """Every scored sample of a results folder, in the order in which they were finished; a torn last line is left out.

    Raises:
        TargetError: there is none, or a line is not one.
    """
    path = folder / SAMPLES
    if not path.is_file():
        raise TargetError(f"{folder}: no {SAMPLES} here, so this is no results folder.")
    content = path.read_bytes()
    return list(_parsed(path, content[: content.rfind(b"\n") + 1], ScoredSample))


def read_config(folder: Path) -> EvaluationConfig:
    """The config of the results in a folder.

    Raises:
        TargetError: there is none, or it is not one that this version reads.
    """
    path = folder / CONFIG
    try:
        return EvaluationConfig.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise TargetError(f"{path}: not the config of an evaluation by this version of safelox.") from error


def _parsed(path: Path, lines: bytes, kind: type[_R]) -> Iterator[_R]:
    for number, line in enumerate(lines.splitlines(), start=1):
        try:
            yield kind.model_validate_json(line)
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
    before = _config_before(folder) if stands and not overwrite else None
    differences = [] if before is None else _differences(before, config)
    if differences:
        raise TargetError(
            f"{folder}: holds results of another evaluation: {'; '.join(differences)}. "
            "Choose another OUT, or --overwrite to start over."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        samples = stack.enter_context(_locked(folder / SAMPLES))
        if overwrite:
            samples.truncate(0)
            for name in (RESULTS, MANIFEST):
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
        if before is None:
            _put(folder / CONFIG, config)
        unfinished = folder / UNFINISHED
        unfinished.mkdir(exist_ok=True)
        replies = stack.enter_context(_open(unfinished / _REPLIES))
        verdicts = stack.enter_context(_open(unfinished / _VERDICTS))
        yield ResultsFolder(
            folder,
            config,
            _Journal(folder / SAMPLES, samples, ScoredSample),
            _Journal(unfinished / _REPLIES, replies, RepliedSample),
            _Journal(unfinished / _VERDICTS, verdicts, GivenVerdict),
        )


def _open(path: Path) -> BinaryIO:
    """The file, made if it is not there, open for reading and writing."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """The file, open for this process alone."""
    with _open(path) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TargetError(
                f"{path.parent}: another run is writing the same results. Wait for it or choose another OUT."
            ) from error
        yield stream


def _config_before(folder: Path) -> EvaluationConfig | None:
    """The config of results that stand already; None where no reply was kept, so that there is nothing to lose."""
    kept = [path for path in (folder / SAMPLES, folder / UNFINISHED / _REPLIES) if path.exists()]
    if all(path.stat().st_size == 0 for path in kept):
        return None
    try:
        return read_config(folder)
    except TargetError as error:
        raise TargetError(f"{error} Choose another OUT, or --overwrite to start over if these are results.") from error


def _differences(before: EvaluationConfig, now: EvaluationConfig) -> list[str]:
    """What differs in words. The same model at another place is the same."""
    found: list[str] = []
    for name in type(now).model_fields:
        old, new = getattr(before, name), getattr(now, name)
        if old == new or (name == "model" and _same_weights(old, new)):
            continue
        if name == "model":
            found.append(_model_difference(old, new))
        elif name == "suites" and list(old) == list(new):
            found += _suite_differences(old, new)
        elif name == "judges" and list(old) == list(new):
            found.append(f"the same judges, but changed since: {', '.join(key for key in new if old[key] != new[key])}")
        elif name == "decides":
            found += _word_differences(before, now)
        elif name in ("suites", "judges"):
            found.append(f"{name} {', '.join(old)} there and {', '.join(new)} now")
        else:
            found.append(f"{name} {_told(old)} there and {_told(new)} now")
    return found


def _same_weights(old: ModelRecord, new: ModelRecord) -> bool:
    return bool(old.files) and (old.files, old.change) == (new.files, new.change)


def _model_difference(old: ModelRecord, new: ModelRecord) -> str:
    if old.change != new.change:
        return f"{old.change or 'the model as it is'} there and {new.change or 'the model as it is'} now"
    changed = "another model" if old.reference != new.reference else "files of the model have changed"
    return f"model {old.reference} there and {new.reference} now ({changed})"


def _word_differences(before: EvaluationConfig, now: EvaluationConfig) -> Iterator[str]:
    """Of judges that are otherwise the same, what they tell apart where that differs."""
    for judge in now.judges:
        old, new = (config.decides.get(judge) for config in (before, now))
        if before.judges == now.judges and old != new:
            there, here = ("everything" if words is None else ", ".join(words) or "nothing" for words in (old, new))
            yield f"judge {judge} tells apart {there} there and {here} now"


def _suite_differences(old: dict[str, SuiteConfig], new: dict[str, SuiteConfig]) -> Iterator[str]:
    """What differs in the same suites, but for their judges, of which the config has a list of its own."""
    for suite, now in new.items():
        before, after = (dict(record) | dict(record.generation) for record in (old[suite], now))
        names = [name for name in after if before[name] != after[name]]
        told = [
            f"{name} {_told(before[name])} there and {_told(after[name])} now"
            for name in names
            if name not in ("generation", "data", "called", "examples", "judges")
        ]
        if "data" in names or "examples" in names:
            told.append("its data has changed since")
        if told:
            yield f"{suite}: {', '.join(told)}"


def _told(value: object) -> str:
    return " ".join(f"{name}={part}" for name, part in value) if isinstance(value, Record) else repr(value)


def _put(path: Path, record: Record) -> None:
    put_text(path, record.model_dump_json(indent=1, by_alias=True) + "\n")
