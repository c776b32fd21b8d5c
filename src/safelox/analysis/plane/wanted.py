"""What may be asked for beside the models: lines, random directions, the grid."""

import math
from typing import NamedTuple, get_args

from safelox.analysis.plane.grid import Range, choose_grid
from safelox.analysis.plane.noise import Norm
from safelox.analysis.plane.record import LineKind
from safelox.errors import UsageError

LINE_POINTS, LINE_REACH = 9, 2.0
RANDOM_POINTS, RANDOM_REACH = 11, 0.5
"""The reach is VISAGE's."""


class Lines(NamedTuple):
    """Lines to ask models along, from ORIGIN and from HARDENED.

    Each begins at u = 0, its start; u = 1 is the whole move.
    """

    kinds: tuple[str, ...]
    """"tuned": each start along its own fine-tuning; "crossed": along the other's; "hardened": ORIGIN to HARDENED."""
    points: int = LINE_POINTS
    reach: float = LINE_REACH
    """u goes from 0 to this."""

    def check(self) -> None:
        """
        Raises:
            UsageError: a value makes no sense.
        """
        for kind in self.kinds:
            if kind not in get_args(LineKind):
                raise UsageError(f"no line is called {kind!r}; there are: {', '.join(get_args(LineKind))}.")
            if self.kinds.count(kind) > 1:
                raise UsageError(f"line {kind} was named twice; name it once.")
        if not self.kinds:
            raise UsageError(f"no line was named; there are: {', '.join(get_args(LineKind))}.")
        if self.points < 2:
            raise UsageError(f"line points {self.points}: a line needs at least 2.")
        if not (math.isfinite(self.reach) and self.reach > 0):
            raise UsageError(f"line reach {self.reach:g}: has to be above 0.")


class Randoms(NamedTuple):
    """Random directions to ask models along, from ORIGIN and from HARDENED."""

    directions: int
    points: int = RANDOM_POINTS
    reach: float = RANDOM_REACH
    """u goes from minus this to this."""
    norm: Norm = "tensors"
    """Of u = 1 as a vector of all weights; or "tensors": in each tensor of two or more dimensions that of its weights
    in the start, and 0 in all others, as VISAGE has it."""

    def check(self) -> None:
        """
        Raises:
            UsageError: a value makes no sense.
        """
        if self.directions < 1:
            raise UsageError(f"{self.directions} random directions: there has to be at least 1.")
        if self.points < 2:
            raise UsageError(f"random points {self.points}: a line needs at least 2.")
        if not (math.isfinite(self.reach) and self.reach > 0):
            raise UsageError(f"random reach {self.reach:g}: has to be above 0.")
        if self.norm != "tensors" and not (math.isfinite(self.norm) and self.norm > 0):
            raise UsageError(f"random norm {self.norm:g}: has to be above 0, or tensors.")


def check_wanted(
    plane: bool,
    points: int | tuple[int, int] | None,
    range_a: Range | None,
    range_b: Range | None,
    lines: Lines | None,
    randoms: Randoms | None,
    paper_exact: bool,
) -> None:
    """
    Raises:
        UsageError: there is nothing to ask, or a value makes no sense; those of the grid are checked before too.
    """
    if plane:
        choose_grid([(1.0, 1.0)], points, range_a, range_b, paper_exact=paper_exact)
    elif points is not None or range_a is not None or range_b is not None:
        raise UsageError("points, range_a and range_b are of the plane, which is not to be asked; leave them out.")
    elif lines is None and randoms is None:
        raise UsageError("there is nothing to ask: without the plane, name lines or random directions.")
    if lines is not None:
        lines.check()
    if randoms is not None:
        randoms.check()
