"""Rates with their counts and confidence intervals."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import get_args

from safelox.evaluation.outcomes import Outcome
from safelox.manifest import Record

Z_95 = 1.959963984540054
"""The normal distribution has 95 % of its mass within so many standard deviations."""


class Rate(Record):
    """A share of `n` replies, with its 95 % Wilson interval; all NaN where there are none."""

    count: int
    n: int
    value: float
    low: float
    high: float


def rate(count: int, n: int) -> Rate:
    """The rate count / n."""
    low, high = wilson_interval(count, n)
    return Rate(count=count, n=n, value=count / n if n else math.nan, low=low, high=high)


def rates(outcomes: Sequence[Outcome]) -> dict[Outcome, Rate]:
    """The rate of every possible outcome, those that did not occur included."""
    counts = Counter(outcomes)
    return {outcome: rate(counts[outcome], len(outcomes)) for outcome in get_args(Outcome)}


def wilson_interval(count: int, n: int) -> tuple[float, float]:
    """The 95 % score interval (Wilson 1927) of a probability of which `count` of `n` independent trials succeeded.

    Unlike the normal interval it stays within 0 and 1 and is sound at rates of 0 and 1. NaN for n = 0.

    Raises:
        ValueError: count is not between 0 and n.
    """
    if not 0 <= count <= n:
        raise ValueError(f"{count} of {n} is no rate")
    if n == 0:
        return math.nan, math.nan
    share, z2 = count / n, Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # At 0 and n successes the bounds are 0 and 1 in exact arithmetic.
    return (0.0 if count == 0 else centre - half), (1.0 if count == n else centre + half)
