"""One matrix: decompose its delta, add the extrapolated part to W_aligned, and hand out the rows of the result."""

import math
from collections.abc import Callable

import torch

from safelox.delta import DeltaRows
from safelox.engine import Decompose, not_finite
from safelox.errors import CheckpointError
from safelox.lowrank import LowRank, block_bounds
from safelox.manifest import MatrixRecord, Route
from safelox.methods import Lox, padded

BITS = {8: torch.int64, 4: torch.int32, 2: torch.int16}
"""Integers as wide as a value, by its bytes: equal bits are cheaper to count than equal values."""

Write = Callable[[int, torch.Tensor], None]
"""Takes the number of a row and the rows of the result from there on: contiguous, on the CPU, valid until it returns."""


def extrapolate(delta: DeltaRows, method: Lox, decompose: Decompose, dtype: torch.dtype, write: Write) -> MatrixRecord:
    """Write W_aligned + coef * (rank-k part of the delta), row block by row block, and return what was done.

    The sum is formed in fp32 (in fp64 where a model is stored in it) and rounded once, to `dtype`.

    Raises:
        CheckpointError: a value of a model is not finite, or one of the result would not be.
    """
    part, route = find_part(delta, method, decompose)
    return add_part(delta, part, route, method.coef, dtype, write)


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
    delta: DeltaRows, part: LowRank | None, route: Route, coef: float, dtype: torch.dtype, write: Write | None
) -> MatrixRecord:
    """Add coef * part to W_aligned, write the sum, or only count what it changes, and return what was done.

    Args:
        part: None for the whole delta.
        dtype: to which the sum is rounded.

    Raises:
        CheckpointError: as `extrapolate`.
    """
    result = _Result(delta, part, coef, dtype)
    for start, stop in block_bounds(*delta.shape):
        rows = result.rows(start, stop)
        if write is not None:
            _refuse_overflow(rows, delta.matrix.label)
            write(start, rows.cpu())
    return result.record(route)


def _refuse_overflow(rows: torch.Tensor, label: str) -> None:
    if rows.dtype == torch.float16 and not bool(rows.isfinite().all()):
        raise CheckpointError(
            f"tensor {label}: a value of the result is beyond 65504, the largest of fp16. Use --dtype bf16 or fp32."
        )


class _Result:
    """The rows of one hardened matrix, and what is counted on the way."""

    def __init__(self, delta: DeltaRows, decomposition: LowRank | None, coef: float, dtype: torch.dtype) -> None:
        self.delta = delta
        self.decomposition = decomposition
        self.coef = coef
        self.dtype = dtype
        self.changed = 0
        self._weight_norms: list[float] = []
        self._delta_norms: list[float] = []
        self._factors = None
        if decomposition is not None and decomposition.certificate.energy > 0:
            left, right = padded((decomposition.left, decomposition.right))
            self._factors = left.to(delta.working), right.to(delta.working)
        _, height = next(block_bounds(*delta.shape))
        size = (height, delta.shape[1])
        self._sum = torch.empty(size, dtype=delta.working, device=delta.device)
        self._rounded = torch.empty(size, dtype=dtype, device=delta.device)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        stored = self.delta.aligned(start, stop)
        total, rounded = self._sum[: stop - start], self._rounded[: stop - start]
        total.copy_(stored)
        self._weight_norms.append(float(torch.linalg.vector_norm(total)))
        kept = stored if stored.dtype == self.dtype else stored.to(self.dtype)
        if self._add(total, start, stop):
            rounded.copy_(total)
            self._keep_unknown_tokens(rounded, kept, start, stop)
            bits = BITS[self.dtype.itemsize]
            self.changed += int(torch.count_nonzero(rounded.view(bits) - kept.view(bits)))
        else:
            rounded.copy_(kept)
        return rounded

    def _add(self, total: torch.Tensor, start: int, stop: int) -> bool:
        """Add the extrapolated part of these rows; whether there was anything to add."""
        if self._factors is not None:
            if self.coef:
                left, right = self._factors
                total.addmm_(left[start:stop], right, alpha=self.coef)
            return self.coef != 0
        if self.decomposition is not None:
            return False
        change = self.delta.block(start, stop)
        norm = float(torch.linalg.vector_norm(change))
        if not math.isfinite(norm):
            raise not_finite(self.delta.matrix.label)
        self._delta_norms.append(norm)
        if norm and self.coef:
            total.add_(change, alpha=self.coef)
        return norm != 0 and self.coef != 0

    def _keep_unknown_tokens(self, rounded: torch.Tensor, kept: torch.Tensor, start: int, stop: int) -> None:
        row_map = self.delta.matrix.row_map
        if row_map is not None:
            unknown = (row_map[start:stop] < 0).to(rounded.device)
            rounded[unknown] = kept[unknown]

    def record(self, route: Route) -> MatrixRecord:
        matrix, decomposition = self.delta.matrix, self.decomposition
        if decomposition is None:
            energy = math.fsum(norm**2 for norm in self._delta_norms)
            rank, values, captured = None, (), energy
            lost, update_error, failure, sweeps = 0.0, 0.0, 0.0, 1
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
            weight_norm=math.sqrt(math.fsum(norm**2 for norm in self._weight_norms)),
            energy_kept=captured / energy if energy else math.nan,
            energy_lost_bound=lost / energy if energy else 0.0,
            update_error_bound=update_error,
            failure_probability=failure,
            sweeps=sweeps,
            entries=matrix.rows * matrix.columns,
            entries_changed=self.changed,
        )
