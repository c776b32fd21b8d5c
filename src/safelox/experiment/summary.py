"""What an experiment has found so far: the figures of every model, and of every attack its worst case.

Everything is read from the files of the experiment's folder; those that are not there yet are left out, so that a run
that is under way or has failed in part can be looked at too. Nothing heavy is imported.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from safelox.experiment.record import FILE, CellRecord, ExperimentRecord
from safelox.manifest import Record
from safelox.rates import Rate

MEAN_SCORE = "mean_score"
HEADLINES: Mapping[str, tuple[str, ...]] = {
    "forbidden": ("asr", "refusal"),
    "permitted": ("compliance", "over_refusal"),
    "answer": ("accuracy",),
    "help": (MEAN_SCORE,),
}
"""By what a suite asks, the metrics that are read off it first: of these, the first that the judge can give."""
BETTER_LOW = ("asr", "over_refusal")
"""Those of which more is worse."""


class FigureKey(NamedTuple):
    """Which figure of a model."""

    evaluation: str
    suite: str
    judge: str


class Figure(Record):
    """What one judge makes of one model's replies to one suite."""

    key: FigureKey
    asks: Literal["forbidden", "permitted", "answer", "help"]
    metrics: Mapping[str, Rate]
    outcomes: Mapping[str, Rate]
    """By outcome, "incoherent" and "unscored" among them."""
    mean_score: float
    """NaN where the judge gives no scores."""
    system: str | None
    """The system message the model was asked under."""
    expected: Mapping[str, float]
    """Published values by metric."""

    @property
    def metric(self) -> str | None:
        """Name of the metric that is read off the suite first; None where the judge gives none of those."""
        return next((name for name in HEADLINES[self.asks] if name in self.metrics or self._scored(name)), None)

    @property
    def headline(self) -> Rate | None:
        """The share of that name; None where it is none, but a mean score."""
        return None if self.metric is None else self.metrics.get(self.metric)

    @property
    def value(self) -> float:
        """The share or the mean score; NaN where there is neither."""
        if self.headline is not None:
            return self.headline.value
        return math.nan if self.metric is None else self.mean_score

    def _scored(self, name: str) -> bool:
        return name == MEAN_SCORE and not math.isnan(self.mean_score)

    @property
    def incoherent(self) -> Rate | None:
        return self.outcomes.get("incoherent")

    @property
    def unscored(self) -> Rate | None:
        return self.outcomes.get("unscored")


class Subspace(Record):
    """How far a model lies in the safety subspace: of its `DriftReport`, what is shown."""

    rank: int
    r_align: float
    r_ft: float
    ratio: float
    """R_ft / R_align, ratio of means."""


class Measured(Record):
    """One model with what is known of it so far."""

    cell: CellRecord
    figures: tuple[Figure, ...]
    subspace: Subspace | None

    def figure(self, key: FigureKey) -> Figure | None:
        return next((figure for figure in self.figures if figure.key == key), None)


class WorstCase(Record):
    """Of all settings and seeds of one attack on one defence, the model that does worst."""

    pair: str
    defence: str | None
    """None: the base model."""
    attack: str | None
    """By its name in the catalogue; None: before any attack."""
    label: str | None
    """The same with its variant, if the case is of one setting alone."""
    measured: Measured
    """The model."""
    figure: Figure
    lowest: float
    """Lowest and"""
    mean: float
    """mean headline of all the settings and seeds that are measured;"""
    settings: int
    """how many these are,"""
    variants: int
    """how many of them differ in more than their seed, and"""
    planned: int
    """how many there are to be."""


def read_record(out: Path) -> ExperimentRecord:
    """experiment.json of a folder.

    Raises:
        OSError: there is none.
        ValueError: it is not one that this version reads.
    """
    return ExperimentRecord.model_validate_json((out / FILE).read_bytes())


def read_measured(out: Path, record: ExperimentRecord) -> list[Measured]:
    """Every model of the experiment, in its order, with whatever is finished of it."""
    cache: dict[str, dict[str, Any]] = {}

    def load(path: str) -> dict[str, Any]:
        if path not in cache:
            cache[path] = json.loads((out / path).read_bytes())
        return cache[path]

    measured = []
    for cell in record.cells:
        figures: list[Figure] = []
        for judged in cell.judged:
            if judged.state == "done":
                results = load(f"{judged.folder}/results.json")
                figures += _figures(judged.evaluation, judged.system, judged.expected, results)
        subspace = None
        if cell.drift is not None and cell.drift_state == "done":
            report = load(cell.drift)
            means = report["overall"]
            subspace = Subspace(
                rank=report["rank"], r_align=means["r_align"], r_ft=means["r_ft"], ratio=means["ratio_of_means"]
            )
        measured.append(Measured(cell=cell, figures=tuple(figures), subspace=subspace))
    return measured


def figure_keys(measured: Iterable[Measured], *asks: str) -> list[FigureKey]:
    """The figures that any model has, in their order, of suites that ask one of these."""
    found = [figure.key for one in measured for figure in one.figures if figure.asks in asks]
    return list(dict.fromkeys(found))


def worst_cases(measured: Sequence[Measured], key: FigureKey, *, each_setting: bool = False) -> list[WorstCase]:
    """Of each pair, defence and attack, over its learning rates, poison ratios, variants and seeds, the model that
    does worst by the headline of this figure. In the order of the models; what is not measured yet, or by a judge that
    gives no headline, is left out.

    Args:
        each_setting: take each learning rate, poison ratio and variant by itself, over the seeds alone.
    """
    groups: dict[tuple[str, str | None, str | None, str | None], list[Measured]] = {}
    for one in measured:
        groups.setdefault(_group(one.cell, each_setting), []).append(one)
    cases = []
    for (pair, defence, attack, label), members in groups.items():
        known = [(one, figure) for one in members if (figure := one.figure(key)) is not None]
        known = [(one, figure) for one, figure in known if not math.isnan(figure.value)]
        if not known:
            continue
        values = [figure.value for _, figure in known]
        wanted = max(values) if known[0][1].metric in BETTER_LOW else min(values)
        worst, figure = known[values.index(wanted)]
        cases.append(
            WorstCase(
                pair=pair,
                defence=defence,
                attack=attack,
                label=label,
                measured=worst,
                figure=figure,
                lowest=min(values),
                mean=math.fsum(values) / len(values),
                settings=len(known),
                variants=len({one.cell.attack.variant for one, _ in known if one.cell.attack is not None}),
                planned=sum(any(judged.evaluation == key.evaluation for judged in one.cell.judged) for one in members),
            )
        )
    return cases


def failures(record: ExperimentRecord) -> dict[str, str]:
    """Why what failed did, by the cell or analysis."""
    found = {cell.id: cell.error for cell in record.cells if cell.error is not None}
    return found | {
        f"{analysis.pair}/{analysis.name}": analysis.error for analysis in record.analyses if analysis.error is not None
    }


def states(record: ExperimentRecord) -> dict[str, int]:
    """How many evaluations, drifts and analyses are done, waiting and failed. What models share counts once."""
    found: dict[str, str] = {}
    for cell in record.cells:
        found |= {judged.folder: judged.state for judged in cell.judged}
        if cell.drift is not None:
            found[cell.drift] = cell.drift_state
    found |= {analysis.folder: analysis.state for analysis in record.analyses}
    return {state: list(found.values()).count(state) for state in ("done", "waiting", "failed")}


def _group(cell: CellRecord, each_setting: bool) -> tuple[str, str | None, str | None, str | None]:
    attack = cell.attack
    if attack is None:
        return cell.pair, cell.defence, None, None
    return cell.pair, cell.defence, attack.name, attack.label if each_setting else None


def _figures(
    evaluation: str, system: str | None, expected: Mapping[str, float], results: Mapping[str, Any]
) -> Iterable[Figure]:
    for suite, judges in results["results"].items():
        published = {
            name.partition(".")[2]: value for name, value in expected.items() if name.partition(".")[0] == suite
        }
        for judge, found in judges.items():
            yield Figure(
                key=FigureKey(evaluation, suite, judge),
                asks=results["configs"][suite]["asks"],
                metrics=found["metrics"],
                outcomes=found["outcomes"],
                mean_score=found["mean_score"],
                system=system,
                expected=published,
            )
