"""The exact routes: a plain SVD of small matrices, eigenvectors of the Gram matrix of those that do not converge."""

import math

import torch

from safelox.lowrank.algebra import rayleigh_ritz
from safelox.lowrank.blocks import IllScaledError, RowBlocks, block_bounds, checked_energy, sweep, transposed_sweep
from safelox.lowrank.certificate import GAP, certify, ritz_bounds
from safelox.lowrank.filtered import leading_eigenvectors
from safelox.lowrank.result import Certificate, LowRank, Remainder

GRAM_ROWS = 512
"""Rows that are held while all others are read against them."""

LARGE = 8192
"""Size of a Gram matrix above which its eigenvectors are not found all at once, which takes 16 n^2 bytes, but 8 n^2."""
MAX_FILTERED_RANK = 128
"""Most of its eigenvectors that are found so."""


def svd_route(matrix: RowBlocks, rank: int) -> LowRank:
    rows, columns = matrix.shape
    dense = torch.empty(rows, columns, dtype=torch.float64, device=matrix.device)
    for start, stop in block_bounds(rows, columns):
        dense[start:stop] = matrix.block(start, stop)
    if not bool(dense.isfinite().all()):
        raise IllScaledError
    u, s, vh = torch.linalg.svd(dense, full_matrices=False)
    values = s.cpu()
    return LowRank(
        (u[:, :rank] * s[:rank]).float(), values[:rank], vh[:rank].float(), _exact_certificate(values, rank, sweeps=1)
    )


def gram_route(matrix: RowBlocks, rank: int, sweeps: int) -> LowRank:
    """By the eigenvectors of D^T D or D D^T, whichever is smaller, with the same certificate as the iteration."""
    rows, columns = matrix.shape
    values, basis = _eigenpairs(_column_gram(matrix) if columns <= rows else _row_gram(matrix), rank)
    # Rounding of the sums of products, and of the eigendecomposition, perturbs H by no more than this.
    slack = 4 * torch.finfo(torch.float32).eps * math.sqrt(max(rows, columns)) * float(values[-1])
    outside = float(values[-rank - 1]) if rank < len(values) else 0.0
    if columns <= rows:
        images, left, energy = sweep(matrix, basis, rank)
        theta, turned, _, residual_gram = rayleigh_ritz(basis, images)
        left, right = turned.float() @ left, turned.float() @ basis
    else:
        right, images, energy = transposed_sweep(matrix, basis)
        theta, turned, _, residual_gram = rayleigh_ritz(basis, images)
        length = theta.sqrt().to(basis).clamp(min=1e-30)[:, None]
        left, right = turned.float() @ basis * length, turned.float() @ right / length
    lost, following = ritz_bounds(theta, residual_gram, rank, outside + slack, energy)
    lost = min(lost, rank * slack + max(0.0, float(values[-rank:].sum()) - float(theta.sum())))
    bounds = (lost, outside - slack, following)
    certificate, _ = certify("gram", theta, bounds, rank, energy, sweeps + 2, failure_probability=0.0)
    remainder = Remainder(theta, torch.diagonal(residual_gram), torch.zeros_like(theta), following)
    return LowRank(left.T.contiguous(), theta.sqrt(), right, certificate, remainder)


def _eigenpairs(gram: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All eigenvalues of a Gram matrix (n, n), ascending, and the `rank` leading eigenvectors as rows (rank, n)."""
    if len(gram) > LARGE and rank <= MAX_FILTERED_RANK:
        values = torch.linalg.eigvalsh(gram)
        return values, leading_eigenvectors(gram, values, rank)
    values, vectors = torch.linalg.eigh(gram)
    return values, vectors[:, -rank:].flip(1).T.contiguous()


def _column_gram(matrix: RowBlocks) -> torch.Tensor:
    rows, columns = matrix.shape
    gram = torch.zeros(columns, columns, device=matrix.device)
    norms = []
    for bounds in block_bounds(rows, columns):
        block = matrix.block(*bounds)
        gram.addmm_(block.T, block)
        norms.append(torch.linalg.vector_norm(block))
    checked_energy(norms)
    return gram


def _row_gram(matrix: RowBlocks) -> torch.Tensor:
    rows, columns = matrix.shape
    gram = torch.empty(rows, rows, device=matrix.device)
    norms = []
    for start, stop in block_bounds(rows, columns):
        norms.append(torch.linalg.vector_norm(matrix.block(start, stop)))
    for start in range(0, rows, GRAM_ROWS):
        slab = matrix.block(start, min(start + GRAM_ROWS, rows)).clone()
        for other_start, other_stop in block_bounds(min(start + GRAM_ROWS, rows), columns):
            product = slab @ matrix.block(other_start, other_stop).T
            gram[start : start + len(slab), other_start:other_stop] = product
            gram[other_start:other_stop, start : start + len(slab)] = product.T
    checked_energy(norms)
    return gram


def factored_svd(left: torch.Tensor, right: torch.Tensor, rank: int) -> LowRank:
    """The `rank` leading singular triplets of left @ right through the factors alone: QR of each, SVD of the core.

    Args:
        left: (rows, r); right: (r, columns); rank <= r. Any float dtype; computed in fp64.
    """
    left_basis, left_core = torch.linalg.qr(left.double())
    right_basis, right_core = torch.linalg.qr(right.double().T)
    u, s, vh = torch.linalg.svd(left_core @ right_core.T)
    values = s.cpu()
    return LowRank(
        (left_basis @ (u[:, :rank] * s[:rank])).float(),
        values[:rank],
        (vh[:rank] @ right_basis.T).float(),
        _exact_certificate(values, rank, sweeps=0),
    )


def _exact_certificate(values: torch.Tensor, rank: int, sweeps: int) -> Certificate:
    """The certificate of the first `rank` directions where all singular values (k,), fp64, are known exactly."""
    energy, captured = float(values.square().sum()), float(values[:rank].square().sum())
    gap = rank == len(values) or float(values[rank]) <= (1 - GAP) * float(values[rank - 1])
    return Certificate("svd", energy, captured, 0.0, 0.0 if gap else None, 0.0, sweeps)
