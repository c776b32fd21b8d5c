"""Matrices that are read in blocks of rows, and the passes over them that every decomposition is made of."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

BLOCK_ELEMENTS = 1 << 19
"""Elements of one block of rows: 2 MiB in fp32. A constant of the algorithm, since it orders the sums."""


class RowBlocks(Protocol):
    """A matrix that hands out blocks of its rows in fp32."""

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def device(self) -> torch.device: ...

    def block(self, start: int, stop: int, step: int = 1) -> torch.Tensor:
        """Rows start, start + step, ... below stop: (ceil((stop - start) / step), columns), fp32, not to be changed.

        It is valid until the next call.
        """


@dataclass(frozen=True)
class DenseRows:
    """A matrix in memory as row blocks; `values` is (rows, columns), fp32."""

    values: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    @property
    def device(self) -> torch.device:
        return self.values.device

    def block(self, start: int, stop: int, step: int = 1) -> torch.Tensor:
        return self.values[start:stop:step]


def block_bounds(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """The blocks of rows in which every pass over a matrix goes, as (start, stop)."""
    height = max(16, BLOCK_ELEMENTS // max(columns, 1) // 16 * 16)
    for start in range(0, rows, height):
        yield start, min(start + height, rows)


@dataclass(frozen=True)
class Scaled:
    """A matrix times 2^exponent, which is exact."""

    matrix: RowBlocks
    exponent: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape

    @property
    def device(self) -> torch.device:
        return self.matrix.device

    def block(self, start: int, stop: int, step: int = 1) -> torch.Tensor:
        block = self.matrix.block(start, stop, step)
        half = self.exponent // 2  # 2^exponent alone may be out of range
        return block * 2.0**half * 2.0 ** (self.exponent - half)


def sweep(
    matrix: RowBlocks, vectors: torch.Tensor, kept: int, *, measure: bool = True
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """H x for every row x of `vectors`, D x for the first `kept` of them, and ||D||_F^2, in a single pass.

    Args:
        vectors: (w, columns), fp32. Vectors lie in rows: with the transposed products both matrix multiplications
            read a block along its rows, the fastest of the four layouts.

    Returns:
        (w, columns) and (kept, rows) in fp32, and the energy, or NaN unless it is to be measured.

    Raises:
        IllScaledError: a value is not finite, or squares leave the range of fp32.
    """
    rows, columns = matrix.shape
    image = torch.zeros_like(vectors)
    left = torch.empty(kept, rows, dtype=torch.float32, device=matrix.device)
    norms = []
    for start, stop in block_bounds(rows, columns):
        block = matrix.block(start, stop)
        products = vectors @ block.T
        left[:, start:stop] = products[:kept]
        image.addmm_(products, block)
        if measure:
            norms.append(torch.linalg.vector_norm(block))
    return image, left, checked_energy(norms) if measure else math.nan


def checked_energy(norms: list[torch.Tensor]) -> float:
    norm = math.sqrt(math.fsum(float(value) ** 2 for value in norms))
    if not 1e-10 < norm < 1e15:
        raise IllScaledError
    return norm**2


class IllScaledError(Exception):
    """The matrix is zero, not finite, or so large or small that squares leave the range of fp32."""


def transposed_sweep(matrix: RowBlocks, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """D^T y and D (D^T y) for every row y of `vectors` (w, rows): (w, columns), (w, rows); and ||D||_F^2."""
    rows, columns = matrix.shape
    right = torch.zeros(len(vectors), columns, device=matrix.device)
    norms = []
    for start, stop in block_bounds(rows, columns):
        block = matrix.block(start, stop)
        right.addmm_(vectors[:, start:stop], block)
        norms.append(torch.linalg.vector_norm(block))
    image = torch.empty_like(vectors)
    for start, stop in block_bounds(rows, columns):
        image[:, start:stop] = right @ matrix.block(start, stop).T
    return right, image, checked_energy(norms)
