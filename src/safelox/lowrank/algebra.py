"""Small dense algebra on bases that are kept as rows: (p, n) with p much smaller than n."""

from typing import NamedTuple

import torch

WELL_CONDITIONED = 1e-6
"""Smallest eigenvalue of a Gram matrix of unit rows at which one round of orthonormalisation in fp64 is enough."""


class Ritz(NamedTuple):
    """What Rayleigh-Ritz finds in a space of p dimensions."""

    values: torch.Tensor
    """(p,), descending, fp64, on the CPU."""
    rotation: torch.Tensor
    """(p, p), fp64: its rows turn the basis into Ritz vectors."""
    residuals: torch.Tensor
    """(p, n): H v - theta v of each, in the dtype of the images."""
    residual_gram: torch.Tensor
    """(p, p), fp64, on the CPU: their inner products."""


def rayleigh_ritz(basis: torch.Tensor, images: torch.Tensor) -> Ritz:
    """Rayleigh-Ritz on the span of `basis` (p, n), orthonormal, whose images under H are `images` (p, n)."""
    projected = (basis.double() @ images.double().T).cpu()
    theta, vectors = torch.linalg.eigh((projected + projected.T) / 2)
    theta, turned = theta.flip(0).clamp(min=0), vectors.flip(1).T
    # In the dtype of the images: their own rounding is as large as what this adds.
    residuals = turned.to(images) @ images - (theta[:, None] * turned).to(images) @ basis
    exact = residuals.double()
    return Ritz(theta, turned.to(basis.device), residuals, (exact @ exact.T).cpu())


def orthonormal_rows(block: torch.Tensor, basis: torch.Tensor | None = None) -> torch.Tensor:
    """Orthonormal rows that span what the rows of `block` add to those of `basis`; fewer where they add less.

    Args:
        block: (w, n), fp32.
        basis: (p, n), orthonormal rows, fp32.
    """
    length = torch.linalg.vector_norm(block, dim=1, keepdim=True)
    rows: torch.Tensor = block[length[:, 0] > 0] / length[length[:, 0] > 0]
    for _ in range(2):
        if basis is not None:
            rows = complement(rows, basis)
        exact = rows.double()
        values, vectors = torch.linalg.eigh((exact @ exact.T).cpu())
        # Rows are fp32 of length 1: what is left below this is their rounding.
        present = values > 1e-11
        turn = (vectors[:, present] / values[present].sqrt()).T
        rows = (turn.to(exact) @ exact).float()
        if basis is None and bool((values > WELL_CONDITIONED).all()):
            break
    return rows


def left_projection(left: torch.Tensor, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The matrix U U^T D, where U is an orthonormal basis of the columns D v of some independent vectors v.

    Args:
        left: (k, rows), the D v as rows; images: (k, columns), the D^T D v.

    Returns:
        Its factors as rows: singular vectors times values (k, rows); the values (k,), fp64, on the CPU; the right
        singular vectors (k, columns).
    """
    exact_left, exact_images = left.double(), images.double()
    factor = torch.linalg.cholesky((exact_left @ exact_left.T).cpu())
    inverse = torch.linalg.solve_triangular(factor, torch.eye(len(factor), dtype=torch.float64), upper=False)
    projected = inverse.to(exact_left) @ exact_images  # U^T D, with U = inverse @ left
    squares, vectors = torch.linalg.eigh((projected @ projected.T).cpu())
    values, turn = squares.flip(0).sqrt(), vectors.flip(1).T
    new_left = (values[:, None] * (turn @ inverse)).to(exact_left) @ exact_left
    new_right = (turn / values[:, None]).to(exact_left) @ projected
    return new_left.float(), values, new_right.float()


def complement(block: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """The rows of `block` less their components along the orthonormal rows of `basis`: what rounding leaves the first
    time is gone after the second."""
    for _ in range(2):
        block = torch.addmm(block, block @ basis.T, basis, alpha=-1)
    return block
