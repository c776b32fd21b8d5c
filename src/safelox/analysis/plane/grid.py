"""Which points of the plane are asked."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from safelox.errors import UsageError

POINTS = 7
"""Along each direction, as in the paper."""
PAPER_RANGE = (-10.0, 30.0)
"""Of the paper's code, for both directions."""
MARGIN = 0.25
"""How far the grid reaches beyond the outermost models on each side, as a share of the distance between them."""
MANTISSAS = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
"""Of the distances between points where these are chosen: short numbers to read on an axis."""

Range = tuple[float, float]


class Grid(NamedTuple):
    a: tuple[float, ...]
    b: tuple[float, ...]


def choose_grid(
    places: Sequence[tuple[float, float]],
    points: int | tuple[int, int] | None,
    range_a: Range | None,
    range_b: Range | None,
    *,
    paper_exact: bool,
) -> Grid:
    """The grid: as asked for, and for the rest so that all places lie inside and (0, 0) is one of its points.

    Args:
        places: (a, b) of the four models.
        points: along both directions, or along each.

    Raises:
        UsageError: the numbers make no sense, or there are some beside `paper_exact`, which brings its own.
    """
    if paper_exact:
        if points is not None or range_a is not None or range_b is not None:
            raise UsageError("paper_exact brings the paper's own grid: leave points, range_a and range_b out.")
        return Grid(spread(PAPER_RANGE, POINTS), spread(PAPER_RANGE, POINTS))
    counts = (POINTS, POINTS) if points is None else (points, points) if isinstance(points, int) else points
    axes = []
    for number, (name, count, limits) in enumerate(
        zip(("range_a", "range_b"), counts, (range_a, range_b), strict=True)
    ):
        if count < 2 or (limits is None and count < 3):
            least = "2" if limits else f"3, unless {name} is given,"
            raise UsageError(f"points {count}: a plane needs at least {least} along each direction.")
        if limits is None:
            axes.append(around([place[number] for place in places], count))
            continue
        if not (math.isfinite(limits[0]) and math.isfinite(limits[1]) and limits[0] < limits[1]):
            raise UsageError(f"{name} {limits[0]:g}:{limits[1]:g}: the first has to be less than the second.")
        axes.append(spread(limits, count))
    return Grid(*axes)


def spread(limits: Range, count: int) -> tuple[float, ...]:
    """So many numbers, evenly spaced from the first limit to the second."""
    low, high = limits
    return tuple(short(low + (high - low) * i / (count - 1)) for i in range(count))


def around(values: Sequence[float], count: int) -> tuple[float, ...]:
    """At least 3 multiples of a short number, from below all values (0 among them) to above them, with a margin."""
    low, high = min(0.0, *values), max(0.0, *values)
    margin = MARGIN * (high - low)
    low, high = low - margin, high + margin
    exponent = math.floor(math.log10((high - low) / (count - 1)))
    steps = (
        short(mantissa * 10.0**power) for power in (exponent, exponent + 1, exponent + 2) for mantissa in MANTISSAS
    )
    for step in steps:
        first, last = math.floor(low / step), math.ceil(high / step)
        spare = count - 1 - (last - first)
        if spare >= 0:
            first -= spare // 2
            return tuple(short((first + i) * step) for i in range(count))
    raise AssertionError(f"no steps of up to {step} reach from {low} to {high}")


def short(value: float) -> float:
    """Without the last digits, which are rounding's: 0.3 for 0.1 * 3."""
    return float(f"{value:.12g}")
