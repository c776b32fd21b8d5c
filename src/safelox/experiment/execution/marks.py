"""What is done, as files: a mark for each step, and a note of what was begun. They are all that a run goes on from."""

import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import ValidationError

import safelox
from safelox.experiment.files import put
from safelox.experiment.plan.steps import Step
from safelox.manifest import Record

STEPS = "steps"


class Mark(Record):
    """The outcome of a step."""

    key: str
    """What it was the outcome of."""
    state: Literal["done", "failed"]
    error: str | None = None
    trace: str | None = None
    """Where an error came from that is a defect."""
    safelox: str = safelox.__version__
    started: str
    """UTC, ISO 8601."""
    seconds: float
    finished: float
    """Seconds since 1970."""
    host: str
    process: int


class Marks:
    """The marks in the folder of an experiment. Every process of a run has its own view of the same files."""

    def __init__(self, out: Path, since: float) -> None:
        """
        Args:
            since: failures before this time are of an earlier run, and tried again.
        """
        self._out, self._since = out, since

    def done(self, step: Step) -> bool:
        """Whether the result of exactly this step was made, and is there still unless it is temporary."""
        mark = self._read(step)
        return mark is not None and mark.state == "done" and (step.temporary or (self._out / step.work.proof).exists())

    def present(self, step: Step) -> bool:
        """Whether it is done and its result is there."""
        return self.done(step) and (self._out / step.work.proof).exists()

    def failure(self, step: Step) -> str | None:
        """Why the step failed in this run; None where it did not."""
        mark = self._read(step)
        return mark.error if mark is not None and mark.state == "failed" and mark.finished >= self._since else None

    def last_failure(self, step: Step) -> str | None:
        """Why the step failed, in whichever run was the last to try it."""
        mark = self._read(step)
        return mark.error if mark is not None and mark.state == "failed" else None

    def resumable(self, step: Step) -> bool:
        """Whether exactly this step was begun before; from here on it is."""
        note = self._out / STEPS / f"{step.id}.begun"
        before = note.read_text(encoding="utf-8") if note.is_file() else None
        put(note, step.key)
        return before == step.key

    def finish(self, step: Step, started: datetime, error: str | None = None, trace: str | None = None) -> None:
        """Say what came of a step."""
        now = datetime.now(UTC)
        mark = Mark(
            key=step.key,
            state="done" if error is None else "failed",
            error=error,
            trace=trace,
            started=started.isoformat(timespec="seconds"),
            seconds=round((now - started).total_seconds(), 3),
            finished=now.timestamp(),
            host=socket.gethostname(),
            process=os.getpid(),
        )
        put(self._path(step), mark.model_dump_json(indent=1) + "\n")
        if error is None:
            (self._out / STEPS / f"{step.id}.begun").unlink(missing_ok=True)

    def _path(self, step: Step) -> Path:
        return self._out / STEPS / f"{step.id}.json"

    def _read(self, step: Step) -> Mark | None:
        try:
            mark = Mark.model_validate_json(self._path(step).read_bytes())
        except (FileNotFoundError, NotADirectoryError, ValidationError):
            return None
        return mark if mark.key == step.key else None


class Outlook(NamedTuple):
    """What is left to do."""

    ready: tuple[Step, ...]
    """Steps that can be done now, in their order."""
    goals: int
    """Of the goals, those that are reached or cannot be."""


def look(steps: tuple[Step, ...], by_id: dict[str, Step], goals: frozenset[str], marks: Marks) -> Outlook:
    """What is to be done for the goals that are not reached, and only that.

    What a goal needs is made again where it is gone; what depends on a step that failed in this run is left alone.
    """
    failed: set[str] = set()
    for step in steps:  # each comes after those that it needs
        if any(need in failed for need in step.needs) or marks.failure(step) is not None:
            failed.add(step.id)
    wanted = [step.id for step in steps if step.id in goals and step.id not in failed and not marks.done(step)]
    settled = sum(1 for goal in goals if goal not in wanted)
    needed: set[str] = set()
    ready: set[str] = set()
    while wanted:
        id = wanted.pop()
        if id in needed:
            continue
        needed.add(id)
        missing = [need for need in by_id[id].needs if not marks.present(by_id[need])]
        if not missing:
            ready.add(id)
        wanted += missing
    return Outlook(tuple(step for step in steps if step.id in ready), settled)
