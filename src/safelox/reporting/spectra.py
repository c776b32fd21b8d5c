"""Spectra of what alignment changed."""

from collections.abc import Mapping, Sequence
from statistics import median

from safelox.reporting.chart import (
    HEIGHT,
    OUTSIDE,
    Axis,
    Chart,
    Figure,
    Section,
    Series,
    number,
    numbers,
    share_axis,
    thinned,
)
from safelox.reporting.found import Found
from safelox.reporting.table import make_table
from safelox.reporting.words import percent
from safelox.spectra.report import MatrixSpectrum, SpectrumReport


def spectra(found: Found) -> Section | None:
    charts = []
    for i, (name, report) in enumerate(found.spectra.items()):
        modules = _changed(report)
        if modules:
            charts += [_energy_chart(name, report, modules, str(i)), _stable_chart(name, report, modules, str(i))]
    if not charts:
        return None
    return Section(
        id="spectra",
        title="How few directions hold the alignment",
        lead="The singular values of what alignment changed. Energy at k is the share of its squared norm in the k "
        "leading directions: the steeper the rise, the fewer directions it takes.",
        figures=(Figure(id="spectrum", title="Spectra of aligned less base", charts=tuple(charts)),),
    )


def _changed(report: SpectrumReport) -> dict[str, list[MatrixSpectrum]]:
    """The matrices with a delta, by what they are in their layers."""
    modules: dict[str, list[MatrixSpectrum]] = {}
    for matrix in report.matrices:
        if matrix.delta_norm:
            modules.setdefault(matrix.module, []).append(matrix)
    return modules


def _energy_chart(name: str, report: SpectrumReport, modules: Mapping[str, list[MatrixSpectrum]], suffix: str) -> Chart:
    energy = {module: _medians([matrix.energy for matrix in own]) for module, own in modules.items()}
    return Chart(
        id=f"energy-{suffix}",
        title=f"Energy at k ({name})",
        caption="A line for each kind of matrix: the median over its layers.",
        x=Axis(title="k leading directions", log=True),
        y=share_axis("share of the squared norm"),
        series=tuple(
            Series(
                name=module,
                mode="line+marks" if len(values) < 24 else "line",
                colour=i % 8,
                symbol=i,
                dashed=i >= 8,
                x=tuple(float(k + 1) for k in range(len(values))),
                y=numbers(values),
                texts=tuple(f"{module}, k = {k + 1}: {percent(value)}" for k, value in enumerate(values)),
            )
            for i, (module, values) in enumerate(energy.items())
        ),
        height=HEIGHT + 40,
        table=make_table(
            f"energy-{suffix}",
            f"Means by module: {name}",
            [
                ("module", "text"),
                ("matrices", "count"),
                ("relative norm", "percent"),
                *((f"energy at {rank}", "percent") for rank in report.ranks),
                ("stable rank", "number"),
            ],
            [
                [
                    group.module,
                    group.means.matrices,
                    number(group.means.relative_norm),
                    *(number(group.means.energy_at[rank]) for rank in report.ranks),
                    number(group.means.stable_rank),
                ]
                for group in report.by_module
            ],
        ),
    )


def _stable_chart(name: str, report: SpectrumReport, modules: Mapping[str, list[MatrixSpectrum]], suffix: str) -> Chart:
    labels = [OUTSIDE if group.layer is None else str(group.layer) for group in report.by_layer]
    place = {group.layer: float(i) for i, group in enumerate(report.by_layer)}
    return Chart(
        id=f"stable-{suffix}",
        title=f"Stable rank by layer ({name})",
        caption="A mark for each matrix: its squared norm over its largest squared singular value.",
        x=Axis(title="layer", ticks=thinned(labels)),
        y=Axis(title="stable rank"),
        series=tuple(
            Series(
                name=module,
                mode="marks",
                colour=i % 8,
                symbol=i,
                hollow=i >= 8,
                x=tuple(place[matrix.layer] for matrix in own),
                y=numbers([matrix.stable_rank for matrix in own]),
                texts=tuple(f"{matrix.label}: {matrix.stable_rank:.3g}" for matrix in own),
            )
            for i, (module, own) in enumerate(modules.items())
        ),
        height=HEIGHT + 40,
        table=make_table(
            f"stable-{suffix}",
            f"Means by layer: {name}",
            [("layer", "text"), ("matrices", "count"), ("relative norm", "percent"), ("stable rank", "number")],
            [
                [
                    label,
                    group.means.matrices,
                    number(group.means.relative_norm),
                    number(group.means.stable_rank),
                ]
                for label, group in zip(labels, report.by_layer, strict=True)
            ],
        ),
    )


def _medians(curves: Sequence[Sequence[float]]) -> list[float]:
    """Of curves, as far as the shortest goes."""
    return [median(curve[i] for curve in curves) for i in range(min(map(len, curves)))]
