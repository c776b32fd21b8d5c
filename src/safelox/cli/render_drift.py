"""The outcome of `drift` as text for people; `--json` prints every matrix."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from safelox.drift_metrics import DriftMeans, DriftReport, MatrixDrift

_LABEL_WIDTH = 20
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
    lines += ["Linear layers, unweighted means:", *_block(report.overall)]
    for kind, means in report.apart.items():
        lines += [f"Apart, {_KINDS[kind]}:", *_block(means)]
    farthest = sorted((m for m in report.matrices if not math.isnan(m.r_ft)), key=_ratio)[:_FARTHEST]
    if farthest:
        lines.append("Smallest R_ft / R_align:")
    lines += [_row(f"{_ratio(m):.4f}", f"{m.label}: R_align {m.r_align:.4f}, R_ft {m.r_ft:.4f}") for m in farthest]
    lines += [_row("note", note) for note in report.notes]
    lines.append(_row("not measured", f"{len(report.carried)} tensors (--json names them, and every matrix)"))
    lines.append(_row("time", f"{sum(report.seconds.values()):.1f} s"))
    return "\n".join(lines)


def _block(means: "DriftMeans") -> Iterator[str]:
    left_out = f"; {means.zero_deltas} left out, with a delta of zero" if means.zero_deltas else ""
    yield _row("matrices", f"{means.matrices}{left_out}")
    yield _row("R_align", f"{means.r_align:.4f}")
    yield _row("R_ft", f"{means.r_ft:.4f}")
    yield _row(
        "R_ft / R_align", f"{means.ratio_of_means:.4f} (ratio of means), {means.mean_of_ratios:.4f} (mean of ratios)"
    )
    if not math.isnan(means.tuning_share):
        yield _row(
            "fine-tuning",
            f"{means.tuning_share:.1%} of its energy lies in the subspace ({means.tuning_share_by_chance:.1%} would by "
            "chance)",
        )


def _ratio(matrix: "MatrixDrift") -> float:
    return matrix.r_ft / matrix.r_align


def _row(label: str, value: str) -> str:
    return f"  {label:{_LABEL_WIDTH}}{value}"
