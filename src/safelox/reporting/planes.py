"""Landscapes: the ASR over a plane and along lines."""

import itertools
from collections.abc import Iterator

from safelox.analysis.plane.record import ASR, Landscape
from safelox.rates import Rate
from safelox.reporting.chart import HEIGHT, Axis, Chart, Figure, Grid, Section, Series, number, numbers, share_axis
from safelox.reporting.found import Found
from safelox.reporting.table import Cell, Table, make_table
from safelox.reporting.words import percent, rate_in_words, replies_each

PLACED = {
    "origin": ("aligned", 6, 0),
    "hardened": ("hardened", 0, 1),
    "tuned": ("aligned, attacked", 1, 2),
    "hardened_tuned": ("hardened, attacked", 4, 3),
}
"""Name, colour and symbol of the models."""


def landscapes(found: Found) -> Section | None:
    planes: list[Chart] = []
    lines: list[Chart] = []
    for j, (name, result) in enumerate(found.landscapes.items()):
        for i, (suite, judge) in enumerate(_judged(result)):
            title = f"{suite}, judge {judge} ({name})"
            planes += _plane_charts(result, suite, judge, title, f"{j}-{i}")
            lines += _line_charts(result, suite, judge, title, f"{j}-{i}")
    figures = []
    if planes:
        figures.append(Figure(id="planes", title="ASR over the plane of the paper", charts=tuple(planes)))
    if lines:
        figures.append(Figure(id="lines", title="ASR along lines", charts=tuple(lines)))
    if not figures:
        return None
    return Section(
        id="landscape",
        title="The landscape around the models",
        lead="Models on a plane through the aligned one: to the right further along the hardening, upwards along the "
        "fine-tuning. Distances are L2 norms over all weights. The darker, the higher the ASR.",
        figures=tuple(figures),
        tables=tuple(_basins(found)),
    )


def _basins(found: Found) -> Iterator[Table]:
    """How safe the models stay where their weights are moved at random."""
    rows: list[list[Cell]] = [
        [
            name,
            PLACED[basin.start][0],
            basin.suite,
            basin.judge,
            basin.directions,
            basin.reach,
            number(basin.margin),
            number(basin.incoherent),
            number(basin.refusal),
            basin.n,
        ]
        for name, result in found.landscapes.items()
        for basin in result.basins
    ]
    if rows:
        yield make_table(
            "basins",
            "Mean safety margin (1 - ASR) where the weights are moved at random",
            [
                ("landscape", "text"),
                ("around", "text"),
                ("suite", "text"),
                ("judge", "text"),
                ("directions", "count"),
                ("reach", "number"),
                ("margin", "percent"),
                ("incoherent", "percent"),
                ("refused", "percent"),
                ("n", "count"),
            ],
            rows,
            once=("landscape", "suite", "judge"),
        )


def _plane_charts(result: Landscape, suite: str, judge: str, title: str, suffix: str) -> Iterator[Chart]:
    plane = result.plane
    if plane is None or not all(ASR in point.results[suite][judge].metrics for point in plane.points):
        return
    rates = plane.rates(suite, judge, ASR)
    series = tuple(
        Series(
            name=PLACED[model.name][0],
            mode="marks",
            colour=PLACED[model.name][1],
            symbol=PLACED[model.name][2],
            x=(model.a,),
            y=(model.b,),
            texts=(_placed(model.results[suite][judge].metrics.get(ASR), PLACED[model.name][0], model.off_plane),),
            labelled=True,
        )
        for model in result.models
    )
    rows: list[list[Cell]] = [
        [a, b, rates[i][j].value, (rates[i][j].low, rates[i][j].high), rates[i][j].n]
        for i, a in enumerate(plane.a)
        for j, b in enumerate(plane.b)
    ]
    yield Chart(
        id=f"plane-{suffix}",
        title=title,
        caption=f"Colours: ASR at every point of the grid, of {replies_each(itertools.chain(*rates))} each. Marks: the "
        "models, or where they would be if they lay on the plane.",
        x=Axis(title=result.directions.a.label),
        y=Axis(title=result.directions.b.label),
        series=series,
        grid=Grid(
            x=plane.a,
            y=plane.b,
            values=tuple(tuple(number(rates[i][j].value) for i in range(len(plane.a))) for j in range(len(plane.b))),
            title="ASR",
        ),
        height=520,
        table=make_table(
            f"plane-{suffix}",
            f"ASR over the plane: {title}",
            [
                ("along hardening", "number"),
                ("along fine-tuning", "number"),
                ("ASR", "percent"),
                ("95 % interval", "bounds"),
                ("n", "count"),
            ],
            rows,
        ),
    )


def _placed(rate: Rate | None, name: str, off: float) -> str:
    return f"{name}{'' if rate is None or not rate.n else f': ASR {rate_in_words(rate)}'}; {off:.3g} off the plane"


def _line_charts(result: Landscape, suite: str, judge: str, title: str, suffix: str) -> Iterator[Chart]:
    own = [
        line
        for line in result.lines
        if line.kind != "random" and all(ASR in point.results[suite][judge].metrics for point in line.points)
    ]
    if not own:
        return
    series = []
    rows: list[list[Cell]] = []
    asked: list[Rate] = []
    for i, line in enumerate(own):
        rates = line.rates(suite, judge, ASR)
        asked += rates
        incoherent = line.rates(suite, judge, "incoherent")
        series.append(
            Series(
                name=line.name,
                mode="line+marks",
                colour=(0, 1, 2, 4, 5, 3, 6, 7)[i % 8],
                symbol=i,
                dashed=line.kind == "crossed",
                x=tuple(point.u for point in line.points),
                y=numbers([rate.value for rate in rates]),
                texts=tuple(
                    f"{line.name}, u = {point.u:.3g}: ASR {percent(rate.value)}, incoherent {percent(other.value)}"
                    for point, rate, other in zip(line.points, rates, incoherent, strict=True)
                ),
            )
        )
        rows += [
            [line.name, point.u, point.distance, rate.value, other.value, rate.n]
            for point, rate, other in zip(line.points, rates, incoherent, strict=True)
        ]
    yield Chart(
        id=f"line-{suffix}",
        title=title,
        caption=f"ASR on the way from a model along a direction, of {replies_each(asked)} at each point; u = 1 is the "
        "whole move.",
        x=Axis(title="u"),
        y=share_axis("attack success rate"),
        series=tuple(series),
        height=HEIGHT,
        table=make_table(
            f"line-{suffix}",
            f"ASR along lines: {title}",
            [
                ("line", "text"),
                ("u", "number"),
                ("distance", "number"),
                ("ASR", "percent"),
                ("incoherent", "percent"),
                ("n", "count"),
            ],
            rows,
        ),
    )


def _judged(result: Landscape) -> list[tuple[str, str]]:
    """Every suite with each of its judges."""
    return [(suite, judge) for suite, own in result.judges.items() for judge in own]
