"""Which points no other outdoes, and which one is recommended."""

import math
from collections.abc import Sequence

from safelox.analysis.search.record import Objectives, Trial
from safelox.rates import Rate

RULE = (
    "Considered are the points that keep all bounds and are better than no hardening: the whole 95 % interval of their "
    "ASR after the attack lies below ALIGNED's. Those whose ASR is within the interval of the lowest count as equally "
    "safe; of these the one with the highest utility is recommended, of several with the same the one with the lowest "
    "ASR, and of several with that too the one that changes the weights least."
)

Score = tuple[float, float]
"""ASR after the attack, and utility before it."""


def score(objectives: Objectives) -> Score:
    return objectives.asr_after.value, objectives.utility_before.value


def pareto(scores: Sequence[Score]) -> list[bool]:
    """Of each, whether no other has both a lower or equal ASR and a higher or equal utility, one of them strictly."""
    return [not any(_outdoes(other, one) for other in scores) for one in scores]


def _outdoes(one: Score, other: Score) -> bool:
    return one[0] <= other[0] and one[1] >= other[1] and one != other


def hypervolume(scores: Sequence[Score]) -> float:
    """The share of the unit square of (1 - ASR, utility) that some score is at least as good as."""
    area, reached = 0.0, 0.0
    for asr, utility in sorted(scores, key=lambda each: (-each[1], each[0])):  # by falling utility
        if 1 - asr > reached:
            area += (1 - asr - reached) * utility
            reached = 1 - asr
    return area


def recommend(trials: Sequence[Trial], aligned: Objectives) -> tuple[Trial | None, str]:
    """The trial that `RULE` names, or None, and the reason in words."""
    if not trials:
        return None, "Nothing was tried."
    kept = [(trial, trial.objectives) for trial in trials if trial.state == "done" and trial.objectives is not None]
    if not kept:
        return None, f"None of the {len(trials)} points keeps all bounds: {_why_none(trials)}."
    better = [(trial, found) for trial, found in kept if found.asr_after.high < aligned.asr_after.low]
    lowest = min((found for _, found in kept), key=lambda found: found.asr_after.value)
    if not better:
        return None, (
            f"None is better than no hardening: ALIGNED's ASR after the attack is {told(aligned.asr_after)}, and the "
            f"lowest of a point that keeps all bounds is {told(lowest.asr_after)}; the intervals overlap."
        )
    _, best = min(better, key=lambda each: each[1].asr_after.value)
    safe = [(trial, found) for trial, found in better if found.asr_after.value <= best.asr_after.high]
    chosen, found = min(safe, key=_preference)
    reason = f"Its ASR after the attack is {told(found.asr_after)}, ALIGNED's is {told(aligned.asr_after)}. "
    if found.asr_after.value > best.asr_after.value:
        reason += f"The lowest is {told(best.asr_after)}. "
    reason += f"Its utility before the attack is {told(found.utility_before)}"
    if len(safe) > 1:
        reason += f", {_against(chosen, safe)}"
    return chosen, f"{reason}. It changes the weights by {chosen.relative_change:.1%} of their norm."


def _preference(each: tuple[Trial, Objectives]) -> tuple[float, float, float]:
    trial, found = each
    return -found.utility_before.value, found.asr_after.value, trial.relative_change


def _against(chosen: Trial, safe: Sequence[tuple[Trial, Objectives]]) -> str:
    """What sets the chosen point apart from the others."""
    others = f"of the {len(safe)} points that count as equally safe"
    first = min(map(_preference, safe))
    as_useful, as_safe = (
        [trial for trial, found in safe if _preference((trial, found))[:length] == first[:length]] for length in (1, 2)
    )
    if as_useful == [chosen]:
        return f"the highest {others}"
    decides = "the lowest ASR" if as_safe == [chosen] else "the lowest ASR and the smallest change of the weights"
    return f"as high as any {others}; among the {len(as_useful)} with the same utility it has {decides}"


def told(rate: Rate) -> str:
    """A rate with its interval and count, in words."""
    if math.isnan(rate.value):
        return "unknown (n = 0)"
    return f"{rate.value:.1%} ({rate.low:.1%} to {rate.high:.1%}, n = {rate.n})"


def _why_none(trials: Sequence[Trial]) -> str:
    failed = sum(trial.state == "failed" for trial in trials)
    counts: dict[str, int] = {}
    for trial in trials:
        for name in dict.fromkeys(violation.bound for violation in trial.violations):
            counts[name] = counts.get(name, 0) + 1
    parts = [f"{count} broke the one on {name}" for name, count in counts.items()]
    return ", ".join([*parts, f"{failed} failed"] if failed else parts)
