"""By what a pair of models is known again, wherever its files lie and however they are cut into shards.

A subspace belongs to deltas, not to files, so deltas are what is compared. A few rows of every matrix are looked at
before the work: that finds another model, or BASE and ALIGNED swapped, at once. Whether the rest is the same is told by
the hashes of the weights files; where these differ or were not made, by the norm of every delta as a whole.
"""

import hashlib
import math

import torch

from safelox.delta import DeltaRows
from safelox.lowrank import block_bounds
from safelox.pairing import Matrix

SAMPLED_ROWS = 8
"""Rows of each matrix that are compared before the work."""
ROUNDING = 1e-9
"""Relative difference by which sums in fp64 may differ; the values themselves are exact differences."""
PRODUCT_ROUNDING = 1e-6
"""The same, relative to the weights, where an adapter is multiplied out in fp32 before the difference is taken."""


def sampled_rows(rows: int) -> range:
    """The rows that are looked at, spread over the matrix."""
    return range(0, rows, math.ceil(rows / SAMPLED_ROWS))


def sample(delta: DeltaRows) -> tuple[float, ...]:
    """One number for each of the sampled rows: the sum of its entries, weighted by their positions."""
    return tuple(_weighted_sum(delta.block(row, row + 1)) for row in sampled_rows(delta.shape[0]))


def same_sample(delta: DeltaRows, expected: tuple[float, ...], *, multiplied: bool) -> bool:
    """Whether the sampled rows of a delta are those of the matrix that gave `expected`.

    Args:
        multiplied: whether an adapter takes part in the delta.
    """
    rows = sampled_rows(delta.shape[0])
    if len(rows) != len(expected):
        return False
    for row, value in zip(rows, expected, strict=True):
        change = delta.block(row, row + 1)
        tolerance = ROUNDING * _norm(change)
        found = _weighted_sum(change)
        if multiplied:
            tolerance += PRODUCT_ROUNDING * _norm(delta.aligned(row, row + 1))
        if not abs(found - value) <= tolerance:
            return False
    return True


def norms(delta: DeltaRows) -> tuple[float, float]:
    """Frobenius norms of the delta and of W_aligned, summed in fp64."""
    changes, weights = [], []
    for start, stop in block_bounds(*delta.shape):
        changes.append(_norm(delta.block(start, stop)))
        weights.append(_norm(delta.aligned(start, stop)))
    return math.hypot(*changes), math.hypot(*weights)


def same_norm(delta: DeltaRows, delta_norm: float, weight_norm: float, *, multiplied: bool) -> bool:
    """Whether a delta, read as a whole, has the norm that is expected of it."""
    found = math.hypot(*(_norm(delta.block(*bounds)) for bounds in block_bounds(*delta.shape)))
    tolerance = ROUNDING * delta_norm + (PRODUCT_ROUNDING * weight_norm if multiplied else 0.0)
    return abs(found - delta_norm) <= tolerance


def row_map_hash(matrix: Matrix) -> str | None:
    """SHA-256 of the rows of BASE that the rows of ALIGNED are compared with; None where they lie in the same order."""
    return None if matrix.row_map is None else hashlib.sha256(matrix.row_map.numpy().tobytes()).hexdigest()


def _norm(rows: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(rows, dtype=torch.float64))


def _weighted_sum(row: torch.Tensor) -> float:
    values = row[0].cpu().double()
    return float(values @ (torch.arange(1, len(values) + 1, dtype=torch.float64) / len(values)))
