"""Rates with their counts and confidence intervals, and the difference of two rates on the same prompts."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import get_args

from safelox.evaluation.outcomes import Outcome
from safelox.manifest import Record
from safelox.rates import Rate

Z_95 = 1.959963984540054
"""The normal distribution has 95 % of its mass within so many standard deviations."""


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


class PairedDifference(Record):
    """How a rate differs between two models that were asked the same prompts."""

    both: int
    """Prompts of which it holds for both models."""
    only_first: int
    only_second: int
    neither: int
    value: float
    """Second rate less first; NaN where there are no prompts."""
    low: float
    high: float
    """95 % interval (Newcombe 1998, method 10)."""
    p_value: float
    """Of the exact McNemar test, two-sided: how likely so uneven a split of the prompts on which the two differ is, or
    a more uneven one, if neither side were favoured. 1 where they differ on none."""


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> PairedDifference:
    """What two models did on the same prompts, in the same order.

    Raises:
        ValueError: the sequences differ in length.
    """
    cells = Counter(zip(first, second, strict=True))
    both, only_first = cells[True, True], cells[True, False]
    only_second, neither = cells[False, True], cells[False, False]
    low, high = _difference_interval(both, only_first, only_second, neither)
    n = len(first)
    return PairedDifference(
        both=both,
        only_first=only_first,
        only_second=only_second,
        neither=neither,
        value=(only_second - only_first) / n if n else math.nan,
        low=low,
        high=high,
        p_value=mcnemar(only_first, only_second),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided p-value of the exact McNemar test: of a fair coin, tossed as often as the two models differ."""
    tosses = only_first + only_second
    ways = tail = 1  # of tossing 0 heads
    for heads in range(min(only_first, only_second)):
        ways = ways * (tosses - heads) // (heads + 1)
        tail += ways
    return min(1.0, 2 * tail / (1 << tosses))


def _difference_interval(both: int, only_first: int, only_second: int, neither: int) -> tuple[float, float]:
    """Newcombe's interval: the two Wilson intervals, less what the correlation of the pairs takes away."""
    n = both + only_first + only_second + neither
    if n == 0:
        return math.nan, math.nan
    one, two = rate(both + only_first, n), rate(both + only_second, n)
    correlation = _correlation(both, only_first, only_second, neither)

    def reach(down: float, up: float) -> float:
        return math.sqrt(max(0.0, down**2 - 2 * correlation * down * up + up**2))

    value = two.value - one.value
    low = value - reach(two.value - two.low, one.high - one.value)
    high = value + reach(two.high - two.value, one.value - one.low)
    return max(-1.0, low), min(1.0, high)


def _correlation(both: int, only_first: int, only_second: int, neither: int) -> float:
    """Phi of the two by two table, with Newcombe's correction for continuity where it is positive."""
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    if margins == 0:
        return 0.0
    cross: float = both * neither - only_first * only_second
    if cross > 0:
        cross = max(0.0, cross - (both + only_first + only_second + neither) / 2)
    return cross / math.sqrt(margins)
