"""Projecting deltas on the leading left singular vectors of another one, through thin factors only."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from safelox.drift_metrics.deltas import Delta
from safelox.lowrank import LowRank, block_bounds

ROUNDING = torch.finfo(torch.float32).eps


class Projection(NamedTuple):
    """What of a delta D lies in a space."""

    energy: float
    """||D||^2."""
    inside: float
    """||U^T D||^2."""

    @property
    def share(self) -> float:
        """Of the energy, what lies inside: rounding may not lift it above 1."""
        return min(1.0, self.inside / self.energy) if self.energy else math.nan


class Space(NamedTuple):
    """A space of k dimensions in the span of some directions (rows, d)."""

    directions: torch.Tensor
    """(rows, d), fp32, orthonormal up to rounding."""
    turn: torch.Tensor
    """(k, d), fp64: its rows turn the directions, as rows, into an orthonormal basis of the space."""


def directions_of(part: LowRank) -> torch.Tensor:
    """The left singular vectors (rows, d), fp32, orthonormal up to rounding; fewer than were found where the delta's
    own rank is less, since a direction in which nothing was changed is no part of its leading space."""
    values = part.singular_values
    floor = max(len(part.left), part.right.shape[1]) * ROUNDING * float(values[0])
    present = (values > floor).to(part.left.device)
    left = part.left[:, present]
    left /= torch.linalg.vector_norm(left, dim=0)
    return left


class _Sum:
    """What is gathered of a delta, block of rows by block of rows, in fp64."""

    def __init__(self, directions: int, columns: int, device: torch.device) -> None:
        self.product = torch.zeros(directions, columns, dtype=torch.float64, device=device)
        """(d, columns): the directions' transpose times the delta."""
        self.norms: list[torch.Tensor] = []

    def add(self, directions: torch.Tensor, block: torch.Tensor) -> None:
        exact = block.double()
        self.product.addmm_(directions.T, exact)
        self.norms.append(torch.linalg.vector_norm(exact))

    def projection(self, turn: torch.Tensor) -> Projection:
        return Projection(_energy(self.norms), float(torch.linalg.vector_norm(turn @ self.product)) ** 2)


def project(
    aligned: Delta, later: Sequence[Delta], start: int | None, directions: torch.Tensor, rank: int
) -> tuple[Space, list[Projection], Projection]:
    """Project deltas on the safety subspace: the best space of `rank` dimensions that the span of directions holds.

    That is spanned by the `rank` leading left singular vectors of D_align in it, or all where it has no more. Only
    products (d, columns) are ever held, never U U^T nor a whole delta.

    Args:
        later: the deltas of the models that came from ALIGNED; the last is that of the tuned one.
        start: which of them the tuning started from, None for ALIGNED itself.
        directions: (rows, d), fp32, orthonormal up to rounding.

    Returns:
        The space; the projections of D_align and of each of `later`; that of the tuning.
    """
    count, columns = directions.shape[1], aligned.shape[1]
    gram = torch.zeros(count, count, dtype=torch.float64, device=aligned.device)
    sums = [_Sum(count, columns, aligned.device) for _ in range(1 + len(later))]
    before = 0 if start is None else 1 + start
    tuning_norms = []
    for first, stop in block_bounds(*aligned.shape):
        some = directions[first:stop].double()
        gram.addmm_(some.T, some)
        blocks = [delta.block(first, stop) for delta in (aligned, *later)]
        for total, block in zip(sums, blocks, strict=True):
            total.add(some, block)
        tuning_norms.append(torch.linalg.vector_norm(blocks[-1] - blocks[before], dtype=torch.float64))
    turn = _leading(gram, sums[0].product, rank)
    tuning = float(torch.linalg.vector_norm(turn @ (sums[-1].product - sums[before].product))) ** 2
    projections = [total.projection(turn) for total in sums]
    return Space(directions, turn), projections, Projection(_energy(tuning_norms), tuning)


def principal_angles(space: Space, other: torch.Tensor) -> tuple[float, ...]:
    """The principal angles between a space and the span of other directions (rows, e), in degrees, ascending."""
    rows, count = space.directions.shape
    width = other.shape[1]
    gram = torch.zeros(width, width, dtype=torch.float64, device=other.device)
    cross = torch.zeros(count, width, dtype=torch.float64, device=other.device)
    for first, stop in block_bounds(rows, max(count, width)):
        exact = other[first:stop].double()
        gram.addmm_(exact.T, exact)
        cross.addmm_(space.directions[first:stop].double().T, exact)
    cosines = torch.linalg.svdvals((space.turn @ cross).cpu() @ _orthonormaliser(gram).T)
    return tuple(math.degrees(math.acos(min(1.0, cosine))) for cosine in cosines.tolist())


def _leading(gram: torch.Tensor, product: torch.Tensor, rank: int) -> torch.Tensor:
    """The (k, d) matrix that turns V^T into U^T: V the directions (rows, d), of the given Gram matrix (d, d), U the k
    leading left singular vectors of D in their span, of which `product` (d, columns) is V^T D.

    This is Rayleigh-Ritz: it undoes the rounding of V, and finds the cut between singular values that are close to
    each other as exactly as fp64 can.
    """
    inverse = _orthonormaliser(gram)
    inside = inverse @ (product @ product.T).cpu() @ inverse.T
    _, vectors = torch.linalg.eigh(inside)
    turn: torch.Tensor = vectors.flip(1)[:, :rank].T @ inverse
    return turn.to(product.device)


def _orthonormaliser(gram: torch.Tensor) -> torch.Tensor:
    """(d, d), fp64, on the CPU: turns V^T, V of the given Gram matrix, into orthonormal rows of the same span."""
    factor = torch.linalg.cholesky(gram.cpu())
    inverse: torch.Tensor = torch.linalg.solve_triangular(
        factor, torch.eye(len(factor), dtype=torch.float64), upper=False
    )
    return inverse


def _energy(norms: Sequence[torch.Tensor]) -> float:
    return math.fsum(float(norm) ** 2 for norm in norms)
