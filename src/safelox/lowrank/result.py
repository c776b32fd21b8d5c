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
class LowRank:
    """The rank-k part of a matrix as thin factors: left @ right, with left = U S and right = V^T."""

    left: torch.Tensor
    """(rows, k), fp32: U S, orthogonal columns of length s_i."""
    singular_values: torch.Tensor
    """(k,), fp64, descending."""
    right: torch.Tensor
    """(k, columns), fp32: V^T, orthonormal rows."""
    certificate: Certificate

    @property
    def rank(self) -> int:
        return self.right.shape[0]

    def truncate(self, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(left, right) of the first `rank` directions."""
        return self.left[:, :rank], self.right[:rank]

    def dense(self) -> torch.Tensor:
        """The (rows, columns) matrix itself, for inspection."""
        return self.left @ self.right
