"""The outcome of `drift` as text for people; `--json` prints every matrix."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from safelox.cli.labelled import labelled, table

if TYPE_CHECKING:
    from safelox.drift_metrics import DriftGroup, DriftMeans, DriftReport, MatrixDrift

_FARTHEST = 5
"""Matrices shown by name."""
_KINDS = {
    "conv1d": "Conv1D layers, stored transposed",
    "experts": "experts, one by one",
    "other": "tensors of more than two dimensions",
}
_COLUMNS = ("matrices", "R_align", "R_ft", "ratio", "||tuning||", "in subspace", "overlap")


def render_drift(report: "DriftReport") -> str:
    """The means, by module and by layer too, and the matrices that moved farthest away from the safety subspace."""
    lines = [f"Drift of {report.tuned}, against the safety subspace of rank {report.rank}"]
    lines += ["Linear layers, unweighted means:", *labelled(*_block(report.overall))]
    for kind, means in report.apart.items():
        lines += [f"Apart, {_KINDS[kind]}:", *labelled(*_block(means))]
    lines += ["By module:", *_table(report.by_module)]
    lines += ["By layer:", *_table(report.by_layer)]
    farthest = sorted((m for m in report.matrices if not math.isnan(_ratio(m))), key=_ratio)[:_FARTHEST]
    if farthest:
        lines.append("Smallest R_ft / R_align:")
    for m in farthest:  # one by one, since equal ratios are to be seen as such
        lines += labelled((f"{_ratio(m):.4f}", f"{m.label}: R_align {m.r_align:.4f}, R_ft {m.r_ft:.4f}"))
    lines += labelled(
        *(("note", note) for note in report.notes),
        ("not measured", f"{len(report.carried)} tensors (--json names them, and every matrix)"),
        ("time", f"{sum(report.seconds.values()):.1f} s"),
    )
    return "\n".join(lines)


def _block(means: "DriftMeans") -> Iterator[tuple[str, str]]:
    left_out = f"; {means.zero_deltas} left out, with a delta of zero" if means.zero_deltas else ""
    yield "matrices", f"{means.matrices}{left_out}"
    yield "R_align", f"{means.r_align:.4f}"
    if means.r_hardened is not None:
        yield "R_align, hardened", f"{means.r_hardened:.4f}"
    yield "R_ft", f"{means.r_ft:.4f}"
    yield "R_ft / R_align", _ratios(means.ratio_of_means, means.mean_of_ratios)
    if means.hardened_ratio_of_means is not None and means.hardened_mean_of_ratios is not None:
        yield "the same, hardened", _ratios(means.hardened_ratio_of_means, means.hardened_mean_of_ratios)
    yield "delta norms", ", ".join(f"{name} {norm:.4g}" for name, norm in _norms(means))
    if not math.isnan(means.tuning_share):
        yield (
            "fine-tuning",
            f"{means.tuning_share:.1%} of its energy lies in the subspace ({means.tuning_share_by_chance:.1%} would by "
            "chance)",
        )
    if means.overlap is not None and means.overlap_by_chance is not None and not math.isnan(means.overlap):
        yield (
            "overlap",
            f"{means.overlap:.1%}, of the leading spaces of ALIGNED - BASE and TUNED - BASE "
            f"({means.overlap_by_chance:.1%} by chance)",
        )


def _norms(means: "DriftMeans") -> Iterator[tuple[str, float]]:
    yield "ALIGNED - BASE", means.aligned_delta_norm
    if means.hardened_delta_norm is not None:
        yield "HARDENED - BASE", means.hardened_delta_norm
    yield "TUNED - BASE", means.tuned_delta_norm
    yield "the fine-tuning", means.tuning_norm


def _ratios(of_means: float, of_ratios: float) -> str:
    return f"{of_means:.4f} (ratio of means), {of_ratios:.4f} (mean of ratios)"


def _table(groups: Sequence["DriftGroup"]) -> list[str]:
    """One line a group; kinds other than linear layers are named."""
    rows = [("", *_COLUMNS), *((_name(group), *_cells(group.means)) for group in groups)]
    return table(rows)


def _name(group: "DriftGroup") -> str:
    place = group.module or ("outside all layers" if group.layer is None else f"layer {group.layer}")
    return place if group.kind == "linear" else f"{place} ({group.kind})"


def _cells(means: "DriftMeans") -> tuple[str, ...]:
    return (
        str(means.matrices),
        *(f"{value:.4f}" for value in (means.r_align, means.r_ft, means.ratio_of_means)),
        f"{means.tuning_norm:.3g}",
        f"{means.tuning_share:.1%}",
        "" if means.overlap is None else f"{means.overlap:.1%}",
    )


def _ratio(matrix: "MatrixDrift") -> float:
    return matrix.r_ft / matrix.r_align if matrix.r_align else math.nan
