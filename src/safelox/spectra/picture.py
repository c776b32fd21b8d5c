"""`draw_spectrum`: the spectra of a subspace file as a picture for print."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safelox.pictures import COLOURS, DASHES, MARKERS, save_picture, short_name
from safelox.spectra.report import MatrixSpectrum, SpectrumReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (7.2, 6.4)
"""Inches: the width of a printed page between its margins."""


def draw_spectrum(report: SpectrumReport, path: str | Path, *, overwrite: bool = False) -> None:
    """Draw singular values, energy at k, stable rank and entropy rank; one line or mark for each module.

    Lines over k are medians over the matrices of a module, in a band that holds the middle half of them. What is not
    known exactly, the entropy rank where the file holds some directions only, is drawn as the bar between its bounds.

    Args:
        report: of `spectrum`.
        path: where to; ends in .svg or .png. It appears there once it is whole.
        overwrite: whether a file that is there may be replaced.

    Raises:
        UsageError, TargetError, PrerequisiteError: as `check_picture`; or the file cannot be written (TargetError).
    """
    save_picture(lambda: _figure(report), path, overwrite=overwrite)


def _figure(report: SpectrumReport) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    (values, energy), (stable, entropy) = figure.subplots(2, 2)
    modules = {group.module: _changed(report, group.module) for group in report.by_module}
    shown = {module: matrices for module, matrices in modules.items() if module is not None and matrices}
    styles = {module: _style(i) for i, module in enumerate(shown)}
    for module, matrices in shown.items():
        _over_directions(values, [_relative(m) for m in matrices], styles[module], module)
        _over_directions(energy, [m.energy for m in matrices], styles[module], module)
    everything = [matrix for matrices in shown.values() for matrix in matrices]
    outside = _outside(everything)
    for i, (module, matrices) in enumerate(shown.items()):
        offset = (i - (len(shown) - 1) / 2) * 0.7 / len(shown)
        _over_layers(stable, matrices, styles[module], outside, offset, _stable_rank)
        _over_layers(entropy, matrices, styles[module], outside, offset, _entropy_rank)
    for axes, title in ((values, "Singular values"), (energy, "Energy in the k leading directions")):
        axes.set(title=title, xscale="log", xlabel="direction" if axes is values else "k")
        axes.xaxis.set_major_formatter("{x:g}")
    values.set(yscale="log", ylabel=r"$s_i\,/\,s_1$")
    values.yaxis.set_major_formatter("{x:g}")
    energy.set(ylim=(0, 1.02), ylabel=r"share of $\|W_\mathrm{aligned} - W_\mathrm{base}\|^2$")
    stable.set(title="Stable rank", ylabel=r"$\|D\|^2 / s_1^2$")
    whole = all(matrix.entropy_rank_low == matrix.entropy_rank_high for matrix in everything)
    entropy.set(title="Entropy rank" if whole else "Entropy rank: between these bounds", ylabel="directions")
    for axes in (stable, entropy):
        _layer_axis(axes, everything)
    figure.suptitle(f"{short_name(report.aligned)} less {short_name(report.base)}", fontsize=9)
    handles, labels = values.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)
    return figure


def _changed(report: SpectrumReport, module: str | None) -> list[MatrixSpectrum]:
    return [matrix for matrix in report.matrices if matrix.module == module and matrix.delta_norm]


def _relative(matrix: MatrixSpectrum) -> tuple[float, ...]:
    """Singular values over the first; those of zero end the line, since no logarithm shows them."""
    return tuple(value / matrix.singular_values[0] for value in matrix.singular_values if value > 0)


def _stable_rank(matrix: MatrixSpectrum) -> tuple[float, float]:
    return matrix.stable_rank, matrix.stable_rank


def _entropy_rank(matrix: MatrixSpectrum) -> tuple[float, float]:
    return matrix.entropy_rank_low, matrix.entropy_rank_high


def _style(number: int) -> dict[str, Any]:
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": DASHES[number // len(COLOURS) % len(DASHES)],
        "marker": MARKERS[number % len(MARKERS)],
    }


def _over_directions(axes: "Axes", curves: Sequence[Sequence[float]], style: dict[str, Any], label: str) -> None:
    """The median of some curves, and the band that holds the middle half; as far as the shortest goes."""
    length = min(map(len, curves))
    columns = [sorted(curve[i] for curve in curves) for i in range(length)]
    directions = range(1, length + 1)
    middle = [(column[(len(column) - 1) // 2] + column[len(column) // 2]) / 2 for column in columns]
    axes.plot(directions, middle, label=label, markevery=[0, length - 1], **style)
    if len(curves) > 1:
        quarter = len(curves) // 4
        low, high = [column[quarter] for column in columns], [column[-1 - quarter] for column in columns]
        axes.fill_between(directions, low, high, color=style["color"], alpha=0.08, linewidth=0)


def _over_layers(
    axes: "Axes",
    matrices: Sequence[MatrixSpectrum],
    style: dict[str, Any],
    outside: int,
    offset: float,
    bounds: Callable[[MatrixSpectrum], tuple[float, float]],
) -> None:
    """A mark for each matrix, or a bar between its bounds; modules of a layer stand side by side.

    outside: the place of what is in no layer.
    """
    places = [(outside if m.layer is None else m.layer) + offset for m in matrices]
    low, high = zip(*map(bounds, matrices), strict=True)
    if low != high:
        axes.vlines(places, low, high, color=style["color"], linewidth=1.4)
        low, places = (*low, *high), places * 2
    axes.plot(places, low, color=style["color"], marker=style["marker"], linestyle="none")


def _layer_axis(axes: "Axes", matrices: Sequence[MatrixSpectrum]) -> None:
    """Some whole numbers, and a name for the place of what lies outside all layers."""
    outside = _outside(matrices)
    ticks = list(range(0, outside, max(1, math.ceil(outside / 8))))
    labels = list(map(str, ticks))
    if any(matrix.layer is None for matrix in matrices):
        ticks.append(outside)
        labels.append("outside")
        axes.axvline(outside - 0.5, color="#888888", linewidth=0.5)
    axes.set_xticks(ticks, labels)
    axes.set_xlim(-0.6, max(ticks, default=0) + 0.6)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("layer")
    axes.set_ylim(0, 1.08 * axes.get_ylim()[1])


def _outside(matrices: Sequence[MatrixSpectrum]) -> int:
    """Where matrices outside all layers are drawn: after the last layer."""
    return 1 + max((matrix.layer for matrix in matrices if matrix.layer is not None), default=-1)
