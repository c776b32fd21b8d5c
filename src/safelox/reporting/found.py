"""What was found in a folder of results, in one shape whoever wrote it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from safelox.analysis.curve.report import RankCurve
from safelox.analysis.plane.record import Landscape
from safelox.analysis.search.record import Tuning
from safelox.drift_metrics.report import DriftReport
from safelox.evaluation.results import EvaluationConfig, EvaluationManifest, JudgeResult, ScoredSample
from safelox.evaluation.suites import Asks
from safelox.experiment import AttackRecord, DefenceRecord, ExperimentRecord
from safelox.rates import Rate
from safelox.spectra.report import SpectrumReport

BEFORE, BASE = "before any attack", "base model"
"""Situations of models that nobody has attacked."""
ALONE = "models"
"""What models are called together where no experiment tells them apart."""


@dataclass(frozen=True)
class Replies:
    """A results folder of `evaluate`, finished or not."""

    place: str
    """The folder, inside that of the report."""
    config: EvaluationConfig
    manifest: EvaluationManifest | None
    """None where it is not finished."""
    results: Mapping[str, Mapping[str, JudgeResult]]
    """By suite and judge; of an unfinished one, of the replies so far."""
    samples: tuple[ScoredSample, ...]


@dataclass(frozen=True)
class Asked:
    """Some suites, asked of one model."""

    evaluation: str
    """What it is called in the recipe; "" where there is but one or none."""
    expected: Mapping[str, float]
    """Published values by "suite.metric"."""
    replies: Replies | None
    """None: there are none yet."""


@dataclass(frozen=True)
class Model:
    """One model, with all that was asked of it and measured on it."""

    name: str
    """Unique, for people."""
    situation: str
    """What had been done to it when it was asked: the attack, or "before any attack"."""
    pair: str
    defence: DefenceRecord | None
    """None: the base model, or no experiment says what it is."""
    attack: AttackRecord | None
    asked: tuple[Asked, ...]
    drift: DriftReport | None
    error: str | None


class Question(NamedTuple):
    """What a rate is of."""

    evaluation: str
    suite: str
    judge: str

    @property
    def suite_label(self) -> str:
        return f"{self.suite} ({self.evaluation})" if self.evaluation else self.suite

    @property
    def label(self) -> str:
        return f"{self.suite_label}, judge {self.judge}"


@dataclass(frozen=True)
class Found:
    """All of it."""

    title: str
    experiment: ExperimentRecord | None
    recipe: str | None
    """The text of the recipe's copy."""
    models: tuple[Model, ...]
    rank_curves: Mapping[str, RankCurve]
    """By name, as are the others."""
    landscapes: Mapping[str, Landscape]
    tunings: Mapping[str, Tuning]
    spectra: Mapping[str, SpectrumReport]
    drifts: Mapping[str, DriftReport]
    """Those that belong to no model of the experiment."""
    missing: tuple[str, ...]
    """What is not there yet, failed or cannot be read, a sentence each."""

    @property
    def defences(self) -> tuple[DefenceRecord, ...]:
        return () if self.experiment is None else self.experiment.defences

    @property
    def analyses(self) -> int:
        """How many files of measurements there are that belong to no model."""
        return sum(
            map(len, (self.rank_curves, self.landscapes, self.tunings, self.spectra, self.drifts)),
        )

    @property
    def pairs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(model.pair for model in self.models))

    def questions(self, *asks: Asks) -> list[Question]:
        """What was asked, of suites of these kinds, in the order in which it was."""
        found: dict[Question, None] = {}
        for model in self.models:
            for asked in model.asked:
                if asked.replies is not None:
                    for suite, config in asked.replies.config.suites.items():
                        if config.asks in asks:
                            found |= {Question(asked.evaluation, suite, judge): None for judge in config.judges}
        return list(found)


def result_of(model: Model, question: Question) -> JudgeResult | None:
    """What one judge makes of a model's replies to one suite; None where there are none."""
    for asked in model.asked:
        if asked.evaluation == question.evaluation and asked.replies is not None:
            return asked.replies.results.get(question.suite, {}).get(question.judge)
    return None


def rate_of(model: Model, question: Question, metric: str) -> Rate | None:
    """A rate, of which there has to be at least one reply; None otherwise, or where the judge cannot give it."""
    result = result_of(model, question)
    rate = None if result is None else result.metrics.get(metric)
    return rate if rate is not None and rate.n else None


def samples_of(model: Model, question: Question) -> Iterator[ScoredSample]:
    """A model's replies to one suite."""
    for asked in model.asked:
        if asked.evaluation == question.evaluation and asked.replies is not None:
            yield from (sample for sample in asked.replies.samples if sample.suite == question.suite)
