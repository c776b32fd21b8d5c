"""The points that a search may try: a grid of ranks and coefficients, so that none is tried twice."""

import math
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from safelox.errors import UsageError
from safelox.methods import Lox

PAPER = (6, 1.25)
"""The paper's main setting, which every search tries first, or the point of the grid that is nearest to it."""
SPREAD = 3
"""So many points follow that do not depend on what was measured either."""
MOST_COEFS = 1_000
DECIMALS = 6


class Point(NamedTuple):
    """One choice."""

    rank: int
    coef: float

    def __str__(self) -> str:
        return f"{self.rank}x{self.coef:g}"


@dataclass(frozen=True)
class Space:
    """Ranks and coefficients, each ascending."""

    ranks: tuple[int, ...]
    coefs: tuple[float, ...]

    @classmethod
    def checked(cls, ranks: Sequence[int], low: float, high: float, step: float) -> "Space":
        """The ranks, with coefficients from `low` to `high` by `step`; `high` is among them.

        Raises:
            UsageError: there is no rank, one makes no sense or comes twice, or the coefficients make none.
        """
        if not ranks:
            raise UsageError("a search needs at least one rank.")
        for rank in ranks:
            if type(rank) is not int or rank < 1 or list(ranks).count(rank) > 1:
                raise UsageError(f"rank {rank!r}: expected integers from 1, each of them once.")
        if not (0 < low <= high and math.isfinite(high) and step > 0):
            raise UsageError(
                f"coefficients from {low:g} to {high:g} by {step:g}: expected a range above 0, since 0 is no "
                "hardening, and a step above 0."
            )
        if (high - low) / step > MOST_COEFS:
            raise UsageError(f"coefficients from {low:g} to {high:g} by {step:g} are too many; take a larger step.")
        steps = math.floor((high - low) / step + 1e-9)
        coefs = [round(low + number * step, DECIMALS) for number in range(steps + 1)]
        if coefs[-1] < round(high, DECIMALS):
            coefs.append(round(high, DECIMALS))
        for rank in ranks:
            Lox(rank, coefs[-1])
        return cls(tuple(sorted(ranks)), tuple(coefs))

    @property
    def size(self) -> int:
        return len(self.ranks) * len(self.coefs)

    def at(self, rank_index: int, coef_index: int) -> Point:
        return Point(self.ranks[rank_index], self.coefs[coef_index])

    def index(self, point: Point) -> tuple[int, int]:
        return self.ranks.index(point.rank), self.coefs.index(point.coef)

    def starts(self, seed: int) -> list[Point]:
        """The first points of a search: the nearest to the paper's, then one in each third of the ranks and of the
        coefficients (a Latin square), which third goes with which being drawn by the seed."""
        rank = min(range(len(self.ranks)), key=lambda index: abs(math.log(self.ranks[index] / PAPER[0])))
        coef = min(range(len(self.coefs)), key=lambda index: abs(self.coefs[index] - PAPER[1]))
        found = [self.at(rank, coef)]
        draw = random.Random(f"safelox tune {seed}")
        thirds = draw.sample(range(SPREAD), SPREAD)
        for along, across in enumerate(thirds[: self.size - 1]):
            places = ((third + draw.random()) / SPREAD for third in (across, along))
            drawn = self.at(
                *(int(place * len(side)) for place, side in zip(places, (self.ranks, self.coefs), strict=True))
            )
            new = self.nearest_new(drawn, found)
            assert new is not None, "the grid has more points than were found"
            found.append(new)
        return found

    def nearest_new(self, point: Point, tried: Collection[Point]) -> Point | None:
        """The point itself, or the nearest to it on the grid that was not tried; None where all were.

        Both sides of the grid count as equally long. Of several that are as near, the weaker hardening comes first.
        """
        rank, coef = self.index(point)
        across, along = max(1, len(self.ranks) - 1), max(1, len(self.coefs) - 1)
        left = (
            (((i - rank) / across) ** 2 + ((j - coef) / along) ** 2, self.coefs[j], self.ranks[i])
            for i in range(len(self.ranks))
            for j in range(len(self.coefs))
            if self.at(i, j) not in tried
        )
        nearest = min(left, default=None)
        return None if nearest is None else Point(nearest[2], nearest[1])


def spread_ranks(low: int, high: int) -> tuple[int, ...]:
    """Ranks from `low` to `high`, each about the square root of 2 times the one before; both ends are among them.

    Raises:
        UsageError: they are no such range.
    """
    if not 1 <= low <= high:
        raise UsageError(f"ranks from {low} to {high}: expected a range that begins at 1 or above.")
    found, number = {high}, 0
    while (rank := round(low * 2 ** (number / 2))) < high:
        found.add(rank)
        number += 1
    return tuple(sorted(found))
