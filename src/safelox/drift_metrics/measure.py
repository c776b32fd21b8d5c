"""One matrix of the models: the norms of its deltas, and what of each lies in the safety subspace."""

import math

import torch

from safelox.delta import DeltaRows
from safelox.drift_metrics.counterpart import Counterpart
from safelox.drift_metrics.deltas import Delta, aligned_delta, later_delta
from safelox.drift_metrics.projection import Projection, directions_of, principal_angles, project
from safelox.drift_metrics.report import MatrixDrift
from safelox.drift_metrics.triple import Triple
from safelox.engine import decompose_matrix
from safelox.errors import CheckpointError
from safelox.lowrank import LowRank, top_singular
from safelox.pairing import Matrix
from safelox.pairing.naming import place

CHEAP = 1024
"""Size of a matrix up to which so many directions are found that an exact route takes hardly longer."""


def measure(
    triple: Triple, matrix: Matrix, rank: int, seed: int, device: torch.device, *, overlap: bool
) -> MatrixDrift:
    """Project all deltas on the leading left singular vectors of D_align, and compare these with those of D_ft.

    Raises:
        CheckpointError: a value of a model is not finite.
    """
    models, hardened = triple.models, triple.hardened
    aligned = aligned_delta(models, matrix, device)
    tuned = later_delta(models, triple.tuned, matrix, device)
    later = [] if hardened is None else [later_delta(models, hardened, matrix, device)]
    directions = directions_of(_safety_subspace(triple, aligned, _wanted(rank, aligned.shape), seed)).to(device)
    start = None if hardened is None else 0
    space, projections, tuning = project(aligned, [*later, tuned], start, directions, rank)
    for counterpart, projection in zip(reversed(triple.counterparts), projections[1:], strict=True):
        _check_finite(counterpart, matrix, projection)
    d_align, d_ft = projections[0], projections[-1]
    d_hard = None if hardened is None else projections[1]
    known = d_align.energy > 0
    angles = None
    if overlap:
        angles = principal_angles(space, _leading(tuned, matrix, rank, seed)) if known and d_ft.energy else ()
    for delta in (aligned, tuned, *later):
        delta.release()
    layer, module = place(matrix.name)
    return MatrixDrift(
        name=matrix.name,
        expert=matrix.expert,
        kind=triple.kind(matrix),
        layer=layer,
        module=module,
        rows=matrix.rows,
        columns=matrix.columns,
        directions=len(space.turn),
        aligned_delta_norm=math.sqrt(d_align.energy),
        hardened_delta_norm=None if d_hard is None else math.sqrt(d_hard.energy),
        tuned_delta_norm=math.sqrt(d_ft.energy),
        tuning_norm=math.sqrt(tuning.energy),
        r_align=math.sqrt(d_align.share),
        r_hardened=None if d_hard is None else math.sqrt(d_hard.share) if known else math.nan,
        r_ft=math.sqrt(d_ft.share) if known else math.nan,
        tuning_share=tuning.share if known else math.nan,
        overlap=None if angles is None else _mean_squared_cosine(angles),
        principal_angles=angles,
    )


def _wanted(rank: int, shape: tuple[int, int]) -> int:
    """How many directions to find: what lies on the wrong side of the cut is then sorted out among those beyond the
    rank. Without, R_ft would be off by some 1e-5 where the singular values at the cut are close to each other."""
    smaller = min(shape)
    exact = math.ceil(smaller / 4) if smaller <= CHEAP else 0
    return min(max(rank + 8, rank * 5 // 4, exact), smaller)


def _safety_subspace(triple: Triple, aligned: DeltaRows, count: int, seed: int) -> LowRank:
    if triple.subspace is not None and aligned.matrix.label in triple.in_file:
        return triple.subspace.decompose(aligned, count)[0]
    return decompose_matrix(triple.models, seed, aligned, count)[0]


def _leading(delta: Delta, matrix: Matrix, rank: int, seed: int) -> torch.Tensor:
    """The `rank` leading left singular vectors of a delta (rows, k), fp32, as `directions_of` gives them."""
    part = top_singular(delta, _wanted(rank, delta.shape), name=matrix.seed_name, seed=seed)
    return directions_of(part)[:, :rank].to(delta.device)


def _check_finite(counterpart: Counterpart, matrix: Matrix, projection: Projection) -> None:
    if not math.isfinite(projection.energy):
        raise CheckpointError(
            f"tensor {counterpart.names[matrix.name]} of {counterpart.checkpoint.reference}: a value is NaN or "
            f"infinite. Mend {counterpart.side}, or leave the tensor out with --exclude {matrix.name}"
        )


def _mean_squared_cosine(angles: tuple[float, ...]) -> float:
    if not angles:
        return math.nan
    return math.fsum(math.cos(math.radians(angle)) ** 2 for angle in angles) / len(angles)
