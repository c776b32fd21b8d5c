"""Rates in words."""

from collections.abc import Iterable

from safelox.experiment import DefenceRecord
from safelox.rates import Rate


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def interval(rate: Rate) -> str:
    return f"95 % interval {100 * rate.low:.1f} to {100 * rate.high:.1f} %"


def rate_in_words(rate: Rate) -> str:
    return f"{percent(rate.value)} ({rate.count:,} of {rate.n:,})"


def replies_each(rates: Iterable[Rate]) -> str:
    """How many replies each of some rates is of."""
    counts = sorted({rate.n for rate in rates})
    return f"{counts[0]:,} replies" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,} replies"


def points(value: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "\u2212")


def defence_name(defence: DefenceRecord) -> str:
    """As people call it."""
    return "no defence" if defence.method == "none" else defence.name
