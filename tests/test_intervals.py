"""Rates and their intervals."""

import math
from fractions import Fraction
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safelox.evaluation.intervals import mcnemar, paired_difference, rate, rates, wilson_interval
from safelox.evaluation.outcomes import Outcome


@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (1, 1000, 0.00018, 0.00564)],
)
def test_the_wilson_interval_has_its_known_values(count: int, n: int, low: float, high: float) -> None:
    assert list(wilson_interval(count, n)) == pytest.approx([low, high], abs=1e-4)


@given(st.integers(1, 2000), st.data())
def test_the_wilson_interval_solves_its_equation(n: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, n))
    low, high = wilson_interval(count, n)
    share = count / n
    assert 0 <= low <= share <= high <= 1
    for bound in (low, high):
        assert (share - bound) ** 2 == pytest.approx(1.959963984540054**2 * bound * (1 - bound) / n, abs=1e-9)


def test_a_rate_of_nothing_is_nan() -> None:
    nothing = rate(0, 0)
    assert math.isnan(nothing.value)
    assert math.isnan(nothing.low)
    assert math.isnan(nothing.high)
    assert (nothing.count, nothing.n) == (0, 0)


@pytest.mark.parametrize(("count", "n"), [(-1, 3), (4, 3)])
def test_an_impossible_count_is_an_error(count: int, n: int) -> None:
    with pytest.raises(ValueError, match="no rate"):
        rate(count, n)


def test_rates_name_every_outcome() -> None:
    found = rates(["complied", "refused", "refused", "incoherent"])
    assert set(found) == set(get_args(Outcome))
    assert {name: r.count for name, r in found.items() if r.count} == {"complied": 1, "refused": 2, "incoherent": 1}
    assert all(r.n == 4 for r in found.values())


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 5, 1.0), (0, 5, 0.0625), (0, 6, 0.03125), (1, 9, 0.021484375)],
)
def test_the_mcnemar_test_has_its_known_values(only_first: int, only_second: int, p_value: float) -> None:
    assert mcnemar(only_first, only_second) == pytest.approx(p_value, rel=1e-4)


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_mcnemar_test_sums_every_split_as_unlikely_or_more(only_first: int, only_second: int) -> None:
    tosses, extreme = only_first + only_second, abs(only_first - only_second)
    sides = [math.comb(tosses, heads) for heads in range(tosses + 1) if abs(tosses - 2 * heads) >= extreme]
    assert mcnemar(only_first, only_second) == pytest.approx(float(Fraction(sum(sides), 2**tosses)))
    assert mcnemar(only_first, only_second) == mcnemar(only_second, only_first)


def test_the_mcnemar_test_stands_large_counts() -> None:
    assert mcnemar(4_000, 4_000) == 1.0
    assert mcnemar(0, 5_000) == 0.0  # 2 ** -4999 is beyond a float


def _pairs(both: int, only_first: int, only_second: int, neither: int) -> tuple[list[bool], list[bool]]:
    first = [True] * (both + only_first) + [False] * (only_second + neither)
    second = [True] * both + [False] * only_first + [True] * only_second + [False] * neither
    return first, second


@pytest.mark.parametrize(
    ("cells", "value", "low", "high"),
    [
        # Newcombe (1998), Statistics in Medicine 17, 2635-2650, method 10.
        ((36, 12, 2, 0), 0.2000, 0.0569, 0.3404),
        ((20, 12, 2, 16), 0.2000, 0.0562, 0.3290),
        ((0, 12, 2, 36), 0.2000, 0.0569, 0.3404),
    ],
)
def test_the_interval_of_a_paired_difference_has_its_published_values(
    cells: tuple[int, int, int, int], value: float, low: float, high: float
) -> None:
    both, only_second, only_first, neither = cells  # there, the difference is first less second
    found = paired_difference(*_pairs(both, only_first, only_second, neither))
    assert [found.value, found.low, found.high] == pytest.approx([value, low, high], abs=1e-3)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=80))
def test_a_paired_difference_is_that_of_the_rates(pairs: list[tuple[bool, bool]]) -> None:
    first, second = [one for one, _ in pairs], [two for _, two in pairs]
    found = paired_difference(first, second)
    assert found.both + found.only_first + found.only_second + found.neither == len(pairs)
    if not pairs:
        assert math.isnan(found.value)
        assert math.isnan(found.low)
        assert found.p_value == 1.0
        return
    assert found.value == pytest.approx((sum(second) - sum(first)) / len(pairs))
    assert -1 <= found.low <= found.value <= found.high <= 1
    turned = paired_difference(second, first)
    assert (turned.value, turned.low, turned.high) == pytest.approx((-found.value, -found.high, -found.low))
    assert turned.p_value == found.p_value


def test_a_paired_difference_needs_pairs() -> None:
    with pytest.raises(ValueError, match="zip"):
        paired_difference([True], [])
