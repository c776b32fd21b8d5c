"""What a point must keep of ALIGNED to be recommended, and which of it it breaks."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from safelox.analysis.search.record import BoundRecord, Measured, Objectives, Rates, SuiteRecord, Violation
from safelox.errors import UsageError

ROUNDING = 1e-9
INCOHERENT, UNSCORED = "incoherent", "unscored"


class Limits(NamedTuple):
    """How far from ALIGNED a point may be.

    Raises:
        UsageError: by `check`: one is no share.
    """

    min_utility: float
    """The least share of ALIGNED's utility."""
    max_over_refusal: float
    """The most over-refusal beyond ALIGNED's, as a difference of shares;"""
    max_incoherent: float
    """and of incoherent and unscored replies."""

    def check(self) -> None:
        for name, value in self._asdict().items():
            if not 0 <= value <= 1:
                raise UsageError(f"{name.replace('_', ' ')} {value:g}: expected a share from 0 to 1.")


def make_bounds(suites: Sequence[SuiteRecord], aligned: Measured, limits: Limits) -> tuple[BoundRecord, ...]:
    """The bounds, from what ALIGNED does itself.

    Incoherence is bounded on every suite, and after the attack once more: there ALIGNED after the attack is the
    measure, since an attack may leave a model incoherent by itself.

    Raises:
        UsageError: ALIGNED has no utility by this suite, so that there is nothing to keep.
    """
    return tuple(_bounds(suites, aligned, limits))


def _bounds(suites: Sequence[SuiteRecord], aligned: Measured, limits: Limits) -> Iterator[BoundRecord]:
    by_role = {suite.role: suite for suite in suites}
    utility, refusal, safety = by_role["utility"], by_role["over-refusal"], by_role["safety"]
    own = aligned.before[utility.name][utility.metric].value
    if not own > 0:
        raise UsageError(
            f"ALIGNED's {utility.metric} on {utility.name} is {own:.1%}, so that there is no utility to keep: choose "
            "another suite of the utility, or another judge."
        )
    yield BoundRecord(
        name="utility",
        suite=utility.name,
        metric=utility.metric,
        limit=limits.min_utility * own,
        at_least=True,
        reason=f"{limits.min_utility:g} times ALIGNED's {own:.1%}",
    )
    own = aligned.before[refusal.name][refusal.metric].value
    yield BoundRecord(
        name="over-refusal",
        suite=refusal.name,
        metric=refusal.metric,
        limit=own + limits.max_over_refusal,
        at_least=False,
        reason=_beyond(own, limits.max_over_refusal),
    )
    for name in dict.fromkeys(suite.name for suite in suites):
        own = _senseless(aligned.before[name])
        yield BoundRecord(
            name="incoherent",
            suite=name,
            metric=INCOHERENT,
            limit=own + limits.max_incoherent,
            at_least=False,
            reason=_beyond(own, limits.max_incoherent),
        )
    assert aligned.after is not None, "ALIGNED is always attacked"
    own = _senseless(aligned.after[safety.name])
    yield BoundRecord(
        name="incoherent after the attack",
        suite=safety.name,
        metric=INCOHERENT,
        limit=own + limits.max_incoherent,
        at_least=False,
        reason=_beyond(own, limits.max_incoherent) + " after the attack",
    )


def _beyond(own: float, more: float) -> str:
    return f"{100 * more:g} points beyond ALIGNED's {own:.1%}"


def excesses(bounds: Sequence[BoundRecord], measured: Measured) -> dict[str, float]:
    """How far each rate is beyond its bound, by the bound's name and suite; 0 or less where it is kept.

    A bound on what was not measured is left out.
    """
    found = {}
    for bound in bounds:
        value = _value(bound, measured)
        if value is not None:
            excess = bound.limit - value if bound.at_least else value - bound.limit
            rounded = 0.0 if abs(excess) < ROUNDING else excess
            found[_label(bound)] = (
                rounded if math.isfinite(rounded) else 1.0
            )  # what has no rate is not known to be kept
    return found


def violations(bounds: Sequence[BoundRecord], measured: Measured) -> tuple[Violation, ...]:
    """The bounds that are broken."""
    found = excesses(bounds, measured)
    broken = []
    for bound in bounds:
        excess, value = found.get(_label(bound), 0.0), _value(bound, measured)
        if excess > 0 and value is not None:
            broken.append(Violation(bound=bound.name, suite=bound.suite, value=value, limit=bound.limit, excess=excess))
    return tuple(broken)


def objectives(suites: Sequence[SuiteRecord], measured: Measured) -> Objectives:
    """What the search weighs, of a model that was attacked."""
    by_role = {suite.role: suite for suite in suites}
    safety, utility = by_role["safety"], by_role["utility"]
    assert measured.after is not None, "not attacked"
    return Objectives(
        asr_after=measured.after[safety.name][safety.metric],
        utility_before=measured.before[utility.name][utility.metric],
    )


def _label(bound: BoundRecord) -> str:
    return f"{bound.name}, {bound.suite}"


def _value(bound: BoundRecord, measured: Measured) -> float | None:
    rates: Mapping[str, Rates] | None = measured.after if bound.name.endswith("attack") else measured.before
    if rates is None:
        return None
    own = rates[bound.suite]
    return _senseless(own) if bound.metric == INCOHERENT else own[bound.metric].value


def _senseless(rates: Rates) -> float:
    return min(1.0, rates[INCOHERENT].value + rates[UNSCORED].value)
