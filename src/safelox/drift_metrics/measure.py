"""One matrix of the three models: the norms of its deltas, and what of each lies in the safety subspace."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from safelox.delta import DeltaRows
from safelox.drift_metrics.report import MatrixDrift
from safelox.drift_metrics.triple import Triple
from safelox.engine import decompose_matrix
from safelox.errors import CheckpointError
from safelox.lowrank import LowRank, block_bounds
from safelox.pairing import Matrix

ROUNDING = torch.finfo(torch.float32).eps


def measure(triple: Triple, matrix: Matrix, rank: int, seed: int, device: torch.device) -> MatrixDrift:
    """Decompose D_align, and project both deltas and the fine-tuning on its leading left singular vectors.

    Raises:
        CheckpointError: a value of a model is not finite.
    """
    models, tuned_name = triple.models, triple.tuned_names[matrix.name]
    aligned = DeltaRows(models.base, models.aligned, matrix, device)
    tuned = DeltaRows(models.base, triple.tuned, replace(matrix, name=tuned_name), device)
    part, _ = decompose_matrix(models, seed, aligned, min(rank + _guard(rank), *aligned.shape))
    d_align, d_ft, tuning = _project(aligned, tuned, _directions(part).to(device), rank)
    for delta in (aligned, tuned):
        delta.release()
    if not math.isfinite(d_ft.energy):
        raise CheckpointError(
            f"tensor {tuned_name} of {triple.tuned.reference}: a value is NaN or infinite. Mend TUNED, or leave the "
            f"tensor out with --exclude {matrix.name}"
        )
    known = d_align.energy > 0
    return MatrixDrift(
        name=matrix.name,
        expert=matrix.expert,
        kind=triple.kind(matrix),
        rows=matrix.rows,
        columns=matrix.columns,
        directions=d_align.directions,
        aligned_delta_norm=math.sqrt(d_align.energy),
        tuned_delta_norm=math.sqrt(d_ft.energy),
        tuning_norm=math.sqrt(tuning.energy),
        r_align=math.sqrt(d_align.share),
        r_ft=math.sqrt(d_ft.share) if known else math.nan,
        tuning_share=tuning.share if known else math.nan,
    )


def _guard(rank: int) -> int:
    """How many directions to find beyond the rank: what lies on the wrong side of the cut is then sorted out among
    them. Without, R_ft would be off by some 1e-5 where the singular values at the cut are close to each other."""
    return max(8, rank // 4)


class _Projection(NamedTuple):
    energy: float
    """||D||^2."""
    inside: float
    """||U^T D||^2."""
    directions: int

    @property
    def share(self) -> float:
        """Of the energy, what lies inside: rounding may not lift it above 1."""
        return min(1.0, self.inside / self.energy) if self.energy else math.nan


def _directions(part: LowRank) -> torch.Tensor:
    """The left singular vectors (rows, d), fp32, orthonormal up to rounding; fewer than were found where the delta's
    own rank is less, since a direction in which nothing was aligned is no part of the safety subspace."""
    values = part.singular_values
    floor = max(len(part.left), part.right.shape[1]) * ROUNDING * float(values[0])
    present = (values > floor).to(part.left.device)
    left = part.left[:, present]
    left /= torch.linalg.vector_norm(left, dim=0)
    return left


@dataclass
class _Sum:
    """What is gathered of a delta, block of rows by block of rows, in fp64."""

    product: torch.Tensor
    """(d, columns): the directions' transpose times the delta."""
    norms: list[torch.Tensor]

    def add(self, directions: torch.Tensor, block: torch.Tensor) -> None:
        exact = block.double()
        self.product.addmm_(directions.T, exact)
        self.norms.append(torch.linalg.vector_norm(exact))


def _project(aligned: DeltaRows, tuned: DeltaRows, directions: torch.Tensor, rank: int) -> tuple[_Projection, ...]:
    """Project D_align, D_ft and W_tuned - W_aligned, which is their difference, on the span of U.

    U is the best that the span of the directions holds: the `rank` leading left singular vectors of D_align in it, or
    all where it has no more. Only products (d, columns) are ever held, never U U^T nor a whole delta.

    Args:
        directions: (rows, d), fp32, orthonormal up to rounding.
    """
    count, columns = directions.shape[1], aligned.shape[1]
    gram = torch.zeros(count, count, dtype=torch.float64, device=aligned.device)
    sums = [_Sum(torch.zeros(count, columns, dtype=torch.float64, device=aligned.device), []) for _ in range(2)]
    tuning_norms = []
    for start, stop in block_bounds(*aligned.shape):
        some = directions[start:stop].double()
        gram.addmm_(some.T, some)
        before, after = aligned.block(start, stop), tuned.block(start, stop)
        sums[0].add(some, before)
        sums[1].add(some, after)
        tuning_norms.append(torch.linalg.vector_norm(after - before, dtype=torch.float64))
    turn = _leading(gram, sums[0].product, rank)
    products = (sums[0].product, sums[1].product, sums[1].product - sums[0].product)
    return tuple(
        _Projection(
            math.fsum(float(norm) ** 2 for norm in norms),
            float(torch.linalg.vector_norm(turn @ product)) ** 2,
            len(turn),
        )
        for product, norms in zip(products, (sums[0].norms, sums[1].norms, tuning_norms), strict=True)
    )


def _leading(gram: torch.Tensor, product: torch.Tensor, rank: int) -> torch.Tensor:
    """The (k, d) matrix that turns V^T into U^T: V the directions (rows, d), of the given Gram matrix (d, d), U the k
    leading left singular vectors of D in their span, of which `product` (d, columns) is V^T D.

    This is Rayleigh-Ritz: it undoes the rounding of V, and finds the cut between singular values that are close to
    each other as exactly as fp64 can.
    """
    factor = torch.linalg.cholesky(gram.cpu())
    inverse = torch.linalg.solve_triangular(factor, torch.eye(len(factor), dtype=torch.float64), upper=False)
    inside = inverse @ (product @ product.T).cpu() @ inverse.T
    _, vectors = torch.linalg.eigh(inside)
    turn: torch.Tensor = vectors.flip(1)[:, :rank].T @ inverse
    return turn.to(product.device)
