"""Whether the written values of a matrix agree with a reference."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from safelox.verification.reference import Reference, Sides

GAP = 0.05
"""`Reference.gap` from which the part is well enough defined for its entries to be compared."""
NEAREST_SHARE = 0.99
"""Share of entries that have to be the stored type's nearest to the reference, in types of 16 bits."""
ERROR = 1e-3
"""Relative Frobenius error allowed of the update in wider types; of its energy where entries cannot be compared."""
_BLOCK_ENTRIES = 1 << 22


@dataclass(frozen=True)
class Written:
    """One matrix of the result."""

    dtype: torch.dtype
    """Of the stored values."""
    read: Callable[[int, int], Tensor]
    """Rows start..stop: of the stored matrix, or, for an adapter, of the product of its factors."""
    holds: Literal["weights", "update", "delta and update"] = "weights"
    """What the extrapolated part was added to: W_aligned; nothing, in an adapter for ALIGNED; or W_aligned - W_base, in
    an adapter that takes the place of ALIGNED's own. The latter two are stored as factors."""

    @property
    def factored(self) -> bool:
        return self.holds != "weights"

    def start(self, aligned: Tensor, delta: Tensor) -> Tensor:
        """What the extrapolated part was added to, for some rows of W_aligned and of the delta."""
        return {"weights": aligned, "update": torch.zeros_like(delta), "delta and update": delta}[self.holds]


@dataclass
class Agreement:
    """Sums over the entries of one matrix; norms are Frobenius norms, squared.

    The extrapolated part is (written - what it was added to) / coef; it holds what rounding did to it.
    """

    reference: Reference
    coef: float
    written: Written
    entries: int = 0
    nearest: int = 0
    """Entries that are the reference's, rounded to the stored type."""
    far: int = 0
    """Entries more than one step from that."""
    error: float = 0.0
    """||written - reference||^2."""
    update: float = 0.0
    """||coef * part||^2."""
    expected: float = 0.0
    """||reference||^2."""
    delta: float = 0.0
    captured: float = 0.0
    """<extrapolated, delta>: the energy of the extrapolated part, if that is a projection of the delta."""
    extrapolated: float = 0.0
    captured_by_reference: float = 0.0
    """The same two for the reference, rounded as the result is."""
    extrapolated_by_reference: float = 0.0

    def add(self, first: int, aligned: Tensor, delta: Tensor, stored: Tensor) -> None:
        """Take the rows from `first` on into account: of W_aligned and the delta (fp64), and as they were written."""
        update = self.coef * self.reference.part(delta, first)
        start = self.written.start(aligned, delta)
        expected, values = start + update, stored.to(torch.float64)
        rounded = expected
        self.entries += stored.numel()
        if not self.written.factored:
            nearest = expected.to(self.written.dtype)
            rounded = nearest.to(torch.float64)
            self.nearest += int((stored == nearest).sum())
            self.far += count_far(stored, nearest, torch.maximum(start.abs(), update.abs()))
        self.error += _energy(values - expected)
        self.update += _energy(update)
        self.expected += _energy(expected)
        self.delta += _energy(delta)
        if self.coef:
            extrapolated, reference = (values - start) / self.coef, (rounded - start) / self.coef
            self.captured += float((extrapolated * delta).sum())
            self.extrapolated += _energy(extrapolated)
            self.captured_by_reference += float((reference * delta).sum())
            self.extrapolated_by_reference += _energy(reference)

    @property
    def rounding(self) -> float:
        """Upper bound of the norm of what rounding changes: half a step of every entry, or of every entry of both of
        two factors of which one is orthonormal and the other orthogonal."""
        steps = 1.0 if self.written.factored else 0.5
        return steps * torch.finfo(self.written.dtype).eps * math.sqrt(self.expected)

    def problem(self) -> str | None:
        """What is wrong, None if nothing is.

        Entries have to agree; where the reference is not well defined, since other directions would do as well, it is
        enough that the energies do.
        """
        problem = self._entries_problem()
        if problem is not None and self.coef and self.reference.gap < GAP:
            return self._energy_problem(self.rounding / self.coef)
        return problem

    def _entries_problem(self) -> str | None:
        if self.written.factored or self.written.dtype.itemsize > 2:
            if math.sqrt(self.error) > ERROR * math.sqrt(self.update) + self.rounding:
                return f"differs from the reference by {self.difference:.1e} of the extrapolated part"
        elif self.far:
            return f"has {self.far} entries more than one step from the reference"
        elif self.nearest < NEAREST_SHARE * self.entries:
            return f"has only {self.nearest / self.entries:.2%} of its entries at the value nearest to the reference"
        return None

    @property
    def difference(self) -> float:
        """||written - reference|| / ||coef * part||."""
        if not self.update:
            return math.inf if self.error else 0.0
        return math.sqrt(self.error / self.update)

    def _energy_problem(self, rounding: float) -> str | None:
        """Whether the part holds as much of the leading energy as the reference, and as little else.

        rounding: norm of its rounding errors.
        """
        # Other directions are rounded otherwise: four standard deviations of a sum of independent errors.
        allowed = ERROR * self.reference.energy + 4 * rounding * math.sqrt(self.delta / self.entries)
        surplus = self.captured - self.captured_by_reference
        beside = self.extrapolated - self.extrapolated_by_reference - surplus
        if abs(surplus) <= allowed and beside <= allowed:
            return None
        return (
            f"holds {self.share:.4f} of the leading directions' energy, the reference "
            f"{self.captured_by_reference / self.reference.energy:.4f}"
        )

    @property
    def share(self) -> float:
        """Energy of the extrapolated part, in terms of the leading directions'."""
        return self.captured / self.reference.energy

    def __str__(self) -> str:
        if self._entries_problem() is not None:
            gap = f"singular values at the cut differ by {self.reference.gap:.1%}"
            return f"{self.share:.4f} of the leading directions' energy; {gap}"
        if self.written.factored or self.written.dtype.itemsize > 2:
            return f"differs from the reference by {self.difference:.1e}"
        return f"{self.nearest / self.entries:.2%} of the entries nearest, {self.far} more than one step away"


def compare(sides: Sides, reference: Reference, coef: float, written: Written) -> Agreement:
    """Compare a matrix as it was written with what it should be: coef * the reference's part, added to its start."""
    agreement = Agreement(reference, coef, written)
    rows, columns = sides.matrix.rows, sides.matrix.columns
    height = max(1, _BLOCK_ENTRIES // max(1, columns))
    for start in range(0, rows, height):
        stop = min(start + height, rows)
        agreement.add(start, *sides.read(start, stop), written.read(start, stop))
    return agreement


def count_far(stored: Tensor, nearest: Tensor, size: Tensor) -> int:
    """Entries more than one step apart; a step leads to the neighbouring value of the stored type.

    Where a sum nearly cancels, a step of the small result is less than what adding the large numbers can be exact
    to: there one step at their `size` (fp64) is allowed.
    """
    apart = (_ordinal(stored) - _ordinal(nearest)).abs() > 1
    at_one = torch.full_like(size, torch.finfo(stored.dtype).eps)
    step = torch.where(size > 0, torch.ldexp(at_one, torch.frexp(size).exponent - 1), 0.0)
    distance = (stored.to(torch.float64) - nearest.to(torch.float64)).abs()
    return int((apart & (distance > step)).sum())


def _ordinal(values: Tensor) -> Tensor:
    """Number of each value among all of its floating-point type, 0 at zero: neighbours differ by 1."""
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[values.dtype.itemsize]
    bits = values.contiguous().view(integers).to(torch.int64)
    magnitude = bits & torch.iinfo(integers).max
    return torch.where(bits >= 0, magnitude, -magnitude)


def _energy(values: Tensor) -> float:
    return float(values.square().sum())
