"""Rates and their intervals."""

import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safelox.evaluation.intervals import rate, rates, wilson_interval
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
