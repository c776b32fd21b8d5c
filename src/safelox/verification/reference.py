"""What a matrix should have become, by a plain route that shares no code with the one that wrote it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from safelox.checkpoint import Checkpoint
from safelox.pairing import Matrix

LARGEST_FULL_SVD = 2048
"""Smallest dimension up to which the reference is a full SVD in fp64."""
OVERSAMPLING = 32
ITERATIONS = 20
"""Of torch.svd_lowrank, the reference for larger matrices."""


@dataclass(frozen=True)
class Sides:
    """Both sources of one matrix, read by rows."""

    base: Checkpoint
    aligned: Checkpoint
    matrix: Matrix

    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """(aligned, delta) of rows start..stop of the matrix, both fp64."""
        matrix = self.matrix
        aligned = self.aligned.rows(matrix.name, matrix.start + start, matrix.start + stop).to(torch.float64)
        if matrix.row_map is None:
            first = matrix.base_start
            return aligned, aligned - self.base.rows(matrix.base_name, first + start, first + stop).to(torch.float64)
        places = matrix.row_map[start:stop]
        known = places >= 0
        delta = torch.zeros_like(aligned)
        delta[known] = aligned[known] - self.base.rows(matrix.base_name)[places[known]].to(torch.float64)
        return aligned, delta


@dataclass(frozen=True)
class Reference:
    """The part of a delta that is to be extrapolated: delta @ basis @ basis^T, all of it, or what a control has in its
    place."""

    route: str
    """How it was found, in words."""
    basis: Tensor | None
    """(columns, k), orthonormal, fp64; None for the whole delta and for a control."""
    gap: float
    """(s_k - s_(k+1)) / s_k: how well defined the part is; 1 for the whole delta."""
    energy: float
    """Squared Frobenius norm of the part."""
    dense: Tensor | None = None
    """(rows, columns), fp64: the part of a control."""

    def part(self, delta: Tensor, first: int) -> Tensor:
        """The part within some rows of the delta, of which this is the number of the first."""
        if self.dense is not None:
            return self.dense[first : first + len(delta)]
        return delta if self.basis is None else delta @ self.basis @ self.basis.T


def find_reference(sides: Sides, rank: int | None, seed: int) -> Reference:
    """Decompose the delta of a matrix.

    rank: of the part; None for the whole delta.
    seed: of torch.svd_lowrank's random start; torch's own random state is left as it is.
    """
    rows, columns = sides.matrix.rows, sides.matrix.columns
    _, delta = sides.read(0, rows)
    if rank is None or rank >= min(rows, columns):
        return Reference("the whole delta", None, 1.0, float(delta.square().sum()))
    if min(rows, columns) <= LARGEST_FULL_SVD:
        route = "full SVD in fp64"
        _, values, transposed = torch.linalg.svd(delta, full_matrices=False)
        basis = transposed.T
    else:
        route = f"torch.svd_lowrank in fp32, {ITERATIONS} iterations"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            width = min(rank + OVERSAMPLING, rows, columns)
            _, values, basis = torch.svd_lowrank(delta.to(torch.float32), q=width, niter=ITERATIONS)
    values = values.to(torch.float64)
    gap = float((values[rank - 1] - values[rank]) / values[rank - 1]) if values[rank - 1] > 0 else 1.0
    return Reference(route, basis[:, :rank].to(torch.float64), gap, float(values[:rank].square().sum()))
