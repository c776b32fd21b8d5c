"""Charts, once as data, from which both the page and the pictures for print are drawn."""

import math
from collections.abc import Sequence
from typing import Literal

from safelox.manifest import Record
from safelox.reporting.table import Table

Number = float | None
"""None where there is nothing."""
HEIGHT = 400
"""Pixels of a chart without rows."""
OUTSIDE = "outside"
"""Name of the place of what is in no layer."""


class Axis(Record):
    title: str
    percent: bool = False
    """Whether its values are shares, to be shown as percent."""
    log: bool = False
    ticks: tuple[tuple[float, str], ...] | None = None
    """Places with names; None for numbers."""
    range: tuple[float, float] | None = None
    reverse: bool = False
    """Whether it grows downwards, as a list does."""


class Series(Record):
    """Marks of one colour and shape, or a line, or bars."""

    name: str
    mode: Literal["marks", "line", "line+marks", "bars"]
    colour: int
    """Place in the palette."""
    symbol: int = 0
    hollow: bool = False
    dashed: bool = False
    pattern: Literal["", "/", "x", "."] = ""
    """Of bars: so that they are told apart without colours."""
    x: tuple[Number, ...]
    y: tuple[Number, ...]
    base: tuple[float, ...] | None = None
    """Of bars, which lie: where each begins."""
    x_bounds: tuple[tuple[Number, Number], ...] | None = None
    """Interval of every x, as low and high."""
    y_bounds: tuple[tuple[Number, Number], ...] | None = None
    texts: tuple[str, ...] = ()
    """What each mark is, in words."""
    labelled: bool = False
    """Whether the texts stand beside the marks."""
    models: tuple[int | None, ...] = ()
    """Number of the model that each mark is of, whose replies are there to be read."""


class Grid(Record):
    """Values over a plane: values[i][j] is that at x[j] and y[i]."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    values: tuple[tuple[Number, ...], ...]
    title: str


class Reference(Record):
    """A straight line across."""

    axis: Literal["x", "y"]
    at: float
    text: str


class Chart(Record):
    id: str
    title: str
    caption: str
    """What it shows, in words."""
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    grid: Grid | None = None
    references: tuple[Reference, ...] = ()
    height: int
    """In pixels at the page's size."""
    suite: str | None = None
    """Whose replies a click on a mark shows."""
    judge: str | None = None
    table: Table


class Figure(Record):
    """Charts of the same kind, of which one is looked at at a time."""

    id: str
    title: str
    charts: tuple[Chart, ...]


class Section(Record):
    """A part of the page."""

    id: str
    title: str
    lead: str
    """What to know before looking."""
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()


def number(value: float | None) -> Number:
    """A value as charts take it: NaN and infinity are nothing."""
    return value if value is not None and math.isfinite(value) else None


def numbers(values: Sequence[float | None]) -> tuple[Number, ...]:
    return tuple(map(number, values))


def row_axis(rows: Sequence[str], title: str = "") -> Axis:
    """An axis of names, from the top down, each around a whole number."""
    ticks = tuple((float(place), name) for place, name in enumerate(rows))
    return Axis(title=title, ticks=ticks, range=(-0.6, len(rows) - 0.4), reverse=True)


def share_axis(title: str) -> Axis:
    return Axis(title=title, percent=True, range=(-0.03, 1.03))


def zoomed_axis(title: str, bounds: Sequence[float], *, top: bool) -> Axis:
    """An axis of shares from where the values begin to 1 (top), or from 0 to where they end, in round numbers."""
    if top:
        return Axis(title=title, percent=True, range=(max(-0.03, math.floor(10 * min(bounds) - 0.5) / 10), 1.03))
    high = min(1.03, math.ceil(10 * max(bounds) + 0.5) / 10)
    return Axis(title=title, percent=True, range=(-0.03 * high, high))


def offsets(count: int) -> list[float]:
    """Where so many marks of one row stand beside each other, around 0."""
    step = min(0.32, 0.7 / max(1, count))
    return [(place - (count - 1) / 2) * step for place in range(count)]


def row_height(rows: int, each: int) -> int:
    """Pixels of a chart of rows, which stand closer where there are many."""
    return 96 + rows * max(30 if rows <= 30 else 22, 8 + each)


def thinned(labels: Sequence[str]) -> tuple[tuple[float, str], ...]:
    """Ticks for names at 0, 1, ..., as many as can be read; the first and the last are among them."""
    step = max(1, -(-len(labels) // 17))
    last = len(labels) - 1
    regular = [i for i in range(0, last, step) if last - i >= step]
    return tuple((float(i), labels[i]) for i in (*regular, last))
