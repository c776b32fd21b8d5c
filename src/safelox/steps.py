"""What is added to the rows of W_aligned: the step of LoX, or that of a control, which is as long as LoX's."""

import hashlib
import math
from typing import Protocol

import torch

from safelox.delta import DeltaRows
from safelox.engine import not_finite
from safelox.lowrank import LowRank, block_bounds
from safelox.lowrank.algebra import orthonormal_rows
from safelox.methods import Control, ControlName, Lox
from safelox.pairing import Matrix

COLUMN_MULTIPLE = 8
"""Thin products are fastest with a multiple of so many columns; others are filled up with zeros, which add nothing."""


class Step(Protocol):
    """A matrix of the shape of the delta, which is added to W_aligned block by block and never held whole."""

    @property
    def delta_norm(self) -> float:
        """Frobenius norm of the delta; only of the rows asked for so far, where it is found on the way."""

    def add(self, total: torch.Tensor, start: int, stop: int) -> bool:
        """Add rows start..stop of the step, one of `block_bounds`, to `total`; whether there was anything to add.

        Each is asked for once.
        """


def find_step(delta: DeltaRows, part: LowRank | None, method: Lox) -> Step:
    """The step of a method at one matrix.

    Args:
        part: the leading directions that the method asks for, None for the whole delta.

    Raises:
        CheckpointError: a value of the delta is not finite.
    """
    if isinstance(method, Control):
        return _control_step(delta, part, method)
    if part is None:
        return _DeltaStep(delta, method.coef)
    norm = math.sqrt(part.certificate.energy)
    return _FactorStep(delta, part.left, part.right, method.coef if norm else 0.0, norm)


def _control_step(delta: DeltaRows, part: LowRank | None, control: Control) -> Step:
    """A step as long as coef * part."""
    delta_norm = _norm(delta)  # in fp64, since that of a certificate need not be exact to more than 1e-5
    length = control.coef * (delta_norm if part is None else _product_norm(part.left, part.right))
    if not length:
        return _DeltaStep(delta, 0.0)
    if control.name == "full-rank":
        return _DeltaStep(delta, length / delta_norm)
    if control.name == "noise":
        return _NoiseStep(delta, control, length, delta_norm)
    left, right = _random_projection(delta, control)
    return _FactorStep(delta, left, right, length / _product_norm(left, right), delta_norm)


class _FactorStep:
    """scale * left @ right, of (rows, k) and (k, columns)."""

    def __init__(
        self, delta: DeltaRows, left: torch.Tensor, right: torch.Tensor, scale: float, delta_norm: float
    ) -> None:
        self.delta_norm = delta_norm
        self._scale = scale
        left, right = _padded(left, right)
        self._left, self._right = left.to(delta.working), right.to(delta.working)

    def add(self, total: torch.Tensor, start: int, stop: int) -> bool:
        if self._scale:
            total.addmm_(self._left[start:stop], self._right, alpha=self._scale)
        return self._scale != 0


class _DeltaStep:
    """scale * delta."""

    def __init__(self, delta: DeltaRows, scale: float) -> None:
        self._delta = delta
        self._scale = scale
        self._norms: list[float] = []

    @property
    def delta_norm(self) -> float:
        return math.hypot(*self._norms)

    def add(self, total: torch.Tensor, start: int, stop: int) -> bool:
        change = self._delta.block(start, stop)
        norm = finite_norm(change, self._delta.matrix.label)
        self._norms.append(norm)
        if norm and self._scale:
            total.add_(change, alpha=self._scale)
        return norm != 0 and self._scale != 0


class _NoiseStep:
    """A Gaussian matrix that is `length` long."""

    def __init__(self, delta: DeltaRows, control: Control, length: float, delta_norm: float) -> None:
        self.delta_norm = delta_norm
        self._delta = delta
        self._control = control
        norms = [_norm64(self._block(*bounds)) for bounds in block_bounds(*delta.shape)]
        self._scale = length / math.hypot(*norms)

    def add(self, total: torch.Tensor, start: int, stop: int) -> bool:
        total.add_(self._block(start, stop), alpha=self._scale)
        return True

    def _block(self, start: int, stop: int) -> torch.Tensor:
        """Rows of the matrix before it is scaled; made anew whenever they are asked for."""
        matrix = self._delta.matrix
        noise = normals(matrix, self._control.name, self._control.seed, (stop - start, matrix.columns), start)
        if matrix.row_map is not None:
            noise[matrix.row_map[start:stop] < 0] = 0.0
        return noise.to(self._delta.device)


def _random_projection(delta: DeltaRows, control: Control) -> tuple[torch.Tensor, torch.Tensor]:
    """Q and Q^T D: the delta projected onto a random subspace of its columns' space, that of the rows BASE knows.

    It has as many dimensions as LoX has directions, or as there are rows, where these are fewer.
    """
    matrix = delta.matrix
    assert control.rank != "full", "refused by Control"
    width = min(control.rank, matrix.rows)
    draw = normals(matrix, control.name, control.seed, (width, matrix.rows))
    if matrix.row_map is not None:
        draw[:, matrix.row_map < 0] = 0.0
    basis = orthonormal_rows(draw.to(delta.device))
    right = torch.zeros(len(basis), matrix.columns, device=delta.device)
    for start, stop in block_bounds(*delta.shape):
        right.addmm_(basis[:, start:stop], delta.block(start, stop))
    return basis.T.contiguous(), right


def normals(matrix: Matrix, name: ControlName, seed: int, shape: tuple[int, int], first: int = 0) -> torch.Tensor:
    """Standard normal numbers, fp32, on the CPU, which depend on nothing but what is named here.

    Args:
        matrix: of which the name and the shape count.
        first: the number of the first row, where the numbers are drawn block by block.
    """
    text = f"{seed}\n{name}\n{matrix.seed_name}\n{matrix.rows}x{matrix.columns}\n{first}"
    digest = hashlib.sha256(text.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return torch.randn(shape, generator=generator)


def _padded(left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, k) and (k, columns) with k filled up to a multiple of COLUMN_MULTIPLE by zeros."""
    missing = -left.shape[1] % COLUMN_MULTIPLE
    if not missing:
        return left, right
    return torch.nn.functional.pad(left, (0, missing)), torch.nn.functional.pad(right, (0, 0, 0, missing))


def _norm(delta: DeltaRows) -> float:
    """Frobenius norm of the whole delta.

    Raises:
        CheckpointError: a value is not finite.
    """
    norm = math.hypot(*(_norm64(delta.block(*bounds)) for bounds in block_bounds(*delta.shape)))
    if not math.isfinite(norm):
        raise not_finite(delta.matrix.label)
    return norm


def _product_norm(left: torch.Tensor, right: torch.Tensor) -> float:
    """Frobenius norm of left @ right, of (rows, k) and (k, columns), without forming it."""
    left, right = left.double(), right.double()
    return math.sqrt(float(((left.T @ left) * (right @ right.T)).sum()))


def _norm64(values: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(values, dtype=torch.float64))


def finite_norm(values: torch.Tensor, label: str) -> float:
    """The Frobenius norm, also where squares leave the range of fp32.

    Raises:
        CheckpointError: a value is not finite.
    """
    norm = float(torch.linalg.vector_norm(values))
    if not 1e-15 < norm < 1e15:
        norm = _norm64(values)
    if not math.isfinite(norm):
        raise not_finite(label)
    return norm
