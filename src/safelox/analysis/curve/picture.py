"""`draw_rank_curve`: ASR and mean judge score over the rank, as a picture for print."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from safelox.analysis.curve.report import ASR, MEAN_SCORE, Curve, RankCurve
from safelox.pictures import COLOURS, save_picture, short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 7.2, 2.6
"""Inches: of the picture, and of each row of it."""
NAMES = {ASR: "ASR", MEAN_SCORE: "mean score"}
RATE_COLOUR, FULL_COLOUR, EFFECTIVE_COLOUR = COLOURS[0], COLOURS[1], COLOURS[2]


def draw_rank_curve(result: RankCurve, path: str | Path, *, overwrite: bool = False) -> None:
    """Draw a row for each suite and judge: the ASR, with its 95 % intervals, and the mean judge score over the rank.

    Beside the ASR stand the shares of refusals, where the judge gives them, and of incoherent replies.
    Where a judge gives no ASR of a suite, its first rate stands in its place. The full delta has a place of its own at
    the right end, and a line of dashes across; a dotted line marks the effective rank.

    Args:
        path: where to; ends in .svg or .png. It appears there once it is whole.
        overwrite: whether a file that is there may be replaced.

    Raises:
        UsageError, TargetError, PrerequisiteError: as `safelox.pictures.check_picture`; or the file cannot be written.
    """
    save_picture(lambda: _figure(result), path, overwrite=overwrite)


def _figure(result: RankCurve) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT * len(result.curves) + 0.3), layout="constrained")
    rows = figure.subplots(len(result.curves), 2, squeeze=False)
    for curve, (left, right) in zip(result.curves, rows, strict=True):
        metric = ASR if ASR in curve.values else next(iter(curve.values))
        _draw(left, result, curve, metric)
        _draw(right, result, curve, MEAN_SCORE)
        left.set(ylim=(-0.03, 1.03))
    figure.suptitle(f"{short_name(result.base)} with r directions of {short_name(result.aligned)}'s delta", fontsize=9)
    return figure


def _draw(axes: "Axes", result: RankCurve, curve: Curve, metric: str) -> None:
    places = [*map(float, result.ranks), _place_of_full(result)]
    values = [value for _, value in curve.values[metric]]
    if all(map(math.isnan, values)):
        axes.set_axis_off()
        axes.text(0.5, 0.5, "this judge gives no scores", ha="center", va="center", transform=axes.transAxes)
        return
    axes.axhline(values[-1], color=FULL_COLOUR, linestyle="--", linewidth=0.8)
    name = NAMES.get(metric, metric.replace("_", " "))
    axes.plot(places[:-1], values[:-1], color=RATE_COLOUR, marker="o", label=name)
    axes.plot(places[-1:], values[-1:], color=FULL_COLOUR, marker="s", linestyle="none")
    if metric != MEAN_SCORE:
        rates = result.rates(curve, metric)
        axes.vlines(places, [rate.low for rate in rates], [rate.high for rate in rates], color="#888888", linewidth=0.8)
        _draw_beside(axes, curve, metric, places)
    if curve.effective_rank is not None and curve.effective_rank.rank is not None:
        axes.axvline(curve.effective_rank.rank, color=EFFECTIVE_COLOUR, linestyle=":", linewidth=1.0)
    axes.set(title=f"{curve.suite}, judge {curve.judge}", xlabel="rank r of the delta", ylabel=name)
    axes.set_xticks(places, [*map(str, result.ranks), "full"])


def _draw_beside(axes: "Axes", curve: Curve, metric: str, places: list[float]) -> None:
    """What a low ASR may mean: refusals, or replies that make no sense."""
    for other, colour, marker in (("refusal", COLOURS[3], "^"), ("incoherent", COLOURS[4], "v")):
        if other in curve.values and other != metric:
            values = [value for _, value in curve.values[other]]
            axes.plot(places, values, color=colour, marker=marker, linewidth=0.8, label=other)
    axes.legend(frameon=False, fontsize=7)


def _place_of_full(result: RankCurve) -> float:
    """To the right of the last rank, as far from it as its neighbour."""
    before = result.ranks[-2] if len(result.ranks) > 1 else result.ranks[-1] - 1
    return float(2 * result.ranks[-1] - before)
