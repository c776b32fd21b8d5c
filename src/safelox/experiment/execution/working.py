"""Do steps one after the other until nothing is left: the loop that every process of a run goes through."""

import importlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from safelox.errors import SafeloxError, TargetError
from safelox.experiment.execution.claims import Claims
from safelox.experiment.execution.marks import Marks, look
from safelox.experiment.files import delete
from safelox.experiment.plan.steps import Plan, Step
from safelox.progress import NULL, Progress, Task

PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 2.0
WATCH_SECONDS = 1.0
INTERRUPTED = 130
"""Exit code of a process that was told to stop."""


@dataclass(frozen=True)
class Job:
    """What a process of a run has to know."""

    out: Path
    plan: Plan
    goals: frozenset[str]
    """Ids of the steps that it is to see done."""
    since: float
    """When the run began."""
    keep: bool
    """Whether attacked models stay."""

    @property
    def marks(self) -> Marks:
        return Marks(self.out, self.since)


def work(job: Job, progress: Progress, after: Callable[[], None], family: int | None = None) -> None:
    """Do whatever step is ready and nobody else's, until all goals are reached or cannot be.

    Args:
        after: called after each step, and now and then while others work.
        family: process that looks after this one.
    """
    claims, marks = Claims(job.out, family), job.marks
    pause = PAUSE_SECONDS
    reached = look(job.plan.steps, job.plan.by_id, job.goals, marks).goals
    with progress.task(job.plan.recipe.name, len(job.goals) - reached, "results") as task:
        while True:
            outlook = look(job.plan.steps, job.plan.by_id, job.goals, marks)
            task.advance(outlook.goals - reached)
            reached = outlook.goals
            if not outlook.ready:
                break
            if _do_one(outlook.ready, job, claims, marks, task, progress):
                pause = PAUSE_SECONDS
            else:
                time.sleep(pause)  # others are at work on all that is ready
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            after()


def clean(job: Job) -> None:
    """Delete the attacked models that nothing needs any more."""
    if not job.keep:
        for step in job.plan.steps:
            _delete_if_needless(step, job, job.marks)


def work_in_process(job: Job, imports: Sequence[str], parent: int) -> None:
    """The same as the whole life of a process that another one started.

    Args:
        imports: modules that register what the recipe names.
        parent: process without which this one has no business.
    """
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    for module in imports:
        importlib.import_module(module)
    try:
        work(job, NULL, lambda: None, parent)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(1)  # the parent was killed; what is under way can be gone on with


def _do_one(ready: Sequence[Step], job: Job, claims: Claims, marks: Marks, task: Task, progress: Progress) -> bool:
    """Do the first step that can be claimed; whether there was one."""
    for step in ready:
        with claims.held(step.id) as mine:
            # Another process may have finished it since, or whatever it was for.
            if mine and step in look(job.plan.steps, job.plan.by_id, job.goals, marks).ready:
                task.advance(0, step.id)
                _do(step, job, marks, progress)
                if not job.keep:
                    for need in (step, *(job.plan.by_id[need] for need in step.needs)):
                        _delete_if_needless(need, job, marks)
                return True
            if mine:
                return True
    return False


def _do(step: Step, job: Job, marks: Marks, progress: Progress) -> None:
    """Do a step and mark what came of it: one that fails holds up only what needs it."""
    started = datetime.now(UTC)
    try:
        _resume_or_start_over(step, job, marks, progress)
    except (SafeloxError, OSError) as error:
        message = " ".join([str(error), *getattr(error, "__notes__", ())])
        marks.finish(step, started, message)
        progress.message(f"{step.id} failed: {message}")
    except Exception as error:  # noqa: BLE001 (a defect in one step is no reason to lose the others; it is told)
        message = f"{type(error).__name__}: {error}"
        marks.finish(step, started, message, traceback.format_exc())
        progress.message(f"{step.id} failed by a defect, whose traceback is in steps/{step.id}.json: {message}")
    else:
        marks.finish(step, started)


def _resume_or_start_over(step: Step, job: Job, marks: Marks, progress: Progress) -> None:
    if marks.resumable(step):
        try:
            step.work.do(job.out, resume=True, progress=progress)
            return
        except TargetError:
            # What was begun does not fit any more, such as replies of an attacked model that had to be made anew.
            progress.message(f"{step.id}: what was begun cannot be gone on with, so it starts over")
    step.work.do(job.out, resume=False, progress=progress)


def _delete_if_needless(step: Step, job: Job, marks: Marks) -> None:
    place = job.out / step.id
    if step.temporary and place.exists() and all(marks.done(reader) for reader in job.plan.readers[step.id]):
        delete(place)
