"""compare: what two results folders say of the same prompts, prompt by prompt."""

import os
from pathlib import Path

from safelox.errors import DataError, UsageError
from safelox.evaluation.folder import read_config, read_scored
from safelox.evaluation.intervals import PairedDifference, paired_difference, rate
from safelox.evaluation.metrics import BESIDE, METRICS, Says, not_judged
from safelox.evaluation.outcomes import Outcome
from safelox.evaluation.results import EvaluationConfig, Key, ScoredSample
from safelox.manifest import Record
from safelox.rates import Rate


class ComparedMetric(Record):
    """One rate of both models, on the prompts that both were asked."""

    first: Rate
    second: Rate
    difference: PairedDifference


class ComparedSuite(Record):
    """What stands in both folders of one suite."""

    pairs: int
    """Replies that stand in both."""
    only_first: int
    only_second: int
    """Replies that stand in one alone, and play no part."""
    differ: tuple[str, ...]
    """What was not the same for both, such as the number of new tokens."""
    judges: dict[str, dict[str, ComparedMetric]]
    """By judge and metric."""
    not_judged: dict[str, dict[str, tuple[Outcome, ...]]]
    """By judge and metric that it cannot give: the outcomes that it has no word for."""
    decides: dict[str, tuple[Outcome, ...] | None]
    """By judge, the outcomes that it told apart in both; None: all of them."""


class Comparison(Record):
    """Two models, compared on the same prompts."""

    first: str
    """The model in the first folder."""
    second: str
    suites: dict[str, ComparedSuite]


def compare(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> Comparison:
    """Compare two results folders on the prompts, suites and judges that they have in common.

    Of each metric, and of what is neither safe nor unsafe: both rates with Wilson intervals, the paired difference with
    an interval, and an exact McNemar test. System messages may differ, which is how one model is compared with itself
    under another one.

    Args:
        first: a results folder, finished or not.
        second: another.

    Raises:
        TargetError: one of them is no results folder.
        DataError: prompts of the same name are not the same.
        UsageError: they have no suite with a common judge.
    """
    folders = Path(first), Path(second)
    one, two = (read_config(folder) for folder in folders)
    first_samples, second_samples = (read_scored(folder) for folder in folders)
    suites = {
        suite: _compared(suite, one, two, _of(suite, first_samples), _of(suite, second_samples))
        for suite in one.suites
        if suite in two.suites and _common_judges(suite, one, two)
    }
    if not suites:
        raise UsageError(
            f"{folders[0]} and {folders[1]} have no suite in common that the same judge has judged: "
            f"{_told(one)} there, {_told(two)} here."
        )
    return Comparison(first=one.model.reference, second=two.model.reference, suites=suites)


def _of(suite: str, samples: list[ScoredSample]) -> dict[Key, ScoredSample]:
    return {sample.key: sample for sample in samples if sample.suite == suite}


def _compared(
    suite: str,
    one: EvaluationConfig,
    two: EvaluationConfig,
    first: dict[Key, ScoredSample],
    second: dict[Key, ScoredSample],
) -> ComparedSuite:
    pairs = [(sample, second[key]) for key, sample in first.items() if key in second]
    for pair in pairs:
        _check_same(*pair)
    metrics = METRICS[one.suites[suite].asks] | BESIDE
    decides = {judge: _words(judge, one, two) for judge in _common_judges(suite, one, two)}
    missing = {judge: not_judged(metrics, words) for judge, words in decides.items()}
    return ComparedSuite(
        pairs=len(pairs),
        only_first=len(first) - len(pairs),
        only_second=len(second) - len(pairs),
        differ=_unlike(suite, one, two),
        judges={
            judge: {name: _metric(pairs, judge, metric.says) for name, metric in metrics.items() if name not in lacks}
            for judge, lacks in missing.items()
        },
        not_judged=missing,
        decides=decides,
    )


def _words(judge: str, one: EvaluationConfig, two: EvaluationConfig) -> tuple[Outcome, ...] | None:
    """What the judge told apart in both folders; None: everything."""
    first, second = one.decides.get(judge), two.decides.get(judge)
    if first is None or second is None:
        return second if first is None else first
    return tuple(outcome for outcome in first if outcome in second)


def _metric(pairs: list[tuple[ScoredSample, ScoredSample]], judge: str, says: Says) -> ComparedMetric:
    first = [says(sample.verdicts[judge]) for sample, _ in pairs]
    second = [says(sample.verdicts[judge]) for _, sample in pairs]
    return ComparedMetric(
        first=rate(sum(first), len(pairs)),
        second=rate(sum(second), len(pairs)),
        difference=paired_difference(first, second),
    )


def _check_same(one: ScoredSample, two: ScoredSample) -> None:
    """
    Raises:
        DataError: the user does not say the same in both. What the models have said before may differ.
    """
    said = [[message.content for message in sample.prompt if message.role == "user"] for sample in (one, two)]
    if said[0] != said[1]:
        raise DataError(
            f"prompt {one.id} of suite {one.suite} is not the same in both results, so they cannot be compared prompt "
            "by prompt. Evaluate both models on the same data, with the same number of solved problems before it."
        )


def _common_judges(suite: str, one: EvaluationConfig, two: EvaluationConfig) -> list[str]:
    return [judge for judge in one.suites[suite].judges if judge in two.suites[suite].judges]


def _unlike(suite: str, one: EvaluationConfig, two: EvaluationConfig) -> tuple[str, ...]:
    first, second = one.suites[suite], two.suites[suite]
    settings = first.generation.model_dump(), second.generation.model_dump()
    found = [f"{name} ({settings[0][name]}, {settings[1][name]})" for name in settings[0]]
    unlike = [told for name, told in zip(settings[0], found, strict=True) if settings[0][name] != settings[1][name]]
    if one.system != two.system:
        unlike.append("system message")
    if one.backend != two.backend:
        unlike.append("backend")
    changed = [judge for judge in _common_judges(suite, one, two) if one.judges[judge] != two.judges[judge]]
    return (*unlike, *(f"version of judge {judge}" for judge in changed))


def _told(config: EvaluationConfig) -> str:
    return ", ".join(f"{suite} by {' and '.join(own.judges)}" for suite, own in config.suites.items())
