"""Progress bars for a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.progress import Task as RichTask
from rich.table import Column
from rich.text import Text

from safelox.units import format_amount, format_part


class Bars:
    """One bar per running task on stderr: percentage, amount, speed, time left and what is being worked on.

    The bars vanish when their task ends, so that the summary is what stays.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._progress = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            _Amount(),
            _Speed(),
            TimeRemainingColumn(compact=True),
            TextColumn(
                "{task.fields[note]}",
                markup=False,
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
            console=console or Console(stderr=True),
            transient=True,
            expand=True,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    @contextmanager
    def task(self, description: str, total: float | None, unit: str = "") -> Iterator["BarTask"]:
        number = self._progress.add_task(description, total=total, unit=unit, note="")
        try:
            yield BarTask(self._progress, number)
        finally:
            self._progress.remove_task(number)

    def message(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)


class BarTask:
    """One task of `Bars`; rich's own lock makes it safe to call from several threads."""

    def __init__(self, progress: RichProgress, number: TaskID) -> None:
        self._progress = progress
        self._number = number

    def advance(self, amount: float = 1, note: str | None = None) -> None:
        if note is None:
            self._progress.update(self._number, advance=amount)
        else:
            self._progress.update(self._number, advance=amount, note=note)


class _Amount(ProgressColumn):
    def render(self, task: RichTask) -> Text:
        unit = task.fields["unit"]
        if task.total is None:
            return Text(format_amount(task.completed, unit))
        return Text(format_part(task.completed, task.total, unit))


class _Speed(ProgressColumn):
    def render(self, task: RichTask) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{format_amount(speed, task.fields['unit'])}/s")
