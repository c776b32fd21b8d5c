"""The outcome of `drift` as text for people; `--json` prints every matrix."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from safelox.cli.labelled import labelled

if TYPE_CHECKING:
    from safelox.drift_metrics import DriftMeans, DriftReport, MatrixDrift

_FARTHEST = 5
"""Matrices shown by name."""
_KINDS = {
    "conv1d": "Conv1D layers, stored transposed",
    "experts": "experts, one by one",
    "other": "tensors of more than two dimensions",
}


def render_drift(report: "DriftReport") -> str:
    """The means, and the matrices that moved farthest away from the safety subspace."""
    lines = [f"Drift of {report.tuned}, against the safety subspace of rank {report.rank}"]
    lines += ["Linear layers, unweighted means:", *labelled(*_block(report.overall))]
    for kind, means in report.apart.items():
        lines += [f"Apart, {_KINDS[kind]}:", *labelled(*_block(means))]
    farthest = sorted((m for m in report.matrices if not math.isnan(m.r_ft)), key=_ratio)[:_FARTHEST]
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
    yield "R_ft", f"{means.r_ft:.4f}"
    yield (
        "R_ft / R_align",
        f"{means.ratio_of_means:.4f} (ratio of means), {means.mean_of_ratios:.4f} (mean of ratios)",
    )
    if not math.isnan(means.tuning_share):
        yield (
            "fine-tuning",
            f"{means.tuning_share:.1%} of its energy lies in the subspace ({means.tuning_share_by_chance:.1%} would by "
            "chance)",
        )


def _ratio(matrix: "MatrixDrift") -> float:
    return matrix.r_ft / matrix.r_align
