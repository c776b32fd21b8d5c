"""What `drift` returns: a record of every matrix, and their means."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

from safelox.manifest import CarriedRecord, Record

FILE = "drift.json"
"""What it is kept as in a folder of results."""

Kind = Literal["linear", "conv1d", "experts", "other"]
"""What a matrix is in the model: the weight of a linear layer (the output head is one); of a Conv1D layer (GPT-2),
which is stored transposed; one expert of a tensor that holds several; or a tensor of more than two dimensions that was
asked for. The paper's code sees linear layers only, so only these make up the figures that compare with it."""


class MatrixDrift(Record):
    """One matrix. D_align = W_aligned - W_base, D_hard = W_hardened - W_base, D_ft = W_tuned - W_base; the tuning is
    W_tuned - W_hardened where a hardened model was given, W_tuned - W_aligned otherwise. U holds the leading left
    singular vectors of D_align, the safety subspace, and V those of D_ft. All norms are Frobenius norms."""

    name: str
    expert: int | None
    kind: Kind
    layer: int | None
    """Number of its layer, from 0; None outside all layers."""
    module: str
    """What it is in its layer, such as `self_attn.q_proj`."""
    rows: int
    columns: int
    directions: int
    """Columns of U: the rank asked for, or fewer where D_align itself has no more."""
    aligned_delta_norm: float
    """||D_align||."""
    hardened_delta_norm: float | None
    """||D_hard||; None without a hardened model."""
    tuned_delta_norm: float
    """||D_ft||."""
    tuning_norm: float
    """Norm of the tuning."""
    r_align: float
    """||U U^T D_align|| / ||D_align||; NaN where D_align is zero."""
    r_hardened: float | None
    """||U U^T D_hard|| / ||D_hard||, with the same U: R_align of the hardened model. NaN where D_align or D_hard is
    zero, None without a hardened model."""
    r_ft: float
    """||U U^T D_ft|| / ||D_ft||; NaN where D_align or D_ft is zero."""
    tuning_share: float
    """Share of the tuning's energy inside the safety subspace, ||U U^T tuning||^2 / ||tuning||^2; NaN where D_align or
    the tuning is zero."""
    overlap: float | None
    """Mean squared cosine of the principal angles between the spans of U and V, from 0 (orthogonal) to 1 (the smaller
    one lies in the other); NaN where D_align or D_ft is zero, None where it was not asked for."""
    principal_angles: tuple[float, ...] | None
    """These angles in degrees, ascending, as many as the smaller of the two spans has dimensions; None likewise."""

    @property
    def label(self) -> str:
        """The tensor's name, with the expert's number where there is one."""
        return self.name if self.expert is None else f"{self.name}[{self.expert}]"


class DriftMeans(Record):
    """Some matrices together. Means are unweighted, as in the paper's code; NaN where nothing is left. What concerns
    the hardened model is None without one."""

    matrices: int
    """That the means are taken over: those in which R_align, R_ft and R_align of the hardened model are defined."""
    zero_deltas: int
    """Left out of the means: D_align, D_hard or D_ft is zero there."""
    aligned_delta_norm: float
    """||D_align|| of all the matrices as one vector, as are the next three norms; zero deltas included."""
    hardened_delta_norm: float | None
    tuned_delta_norm: float
    tuning_norm: float
    r_align: float
    r_hardened: float | None
    r_ft: float
    ratio_of_means: float
    """Mean R_ft / mean R_align."""
    mean_of_ratios: float
    """Mean of R_ft / R_align."""
    hardened_ratio_of_means: float | None
    """Mean R_ft / mean R_align of the hardened model."""
    hardened_mean_of_ratios: float | None
    """Mean of R_ft / R_align of the hardened model."""
    tuning_share: float
    """Of the energy of the fine-tuning, summed over all matrices with a safety subspace, the share inside it."""
    tuning_share_by_chance: float
    """What that share would be for a fine-tuning of the same norms in random directions."""
    overlap: float | None
    """Mean overlap of the leading spaces of D_align and D_ft; None where it was not asked for."""
    overlap_by_chance: float | None
    """What it would be for two spaces of as many dimensions as U has, in random directions."""


class DriftGroup(Record):
    """The matrices of one kind that share their layer, or what they are in it."""

    kind: Kind
    layer: int | None
    """None for matrices outside all layers, and for those of one module in all layers."""
    module: str | None
    """Such as `self_attn.q_proj`; None for all of a layer."""
    means: DriftMeans


class DriftReport(Record):
    """The outcome of `drift`."""

    base: str
    aligned: str
    hardened: str | None
    tuned: str
    rank: int
    subspace: str | None
    """The file that the safety subspace was read from."""
    command: str | None
    """What was called, where the caller said so."""
    overall: DriftMeans
    """Over linear layers: what compares with the paper."""
    apart: dict[Kind, DriftMeans]
    """Over each of the other kinds that the model has."""
    by_layer: tuple[DriftGroup, ...]
    """In the order of the layers; what is outside all layers comes last."""
    by_module: tuple[DriftGroup, ...]
    """In the order in which ALIGNED's files first name them."""
    matrices: tuple[MatrixDrift, ...]
    carried: tuple[CarriedRecord, ...]
    """Tensors that were not measured, and why."""
    notes: tuple[str, ...]
    seconds: dict[str, float]
    peak_memory_bytes: int


def means(matrices: Sequence[MatrixDrift]) -> DriftMeans:
    """The means over some matrices, in their order."""
    defined = [m for m in matrices if not any(math.isnan(r) for r in (m.r_align, m.r_ft, m.r_hardened or 0.0))]
    r_align, r_ft = _mean([m.r_align for m in defined]), _mean([m.r_ft for m in defined])
    hardened = [m.r_hardened for m in defined if m.r_hardened is not None]
    with_hardened = any(m.r_hardened is not None for m in matrices)
    r_hardened = _mean(hardened)
    moved = [m for m in matrices if not math.isnan(m.tuning_share)]
    energy = math.fsum(m.tuning_norm**2 for m in moved)
    inside = math.fsum(m.tuning_share * m.tuning_norm**2 for m in moved)
    by_chance = math.fsum(m.directions / m.rows * m.tuning_norm**2 for m in moved)
    with_overlap = any(m.overlap is not None for m in matrices)
    overlaps = [m.overlap for m in defined if m.overlap is not None]
    ratios = [_ratio(m.r_ft, r) for m, r in zip(defined, hardened, strict=True)] if with_hardened else []
    return DriftMeans(
        matrices=len(defined),
        zero_deltas=len(matrices) - len(defined),
        aligned_delta_norm=math.hypot(*(m.aligned_delta_norm for m in matrices)),
        hardened_delta_norm=math.hypot(*(m.hardened_delta_norm or 0.0 for m in matrices)) if with_hardened else None,
        tuned_delta_norm=math.hypot(*(m.tuned_delta_norm for m in matrices)),
        tuning_norm=math.hypot(*(m.tuning_norm for m in matrices)),
        r_align=r_align,
        r_hardened=r_hardened if with_hardened else None,
        r_ft=r_ft,
        ratio_of_means=_ratio(r_ft, r_align),
        mean_of_ratios=_mean([_ratio(m.r_ft, m.r_align) for m in defined]),
        hardened_ratio_of_means=_ratio(r_ft, r_hardened) if with_hardened else None,
        hardened_mean_of_ratios=_mean(ratios) if with_hardened else None,
        tuning_share=inside / energy if energy else math.nan,
        tuning_share_by_chance=by_chance / energy if energy else math.nan,
        overlap=_mean(overlaps) if with_overlap else None,
        overlap_by_chance=_mean([m.directions / m.rows for m in defined]) if with_overlap else None,
    )


def grouped(
    matrices: Sequence[MatrixDrift], key: Callable[[MatrixDrift], tuple[int | None, str | None]]
) -> tuple[DriftGroup, ...]:
    """The matrices by kind and key, which is a layer and a module; kinds are never averaged together."""
    members: dict[tuple[Kind, int | None, str | None], list[MatrixDrift]] = {}
    for matrix in matrices:
        members.setdefault((matrix.kind, *key(matrix)), []).append(matrix)
    return tuple(
        DriftGroup(kind=kind, layer=layer, module=module, means=means(chosen))
        for (kind, layer, module), chosen in members.items()
    )


def by_layer(matrices: Sequence[MatrixDrift]) -> tuple[DriftGroup, ...]:
    """The layers in their order; what is outside all layers comes last."""
    groups = grouped(matrices, lambda matrix: (matrix.layer, None))
    return tuple(sorted(groups, key=lambda group: (group.layer is None, group.layer or 0)))


def by_module(matrices: Sequence[MatrixDrift]) -> tuple[DriftGroup, ...]:
    """What the matrices are in their layers, in the order of the matrices."""
    return grouped(matrices, lambda matrix: (None, matrix.module))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
