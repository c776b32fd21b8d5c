"""Leading eigenvectors of a large symmetric matrix in memory whose eigenvalues are known.

A whole eigendecomposition takes four times the memory of the matrix, and its eigenvalues alone twice. They say where a
Chebyshev polynomial has to be small for its values at the leading eigenvalues to stand out as far as they can; a block
of vectors that is multiplied by it a few times then spans the leading eigenvectors.
"""

import math

import torch

from safelox.lowrank.algebra import orthonormal_rows, rayleigh_ritz

MORE_DIRECTIONS = 24
"""The block has at least this many directions more than are asked for."""
GROWTH = 1e4
"""Largest value of one polynomial: directions that fall farther behind the first would be lost in fp32."""
NOISE = 1e-6
"""Share of the largest eigenvalue below which the others are rounding."""
MAX_DEGREE = 100
MAX_ROUNDS = 10
"""Polynomials that are applied at most."""
RESIDUAL = 1e-5
"""Length of the residuals, as a share of the largest eigenvalue, at which the vectors are good enough."""


def leading_eigenvectors(matrix: torch.Tensor, values: torch.Tensor, rank: int) -> torch.Tensor:
    """About the `rank` leading eigenvectors, as orthonormal rows (rank, n), fp32.

    Args:
        matrix: (n, n), fp32, symmetric, without negative eigenvalues.
        values: (n,), its eigenvalues, ascending.
        rank: below n - MORE_DIRECTIONS - 16.
    """
    width = 16 * math.ceil((rank + MORE_DIRECTIONS) / 16)
    largest, stop = float(values[-1]), float(values[-width - 1])
    center = radius = max(stop, NOISE * largest) / 2
    degree = min(MAX_DEGREE, max(1, int(math.acosh(GROWTH) / math.acosh(max(1 + 1e-6, largest / center - 1)))))
    start = torch.randn(width, len(matrix), generator=torch.Generator().manual_seed(0))
    basis = orthonormal_rows(start.to(matrix.device))
    for _ in range(MAX_ROUNDS):
        basis = orthonormal_rows(_chebyshev(matrix, basis, center, radius, degree))
        theta, rotation, _, residual_gram = rayleigh_ritz(basis, basis @ matrix)
        basis = rotation.to(basis) @ basis
        if float(torch.diagonal(residual_gram)[:rank].max()) <= (RESIDUAL * float(theta[0])) ** 2:
            break
    return orthonormal_rows(basis[:rank])


def _chebyshev(matrix: torch.Tensor, rows: torch.Tensor, center: float, radius: float, degree: int) -> torch.Tensor:
    """The rows times T_degree((matrix - center) / radius)."""
    before, now = rows, torch.addmm(rows, rows, matrix, beta=-center / radius, alpha=1 / radius)
    for _ in range(degree - 1):
        following = torch.addmm(now, now, matrix, beta=-2 * center / radius, alpha=2 / radius) - before
        before, now = now, following
    return now
