"""Rank curves."""

from safelox.analysis.curve.report import ASR, MEAN_SCORE, Curve, RankCurve
from safelox.rates import Rate
from safelox.reporting.chart import (
    HEIGHT,
    Axis,
    Chart,
    Figure,
    Reference,
    Section,
    Series,
    number,
    numbers,
    share_axis,
    thinned,
)
from safelox.reporting.found import Found
from safelox.reporting.table import Cell, Kind, make_table
from safelox.reporting.words import interval, rate_in_words, replies_each


def rank_curves(found: Found) -> Section | None:
    charts = tuple(
        chart
        for j, (name, result) in enumerate(found.rank_curves.items())
        for i, curve in enumerate(result.curves)
        if (chart := _rank_chart(name, result, curve, f"{j}-{i}")) is not None
    )
    if not charts:
        return None
    return Section(
        id="rank-curve",
        title="How many directions make the model safe",
        lead="The base model with only the leading r directions of what alignment changed. A low ASR means safety only "
        "where refusals rise as it falls: incoherent replies lower it too.",
        figures=(Figure(id="curves", title="Rank curve", charts=charts),),
    )


def _rank_chart(name: str, result: RankCurve, curve: Curve, suffix: str) -> Chart | None:
    labels = [*map(str, result.ranks), "full"]
    wanted = [
        n
        for n in (ASR, "refusal", "compliance", "accuracy", "over_refusal", "incoherent", "unscored")
        if n in curve.values
    ]
    styles = {ASR: (1, 1), "refusal": (0, 0), "incoherent": (6, 4), "unscored": (3, 5)}
    shown = [n for n in wanted if n != "unscored" or any(value for _, value in curve.values[n])]
    series = []
    asked: list[Rate] = []
    for i, metric in enumerate(shown):
        rates = result.rates(curve, metric)
        asked += rates
        colour, symbol = styles.get(metric, (2 + i, 2 + i))
        label = "ASR" if metric == ASR else metric.replace("_", "-")
        series.append(
            Series(
                name=label,
                mode="line+marks",
                colour=colour,
                symbol=symbol,
                dashed=metric in ("incoherent", "unscored"),
                x=tuple(map(float, range(len(labels)))),
                y=numbers([rate.value for rate in rates]),
                y_bounds=tuple((number(rate.low), number(rate.high)) for rate in rates) if i == 0 else None,
                texts=tuple(
                    f"rank {rank}: {label} {rate_in_words(rate)}, {interval(rate)}" if rate.n else f"rank {rank}"
                    for rank, rate in zip(labels, rates, strict=True)
                ),
            )
        )
    if not series:
        return None
    effective = curve.effective_rank
    said = ""
    references: tuple[Reference, ...] = ()
    if effective is not None and effective.rank is not None:
        others = [r.rank for r in effective.resampled if r.rank != effective.rank]
        said = f" The effective rank (rho {effective.rho:g}) is {effective.rank}"
        said += (
            f"; on resampled prompts also {', '.join('none' if r is None else str(r) for r in others)}."
            if others
            else "."
        )
        at = float(labels.index(str(effective.rank)))
        references = (Reference(axis="x", at=at, text=f"effective rank {effective.rank}"),)
    elif effective is not None:
        said = f" By the rule with rho {effective.rho:g} none of these ranks is effective."
    columns: list[tuple[str, Kind]] = [
        ("rank", "text"),
        *((one.name, "percent") for one in series),
        ("mean score", "number"),
    ]
    scores = [value for _, value in curve.values.get(MEAN_SCORE, ())]
    rows: list[list[Cell]] = [
        [label, *(one.y[i] for one in series), number(scores[i]) if scores else None] for i, label in enumerate(labels)
    ]
    title = f"{curve.suite}, judge {curve.judge} ({name})"
    return Chart(
        id=f"curve-{suffix}",
        title=title,
        caption=f"Shares of {replies_each(asked)} at each rank; bars are 95 % intervals of the first.{said}",
        x=Axis(title="directions kept", ticks=thinned(labels)),
        y=share_axis("share of replies"),
        series=tuple(series),
        references=references,
        height=HEIGHT,
        table=make_table(f"curve-{suffix}", f"Rank curve: {title}", columns, rows),
    )
