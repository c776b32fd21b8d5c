"""Runs of `harden` that are slow enough to be disturbed, as a program.

python hardening_runs.py slow SECONDS ARGUMENT...      the command line, SECONDS longer for each tensor; it says
                                                       `written` after each
python hardening_runs.py kill SEED BASE ALIGNED OUT    runs that are killed, one after the other, until one is done
                                                       before; it prints what was there after each, as JSON
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from safelox import harden
from safelox.cli import main
from safelox.output import Item, ModelOutput
from safelox.writer import Target
from safelox.writer import target as target_module

_write = ModelOutput.write


def slow_down(seconds: float, *, tell: bool = False) -> None:
    """Make every tensor take longer, and have the journal follow closely, so that there is something to resume."""

    def write(self: ModelOutput, item: Item, target: Target) -> None:
        time.sleep(seconds)
        _write(self, item, target)
        if tell:
            os.write(1, b"written\n")  # in one piece, since several threads may do so

    ModelOutput.write = write  # type: ignore[method-assign]
    target_module._ROUND_SECONDS = 0.01


def items_done(out: Path) -> int:
    """How many items the journal of an unfinished result knows."""
    journal = out.parent / f"{out.name}.partial" / ".safelox-journal"
    return max(0, journal.read_bytes().count(b"\n") - 1) if journal.exists() else 0


def kill_runs(seed: int, base: str, aligned: str, out: Path) -> list[dict[str, object]]:
    """Fork a run, kill it, and look, over and over until one is done before it is killed."""
    slow_down(0.03)
    rng = random.Random(seed)
    seen: list[dict[str, object]] = []
    while not out.exists():
        before = items_done(out)
        child = os.fork()
        if child == 0:
            try:
                harden(base, aligned, out, rank=3, workers=1 + len(seen) % 3)
                os._exit(0)
            finally:  # a child must never go on with what its parent was doing
                sys.excepthook(*sys.exc_info())
                os._exit(1)
        if len(seen) % 3:  # the others are killed as early as while they are opening the folder
            wait_until(lambda: out.exists() or items_done(out) > before)  # noqa: B023 - called before `before` changes
        time.sleep(rng.uniform(0, 0.1))
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        killed = os.WIFSIGNALED(status)
        seen.append({"killed": killed, "code": 0 if killed else os.WEXITSTATUS(status), "done": items_done(out)})
    return seen


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(20_000):
        if condition():
            return
        time.sleep(0.001)
    raise TimeoutError


if __name__ == "__main__":
    if sys.argv[1] == "kill":
        print(json.dumps(kill_runs(int(sys.argv[2]), sys.argv[3], sys.argv[4], Path(sys.argv[5]))))
    else:
        slow_down(float(sys.argv[2]), tell=True)
        sys.exit(main(sys.argv[3:]))
