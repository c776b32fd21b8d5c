"""`draw_tuning`: the points of a search, and what they gave, as a picture for print."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from safelox.analysis.search.record import Objectives, Trial, Tuning
from safelox.pictures import COLOURS, save_picture, short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (7.2, 3.4)
"""Inches."""


class _Look(NamedTuple):
    label: str
    colour: str
    marker: str
    size: float


KEPT = _Look("keeps all bounds", COLOURS[0], "o", 28.0)
BROKEN = _Look("breaks a bound", COLOURS[1], "x", 28.0)
FAILED = _Look("failed", "#888888", "+", 28.0)
PARETO = _Look("Pareto set", COLOURS[2], "D", 34.0)
ALIGNED = _Look("no hardening", COLOURS[6], "s", 34.0)
CHOSEN = "recommended"


def draw_tuning(result: Tuning, path: str | Path, *, overwrite: bool = False) -> None:
    """Draw the points on their grid at the left, and what they gave at the right, with 95 % intervals.

    At the right stand the points that were attacked: the ASR after the attack and the utility before it, on the prompts
    of the search. A ring marks the recommended point.

    Args:
        path: where to; ends in .svg or .png. It appears there once it is whole.
        overwrite: whether a file that is there may be replaced.

    Raises:
        UsageError, TargetError, PrerequisiteError: as `safelox.pictures.check_picture`; or the file cannot be written.
    """
    save_picture(lambda: _figure(result), path, overwrite=overwrite)


def _figure(result: Tuning) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_grid(left, result)
    _draw_scores(right, result)
    handles, labels = right.get_legend_handles_labels()
    for handle, label in zip(*left.get_legend_handles_labels(), strict=True):
        if label not in labels:
            handles, labels = [*handles, handle], [*labels, label]
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=7)
    figure.suptitle(
        f"{short_name(result.aligned)}: rank and coefficient, attack {result.attack.name}, {len(result.trials)} points",
        fontsize=9,
    )
    return figure


def _draw_grid(axes: "Axes", result: Tuning) -> None:
    places = {rank: place for place, rank in enumerate(result.ranks)}
    for look in (KEPT, BROKEN, FAILED, PARETO):
        shown = [trial for trial in result.trials if _look(trial) is look]
        _scatter(axes, look, [places[trial.rank] for trial in shown], [trial.coef for trial in shown])
    chosen = [trial for trial in result.trials if trial.number == result.recommendation.trial]
    _ring(axes, [places[trial.rank] for trial in chosen], [trial.coef for trial in chosen])
    axes.set_xticks(list(places.values()), [str(rank) for rank in places])
    margin = 0.06 * max(result.coefs)
    axes.set(
        xlabel="rank",
        ylabel="coefficient",
        title="Points tried",
        xlim=(-0.5, len(places) - 0.5),
        ylim=(min(result.coefs) - margin, max(result.coefs) + margin),
    )


def _draw_scores(axes: "Axes", result: Tuning) -> None:
    attacked = [(trial, trial.objectives) for trial in result.trials if trial.objectives is not None]
    for look in (KEPT, BROKEN, PARETO):
        _with_intervals(axes, look, [found for trial, found in attacked if _look(trial) is look])
    _with_intervals(axes, ALIGNED, [result.aligned_objectives])
    chosen = [found for trial, found in attacked if trial.number == result.recommendation.trial]
    _ring(axes, [each.asr_after.value for each in chosen], [each.utility_before.value for each in chosen])
    utility = next(suite for suite in result.suites if suite.role == "utility")
    axes.set(
        xlabel="ASR after the attack",
        ylabel=f"{utility.metric.replace('_', ' ')} before it",
        title="What they gave",
        xlim=(-0.04, 1.04),
        ylim=(-0.06, 1.06),
    )


def _with_intervals(axes: "Axes", look: _Look, scores: Sequence[Objectives]) -> None:
    for found in scores:
        asr, utility = found.asr_after, found.utility_before
        axes.hlines(utility.value, asr.low, asr.high, color=look.colour, linewidth=0.5)
        axes.vlines(asr.value, utility.low, utility.high, color=look.colour, linewidth=0.5)
    xs, ys = [found.asr_after.value for found in scores], [found.utility_before.value for found in scores]
    _scatter(axes, look, xs, ys)


def _scatter(axes: "Axes", look: _Look, xs: Sequence[float], ys: Sequence[float]) -> None:
    if xs:
        axes.scatter(xs, ys, s=look.size, color=look.colour, marker=look.marker, label=look.label, zorder=3)


def _ring(axes: "Axes", xs: Sequence[float], ys: Sequence[float]) -> None:
    if xs:
        axes.scatter(xs, ys, s=150, facecolors="none", edgecolors="#000000", linewidths=1.1, label=CHOSEN, zorder=4)


def _look(trial: Trial) -> _Look:
    if trial.pareto:
        return PARETO
    return {"done": KEPT, "infeasible": BROKEN, "failed": FAILED}[trial.state]
