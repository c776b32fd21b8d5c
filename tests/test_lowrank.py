"""The decomposition against a full SVD in fp64, and the certificate against what it promises."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safelox.lowrank import Certificate, DenseRows, LowRank, block_bounds, top_singular
from safelox.lowrank import exact as exact_module
from safelox.lowrank.certificate import (
    ENERGY_TOLERANCE_KEPT,
    ENERGY_TOLERANCE_TOTAL,
    GAP,
    UPDATE_TOLERANCE,
    eigenvalue_bound,
    smallest_probe_weight,
)
from safelox.lowrank.exact import factored_svd, gram_route
from safelox.lowrank.krylov import Krylov

RANK = 6


def orthogonal(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    basis: torch.Tensor = torch.linalg.qr(torch.randn(rows, columns, generator=generator, dtype=torch.float64))[0]
    return basis


def with_spectrum(rows: int, columns: int, values: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """(rows, columns), fp32, with these singular values and no others."""
    generator = torch.Generator().manual_seed(seed)
    left = orthogonal(rows, len(values), generator)
    right = orthogonal(columns, len(values), generator)
    return ((left * values.double()) @ right.T).float()


def spectrum(kind: str, count: int) -> torch.Tensor:
    index = torch.arange(1, count + 1, dtype=torch.float64)
    return {
        "power": 1 / index,
        "geometric": 0.9**index,
        "bulk": torch.cat([4 / index[:8], torch.linspace(0.4, 0.01, count - 8, dtype=torch.float64)]),
        "step": torch.where(index <= RANK, 1.0, 0.94),
        "tie": torch.where(index <= RANK + 2, 1.0, 0.5),
        "flat": torch.linspace(1.0, 0.99, count, dtype=torch.float64),
        "ill-scaled": 10.0 ** (-index / 2),
    }[kind]


@dataclass(frozen=True)
class Truth:
    """What a full SVD in fp64 says of a result."""

    energy: float
    optimal: float
    captured: float
    error: float
    gap: float

    @property
    def lost(self) -> float:
        return self.optimal - self.captured


def judge(matrix: torch.Tensor, result: LowRank) -> Truth:
    dense, rank = matrix.double(), result.rank
    u, s, vh = torch.linalg.svd(dense, full_matrices=False)
    best = (u[:, :rank] * s[:rank]) @ vh[:rank]
    found = result.left.double() @ result.right.double()
    span = torch.linalg.qr(result.right.double().T)[0]
    following = float(s[rank]) if rank < len(s) else 0.0
    return Truth(
        energy=float(s.square().sum()),
        optimal=float(s[:rank].square().sum()),
        captured=float(torch.linalg.vector_norm(dense @ span) ** 2),
        error=float(torch.linalg.vector_norm(found - best) / torch.linalg.vector_norm(best).clamp(min=1e-300)),
        gap=(float(s[rank - 1]) - following) / float(s[rank - 1]) if float(s[rank - 1]) else 0.0,
    )


def check(matrix: torch.Tensor, result: LowRank) -> Truth:
    """The bars that hold for every matrix."""
    truth, certificate = judge(matrix, result), result.certificate
    rounding = 1e-9 * truth.energy
    assert truth.lost <= min(ENERGY_TOLERANCE_TOTAL * truth.energy, ENERGY_TOLERANCE_KEPT * truth.optimal) + rounding
    assert truth.lost <= certificate.lost_bound + rounding
    assert certificate.energy == pytest.approx(truth.energy, rel=1e-4)
    if truth.gap >= GAP:
        assert truth.error < 1e-3
    if certificate.update_error_bound is not None:
        assert truth.error <= certificate.update_error_bound + 2e-6
    gram = result.right.double() @ result.right.double().T
    assert torch.allclose(gram, torch.eye(result.rank, dtype=torch.float64), atol=1e-5)
    return truth


@pytest.mark.parametrize("kind", ["power", "geometric", "bulk", "step", "tie", "flat", "ill-scaled"])
@pytest.mark.parametrize("shape", [(300, 420), (420, 300), (700, 160)], ids=str)
def test_any_spectrum_meets_the_tolerances(kind: str, shape: tuple[int, int]) -> None:
    matrix = with_spectrum(*shape, spectrum(kind, min(shape)))
    check(matrix, top_singular(DenseRows(matrix), RANK, name=kind))


@pytest.mark.parametrize("rank", [1, 3, 16, 100, 159, 160])
def test_any_rank(rank: int) -> None:
    matrix = with_spectrum(200, 160, spectrum("power", 160))
    truth = check(matrix, top_singular(DenseRows(matrix), rank))
    assert truth.captured == pytest.approx(truth.optimal, rel=1e-4)


@given(
    rows=st.integers(1, 200),
    columns=st.integers(1, 200),
    rank=st.integers(1, 12),
    true_rank=st.integers(0, 20),
    exponent=st.integers(-30, 25),
    seed=st.integers(0, 2**20),
)
@settings(max_examples=60, deadline=None)
def test_any_shape_true_rank_and_scale(
    rows: int, columns: int, rank: int, true_rank: int, exponent: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    inner = min(true_rank, rows, columns)
    unit = torch.randn(rows, inner, generator=generator) @ torch.randn(inner, columns, generator=generator)
    matrix = unit * 10.0**exponent
    rank = min(rank, rows, columns)
    result = top_singular(DenseRows(matrix), rank, seed=seed)
    assert result.left.shape == (rows, rank)
    assert result.right.shape == (rank, columns)
    if inner == 0:
        assert result.certificate == Certificate("svd", 0.0, 0.0, 0.0, 0.0, 0.0, 1)
        assert not result.left.any()
    else:
        scaled = LowRank(result.left / 10.0**exponent, result.singular_values, result.right, result.certificate)
        truth = judge(unit, scaled)
        assert truth.lost <= 1e-5 * truth.energy
        if truth.gap >= GAP:
            assert truth.error < 1e-3


def test_a_direction_that_the_space_missed_is_not_overlooked(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but one of 4,096 rows are noise that the start sees; the largest direction lives in the row it does not."""
    generator = torch.Generator().manual_seed(0)
    matrix = with_spectrum(4096, 160, spectrum("geometric", 160))
    hidden = orthogonal(160, 1, generator)[:, 0].float()
    matrix -= (matrix @ hidden)[:, None] * hidden  # nothing of it is left in the other rows
    matrix[1] = 3 * hidden
    krylov = Krylov(DenseRows(matrix), RANK, torch.Generator().manual_seed(1))
    start = krylov._start()
    start -= (start @ hidden)[:, None] * hidden
    monkeypatch.setattr(krylov, "_start", lambda: start)
    krylov._draw_probes(start)
    krylov._extend(start)
    first = krylov._certified()
    assert first is None, "residuals alone would have been content: the start is nearly invariant"
    assert krylov.mu > 9 / 2, "the probes see an eigenvalue of about 9 outside the space"
    check(matrix, top_singular(DenseRows(matrix), RANK))


def test_residuals_alone_would_have_accepted_it() -> None:
    """The control of the test above: the space is invariant up to rounding, and still it lacks the top direction."""
    values = spectrum("geometric", 160)
    generator = torch.Generator().manual_seed(0)
    left, right = orthogonal(300, 160, generator), orthogonal(160, 160, generator)
    matrix = ((left * values) @ right.T).float()
    krylov = Krylov(DenseRows(matrix), RANK, torch.Generator().manual_seed(1))
    invariant = right[:, 1:17].T.float().contiguous()  # the second to the seventeenth direction
    krylov._draw_probes(invariant)
    krylov._extend(invariant)
    krylov._certified()
    residual = krylov.images - (krylov.images @ invariant.T) @ invariant
    assert float(residual.norm()) < 1e-5
    assert krylov.mu >= float(values[0] ** 2) * (1 - 1e-6)


def test_the_eigenvalue_bound_holds_and_is_not_idle() -> None:
    values = torch.linspace(1.0, 0.2, 300, dtype=torch.float64)
    for seed in range(20):
        probes = torch.randn(300, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for power in (1, 2, 4):
            powered = values[:, None] ** power * probes
            bound = eigenvalue_bound(float(torch.linalg.matrix_norm(powered, 2)), power, 16)
            assert 1.0 <= bound <= (40 / math.sqrt(smallest_probe_weight(16))) ** (1 / power)


def test_probe_weight_is_the_quantile_of_a_chi_squared_variable() -> None:
    # With 2 degrees of freedom the distribution is exponential: P(X < x) = 1 - exp(-x / 2).
    assert smallest_probe_weight(2) == pytest.approx(-2 * math.log1p(-1e-9), rel=1e-6)
    assert smallest_probe_weight(4) < smallest_probe_weight(8) < smallest_probe_weight(16) < 1


def test_gram_route_both_ways() -> None:
    for shape in ((300, 180), (180, 300)):
        matrix = with_spectrum(*shape, spectrum("flat", 180))
        result = gram_route(DenseRows(matrix), RANK, sweeps=0)
        assert result.certificate.route == "gram"
        assert result.certificate.failure_probability == 0.0
        check(matrix, result)


@pytest.mark.parametrize("rank", [RANK, 40])
@pytest.mark.parametrize("kind", ["flat", "wide", "equal", "few", "steep"])
def test_leading_vectors_of_a_large_gram_matrix_are_as_good_as_those_of_all(
    monkeypatch: pytest.MonkeyPatch, kind: str, rank: int
) -> None:
    values = {
        "flat": spectrum("flat", 300),
        "wide": spectrum("flat", 300),
        "equal": torch.full((300,), 0.3, dtype=torch.float64),
        "few": torch.cat([torch.logspace(0, -2, 10), torch.zeros(290)]).double(),
        "steep": torch.cat([torch.logspace(3, 1, 10), torch.linspace(1, 0.8, 290)]).double(),
    }[kind]
    matrix = with_spectrum(*((300, 420) if kind == "wide" else (420, 300)), values)
    whole = gram_route(DenseRows(matrix), rank, sweeps=0)
    monkeypatch.setattr(exact_module, "LARGE", 299)
    monkeypatch.setattr(torch.linalg, "eigh", refuse_large(torch.linalg.eigh, 299))
    found = gram_route(DenseRows(matrix), rank, sweeps=0)
    assert found.certificate.captured == pytest.approx(whole.certificate.captured, rel=2e-5)
    assert found.certificate.lost_bound <= whole.certificate.lost_bound + 1e-4 * whole.certificate.captured
    assert torch.equal(found.left, gram_route(DenseRows(matrix), rank, sweeps=0).left)
    check(matrix, found)


def refuse_large(function: Any, size: int) -> Any:
    """The function, which may not be called with matrices as large as `size`."""

    def call(matrix: torch.Tensor) -> Any:
        assert len(matrix) < size
        return function(matrix)

    return call


def test_flat_spectra_take_an_exact_route_and_decaying_ones_do_not() -> None:
    flat = torch.randn(1200, 1000, generator=torch.Generator().manual_seed(0))
    assert top_singular(DenseRows(flat), RANK).certificate.route == "gram"
    decaying = with_spectrum(500, 400, spectrum("power", 400))
    assert top_singular(DenseRows(decaying), RANK).certificate.route == "krylov"


def test_factors_are_decomposed_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(90, 8, generator=generator), torch.randn(8, 70, generator=generator)
    check(left @ right, factored_svd(left, right, 5))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("shape", [(50, 40), (500, 400)], ids=str)
def test_a_value_that_is_not_finite_is_an_error(value: float, shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    matrix[17, 11] = value
    with pytest.raises(ValueError, match="not finite"):
        top_singular(DenseRows(matrix), RANK)


@pytest.mark.parametrize("rank", [0, -1, 41])
def test_a_rank_out_of_range_is_an_error(rank: int) -> None:
    with pytest.raises(ValueError, match="1 to 40"):
        top_singular(DenseRows(torch.zeros(50, 40)), rank)


@pytest.mark.parametrize("scale", [1e-35, 1e-25, 1e12, 1e30])
def test_extreme_scales_change_nothing_but_the_scale(scale: float) -> None:
    matrix = with_spectrum(300, 200, spectrum("power", 200))
    exponent = round(math.log2(scale))
    plain = top_singular(DenseRows(matrix), RANK)
    scaled = top_singular(DenseRows(matrix * 2.0**exponent), RANK)
    assert torch.allclose(scaled.singular_values, plain.singular_values * 2.0**exponent, rtol=1e-5)
    assert scaled.certificate.energy == pytest.approx(plain.certificate.energy * 4.0**exponent, rel=1e-5)
    assert scaled.certificate.update_error_bound is not None
    assert scaled.certificate.update_error_bound <= UPDATE_TOLERANCE


@dataclass
class Poisoned:
    """Row blocks that spoil what they handed out at the next call, as a reused buffer would."""

    values: torch.Tensor
    last: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    @property
    def device(self) -> torch.device:
        return self.values.device

    def block(self, start: int, stop: int, step: int = 1) -> torch.Tensor:
        if self.last is not None:
            self.last.fill_(1e6)
        self.last = self.values[start:stop:step].clone()
        return self.last


@pytest.mark.parametrize("kind", ["power", "flat", "tie"])
def test_blocks_are_not_used_after_the_next_one_was_asked_for(kind: str) -> None:
    for shape in ((900, 150), (150, 900), (100, 90)):
        matrix = with_spectrum(*shape, spectrum(kind, min(shape)))
        plain, poisoned = top_singular(DenseRows(matrix), RANK), top_singular(Poisoned(matrix), RANK)
        assert torch.equal(plain.left, poisoned.left)
        assert torch.equal(plain.right, poisoned.right)


def test_the_start_depends_on_seed_name_and_shape_alone() -> None:
    matrix = with_spectrum(300, 200, spectrum("bulk", 200))
    first = top_singular(DenseRows(matrix), RANK, name="a", seed=1)
    torch.manual_seed(99)
    assert torch.equal(first.right, top_singular(DenseRows(matrix), RANK, name="a", seed=1).right)
    assert not torch.equal(first.right, top_singular(DenseRows(matrix), RANK, name="b", seed=1).right)
    assert not torch.equal(first.right, top_singular(DenseRows(matrix), RANK, name="a", seed=2).right)


@given(rows=st.integers(1, 5000), columns=st.integers(1, 200_000))
def test_blocks_cover_every_row_once(rows: int, columns: int) -> None:
    bounds = list(block_bounds(rows, columns))
    assert bounds[0][0] == 0
    assert bounds[-1][1] == rows
    assert all(first[1] == second[0] for first, second in pairwise(bounds))
