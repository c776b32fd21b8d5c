"""What long work looks like: bars on a terminal, plain lines in a log."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from safelox.progress import NULL, Progress
from safelox.units import format_amount, format_part, format_seconds

LINE_INTERVAL_SECONDS = 5.0


@contextmanager
def open_progress(quiet: bool) -> Iterator[Progress]:
    """Progress on stderr, so that stdout holds results alone.

    quiet: show nothing.
    """
    if quiet:
        yield NULL
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        from safelox.cli.bars import Bars  # rich takes a while to import, and only a terminal needs it

        with Bars() as bars:
            yield bars
    else:
        yield Lines(sys.stderr)


class Lines:
    """Progress as lines of fixed fields, at most one every `interval` seconds, whatever the number of tasks.

    A task that ends before its first line was due prints nothing.
    """

    def __init__(
        self,
        stream: TextIO,
        interval: float = LINE_INTERVAL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._interval = interval
        self.clock = clock
        self._lock = threading.Lock()
        self._last = clock()

    @contextmanager
    def task(self, description: str, total: float | None, unit: str = "") -> Iterator["LineTask"]:
        task = LineTask(self, description, total, unit)
        yield task
        task.finish()

    def message(self, text: str) -> None:
        with self._lock:
            self._write(text)

    def line_if_due(self, make: Callable[[], str]) -> bool:
        """Write the line that `make` gives if the last one is old enough; say whether it was."""
        now = self.clock()
        with self._lock:
            if now - self._last < self._interval:
                return False
            self._last = now
            self._write(make())
            return True

    def _write(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


class LineTask:
    """One task of `Lines`."""

    def __init__(self, lines: Lines, description: str, total: float | None, unit: str) -> None:
        self._lines = lines
        self._description = description
        self._total = total
        self._unit = unit
        self._started = lines.clock()
        self._lock = threading.Lock()
        self._done = 0.0
        self._note = ""
        self._shown = False

    def advance(self, amount: float = 1, note: str | None = None) -> None:
        with self._lock:
            self._done += amount
            self._note = self._note if note is None else note
        if self._lines.line_if_due(self._line):
            self._shown = True

    def finish(self) -> None:
        if self._shown:
            elapsed = self._lines.clock() - self._started
            amount = format_amount(self._done, self._unit)
            self._lines.message(f"{self._description}: done, {amount} in {format_seconds(elapsed)}")

    def _line(self) -> str:
        elapsed = self._lines.clock() - self._started
        rate = self._done / elapsed if elapsed > 0 else 0.0
        speed = f"{format_amount(rate, self._unit)}/s"
        if self._total is None:
            fields = [format_amount(self._done, self._unit), speed, f"{format_seconds(elapsed)} so far"]
        else:
            share = self._done / self._total if self._total > 0 else 1.0
            left = format_seconds((self._total - self._done) / rate) if rate > 0 else "?"
            fields = [f"{share:.0%}", format_part(self._done, self._total, self._unit), speed, f"{left} left"]
        return f"{self._description}: " + ", ".join([*fields, *([self._note] if self._note else [])])
