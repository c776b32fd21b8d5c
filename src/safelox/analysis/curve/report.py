"""The results of a rank curve."""

from collections.abc import Iterator, Mapping, Sequence

from safelox.analysis.curve.effective_rank import EffectiveRank, effective_rank
from safelox.evaluation.metrics import BESIDE, METRICS, Says
from safelox.evaluation.results import JudgeResult, ScoredSample, SuiteConfig
from safelox.manifest import Record
from safelox.rates import Rate

FILE = "rank_curve.json"
ASR, MEAN_SCORE = "asr", "mean_score"


class RankPoint(Record):
    """The model with so many directions of the delta."""

    rank: int | None
    """None: the full delta, which is the aligned model."""
    folder: str
    """Its results, inside OUT."""
    results: dict[str, dict[str, JudgeResult]]
    """By suite and judge, as in that folder's results.json."""


class Curve(Record):
    """What one judge makes of the replies to one suite, over the ranks."""

    suite: str
    judge: str
    values: dict[str, tuple[tuple[int | None, float], ...]]
    """(rank, value), ascending, of every metric, of "incoherent" and "unscored", without which none should be read, and
    of "mean_score"; the last is (None, value of the full delta). NaN where there is nothing to take a mean of."""
    effective_rank: EffectiveRank | None
    """None where the judge gives no ASR of the suite."""


class RankCurve(Record):
    """rank_curve.json: the outcome of `rank_curve`."""

    base: str
    aligned: str
    modules: tuple[str, ...]
    """Globs on the tensors whose delta is cut, the others keeping theirs; none where all are cut."""
    subspace: str | None
    """The file with the directions; None where no rank above 0 was asked for."""
    command: str | None
    """What was called, where the caller said so."""
    ranks: tuple[int, ...]
    """Ascending."""
    points: tuple[RankPoint, ...]
    """In the order of the ranks; the full delta comes last."""
    curves: tuple[Curve, ...]

    def rates(self, curve: Curve, metric: str) -> list[Rate]:
        """A metric of a curve, or "incoherent" or "unscored", with its counts and intervals, at every point."""
        return [_rate(point.results[curve.suite][curve.judge], metric) for point in self.points]


def _rate(found: JudgeResult, name: str) -> Rate:
    rates = {str(outcome): rate for outcome, rate in found.outcomes.items()} | found.metrics
    return rates[name]


def make_curves(
    results: Mapping[int | None, Mapping[str, Mapping[str, JudgeResult]]],
    scored: Mapping[int | None, Sequence[ScoredSample]],
    suites: Mapping[str, SuiteConfig],
    rho: float,
    seed: int,
) -> Iterator[Curve]:
    """The curve of every suite and judge.

    Args:
        results: by rank, suite and judge; None is the full delta, and comes last.
        scored: every reply at each rank, one to a prompt.
        seed: of the resampling of prompts.
    """
    for suite, config in suites.items():
        for judge in config.judges:
            by_rank = {rank: found[suite][judge] for rank, found in results.items()}
            values = {
                name: tuple((rank, _rate(found, name).value) for rank, found in by_rank.items())
                for name in (*by_rank[None].metrics, *BESIDE)
            }
            values[MEAN_SCORE] = tuple((rank, found.mean_score) for rank, found in by_rank.items())
            effective = None
            if ASR in values and by_rank[None].metrics[ASR].n:
                says = METRICS[config.asks][ASR].says
                succeeded = {rank: _holds(samples, suite, judge, says) for rank, samples in scored.items()}
                full = succeeded.pop(None)
                ranks = {rank: found for rank, found in succeeded.items() if rank is not None}
                effective = effective_rank(ranks, full, rho, seed=seed)
            yield Curve(suite=suite, judge=judge, values=values, effective_rank=effective)


def _holds(samples: Sequence[ScoredSample], suite: str, judge: str, says: Says) -> list[bool]:
    """Whether something holds of the verdict on each prompt of a suite, in the order of the prompts' ids."""
    own = sorted((sample for sample in samples if sample.suite == suite), key=lambda sample: sample.id)
    return [says(sample.verdicts[judge]) for sample in own]
