"""`draw_drift`: R_align and R_ft by layer and module, and what explains them, as a picture for print."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safelox.drift_metrics.report import DriftGroup, DriftMeans, DriftReport
from safelox.pictures import COLOURS, save_picture, short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (7.2, 5.6)
"""Inches: the width of a printed page between its margins."""
OUTSIDE = "outside"
"""Where the output head stands, which is in no layer."""

Value = Callable[[DriftMeans], float | None]

ALIGNED = ("R_align", {"color": COLOURS[0], "marker": "o"})
HARDENED = ("R_align, hardened", {"color": COLOURS[2], "marker": "^"})
TUNED = ("R_ft", {"color": COLOURS[1], "marker": "s"})
CHANCE = {"color": "#888888", "linestyle": ":"}


def draw_drift(report: DriftReport, path: str | Path, *, overwrite: bool = False) -> None:
    """Draw R_align, that of the hardened model where there is one, and R_ft, by layer and by module; the share of the
    fine-tuning that lies in the safety subspace, beside what would by chance; and the norms of both changes.

    Only linear layers are drawn, which compare with the paper, or, in a model without any, what there is.

    Args:
        report: of `drift`.
        path: where to; ends in .svg or .png. It appears there once it is whole.
        overwrite: whether a file that is there may be replaced.

    Raises:
        UsageError, TargetError, PrerequisiteError: as `safelox.pictures.check_picture`; or the file cannot be written.
    """
    save_picture(lambda: _figure(report), path, overwrite=overwrite)


def _figure(report: DriftReport) -> "Figure":
    from matplotlib.figure import Figure

    layers, modules = _of_one_kind(report.by_layer), _of_one_kind(report.by_module)
    figure = Figure(figsize=SIZE, layout="constrained")
    (by_layer, by_module), (share, norms) = figure.subplots(2, 2)
    figures: list[tuple[tuple[str, dict[str, Any]], Value]] = [
        (ALIGNED, lambda means: means.r_align),
        (HARDENED, lambda means: means.r_hardened),
        (TUNED, lambda means: means.r_ft),
    ]
    names = [_layer_name(group) for group in layers]
    for (label, style), value in figures:
        _line(by_layer, names, [value(group.means) for group in layers], label, style)
        _line(
            by_module, [group.module or "" for group in modules], [value(group.means) for group in modules], "", style
        )
    for axes, title in ((by_layer, f"Share of the norm in the subspace, k = {report.rank}"), (by_module, "By module")):
        axes.set(title=title, ylabel="R")
    by_module.tick_params(axis="x", rotation=40)
    for tick in by_module.get_xticklabels():
        tick.set_ha("right")
    tuning = {"color": COLOURS[1], "marker": "s"}
    _line(share, names, [group.means.tuning_share for group in layers], "the fine-tuning", tuning)
    _line(share, names, [group.means.tuning_share_by_chance for group in layers], "by chance", CHANCE)
    share.set(title="Energy of the fine-tuning in the subspace", ylabel="share", ylim=(0, None))
    _line(norms, names, [group.means.aligned_delta_norm for group in layers], "alignment", ALIGNED[1])
    _line(norms, names, [group.means.tuning_norm for group in layers], "fine-tuning", tuning)
    norms.set(title="Norm of the change", ylabel="Frobenius norm", ylim=(0, None))
    for axes in (by_layer, share, norms):
        axes.set_xlabel("layer")
        if axes.lines:
            axes.legend(frameon=False, fontsize=7)
    figure.suptitle(f"{short_name(report.tuned)}, from {short_name(report.hardened or report.aligned)}", fontsize=9)
    return figure


def _of_one_kind(groups: Sequence[DriftGroup]) -> list[DriftGroup]:
    linear = [group for group in groups if group.kind == "linear"]
    return linear or [group for group in groups if group.kind == groups[0].kind]


def _layer_name(group: DriftGroup) -> str:
    return OUTSIDE if group.layer is None else str(group.layer)


def _line(axes: "Axes", names: list[str], values: Sequence[float | None], label: str, style: dict[str, Any]) -> None:
    """A curve over the named places, none where nothing was measured; what lies outside all layers is a mark apart."""
    known = [math.nan if value is None else value for value in values]
    if all(map(math.isnan, known)):
        return
    inside = len(names) - (names[-1:] == [OUTSIDE])
    apart = {"marker": "_"} | style | {"linestyle": "none"}
    axes.plot(range(inside), known[:inside], label=label, **style)
    axes.plot(range(inside, len(names)), known[inside:], **apart)
    step = max(1, math.ceil(len(names) / 10)) if names[0].isdigit() else 1
    shown = sorted({*range(0, inside, step), *range(inside, len(names))})
    axes.set_xticks(shown, [names[place] for place in shown])
