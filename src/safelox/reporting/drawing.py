"""Charts as pictures for print, drawn with matplotlib from what the page is drawn from."""

import math
import textwrap
from typing import TYPE_CHECKING, Any

from safelox.pictures import COLOURS, MARKERS
from safelox.reporting.chart import Axis, Chart, Number, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.2
"""Inches."""
PIXELS_PER_INCH = 110
PALETTE = (*COLOURS[:6], "#5f5f5f", COLOURS[6])
_HATCHES = {"": "", "/": "////", "x": "xxxx", ".": "...."}
_LABEL = 34
"""Characters of a row's name before it is broken."""


def draw_chart(chart: Chart) -> "Figure":
    """The chart as a figure of matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, max(2.2, chart.height / PIXELS_PER_INCH)), layout="constrained")
    axes = figure.subplots()
    axes.set_axisbelow(True)
    if chart.grid is not None:
        _draw_grid(figure, axes, chart)
    for series in chart.series:
        (_draw_bars if series.mode == "bars" else _draw_marks)(axes, series)
    for reference in chart.references:
        line = axes.axvline if reference.axis == "x" else axes.axhline
        line(reference.at, color="#5f5f5f", linestyle=":", linewidth=1.0)
    _set_axis(axes, "x", chart.x)
    _set_axis(axes, "y", chart.y)
    axes.set_title(textwrap.fill(chart.title, 90))
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)
    return figure


def _draw_marks(axes: "Axes", series: Series) -> None:
    colour = PALETTE[series.colour % len(PALETTE)]
    style: dict[str, Any] = {
        "color": colour,
        "marker": "" if series.mode == "line" else MARKERS[series.symbol % len(MARKERS)],
        "linestyle": "none" if series.mode == "marks" else "--" if series.dashed else "-",
        "markerfacecolor": "white" if series.hollow else colour,
        "markersize": 4.5,
    }
    x, y = _floats(series.x), _floats(series.y)
    axes.errorbar(
        x,
        y,
        xerr=_errors(series.x, series.x_bounds),
        yerr=_errors(series.y, series.y_bounds),
        label=series.name,
        elinewidth=0.9,
        capsize=2.0,
        clip_on=False,
        **style,
    )
    if series.labelled:
        for place in zip(x, y, strict=True):
            axes.annotate(series.name, place, xytext=(6, 5), textcoords="offset points", fontsize=7)


def _draw_bars(axes: "Axes", series: Series) -> None:
    axes.barh(
        _floats(series.y),
        _floats(series.x),
        left=series.base or 0.0,
        height=0.7,
        color=PALETTE[series.colour % len(PALETTE)],
        hatch=_HATCHES[series.pattern],
        edgecolor="white",
        linewidth=0.4,
        label=series.name,
    )


def _draw_grid(figure: "Figure", axes: "Axes", chart: Chart) -> None:
    grid = chart.grid
    if grid is None:
        return
    values = [_floats(row) for row in grid.values]
    if len(grid.x) > 1 and len(grid.y) > 1:
        shown: Any = axes.contourf(
            grid.x, grid.y, values, levels=[i / 10 for i in range(11)], cmap="cividis_r", alpha=0.85
        )
    else:
        shown = axes.scatter(
            [x for _ in grid.y for x in grid.x],
            [y for y in grid.y for _ in grid.x],
            c=[value for row in values for value in row],
            cmap="cividis_r",
            vmin=0,
            vmax=1,
        )
    figure.colorbar(shown, ax=axes, label=grid.title)


def _set_axis(axes: "Axes", name: str, axis: Axis) -> None:
    from matplotlib.ticker import PercentFormatter

    own: Any = axes.xaxis if name == "x" else axes.yaxis
    own.set_label_text(axis.title)
    if axis.log:
        (axes.set_xscale if name == "x" else axes.set_yscale)("log")
        own.set_major_formatter("{x:g}")
    if axis.ticks is not None:
        own.set_ticks([place for place, _ in axis.ticks], [textwrap.fill(text, _LABEL) for _, text in axis.ticks])
    if axis.percent:
        own.set_major_formatter(PercentFormatter(1.0, decimals=0))
    if axis.range is not None:
        low, high = reversed(axis.range) if axis.reverse else axis.range
        (axes.set_xlim if name == "x" else axes.set_ylim)(low, high)


def _floats(values: tuple[Number, ...]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def _errors(values: tuple[Number, ...], bounds: tuple[tuple[Number, Number], ...] | None) -> list[list[float]] | None:
    """How far the interval reaches to each side; nothing where it is not known."""
    if bounds is None:
        return None
    below = [0.0 if v is None or low is None else max(0.0, v - low) for v, (low, _) in zip(values, bounds, strict=True)]
    above = [
        0.0 if v is None or high is None else max(0.0, high - v) for v, (_, high) in zip(values, bounds, strict=True)
    ]
    return [below, above]
