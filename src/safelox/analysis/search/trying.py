"""The search itself: propose a point, measure it, tell what came of it; and at the end, confirm the best."""

import math
from collections.abc import Iterable, Mapping, Sequence

from safelox.analysis.search.bench import Bench, PointError
from safelox.analysis.search.bounds import Limits, excesses, make_bounds, objectives, violations
from safelox.analysis.search.choice import RULE, pareto, recommend, score
from safelox.analysis.search.prompts import Half
from safelox.analysis.search.record import (
    BoundRecord,
    Confirmation,
    Measured,
    Recommendation,
    SuiteRecord,
    Trial,
)
from safelox.analysis.search.space import Point
from safelox.analysis.search.study import Study, Told
from safelox.evaluation.intervals import paired_difference
from safelox.progress import Progress
from safelox.spectra.report import MatrixSpectrum


def measure_aligned(bench: Bench, half: Half) -> Measured:
    """ALIGNED without hardening, before and after the attack."""
    return Measured(before=bench.before(None, half), after=bench.after(None, half))


def try_points(
    study: Study,
    bench: Bench,
    bounds: Sequence[BoundRecord],
    suites: Sequence[SuiteRecord],
    trials: int,
    progress: Progress,
) -> None:
    """Try points until there are `trials` of them, those of earlier runs among them, or no more to try."""
    with progress.task("tune", trials, "points") as task:
        task.advance(min(trials, len(study.told)))
        while len(study.told) < trials and (point := study.propose()) is not None:
            try:
                measured = _measure(bench, bounds, point)
            except PointError as error:
                study.tell_failed(str(error))
            else:
                values = None if measured.after is None else score(objectives(suites, measured))
                study.tell(values, excesses(bounds, measured))
            task.advance(1, f"rank {point.rank}, coefficient {point.coef:g}")


def _measure(bench: Bench, bounds: Sequence[BoundRecord], point: Point) -> Measured:
    """A point that breaks a bound before the attack is not attacked."""
    before = Measured(before=bench.before(point, "search"), after=None)
    if violations(bounds, before):
        return before
    return before.model_copy(update={"after": bench.after(point, "search")})


def tried(
    told: Sequence[Told],
    bench: Bench,
    bounds: Sequence[BoundRecord],
    suites: Sequence[SuiteRecord],
    matrices: Sequence[MatrixSpectrum],
) -> tuple[Trial, ...]:
    """What came of every point, read from the results folders."""
    found = []
    for number, (point, error) in enumerate(told):
        measured = bench.known(point, "search")
        broken = () if measured is None else violations(bounds, measured)
        attacked = measured is not None and measured.after is not None
        found.append(
            Trial(
                number=number,
                rank=point.rank,
                coef=point.coef,
                state="failed" if error is not None else "infeasible" if broken else "done",
                measured=measured,
                objectives=objectives(suites, measured) if measured is not None and attacked else None,
                violations=broken,
                relative_change=relative_change(matrices, point),
                pareto=False,
                error=error,
            )
        )
    kept = {trial.number: trial.objectives for trial in found if trial.state == "done" and trial.objectives}
    best = dict(zip(kept, pareto([score(each) for each in kept.values()]), strict=True))
    return tuple(trial.model_copy(update={"pareto": best.get(trial.number, False)}) for trial in found)


def relative_change(matrices: Iterable[MatrixSpectrum], point: Point) -> float:
    """||W_hardened - W_aligned|| / ||W_aligned||, from the spectra alone."""
    change, weight = 0.0, 0.0
    for matrix in matrices:
        energy = matrix.energy_at(point.rank)
        change += 0.0 if math.isnan(energy) else energy * matrix.delta_norm**2  # NaN: there is no delta
        weight += matrix.weight_norm**2
    return point.coef * math.sqrt(change / weight) if weight else math.nan


def recommendation(
    trials: Sequence[Trial], aligned: Measured, bench: Bench, suites: Sequence[SuiteRecord], limits: Limits
) -> Recommendation:
    """The point to take, confirmed on the prompts that the search has not seen."""
    chosen, reason = recommend(trials, objectives(suites, aligned))
    if chosen is None:
        return Recommendation(rank=None, coef=None, trial=None, rule=RULE, reason=reason, confirmation=None)
    return Recommendation(
        rank=chosen.rank,
        coef=chosen.coef,
        trial=chosen.number,
        rule=RULE,
        reason=reason,
        confirmation=_confirmation(Point(chosen.rank, chosen.coef), bench, suites, limits),
    )


def _confirmation(point: Point, bench: Bench, suites: Sequence[SuiteRecord], limits: Limits) -> Confirmation:
    aligned = measure_aligned(bench, "confirm")
    measured = Measured(before=bench.before(point, "confirm"), after=bench.after(point, "confirm"))
    broken = violations(make_bounds(suites, aligned, limits), measured)
    first, second = _paired(bench.succeeded(None, "confirm"), bench.succeeded(point, "confirm"))
    difference = paired_difference(first, second)
    return Confirmation(
        point=measured,
        aligned=aligned,
        objectives=objectives(suites, measured),
        aligned_objectives=objectives(suites, aligned),
        difference=difference,
        violations=broken,
        better=difference.high < 0 and not broken,
    )


def _paired(first: Mapping[str, bool], second: Mapping[str, bool]) -> tuple[list[bool], list[bool]]:
    return [first[name] for name in first], [second[name] for name in first]
