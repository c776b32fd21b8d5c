"""The outcome of `rank-curve` as text for people; `--json` prints every rate."""

import math
from typing import TYPE_CHECKING

from safelox.cli.labelled import labelled, table

if TYPE_CHECKING:
    from safelox.analysis.curve import Curve, EffectiveRank, RankCurve
    from safelox.evaluation import Rate

_INTERVAL = "95 % interval"
_SHARES = 4
"""Ranks that resampling names most often are shown, no more."""


def render_rank_curve(result: "RankCurve", out: str) -> str:
    """A table over the ranks for every suite and judge, and the effective rank with what speaks against it."""
    whose = f" in {', '.join(result.modules)}" if result.modules else ""
    head = f"{result.base} with the leading directions of its delta to {result.aligned}{whose}"
    end = labelled(("curves", f"{out}/rank_curve.json"), ("replies", f"{out}/rank-*/samples.jsonl, {out}/full"))
    return "\n\n".join([head, *(_curve(result, curve) for curve in result.curves), "\n".join(end)])


def _curve(result: "RankCurve", curve: "Curve") -> str:
    metrics = [name for name in curve.values if name not in ("mean_score", "unscored")]
    metrics += ["unscored"] if any(value for _, value in curve.values["unscored"]) else []
    header = ["rank"]
    columns = [["full" if point.rank is None else str(point.rank) for point in result.points]]
    for number, metric in enumerate(metrics):
        rates = result.rates(curve, metric)
        header.append(metric)
        columns.append([f"{rate.value:.1%}" for rate in rates])
        if not number:  # the first is what the suite is for
            header.append(_INTERVAL)
            columns.append([_interval(rate) for rate in rates])
    header.append("mean score")
    columns.append([f"{value:.3g}" for _, value in curve.values["mean_score"]])
    lines = [
        f"{curve.suite}, judged by {curve.judge} ({_count(result, curve)} prompts)",
        *table([tuple(header), *zip(*columns, strict=True)]),
    ]
    if curve.effective_rank is not None:
        lines += labelled(*_effective(curve.effective_rank), *_beside(result, curve, curve.effective_rank.rank))
    return "\n".join(lines)


def _count(result: "RankCurve", curve: "Curve") -> int:
    found = result.points[-1].results[curve.suite][curve.judge]
    return next(iter(found.outcomes.values())).n


def _interval(rate: "Rate") -> str:
    return f"{rate.low:.1%} to {rate.high:.1%}"


def _effective(found: "EffectiveRank") -> list[tuple[str, str]]:
    rule = f"the first of these with ASR - ASR(full) < {found.rho:g}, at most {_prompts(found.tolerated)} more"
    rows = [("effective rank", f"{_named(found.rank)}: {rule}")]
    if found.rank is not None:
        difference = found.differences[found.rank]
        if not math.isnan(difference.value):
            rows.append(
                (
                    "ASR - ASR(full)",
                    f"{100 * difference.value:+.1f} points there, 95 % interval {100 * difference.low:+.1f} to "
                    f"{100 * difference.high:+.1f}",
                )
            )
    others = [rank for rank in found.after_one_flip if rank != found.rank]
    flipped = f"could make it {', '.join(map(_named, others))}" if others else "would leave it as it is"
    rows.append(("one verdict flipped", flipped))
    shares = sorted(found.resampled, key=lambda named: -named.share)[:_SHARES]
    named = ", ".join(f"{_named(share.rank)} in {share.share:.0%}" for share in shares)
    rows.append(("prompts resampled", f"{named} of the draws"))
    return rows


def _beside(result: "RankCurve", curve: "Curve", rank: int | None) -> list[tuple[str, str]]:
    """What else sets the effective rank apart from the full delta: a low ASR is no refusal."""
    if rank is None:
        return []
    place = result.ranks.index(rank)
    rows = []
    for metric in ("refusal", "incoherent"):
        if metric in curve.values:
            there, full = (result.rates(curve, metric)[index] for index in (place, -1))
            if there.low > full.high or there.high < full.low:
                rows.append(
                    ("but not the same", f"{metric} {there.value:.1%} there, {full.value:.1%} with the full delta")
                )
    return rows


def _named(rank: int | None) -> str:
    return "none" if rank is None else str(rank)


def _prompts(count: int) -> str:
    return f"{count} prompt" if count == 1 else f"{count} prompts"
