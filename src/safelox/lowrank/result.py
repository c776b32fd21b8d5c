"""What a decomposition returns: thin factors and what is known about their error."""

from dataclasses import dataclass
from typing import Literal

import torch

Route = Literal["krylov", "gram", "svd"]


@dataclass(frozen=True)
class Certificate:
    """What is known about the error of a decomposition. Energies are squared Frobenius norms."""

    route: Route
    energy: float
    """||D||_F^2."""
    captured: float
    """Energy of the rank-k part that was found."""
    lost_bound: float
    """Upper bound of (energy of the best rank-k part - captured)."""
    update_error_bound: float | None
    """Upper bound of ||D V V^T - D_k||_F / ||D V V^T||_F; None where the gap at the cut is below GAP."""
    failure_probability: float
    sweeps: int
    """Passes over the matrix; one pass does both products of D^T (D X)."""


@dataclass(frozen=True)
class Remainder:
    """What the iteration knows besides its certificate; `truncation` certifies the first few directions by it."""

    ritz_values: torch.Tensor
    """(k,), fp64: of D^T D, descending."""
    residuals: torch.Tensor
    """(k,), fp64: squared lengths of their residuals."""
    gains: torch.Tensor
    """(k,), fp64: energy that the part returned holds beyond each Ritz value."""
    outside: float
    """Upper bound of ||D v||^2 for unit vectors v that are orthogonal to the k Ritz vectors."""


@dataclass(frozen=True)
class LowRank:
    """The rank-k part of a matrix as thin factors: left @ right, with left = U S and right = V^T."""

    left: torch.Tensor
    """(rows, k), fp32: U S, orthogonal columns of length s_i."""
    singular_values: torch.Tensor
    """(k,), fp64, descending."""
    right: torch.Tensor
    """(k, columns), fp32: V^T, orthonormal rows."""
    certificate: Certificate
    remainder: Remainder | None = None
    """None where the singular values are exact."""

    @property
    def rank(self) -> int:
        return self.right.shape[0]

    def dense(self) -> torch.Tensor:
        """The (rows, columns) matrix itself, for inspection."""
        return self.left @ self.right
