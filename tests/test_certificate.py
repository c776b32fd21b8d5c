"""The bounds behind the certificate, on spaces that converged well, badly or not at all."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safelox.lowrank.algebra import left_projection, orthonormal_rows, rayleigh_ritz
from safelox.lowrank.certificate import lost_energy_bounds, update_error_bound


def example(seed: int, decay: float, steps: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix (60, 40) in fp64 with a decaying spectrum, and an orthonormal basis (width, 40) after power steps."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn(60, 40, generator=generator, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(40, 40, generator=generator, dtype=torch.float64))[0]
    matrix = (left * torch.arange(1, 41, dtype=torch.float64) ** -decay) @ right.T
    basis = torch.randn(width, 40, generator=generator, dtype=torch.float64)
    for _ in range(steps):
        basis = torch.linalg.qr(((basis @ matrix.T) @ matrix).T)[0].T
    return matrix, torch.linalg.qr(basis.T)[0].T


examples = {
    "seed": st.integers(0, 10_000),
    "decay": st.floats(0.0, 2.0),
    "steps": st.integers(0, 6),
    "width": st.integers(4, 24),
    "rank": st.integers(1, 4),
}


@given(**examples)
@settings(max_examples=150, deadline=None)
def test_bounds_hold_on_any_space(seed: int, decay: float, steps: int, width: int, rank: int) -> None:
    matrix, basis = example(seed, decay, steps, width)
    gram = matrix.T @ matrix
    theta, turned, _, residual_gram = rayleigh_ritz(basis, basis @ gram)
    projector = torch.eye(40, dtype=torch.float64) - basis.T @ basis
    mu = float(torch.linalg.eigvalsh(projector @ gram @ projector)[-1].clamp(min=0))
    lost_bound, next_bound = lost_energy_bounds(theta, residual_gram, rank, mu)

    eigenvalues = torch.linalg.eigvalsh(gram).flip(0)
    lost = float(eigenvalues[:rank].sum() - theta[:rank].sum())
    assert lost <= lost_bound + 1e-10
    assert float(eigenvalues[rank]) <= next_bound + 1e-10

    vectors = turned[:rank] @ basis
    u, s, vh = torch.linalg.svd(matrix)
    best = (u[:, :rank] * s[:rank]) @ vh[:rank]
    error = float(torch.linalg.vector_norm((matrix @ vectors.T) @ vectors - best))
    if math.isfinite(lost_bound):
        assert error <= update_error_bound(lost_bound, next_bound, float(theta[rank - 1]), rank) + 1e-6


@given(**examples)
@settings(max_examples=100, deadline=None)
def test_left_projection_gains_what_the_residuals_say(
    seed: int, decay: float, steps: int, width: int, rank: int
) -> None:
    matrix, basis = example(seed, decay, steps, width)
    images = (basis @ matrix.T) @ matrix
    theta, turned, _, residual_gram = rayleigh_ritz(basis, images)
    leading = turned[:rank] @ basis
    left, values, right = left_projection(leading @ matrix.T, turned[:rank] @ images)
    gain = float((torch.diagonal(residual_gram)[:rank] / theta[:rank]).sum())
    assert float(values.square().sum()) == pytest.approx(float(theta[:rank].sum()) + gain, rel=1e-9)
    unit = torch.linalg.qr(matrix @ leading.T)[0]
    found = left.double().T @ right.double()
    assert torch.allclose(found, unit @ (unit.T @ matrix), atol=1e-6)
    assert torch.allclose(right.double() @ right.double().T, torch.eye(rank, dtype=torch.float64), atol=1e-6)


def test_the_bounds_are_not_idle() -> None:
    """On a space that has converged they are small; a bound that were always huge would hold as well."""
    matrix, basis = example(0, 1.0, 6, 16)
    gram = matrix.T @ matrix
    theta, _, _, residual_gram = rayleigh_ritz(basis, basis @ gram)
    mu = float(torch.linalg.eigvalsh(gram).flip(0)[16])
    lost, following = lost_energy_bounds(theta, residual_gram, 4, mu)
    assert lost < 1e-6
    assert 1 / 25 <= following <= 1 / 25 * 1.006
    assert update_error_bound(lost, following, float(theta[3]), 4) < 2e-3


def test_nothing_is_known_where_the_complement_may_hold_more_than_the_space() -> None:
    matrix, basis = example(0, 1.0, 6, 16)
    gram = matrix.T @ matrix
    theta, _, _, residual_gram = rayleigh_ritz(basis, basis @ gram)
    lost, following = lost_energy_bounds(theta, residual_gram, 4, mu=2.0)
    assert lost > 4 * (2.0 - 1.0)
    assert following >= 2.0


@given(count=st.integers(1, 12), present=st.integers(0, 6), columns=st.integers(20, 60), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_orthonormal_rows_adds_what_is_new_and_no_more(count: int, present: int, columns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(columns, max(present, 1), generator=generator))[0].T.contiguous()
    block = torch.randn(count, columns, generator=generator)
    block = torch.cat([block, block[:1] * 3, torch.zeros(1, columns), basis[:1] * 2])  # nothing new in these
    rows = orthonormal_rows(block, basis)
    assert len(rows) == min(count, columns - len(basis))
    assert torch.allclose(rows @ rows.T, torch.eye(len(rows)), atol=1e-5)
    assert torch.allclose(rows @ basis.T, torch.zeros(len(rows), len(basis)), atol=1e-5)
