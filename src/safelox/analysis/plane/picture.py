"""`draw_landscape`: the plane and the lines as a picture for print."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safelox.analysis.plane.models import SIDES, STARTS
from safelox.analysis.plane.record import ASR, Judged, Landscape, Line, ModelName, Plane, rate_of
from safelox.pictures import COLOURS, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, PLANE_HEIGHT, LINE_HEIGHT = 7.2, 3.1, 2.6
"""Inches: of the picture, and of each row of it."""
COLOUR_MAP = "cividis"
"""From dark to light also in print, and for readers who see few colours."""
HALF = 0.5
MARKERS: dict[ModelName, str] = {"origin": "o", "hardened": "s", "tuned": "^", "hardened_tuned": "D"}
START_COLOURS: dict[ModelName, str] = {"origin": COLOURS[1], "hardened": COLOURS[0]}
DASHES = {"tuned": "-", "crossed": "--", "hardened": ":", "random": "-"}


def draw_landscape(result: Landscape, path: str | Path, *, overwrite: bool = False) -> None:
    """Draw a row of the plane for each suite and judge, and a row of the lines, if there are any.

    The plane: on the left the ASR, or the first rate where a judge gives none, with the four models, arrows for the
    fine-tunings, and a hatch where at least half of the replies are incoherent; on the right the share of incoherent
    replies. A model that does not lie in the plane is drawn where it lies nearest, and filled with what it says itself.
    Lines: that rate over u, in parts of the move, and over the distance from the start, with its 95 % intervals; thin
    lines are the share of incoherent replies. Random lines are shown by their mean over all directions.

    Args:
        path: where to; ends in .svg or .png. It appears there once it is whole.
        overwrite: whether a file that is there may be replaced.

    Raises:
        UsageError, TargetError, PrerequisiteError: as `safelox.pictures.check_picture`; or the file cannot be written.
    """
    save_picture(lambda: _figure(result), path, overwrite=overwrite)


def _figure(result: Landscape) -> "Figure":
    from matplotlib.figure import Figure

    pairs = [(suite, judge) for suite, own in result.judges.items() for judge in own]
    straight = [line for line in result.lines if line.kind != "random"]
    random = [line for line in result.lines if line.kind == "random"]
    rows: list[tuple[str, str, str]] = []
    for suite, judge in pairs:
        rows += [("plane", suite, judge)] if result.plane is not None else []
        rows += [("lines", suite, judge)] if straight else []
        rows += [("random", suite, judge)] if random else []
    heights = [PLANE_HEIGHT if kind == "plane" else LINE_HEIGHT for kind, *_ in rows]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(rows), 1, squeeze=False, height_ratios=heights)
    for (kind, suite, judge), (part,) in zip(rows, parts, strict=True):
        left, right = part.subplots(1, 2)
        metric = _main_metric(result.models[0].results, suite, judge)
        title = f"{suite}, judge {judge}"
        if kind == "plane" and result.plane is not None:
            _draw_plane(left, result, result.plane, suite, judge, metric, hatched=True)
            _draw_plane(right, result, result.plane, suite, judge, "incoherent", hatched=False)
        elif kind == "lines":
            _draw_lines(left, straight, suite, judge, metric, by_distance=False)
            _draw_lines(right, straight, suite, judge, metric, by_distance=True)
        else:
            _draw_random(left, random, suite, judge, metric)
            _draw_random(right, random, suite, judge, "incoherent")
        left.set_title(f"{title}: {_named(metric)}")
        right.set_title(f"{_named(metric)} by distance" if kind == "lines" else "incoherent replies")
        handles, labels = left.get_legend_handles_labels()
        if handles:
            part.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=7)
    return figure


def _main_metric(results: Judged, suite: str, judge: str) -> str:
    metrics = results[suite][judge].metrics
    return ASR if ASR in metrics else next(iter(metrics))


def _named(metric: str) -> str:
    return "ASR" if metric == ASR else metric.replace("_", " ")


def _draw_plane(
    axes: "Axes", result: Landscape, plane: Plane, suite: str, judge: str, metric: str, *, hatched: bool
) -> None:
    values = [[rate.value for rate in row] for row in zip(*plane.rates(suite, judge, metric), strict=True)]
    scale: dict[str, Any] = {"cmap": COLOUR_MAP, "vmin": 0.0, "vmax": 1.0}
    mesh = axes.pcolormesh(plane.a, plane.b, values, shading="nearest", rasterized=True, **scale)
    axes.figure.colorbar(mesh, ax=axes, shrink=0.9, format="{x:.0%}", ticks=[0, 0.25, 0.5, 0.75, 1])
    if any(value >= HALF for row in values for value in row) and any(value < HALF for row in values for value in row):
        axes.contour(plane.a, plane.b, values, levels=[HALF], colors="white", linewidths=1.0)
    if hatched:
        _hatch(axes, plane, suite, judge)
    _draw_models(axes, result, suite, judge, metric, scale)
    axes.grid(visible=False)
    axes.set(xlabel="a: hardening (L2)", ylabel="b: fine-tuning (L2)")


def _draw_models(
    axes: "Axes", result: Landscape, suite: str, judge: str, metric: str, scale: Mapping[str, Any]
) -> None:
    """The four models and arrows between them, white within black, since they lie on dark and on light."""
    from matplotlib.patheffects import withStroke

    for name, start in STARTS.items():
        one, two = result.model(start), result.model(name)
        arrow = {"arrowstyle": "->", "color": "white", "linewidth": 1.0, "shrinkA": 5, "shrinkB": 5}
        arrow["path_effects"] = [withStroke(linewidth=2.2, foreground="black")]
        axes.annotate("", xy=(two.a, two.b), xytext=(one.a, one.b), arrowprops=arrow)
    for model in result.models:
        own = [rate_of(model.results[suite][judge], metric).value]
        place, marker = ([model.a], [model.b]), MARKERS[model.name]
        axes.scatter(*place, color="black", marker=marker, s=80, zorder=3)
        axes.scatter(*place, c=own, marker=marker, s=44, edgecolors="white", zorder=3, **scale)
        axes.annotate(
            SIDES[model.name],
            (model.a, model.b),
            textcoords="offset points",
            xytext=(0, 8),
            ha="center",
            fontsize=6,
            color="white",
            bbox={"facecolor": "#00000099", "edgecolor": "none", "boxstyle": "round,pad=0.15"},
        )


def _hatch(axes: "Axes", plane: Plane, suite: str, judge: str) -> None:
    """Cells in which at least half of the replies are incoherent, so that a low ASR says nothing."""
    from matplotlib.patches import Rectangle

    wide, high = plane.a[1] - plane.a[0], plane.b[1] - plane.b[0]
    for a, row in zip(plane.a, plane.rates(suite, judge, "incoherent"), strict=True):
        for b, rate in zip(plane.b, row, strict=True):
            if rate.value >= HALF:
                axes.add_patch(
                    Rectangle(
                        (a - wide / 2, b - high / 2),
                        wide,
                        high,
                        fill=False,
                        hatch="////",
                        edgecolor="#bbbbbb",
                        linewidth=0,
                    )
                )


def _draw_lines(axes: "Axes", lines: Sequence[Line], suite: str, judge: str, metric: str, *, by_distance: bool) -> None:
    for line in lines:
        places = [point.distance if by_distance else point.u for point in line.points]
        rates = line.rates(suite, judge, metric)
        colour, dash = START_COLOURS[line.start], DASHES[line.kind]
        label = f"{SIDES[line.start]} + u ({line.direction})"
        axes.plot(places, [rate.value for rate in rates], color=colour, linestyle=dash, marker="o", label=label)
        axes.vlines(places, [rate.low for rate in rates], [rate.high for rate in rates], color=colour, linewidth=0.5)
        incoherent = [rate.value for rate in line.rates(suite, judge, "incoherent")]
        axes.plot(places, incoherent, color=colour, linestyle=dash, linewidth=0.5, alpha=0.7)
    axes.axhline(HALF, color="#888888", linewidth=0.5)
    axes.set(ylim=(-0.03, 1.03), xlabel="distance from the start (L2)" if by_distance else "u")


def _draw_random(axes: "Axes", lines: Sequence[Line], suite: str, judge: str, metric: str) -> None:
    for start, colour in START_COLOURS.items():
        own = [line for line in lines if line.start == start]
        places = [point.u for point in own[0].points]
        columns = list(zip(*([rate.value for rate in line.rates(suite, judge, metric)] for line in own), strict=True))
        means = [math.fsum(column) / len(column) for column in columns]
        axes.plot(places, means, color=colour, marker="o", label=f"{SIDES[start]}, mean of {len(own)} directions")
        axes.fill_between(
            places, list(map(min, columns)), list(map(max, columns)), color=colour, alpha=0.12, linewidth=0
        )
    axes.set(ylim=(-0.03, 1.03), xlabel="u along random directions")
