"""What `drift` returns: a record of every matrix, and their means."""

import math
from collections.abc import Sequence
from typing import Literal

from safelox.manifest import CarriedRecord, Record

Kind = Literal["linear", "conv1d", "experts", "other"]
"""What a matrix is in the model: the weight of a linear layer (the output head is one); of a Conv1D layer (GPT-2),
which is stored transposed; one expert of a tensor that holds several; or a tensor of more than two dimensions that was
asked for. The paper's code sees linear layers only, so only these make up the figures that compare with it."""


class MatrixDrift(Record):
    """One matrix. D_align = W_aligned - W_base, D_ft = W_tuned - W_base, and U holds the leading left singular vectors
    of D_align: all norms are Frobenius norms."""

    name: str
    expert: int | None
    kind: Kind
    rows: int
    columns: int
    directions: int
    """Columns of U: the rank asked for, or fewer where D_align itself has no more."""
    aligned_delta_norm: float
    """||D_align||."""
    tuned_delta_norm: float
    """||D_ft||."""
    tuning_norm: float
    """||W_tuned - W_aligned||."""
    r_align: float
    """||U U^T D_align|| / ||D_align||; NaN where D_align is zero."""
    r_ft: float
    """||U U^T D_ft|| / ||D_ft||; NaN where D_align or D_ft is zero."""
    tuning_share: float
    """||U U^T (W_tuned - W_aligned)||^2 / ||W_tuned - W_aligned||^2: the share of the fine-tuning's energy inside the
    safety subspace; NaN where D_align or the fine-tuning is zero."""

    @property
    def label(self) -> str:
        """The tensor's name, with the expert's number where there is one."""
        return self.name if self.expert is None else f"{self.name}[{self.expert}]"


class DriftMeans(Record):
    """The matrices of one kind together. Means are unweighted, as in the paper's code; NaN where nothing is left."""

    matrices: int
    """That the means are taken over: those in which both R_align and R_ft are defined."""
    zero_deltas: int
    """Left out of the means: D_align or D_ft is zero there."""
    r_align: float
    r_ft: float
    ratio_of_means: float
    """Mean R_ft / mean R_align."""
    mean_of_ratios: float
    """Mean of R_ft / R_align."""
    tuning_share: float
    """Of the energy of the fine-tuning, summed over all matrices with a safety subspace, the share inside it."""
    tuning_share_by_chance: float
    """What that share would be for a fine-tuning of the same norms in random directions."""


class DriftReport(Record):
    """The outcome of `drift`."""

    base: str
    aligned: str
    tuned: str
    rank: int
    command: str | None
    """What was called, where the caller said so."""
    overall: DriftMeans
    """Over linear layers: what compares with the paper."""
    apart: dict[Kind, DriftMeans]
    """Over each of the other kinds that the model has."""
    matrices: tuple[MatrixDrift, ...]
    carried: tuple[CarriedRecord, ...]
    """Tensors that were not measured, and why."""
    notes: tuple[str, ...]
    seconds: dict[str, float]
    peak_memory_bytes: int


def means(matrices: Sequence[MatrixDrift]) -> DriftMeans:
    """The means over some matrices, in their order."""
    defined = [m for m in matrices if not (math.isnan(m.r_align) or math.isnan(m.r_ft))]
    r_align, r_ft = _mean([m.r_align for m in defined]), _mean([m.r_ft for m in defined])
    moved = [m for m in matrices if not math.isnan(m.tuning_share)]
    energy = math.fsum(m.tuning_norm**2 for m in moved)
    inside = math.fsum(m.tuning_share * m.tuning_norm**2 for m in moved)
    by_chance = math.fsum(m.directions / m.rows * m.tuning_norm**2 for m in moved)
    return DriftMeans(
        matrices=len(defined),
        zero_deltas=len(matrices) - len(defined),
        r_align=r_align,
        r_ft=r_ft,
        ratio_of_means=r_ft / r_align if defined else math.nan,
        mean_of_ratios=_mean([m.r_ft / m.r_align for m in defined]),
        tuning_share=inside / energy if energy else math.nan,
        tuning_share_by_chance=by_chance / energy if energy else math.nan,
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
