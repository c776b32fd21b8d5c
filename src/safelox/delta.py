"""The delta of one matrix, W_aligned - W_base, computed block by block from the stored values and never held whole."""

import torch

from safelox.checkpoint import DTYPES, Checkpoint, LoraFactors
from safelox.lowrank import block_bounds
from safelox.pairing import Matrix


class DeltaRows:
    """Rows of W_aligned, and of W_aligned - W_base, of one matrix.

    Both are read from the mapped files again in every pass: converting in cache costs less than to write the delta to
    memory and read it back. On a GPU the stored values are moved there once.
    """

    def __init__(self, base: Checkpoint, aligned: Checkpoint, matrix: Matrix, device: torch.device) -> None:
        self.shape = (matrix.rows, matrix.columns)
        self.device = device
        self.matrix = matrix
        self._base = base
        self._aligned = aligned
        stored = {DTYPES[aligned.tensors[matrix.name].dtype], DTYPES[base.tensors[matrix.base_name].dtype]}
        self.working = torch.float64 if torch.float64 in stored else torch.float32
        """Values are subtracted, and updates added, in this dtype."""
        self._scratch: tuple[torch.Tensor, torch.Tensor] | None = None
        self._on_device: tuple[torch.Tensor, torch.Tensor] | None = None
        if device.type != "cpu":
            self._on_device = (
                self._read_aligned(0, matrix.rows).to(device),
                self._read_base(0, matrix.rows).to(device),
            )

    def aligned(self, start: int, stop: int) -> torch.Tensor:
        """Rows of W_aligned as stored (fp32 where an adapter changes them); not to be changed."""
        return self._on_device[0][start:stop] if self._on_device else self._read_aligned(start, stop)

    def base(self, start: int, stop: int) -> torch.Tensor:
        """Rows of W_base as stored, in ALIGNED's order; those that BASE lacks mean nothing. Not to be changed."""
        return self._on_device[1][start:stop] if self._on_device else self._read_base(start, stop)

    def block(self, start: int, stop: int, step: int = 1) -> torch.Tensor:
        """Rows of the delta in fp32, valid until the next call. See `lowrank.RowBlocks`."""
        aligned, base = self._sources(start, stop, step)
        difference, subtrahend = self._buffers(len(aligned))
        difference.copy_(aligned)
        subtrahend.copy_(base)
        difference.sub_(subtrahend)
        if self.matrix.row_map is not None:
            difference[self.matrix.row_map[start:stop:step].to(self.device) < 0] = 0.0
        return difference.float()

    def release(self) -> None:
        """Let go of the mapped pages."""
        matrix = self.matrix
        self._aligned.release(matrix.name, matrix.start, matrix.stop)
        if matrix.row_map is None:
            self._base.release(matrix.base_name, matrix.base_start, matrix.base_start + matrix.rows)
        else:
            self._base.release(matrix.base_name)

    def _sources(self, start: int, stop: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self._on_device:
            return self._on_device[0][start:stop:step], self._on_device[1][start:stop:step]
        return self._read_aligned(start, stop, step), self._read_base(start, stop, step)

    def _read_aligned(self, start: int, stop: int, step: int = 1) -> torch.Tensor:
        matrix = self.matrix
        return _rows(self._aligned, matrix.name, matrix.start + start, matrix.start + stop, step)

    def _read_base(self, start: int, stop: int, step: int = 1) -> torch.Tensor:
        matrix = self.matrix
        if matrix.row_map is not None:
            return self._base.rows(matrix.base_name)[matrix.row_map[start:stop:step].clamp(min=0)]
        return _rows(self._base, matrix.base_name, matrix.base_start + start, matrix.base_start + stop, step)

    def _buffers(self, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Two buffers for `rows` rows; those for whole blocks are kept."""
        if self._scratch is None or len(self._scratch[0]) < rows:
            size = (rows, self.shape[1])
            fresh = (
                torch.empty(size, dtype=self.working, device=self.device),
                torch.empty(size, dtype=self.working, device=self.device),
            )
            _, first_stop = next(iter(block_bounds(*self.shape)))
            if rows > first_stop:
                return fresh
            self._scratch = fresh
        return self._scratch[0][:rows], self._scratch[1][:rows]


def _rows(checkpoint: Checkpoint, name: str, start: int, stop: int, step: int) -> torch.Tensor:
    """Rows start, start + step, ... below stop."""
    if step > 1 and checkpoint.lora(name) is not None:  # these are computed: no others are
        return torch.cat([checkpoint.rows(name, row, row + 1) for row in range(start, stop, step)])
    return checkpoint.rows(name, start, stop)[::step]


def prefetch(base: Checkpoint, aligned: Checkpoint, matrix: Matrix, start: int = 0, stop: int | None = None) -> None:
    """Let the kernel fetch the stored values of rows of a matrix from the disk while others are worked on."""
    stop = matrix.rows if stop is None else stop
    aligned.prefetch(matrix.name, matrix.start + start, matrix.start + stop)
    if matrix.row_map is None:
        base.prefetch(matrix.base_name, matrix.base_start + start, matrix.base_start + stop)


def exact_factors(base: Checkpoint, aligned: Checkpoint, matrix: Matrix) -> LoraFactors | None:
    """The exact factors of the delta where ALIGNED is BASE with an adapter over it; None where the delta is dense."""
    if base.adapter is not None or matrix.row_map is not None or aligned.base_identity() != base.base_identity():
        return None
    if aligned.tensors[matrix.name] != base.tensors[matrix.base_name]:
        return None
    return aligned.lora(matrix.name, matrix.start, matrix.stop)
