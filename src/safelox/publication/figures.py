"""The rates of a hardened model before and after each attack, beside those of the model that was not hardened."""

import math
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from safelox.errors import TargetError
from safelox.evaluation.folder import RESULTS
from safelox.evaluation.results import JudgeResult, Results
from safelox.evaluation.suites import Asks
from safelox.experiment.record import CellRecord, JudgedRecord
from safelox.manifest import Record
from safelox.publication.finding import Subject
from safelox.rates import Rate

MEAN_SCORE = "mean_score"
CHOSEN: dict[Asks, tuple[str, ...]] = {
    "forbidden": ("asr", "refusal"),
    "permitted": ("compliance", "over_refusal"),
    "answer": ("accuracy",),
    "help": (),
}
"""What is told of a suite by what it asks for: the first of these that the judge has the words for, else its score."""


class Figure(Record):
    """A rate with its 95 % Wilson interval, or a mean score, which has none."""

    value: float
    count: int | None
    n: int
    low: float | None
    high: float | None


class Side(Record):
    """What one judge makes of one model's replies."""

    folder: str
    """The results, inside the experiment's folder."""
    figure: Figure
    incoherent: Rate
    unscored: Rate


class Row(Record):
    """One figure, of the model that was not hardened and of the hardened one."""

    attack: str | None
    """None: before any attack."""
    seed: int | None
    evaluation: str
    prompted: bool
    """Asked under a system message that takes the place of the prompts' own."""
    suite: str
    called: str
    """What the suite's file is, by its checksum."""
    asks: Asks
    judge: str
    metric: str
    without: Side | None
    hardened: Side | None


def rows(subject: Subject) -> Iterator[Row]:
    """The rows in the order of the experiment, of what is done of it.

    Raises:
        TargetError: results that are called done cannot be read.
    """
    for without, hardened in subject.cells():
        some = hardened or without
        assert some is not None
        names = dict.fromkeys(one.evaluation for cell in (without, hardened) if cell is not None for one in cell.judged)
        for name in names:
            sides = [_read(subject.folder, cell, name) for cell in (without, hardened)]
            yield from _evaluated(name, sides[0], sides[1], some)


_Read = tuple[JudgedRecord, Results] | None


def _read(folder: Path, cell: CellRecord | None, evaluation: str) -> _Read:
    """The results of a cell; None where there are none yet."""
    judged = next((one for one in cell.judged if one.evaluation == evaluation), None) if cell is not None else None
    if judged is None or judged.state != "done":
        return None
    path = folder / judged.folder / RESULTS
    try:
        return judged, Results.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise TargetError(
            f"{path}: not results of this version of safelox, though the experiment says that they are done. "
            "Run it again."
        ) from error


def _evaluated(name: str, without: _Read, hardened: _Read, cell: CellRecord) -> Iterator[Row]:
    some = hardened or without
    if some is None:
        return
    judged, results = some
    for suite, config in results.configs.items():
        for judge in results.results[suite]:
            metric = _metric(results.results[suite][judge], config.asks)
            yield Row(
                attack=None if cell.attack is None else cell.attack.label,
                seed=None if cell.attack is None else cell.attack.seed,
                evaluation=name,
                prompted=judged.system is not None,
                suite=suite,
                called=config.called,
                asks=config.asks,
                judge=judge,
                metric=metric,
                without=_side(without, suite, judge, metric),
                hardened=_side(hardened, suite, judge, metric),
            )


def _metric(result: JudgeResult, asks: Asks) -> str:
    return next((name for name in CHOSEN[asks] if name in result.metrics), MEAN_SCORE)


def _side(read: _Read, suite: str, judge: str, metric: str) -> Side | None:
    if read is None or judge not in read[1].results.get(suite, {}):
        return None
    judged, results = read
    result = results.results[suite][judge]
    if metric == MEAN_SCORE:
        figure = Figure(value=result.mean_score, count=None, n=result.scores, low=None, high=None)
    elif metric in result.metrics:
        rate = result.metrics[metric]
        figure = Figure(value=rate.value, count=rate.count, n=rate.n, low=rate.low, high=rate.high)
    else:
        return None
    outcomes = result.outcomes
    return Side(folder=judged.folder, figure=figure, incoherent=outcomes["incoherent"], unscored=outcomes["unscored"])


def is_known(side: Side | None) -> bool:
    """Whether there is a number: a rate of nothing is NaN."""
    return side is not None and not math.isnan(side.figure.value)
