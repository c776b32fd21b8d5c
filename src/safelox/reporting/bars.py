"""What every reply was: a bar for each model, in parts that add up to all replies."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from safelox.evaluation.intervals import rate
from safelox.evaluation.outcomes import Outcome
from safelox.evaluation.results import JudgeResult
from safelox.rates import Rate
from safelox.reporting.chart import Axis, Chart, Series, row_axis, row_height
from safelox.reporting.found import Found, Question, result_of
from safelox.reporting.groups import groups, situations
from safelox.reporting.table import Table, make_table
from safelox.reporting.words import rate_in_words

PARTS: dict[Outcome, tuple[int, Literal["", "/", "x"]]] = {
    "complied": (1, ""),
    "partial": (4, ""),
    "refused": (0, ""),
    "other": (5, ""),
    "incoherent": (6, "/"),
    "unscored": (3, "x"),
}
"""Colour and pattern of every outcome."""


class _Bar(NamedTuple):
    name: str
    place: int
    """Number of the model."""
    result: JudgeResult
    n: int

    def part(self, outcome: Outcome) -> Rate:
        """The share of an outcome; none of the replies where the judge has no word for it."""
        return self.result.outcomes.get(outcome, rate(0, self.n))


def outcome_chart(found: Found, pair: str, question: Question, title: str, suffix: str) -> Chart | None:
    """A bar for each model with replies; None where there are none."""
    bars = _bars(found, pair, question)
    if not bars:
        return None
    return Chart(
        id=f"outcomes-{suffix}",
        title=title,
        caption="Bars: all replies, by what they were. Hatched are those that made no sense, crossed those that no "
        "judge could score.",
        x=Axis(title="share of replies", percent=True, range=(0, 1)),
        y=row_axis([bar.name for bar in bars]),
        series=_series(bars),
        height=row_height(len(bars), 16),
        suite=question.suite_label,
        judge=question.judge,
        table=_table(bars, f"outcomes-{suffix}", title),
    )


def _bars(found: Found, pair: str, question: Question) -> list[_Bar]:
    """In the order of the situations, and of the defences in each."""
    order = {name: place for place, name in enumerate(situations(found, pair))}
    bars = []
    for group in groups(found, pair):
        for place in group.models:
            model = found.models[place]
            result = result_of(model, question)
            n = 0 if result is None else max((share.n for share in result.outcomes.values()), default=0)
            if result is not None and n:
                name = model.situation if model.defence is None else f"{model.situation} · {group.name}"
                bars.append(_Bar(name, place, result, n))
    return sorted(bars, key=lambda bar: order[found.models[bar.place].situation])


def _series(bars: Sequence[_Bar]) -> tuple[Series, ...]:
    """The parts that occur, each where the ones before it end."""
    ends = [0.0] * len(bars)
    series = []
    for outcome, (colour, pattern) in PARTS.items():
        shares = [bar.part(outcome) for bar in bars]
        if any(share.count for share in shares):
            series.append(
                Series(
                    name=outcome,
                    mode="bars",
                    colour=colour,
                    pattern=pattern,
                    x=tuple(share.value for share in shares),
                    y=tuple(map(float, range(len(bars)))),
                    base=tuple(ends),
                    texts=tuple(
                        f"{bar.name}: {outcome} {rate_in_words(share)}" for bar, share in zip(bars, shares, strict=True)
                    ),
                    models=tuple(bar.place for bar in bars),
                )
            )
            ends = [end + share.value for end, share in zip(ends, shares, strict=True)]
    return tuple(series)


def _table(bars: Sequence[_Bar], id: str, title: str) -> Table:
    """Nothing stands where the judge has no word for an outcome."""
    return make_table(
        id,
        f"What the replies were: {title}",
        [("model", "text"), *((outcome, "percent") for outcome in PARTS), ("n", "count")],
        [
            [
                bar.name,
                *(bar.part(outcome).value if outcome in bar.result.outcomes else None for outcome in PARTS),
                bar.n,
            ]
            for bar in bars
        ],
    )
