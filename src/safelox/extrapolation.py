"""One matrix: decompose its delta, add the extrapolated part to W_aligned, and hand out the rows of the result."""

import math
from collections.abc import Callable

import numpy
import torch

from safelox.delta import DeltaRows
from safelox.engine import Decompose
from safelox.errors import CheckpointError
from safelox.lowrank import LowRank, block_bounds
from safelox.manifest import MatrixRecord, Route
from safelox.methods import Lox
from safelox.steps import Step, find_step, finite_norm

BITS = {8: torch.int64, 4: torch.int32, 2: torch.int16}
"""Integers as wide as a value, by its bytes: equal bits are cheaper to count than equal values."""

Write = Callable[[int, torch.Tensor], None]
"""Takes the number of a row and the rows of the result from there on: contiguous, on the CPU, valid till it returns."""


def extrapolate(delta: DeltaRows, method: Lox, decompose: Decompose, dtype: torch.dtype, write: Write) -> MatrixRecord:
    """Write W_aligned + coef * (rank-k part of the delta), row block by row block, and return what was done.

    A control adds a step of its own, and the record tells of the part that gave the step its length. The sum is formed
    in fp32 (in fp64 where a model is stored in it) and rounded once, to `dtype`.

    Raises:
        CheckpointError: a value of a model is not finite, or one of the result would not be.
    """
    part, route = find_part(delta, method, decompose)
    return add_part(delta, part, route, method, dtype, write)


def find_part(delta: DeltaRows, method: Lox, decompose: Decompose) -> tuple[LowRank | None, Route]:
    """The part of the delta that is extrapolated, None for the whole of it, and the route by which it was found.

    Raises:
        CheckpointError: a value of a model is not finite.
    """
    if method.rank == "full":
        return None, "full"
    if method.takes_whole(*delta.shape):
        return None, "whole"
    return decompose(delta, method.rank)


def add_part(
    delta: DeltaRows, part: LowRank | None, route: Route, method: Lox, dtype: torch.dtype, write: Write | None
) -> MatrixRecord:
    """Add the step of a method to W_aligned, write the sum, or only count what it changes, and return what was done.

    Args:
        part: what `find_part` has found for the method; None for the whole delta.
        dtype: to which the sum is rounded.

    Raises:
        CheckpointError: as `extrapolate`.
    """
    result = _Result(delta, part, find_step(delta, part, method), method.coef, dtype)
    for start, stop in block_bounds(*delta.shape):
        rows = result.rows(start, stop)
        if write is not None:
            result.refuse_overflow(rows)
            write(start, rows.cpu())
    return result.record(route)


def _count_different(one: torch.Tensor, other: torch.Tensor) -> int:
    """How many values of two tensors of one dtype have different bits."""
    bits = BITS[one.dtype.itemsize]
    if one.device.type == "cpu":  # numpy compares and counts several times as fast as torch
        return int(numpy.count_nonzero(one.view(bits).numpy() != other.view(bits).numpy()))
    return int(torch.count_nonzero(one.view(bits) != other.view(bits)))


def too_large(label: str, dtype: torch.dtype) -> CheckpointError:
    """The error of a value of the result that is beyond the largest of its dtype."""
    way_out = "Use --dtype bf16 or fp32." if dtype == torch.float16 else "Use a smaller --coef."
    return CheckpointError(
        f"tensor {label}: a value of the result is beyond {torch.finfo(dtype).max:.6g}, the largest of "
        f"{str(dtype).removeprefix('torch.')}. {way_out}"
    )


class _Result:
    """The rows of one hardened matrix, and what is counted on the way."""

    def __init__(
        self, delta: DeltaRows, decomposition: LowRank | None, step: Step, coef: float, dtype: torch.dtype
    ) -> None:
        self.delta = delta
        self.decomposition = decomposition
        self.step = step
        self.coef = coef
        self.dtype = dtype
        self.changed = 0
        self._weight_norms: list[float] = []
        _, height = next(block_bounds(*delta.shape))
        size = (height, delta.shape[1])
        self._sum = torch.empty(size, dtype=delta.working, device=delta.device)
        self._rounded = torch.empty(size, dtype=dtype, device=delta.device)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        stored = self.delta.aligned(start, stop)
        total, rounded = self._sum[: stop - start], self._rounded[: stop - start]
        total.copy_(stored)
        self._weight_norms.append(finite_norm(total, self.delta.matrix.label))
        kept = stored if stored.dtype == self.dtype else stored.to(self.dtype)
        if self.step.add(total, start, stop):
            rounded.copy_(total)
            self._keep_unknown_tokens(rounded, kept, start, stop)
            self.changed += _count_different(rounded, kept)
        else:
            rounded.copy_(kept)
        return rounded

    def refuse_overflow(self, rows: torch.Tensor) -> None:
        """Raise CheckpointError if a value of the rows that `rows` gave last is beyond the largest of its dtype."""
        # No entry of a matrix is larger than its norm, so that most blocks need not be looked at. No step, of LoX or of
        # a control, is longer than coef * delta.
        bound = self._weight_norms[-1] + self.coef * self.step.delta_norm
        if bound > torch.finfo(self.dtype).max and not bool(rows.isfinite().all()):
            raise too_large(self.delta.matrix.label, self.dtype)

    def _keep_unknown_tokens(self, rounded: torch.Tensor, kept: torch.Tensor, start: int, stop: int) -> None:
        row_map = self.delta.matrix.row_map
        if row_map is not None:
            unknown = (row_map[start:stop] < 0).to(rounded.device)
            rounded[unknown] = kept[unknown]

    def record(self, route: Route) -> MatrixRecord:
        matrix, decomposition = self.delta.matrix, self.decomposition
        rank: int | None = None
        values: tuple[float, ...] = ()
        update_error: float | None = 0.0
        if decomposition is None:
            energy = self.step.delta_norm**2
            captured, lost, failure, sweeps = energy, 0.0, 0.0, 1
        else:
            certificate = decomposition.certificate
            energy, captured = certificate.energy, certificate.captured
            rank, values = decomposition.rank, tuple(map(float, decomposition.singular_values))
            lost, update_error = certificate.lost_bound, certificate.update_error_bound
            failure, sweeps = certificate.failure_probability, certificate.sweeps
        return MatrixRecord(
            name=matrix.name,
            expert=matrix.expert,
            rows=matrix.rows,
            columns=matrix.columns,
            route=route if energy else "zero",
            rank=rank,
            singular_values=values,
            delta_norm=math.sqrt(energy),
            weight_norm=math.hypot(*self._weight_norms),
            energy_kept=captured / energy if energy else math.nan,
            energy_lost_bound=lost / energy if energy else 0.0,
            update_error_bound=update_error,
            failure_probability=failure,
            sweeps=sweeps,
            entries=matrix.rows * matrix.columns,
            entries_changed=self.changed,
        )
