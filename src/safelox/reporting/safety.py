"""What judges made of the replies: attack success, what the replies were, over-refusal, utility against safety."""

from safelox.evaluation.outcomes import Outcome
from safelox.rates import Rate
from safelox.reporting.bars import outcome_chart
from safelox.reporting.chart import (
    Chart,
    Figure,
    Section,
    Series,
    offsets,
    row_axis,
    row_height,
    share_axis,
    zoomed_axis,
)
from safelox.reporting.found import ALONE, BASE, Found, Model, Question, rate_of, result_of
from safelox.reporting.groups import each_chart, groups, has_rate, situations
from safelox.reporting.table import Cell, Kind, Table, make_table
from safelox.reporting.words import interval, percent, rate_in_words


def attack_success(found: Found) -> Section | None:
    """ASR before and after each attack, and what every reply was; refusals where a judge gives no ASR."""
    asked = found.questions("forbidden")
    with_asr = [question for question in asked if has_rate(found, question, "asr")]
    without = [question for question in asked if question not in with_asr and has_rate(found, question, "refusal")]
    figures = (
        Figure(id="asr", title="Attack success rate", charts=tuple(each_chart(found, with_asr, _asr_chart))),
        Figure(
            id="refusal",
            title="Refusals, by judges that give no ASR",
            charts=tuple(each_chart(found, without, _refusal_chart)),
        ),
        Figure(
            id="outcomes",
            title="What the replies to forbidden requests were",
            charts=tuple(each_chart(found, asked, outcome_chart)),
        ),
    )
    shown = tuple(figure for figure in figures if figure.charts)
    if not shown:
        return None
    return Section(
        id="attacks",
        title="Before and after each attack",
        lead="The attack success rate (ASR) is the share of forbidden requests that were complied with in full; lower "
        "is safer. Every reply counts in the denominator, also an incoherent one and one that no judge could score: "
        "neither is a safe reply, so look at both charts.",
        figures=shown,
    )


def over_refusal(found: Found) -> Section | None:
    """Refusals of requests that should be complied with."""
    asked = [question for question in found.questions("permitted") if has_rate(found, question, "over_refusal")]
    charts = tuple(each_chart(found, asked, _over_refusal_chart))
    if not charts:
        return None
    return Section(
        id="over-refusal",
        title="Over-refusal",
        lead="The share of permitted requests that were refused. A model that refuses everything has an ASR of zero.",
        figures=(Figure(id="over-refusal-rate", title="Permitted requests refused", charts=charts),),
    )


def _asr_chart(found: Found, pair: str, question: Question, title: str, suffix: str) -> Chart | None:
    return _dots(found, pair, question, title, f"asr-{suffix}", metric="asr", axis="attack success rate")


def _refusal_chart(found: Found, pair: str, question: Question, title: str, suffix: str) -> Chart | None:
    axis = "forbidden requests refused"
    return _dots(found, pair, question, title, f"refusal-{suffix}", metric="refusal", axis=axis)


def _over_refusal_chart(found: Found, pair: str, question: Question, title: str, suffix: str) -> Chart | None:
    axis = "permitted requests refused"
    return _dots(found, pair, question, title, f"over-refusal-{suffix}", metric="over_refusal", axis=axis)


def _dots(found: Found, pair: str, question: Question, title: str, id: str, *, metric: str, axis: str) -> Chart | None:
    """A row for each situation, a mark with its interval for each defence."""
    named = [name for name in situations(found, pair) if _any(found, pair, name, question, metric)]
    shown = [group for group in groups(found, pair) if any(_rate(found, i, question, metric) for i in group.models)]
    if not named:
        return None
    series = []
    side_by_side = [group.name for group in shown if group.name not in (BASE, ALONE)]
    places = dict(zip(side_by_side, offsets(len(side_by_side)), strict=True))
    for group in shown:
        offset = places.get(group.name, 0.0)
        marks = [(i, rate) for i in group.models if (rate := _rate(found, i, question, metric)) is not None]
        series.append(
            Series(
                name=group.name,
                mode="marks",
                colour=group.colour,
                symbol=group.symbol,
                x=tuple(rate.value for _, rate in marks),
                y=tuple(named.index(found.models[i].situation) + offset for i, _ in marks),
                x_bounds=tuple((rate.low, rate.high) for _, rate in marks),
                texts=tuple(_told(found.models[i], question, rate) for i, rate in marks),
                models=tuple(i for i, _ in marks),
            )
        )
    counts = {rate.n for one in shown for i in one.models if (rate := _rate(found, i, question, metric)) is not None}
    highs = [high for one in series for _, high in one.x_bounds or () if high is not None]
    of = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    return Chart(
        id=id,
        title=title,
        caption=f"Marks: {axis}, of {of} replies to each model. Bars: 95 % Wilson intervals.",
        x=zoomed_axis(axis, highs, top=False) if metric == "over_refusal" else share_axis(axis),
        y=row_axis(named),
        series=tuple(series),
        height=row_height(len(named), 15 * max(1, len(side_by_side))),
        suite=question.suite_label,
        judge=question.judge,
        table=_rate_table(found, pair, question, metric, id, f"{axis.capitalize()}: {title}"),
    )


def _rate_table(found: Found, pair: str, question: Question, metric: str, id: str, caption: str) -> Table:
    names: tuple[Outcome, ...] = ("incoherent", "unscored")
    if metric == "asr":
        names = ("refused", *names)
    rows: list[list[Cell]] = []
    for group in groups(found, pair):
        for i in group.models:
            model, rate = found.models[i], _rate(found, i, question, metric)
            result = result_of(model, question)
            if rate is None or result is None:
                continue
            beside = [_value(result.outcomes.get(name)) for name in names]
            rows.append(
                [model.situation, group.name, rate.value, (rate.low, rate.high), rate.count, rate.n, *beside],
            )
    order = {name: place for place, name in enumerate(situations(found, pair))}
    rows.sort(key=lambda row: order[str(row[0])])
    columns: list[tuple[str, Kind]] = [
        ("situation", "text"),
        ("defence", "text"),
        (metric.replace("_", "-").replace("asr", "ASR"), "percent"),
        ("95 % interval", "bounds"),
        ("count", "count"),
        ("n", "count"),
        *((name, "percent") for name in names),
    ]
    if found.experiment is None:
        columns = [("model", "text"), *columns[2:]]
        rows = [[row[0], *row[2:]] for row in rows]
    return make_table(id, caption, columns, rows)


def _any(found: Found, pair: str, situation: str, question: Question, metric: str) -> bool:
    return any(
        rate_of(model, question, metric) for model in found.models if (model.pair, model.situation) == (pair, situation)
    )


def _rate(found: Found, place: int, question: Question, metric: str) -> Rate | None:
    return rate_of(found.models[place], question, metric)


def _value(rate: Rate | None) -> float | None:
    return None if rate is None else rate.value


def _told(model: Model, question: Question, rate: Rate) -> str:
    result = result_of(model, question)
    beside = [] if result is None else [(name, result.outcomes.get(name)) for name in ("incoherent", "unscored")]
    said = ", ".join(f"{name} {percent(other.value)}" for name, other in beside if other is not None)
    return f"{model.name}: {rate_in_words(rate)}, {interval(rate)}; {said}"
