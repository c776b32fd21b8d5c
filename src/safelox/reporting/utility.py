"""Utility against safety."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from safelox.rates import Rate
from safelox.reporting.chart import Axis, Chart, Figure, Section, Series, number, share_axis, zoomed_axis
from safelox.reporting.found import BASE, Found, Model, Question, rate_of, result_of
from safelox.reporting.groups import Group, each_chart, groups, has_rate
from safelox.reporting.table import make_table
from safelox.reporting.words import percent

UTILITY = {"permitted": "compliance", "answer": "accuracy"}
"""The rate that is higher in a more useful model, by what a suite asks."""


def utility(found: Found) -> Section | None:
    """Utility against safety."""
    safety = next((question for question in found.questions("forbidden") if has_rate(found, question, "asr")), None)
    useful = found.questions("permitted", "answer", "help")
    if safety is None or not useful:
        return None
    charts = tuple(each_chart(found, useful, partial(_utility_chart, safety=safety)))
    if not charts:
        return None
    return Section(
        id="utility",
        title="Utility against safety",
        lead="Each mark is a model. Towards the upper left it is both useful and safe; hollow marks are models before "
        "any attack. Both bars are 95 % intervals.",
        figures=(Figure(id="trade", title="Utility against ASR", charts=charts),),
    )


class _Mark(NamedTuple):
    place: int
    """Number of the model."""
    asr: Rate
    value: float
    bounds: tuple[float, float] | None
    """95 % interval; None of a mean score."""
    n: int


def _utility_chart(
    found: Found, pair: str, question: Question, title: str, suffix: str, *, safety: Question
) -> Chart | None:
    own = {group: list(_marks(found, group, question, safety)) for group in groups(found, pair)}
    marks = [mark for found_marks in own.values() for mark in found_marks]
    if not marks:
        return None
    what = UTILITY.get(_asks(found, question), "mean score")
    label = f"{what} ({question.suite})"
    lows = [mark.bounds[0] for mark in marks if mark.bounds is not None]
    return Chart(
        id=f"trade-{suffix}",
        title=title,
        caption=f"Across: ASR of {safety.label}. Upwards: {what} of {title}. The best corner is the upper left.",
        x=share_axis(f"ASR ({safety.suite})"),
        y=zoomed_axis(label, lows, top=True) if lows else Axis(title=label),
        series=tuple(one for group, found_marks in own.items() for one in _series(found, group, found_marks)),
        height=430,
        suite=question.suite_label,
        judge=question.judge,
        table=make_table(
            f"trade-{suffix}",
            f"Utility against ASR: {title}",
            [
                ("situation", "text"),
                ("defence", "text"),
                ("ASR", "percent"),
                (what, "percent" if lows else "number"),
                ("95 % interval", "bounds"),
                ("n", "count"),
            ],
            [
                [found.models[mark.place].situation, group.name, mark.asr.value, mark.value, mark.bounds, mark.n]
                for group, found_marks in own.items()
                for mark in found_marks
            ],
        ),
    )


def _marks(found: Found, group: Group, question: Question, safety: Question) -> Iterator[_Mark]:
    for place in group.models:
        model = found.models[place]
        asr, useful = rate_of(model, safety, "asr"), _utility(found, model, question)
        if asr is not None and useful is not None:
            yield _Mark(place, asr, *useful)


def _series(found: Found, group: Group, marks: Sequence[_Mark]) -> Iterator[Series]:
    """Hollow ones for models before any attack, filled ones for the others."""
    for hollow in (True, False):
        shown = [mark for mark in marks if (found.models[mark.place].attack is None) == hollow]
        if shown:
            yield Series(
                name=f"{group.name}, before any attack" if hollow and group.name != BASE else group.name,
                mode="marks",
                colour=group.colour,
                symbol=group.symbol,
                hollow=hollow,
                x=tuple(mark.asr.value for mark in shown),
                y=tuple(mark.value for mark in shown),
                x_bounds=tuple((mark.asr.low, mark.asr.high) for mark in shown),
                y_bounds=tuple(mark.bounds or (None, None) for mark in shown),
                texts=tuple(
                    f"{found.models[mark.place].name}: ASR {percent(mark.asr.value)}, utility "
                    f"{f'{mark.value:.3g}' if mark.bounds is None else percent(mark.value)}"
                    for mark in shown
                ),
                models=tuple(mark.place for mark in shown),
            )


def _utility(found: Found, model: Model, question: Question) -> tuple[float, tuple[float, float] | None, int] | None:
    """Value, 95 % interval (None for a mean score) and count of what a suite says of a model's use."""
    asks = _asks(found, question)
    if asks in UTILITY:
        rate = rate_of(model, question, UTILITY[asks])
        return None if rate is None else (rate.value, (rate.low, rate.high), rate.n)
    result = result_of(model, question)
    mean = None if result is None else number(result.mean_score)
    return None if mean is None or result is None else (mean, None, result.scores)


def _asks(found: Found, question: Question) -> str:
    return next(asks for asks in ("permitted", "answer", "help", "forbidden") if question in found.questions(asks))
