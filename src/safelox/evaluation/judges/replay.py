"""The judge `replay`: verdicts that are in a file already, such as a person's, or those of an earlier run."""

import hashlib
from collections import defaultdict
from pathlib import Path

from pydantic import ValidationError

from safelox.errors import DataError
from safelox.evaluation.outcomes import Outcome, Verdict
from safelox.evaluation.samples import Sample
from safelox.manifest import Record


class RecordedVerdict(Record):
    """A line of the file."""

    id: str
    """Of the sample."""
    suite: str | None = None
    """Of the sample, since two suites may use the same ids; a verdict without one holds for the id in any suite."""
    completion: str | None = None
    """The reply that was judged; a verdict that has one holds for no other reply."""
    outcome: Outcome
    score: float | None = None
    raw: str | None = None


class ReplayJudge:
    """Gives the verdict that a file has for a sample, and none where the file has none or several that differ.

    A sample that is of no suite, such as a row of a labelled file, takes the verdicts of any.
    """

    def __init__(self, name: str, path: Path) -> None:
        """
        Raises:
            DataError: the file cannot be read, or a line is no verdict.
        """
        self.name = name
        content = _read(path)
        self.version = f"1 sha256:{hashlib.sha256(content).hexdigest()}"
        self._recorded: defaultdict[str, list[RecordedVerdict]] = defaultdict(list)
        for number, line in enumerate(content.split(b"\n"), start=1):
            if line.strip():
                recorded = _parse(path, number, line)
                self._recorded[recorded.id].append(recorded)

    def judge(self, sample: Sample, reply: str) -> Verdict:
        suites = (None, sample.suite)
        of_id = self._recorded.get(sample.id, [])
        of_sample = [recorded for recorded in of_id if sample.suite is None or recorded.suite in suites]
        found = {
            Verdict(outcome=recorded.outcome, raw=recorded.raw, score=recorded.score)
            for recorded in of_sample
            if recorded.completion in (None, reply)
        }
        if len(found) == 1:
            return found.pop()
        if found:
            return _unscored(f"{len(found)} different verdicts for {_told(sample)}")
        return _unscored(f"no verdict for {'this reply to ' if of_sample else ''}{_told(sample)}")


def _told(sample: Sample) -> str:
    return f"id {sample.id!r}" if sample.suite is None else f"id {sample.id!r} of suite {sample.suite}"


def _unscored(reason: str) -> Verdict:
    return Verdict(outcome="unscored", raw=f"the replayed file has {reason}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _parse(path: Path, number: int, line: bytes) -> RecordedVerdict:
    try:
        return RecordedVerdict.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the line"
        raise DataError(
            f'{path}, line {number}: not a verdict, which has "id" and "outcome", and possibly "suite", "completion", '
            f'"score" and "raw": {where}: {first["msg"]}'
        ) from error
