"""Several processes at work on one experiment, and one that looks after them."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess

from safelox.errors import SafeloxError
from safelox.experiment.execution.claims import Claims
from safelox.experiment.execution.marks import look
from safelox.experiment.execution.working import Job, work_in_process
from safelox.progress import Progress

LOOK_SECONDS = 1.0
PATIENCE_SECONDS = 60.0
"""For a process that was told to stop, and may have to save a checkpoint."""


def work_side_by_side(
    job: Job, jobs: int, imports: Sequence[str], after: Callable[[], None], progress: Progress
) -> None:
    """As `work`, in so many processes. Where one is killed, by want of memory perhaps, its step has failed and another
    process takes its place.

    Raises:
        SafeloxError: process after process ended before it could begin.
    """
    places = [_Place(number, jobs, job) for number in range(jobs)]
    team: dict[BaseProcess, _Place] = {}
    claims, idle = Claims(job.out), 0
    try:
        reached = look(job.plan.steps, job.plan.by_id, job.goals, job.marks).goals
        team = {place.start(job, imports): place for place in places}
        with progress.task(job.plan.recipe.name, len(job.goals) - reached, "results") as task:
            while team:
                connection.wait([process.sentinel for process in team], LOOK_SECONDS)
                for process in [process for process in team if process.exitcode is not None]:
                    place = team.pop(process)
                    if process.exitcode:
                        idle += not _fail_steps_of(process, job, claims, progress)
                        if idle > jobs:
                            raise SafeloxError(
                                f"{idle} processes of this run ended before they had anything to do, the last with "
                                f"{_how(process)}; see above."
                            )
                        team[place.start(job, imports)] = place
                outlook = look(job.plan.steps, job.plan.by_id, job.goals, job.marks)
                task.advance(outlook.goals - reached, ", ".join(claims.all()))
                reached = outlook.goals
                after()
    except BaseException:
        _stop(list(team))
        raise


class _Place:
    """What one of the processes has of the machine: its share of the cores, and one of the GPUs."""

    def __init__(self, number: int, jobs: int, job: Job) -> None:
        self._environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
        gpus = _gpus() if job.plan.recipe.compute.device == "cuda" else []
        if len(gpus) > 1:
            self._environment["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
        if "OMP_NUM_THREADS" in os.environ:
            self._environment.pop("OMP_NUM_THREADS")

    def start(self, job: Job, imports: Sequence[str]) -> BaseProcess:
        process = get_context("spawn").Process(target=work_in_process, args=(job, tuple(imports), os.getpid()))
        with _environment(self._environment):  # read when a process begins
            process.start()
        return process


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def _fail_steps_of(process: BaseProcess, job: Job, claims: Claims, progress: Progress) -> bool:
    """Mark what a process was at when it was killed; whether it was at anything."""
    assert process.pid is not None, "it was started"
    held = claims.held_by(process.pid)
    for id in held:
        message = f"the process that did it ended with {_how(process)}; memory may have run out, so try fewer jobs"
        job.marks.finish(job.plan.by_id[id], datetime.now(UTC), message)
        progress.message(f"{id} failed: {message}")
    claims.bury(process.pid)
    return bool(held)


def _how(process: BaseProcess) -> str:
    code = process.exitcode or 0
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _stop(team: Sequence[BaseProcess]) -> None:
    for process in team:
        if process.is_alive():
            process.terminate()
    for process in team:
        process.join(PATIENCE_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
