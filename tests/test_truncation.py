"""The first k directions of a decomposition, for every k, against a full SVD in fp64."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from safelox.lowrank import Certificate, DenseRows, LowRank, top_singular, truncation_certificates
from safelox.lowrank.certificate import ENERGY_TOLERANCE_KEPT, ENERGY_TOLERANCE_TOTAL, GAP, UPDATE_TOLERANCE
from safelox.lowrank.exact import factored_svd
from safelox.lowrank.result import Remainder

FP32 = 1e-6
"""What rounding to fp32 leaves, relative to the whole."""


def with_spectrum(rows: int, columns: int, values: torch.Tensor, seed: int) -> torch.Tensor:
    """(rows, columns), fp64, with these singular values and no others."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (
        torch.linalg.qr(torch.randn(length, len(values), generator=generator, dtype=torch.float64)).Q
        for length in (rows, columns)
    )
    matrix: torch.Tensor = (left * values) @ right.T
    return matrix


def spectrum(kind: str, count: int) -> torch.Tensor:
    index = torch.arange(count, dtype=torch.float64)
    return {
        "power": 1 / (index + 1),
        "geometric": 0.95**index + 1e-3,
        "steep": 0.8**index,
        "ties": torch.ceil((count - index) / 7),
        "one": torch.where(index < 1, 1.0, 1e-5),
        "flat": 1 - index / (20 * count),
        "lowrank": (20 - index).clamp(min=0),
    }[kind]


KINDS = ("power", "geometric", "steep", "ties", "one", "flat", "lowrank")


def check(matrix: torch.Tensor, result: LowRank, certificates: list[Certificate], rounding: float = FP32) -> None:
    """Assert that every certificate holds for the first k directions of the result."""
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    energy = float(S.square().sum())
    assert len(certificates) == result.rank
    for k, certificate in enumerate(certificates, start=1):
        left, right = result.left[:, :k].double(), result.right[:k].double()
        best = (U[:, :k] * S[:k]) @ Vh[:k]
        captured = energy - float((matrix - left @ right).square().sum())
        assert certificate.captured == pytest.approx(captured, abs=rounding * energy)
        assert float(S[:k].square().sum()) - captured <= certificate.lost_bound + rounding * energy
        gap = 1 - float(S[k] / S[k - 1]) if k < len(S) and S[k - 1] else 1.0
        if certificate.update_error_bound is not None and float(best.norm()):
            error = float((left @ right - best).norm() / best.norm())
            assert error <= certificate.update_error_bound + rounding
        else:
            assert gap <= GAP + rounding


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(130, 260),
    columns=st.integers(130, 260),
    rank=st.integers(1, 60),
    kind=st.sampled_from(KINDS),
    every_rank=st.booleans(),
    seed=st.integers(0, 1000),
)
@example(rows=198, columns=250, rank=21, kind="lowrank", every_rank=False, seed=1000)  # rounding inside the space
def test_the_bounds_hold_for_every_k(
    rows: int, columns: int, rank: int, kind: str, every_rank: bool, seed: int
) -> None:
    matrix = with_spectrum(rows, columns, spectrum(kind, min(rows, columns)), seed).float()
    result = top_singular(DenseRows(matrix), rank, seed=seed, every_rank=every_rank)
    certificates = truncation_certificates(result)
    check(matrix.double(), result, certificates)
    assert certificates[-1] == result.certificate
    assert {certificate.failure_probability for certificate in certificates} == {result.certificate.failure_probability}
    if every_rank and result.certificate.route == "krylov":
        for certificate in certificates:
            assert certificate.lost_bound <= ENERGY_TOLERANCE_TOTAL * certificate.energy
            assert certificate.lost_bound <= ENERGY_TOLERANCE_KEPT * certificate.captured
            assert (certificate.update_error_bound or 0.0) <= UPDATE_TOLERANCE + FP32


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(KINDS),
    rank=st.integers(2, 12),
    error=st.sampled_from([1.0, 0.3, 1e-2, 1e-4, 1e-6]),
    seed=st.integers(0, 1000),
)
def test_the_bounds_hold_for_ritz_vectors_that_are_far_from_converged(
    kind: str, rank: int, error: float, seed: int
) -> None:
    """In fp64 throughout, with everything that the bounds are made of known exactly."""
    matrix = with_spectrum(50, 40, spectrum(kind, 40), seed)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(40, rank, generator=generator, dtype=torch.float64)
    start = torch.linalg.svd(matrix).Vh[:rank].T + error * noise
    whole_space = torch.linalg.qr(start, mode="complete").Q
    span, complement = whole_space[:, :rank], whole_space[:, rank:]
    H = matrix.T @ matrix
    theta, turn = (part.flip(-1) for part in torch.linalg.eigh(span.T @ H @ span))
    V = span @ turn
    residuals = (H @ V - V * theta).square().sum(dim=0)
    outside = float(torch.linalg.eigvalsh(complement.T @ H @ complement)[-1])
    theta = theta.clamp(min=0)
    energy = float(matrix.square().sum())
    whole = Certificate("krylov", energy, float(theta.sum()), energy, math.inf, 0.0, 1)
    result = LowRank(
        matrix @ V, theta.sqrt(), V.T, whole, Remainder(theta, residuals, torch.zeros_like(theta), outside)
    )
    check(matrix, result, truncation_certificates(result), rounding=1e-9)


def test_the_bounds_are_not_idle() -> None:
    matrix = with_spectrum(300, 200, spectrum("power", 200), seed=0).float()
    result = top_singular(DenseRows(matrix), 20, every_rank=True)
    assert result.remainder is not None
    certificates = truncation_certificates(result)
    assert all((certificate.update_error_bound or 0.0) < 1e-3 for certificate in certificates)
    assert certificates[0].update_error_bound is not None
    assert certificates[19].update_error_bound is None  # 1/20 and 1/21 are within 5 %

    mixed = LowRank(
        result.left.flip(1), result.singular_values, result.right.flip(0), result.certificate, result.remainder
    )
    with pytest.raises(AssertionError):
        check(matrix.double(), mixed, certificates)


@pytest.mark.parametrize("kind", KINDS)
def test_exact_routes_are_exact_for_every_k(kind: str) -> None:
    matrix = with_spectrum(60, 30, spectrum(kind, 30), seed=1).float()
    results = [top_singular(DenseRows(matrix), 25), factored_svd(matrix, torch.eye(30), 25)]
    for result in results:
        certificates = truncation_certificates(result)
        check(matrix.double(), result, certificates)
        assert {certificate.lost_bound for certificate in certificates} == {0.0}
        assert {certificate.update_error_bound for certificate in certificates} <= {0.0, None}


def test_a_zero_matrix_and_a_single_direction() -> None:
    for matrix in (torch.zeros(200, 150), torch.ones(1, 40), torch.ones(200, 150)):
        result = top_singular(DenseRows(matrix), 1)
        assert truncation_certificates(result) == [result.certificate]
    zero = truncation_certificates(top_singular(DenseRows(torch.zeros(200, 150)), 3))
    assert [(certificate.energy, certificate.captured, certificate.lost_bound) for certificate in zero] == [
        (0, 0, 0)
    ] * 3


@pytest.mark.parametrize("exponent", [-30, 30])
def test_bounds_scale_with_the_matrix(exponent: int) -> None:
    """By a power of two, beyond which squares leave the range of fp32."""
    matrix = with_spectrum(200, 150, spectrum("power", 150), seed=0).float()
    near = truncation_certificates(top_singular(DenseRows(matrix), 10))
    far = truncation_certificates(top_singular(DenseRows(matrix * 2.0**exponent * 2.0**exponent), 10))
    for one, other in zip(near, far, strict=True):
        assert other.lost_bound == pytest.approx(one.lost_bound * 2.0 ** (4 * exponent), rel=1e-3)
        assert other.update_error_bound == pytest.approx(one.update_error_bound, rel=1e-3)
