"""Small dense algebra on bases that are kept as rows: (p, n) with p much smaller than n."""

import torch


def rayleigh_ritz(basis: torch.Tensor, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rayleigh-Ritz on the span of `basis` (p, n), orthonormal, whose images under H are `images` (p, n).

    Returns:
        Ritz values (p,), descending; the rotation (p, p) whose rows turn the basis into Ritz vectors; the Gram matrix
        (p, p) of the residuals. All fp64; values and Gram matrix on the CPU.
    """
    exact_basis, exact_images = basis.double(), images.double()
    projected = (exact_basis @ exact_images.T).cpu()
    theta, vectors = torch.linalg.eigh((projected + projected.T) / 2)
    theta, turned = theta.flip(0).clamp(min=0), vectors.flip(1).T.to(exact_basis)
    residual = turned @ exact_images - (theta.to(exact_basis)[:, None] * turned) @ exact_basis
    return theta, turned, (residual @ residual.T).cpu()


def orthonormal_rows(block: torch.Tensor, basis: torch.Tensor | None = None) -> torch.Tensor:
    """Orthonormal rows that span what the rows of `block` add to those of `basis`; fewer where they add less.

    Args:
        block: (w, n), fp32.
        basis: (p, n), orthonormal rows, fp32.
    """
    exact = block.double()
    length = torch.linalg.vector_norm(exact, dim=1, keepdim=True)
    exact = exact[length[:, 0] > 0] / length[length[:, 0] > 0]
    for _ in range(2):
        if basis is not None:
            exact = complement(exact, basis)
        values, vectors = torch.linalg.eigh((exact @ exact.T).cpu())
        # Rows are fp32 of length 1: what is left below this is their rounding.
        present = values > 1e-11
        turn = (vectors[:, present] / values[present].sqrt()).T
        exact = turn.to(exact) @ exact
    return exact.float()


def complement(block: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """The rows of `block` less their components along the orthonormal rows of `basis`, in the block's dtype."""
    exact, exact_basis = block.double(), basis.double()
    for _ in range(2):
        exact = exact - (exact @ exact_basis.T) @ exact_basis
    result: torch.Tensor = exact.to(block.dtype)
    return result
