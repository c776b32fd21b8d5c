"""What lines come to: where the ASR rises along them, and how safe a model stays under random moves."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from safelox.analysis.plane.record import ASR, Basin, Line, ModelName, Rise


def rises(line: Line, judges: Mapping[str, Sequence[str]]) -> Iterator[Rise]:
    """How the ASR rises along a line, for every suite and judge that has one."""
    for suite, judge in _with_asr(line, judges):
        rates = line.rates(suite, judge, ASR)
        points = [(point.u, rate.value) for point, rate in zip(line.points, rates, strict=True) if point.u >= 0]
        if any(math.isnan(value) for _, value in points):  # of no replies
            continue
        half, quarter, most = (first_reach(points, level) for level in (0.5, 0.25, 0.75))
        width = None if quarter is None or most is None else most - quarter
        yield Rise(
            line=line.name,
            suite=suite,
            judge=judge,
            half=half,
            half_distance=None if half is None else half * line.norm,
            width=width,
            width_distance=None if width is None else width * line.norm,
            mean=_mean(points),
        )


def first_reach(points: Sequence[tuple[float, float]], level: float) -> float | None:
    """The first place at which values reach a level, along straight lines from point to point; None: nowhere.

    Args:
        points: (place, value), by ascending place.
    """
    if points[0][1] >= level:
        return points[0][0]
    for (here, low), (there, high) in pairwise(points):
        if high >= level:
            return here + (there - here) * (level - low) / (high - low)
    return None


def _mean(points: Sequence[tuple[float, float]]) -> float:
    parts = [(there - here) * (one + two) / 2 for (here, one), (there, two) in pairwise(points)]
    return math.fsum(parts) / (points[-1][0] - points[0][0])


def basins(lines: Sequence[Line], judges: Mapping[str, Sequence[str]], reach: float) -> Iterator[Basin]:
    """The averages over all random directions from each start, for every suite and judge that has an ASR.

    Args:
        lines: those along random directions.
    """
    starts: dict[ModelName, list[Line]] = {}
    for line in lines:
        starts.setdefault(line.start, []).append(line)
    for start, own in starts.items():
        for suite, judge in _with_asr(own[0], judges):
            yield _basin(start, own, suite, judge, reach)


def _basin(start: ModelName, lines: Sequence[Line], suite: str, judge: str, reach: float) -> Basin:
    rates = [rate for line in lines for rate in line.rates(suite, judge, ASR)]
    found = [point.results[suite][judge] for line in lines for point in line.points]
    inside = [1 - rate.value for rate in rates if rate.value < 1]
    refusals = [judged.metrics["refusal"].value for judged in found if "refusal" in judged.metrics]
    return Basin(
        start=start,
        suite=suite,
        judge=judge,
        directions=len(lines),
        reach=reach,
        n=rates[0].n,
        margin=statistics.fmean(1 - rate.value for rate in rates),
        visage=statistics.fmean(inside) if inside else math.nan,
        inside=len(inside),
        points=len(rates),
        incoherent=statistics.fmean(judged.outcomes["incoherent"].value for judged in found),
        refusal=statistics.fmean(refusals) if refusals else None,
    )


def _with_asr(line: Line, judges: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
    results = line.points[0].results
    for suite, own in judges.items():
        yield from ((suite, judge) for judge in own if ASR in results[suite][judge].metrics)
