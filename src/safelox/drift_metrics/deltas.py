"""The deltas of one matrix: ALIGNED's, and those of the models that came from it, in the order of ALIGNED's rows."""

from dataclasses import replace
from typing import Protocol

import torch

from safelox.delta import DeltaRows
from safelox.drift_metrics.counterpart import Counterpart
from safelox.engine import Pair
from safelox.lowrank import RowBlocks
from safelox.pairing import Matrix


class Delta(RowBlocks, Protocol):
    """Rows of a delta in fp32."""

    def release(self) -> None:
        """Let go of the mapped pages."""


class Rejoined:
    """W_later - W_base where the rows of W_later lie in another order: W_aligned - W_base less W_aligned - W_later.

    So rows are matched by ALIGNED's tokens on both ways, and a row that any model lacks is zero.
    """

    def __init__(self, aligned: DeltaRows, back: DeltaRows) -> None:
        self.shape = aligned.shape
        self.device = aligned.device
        self._aligned = aligned
        self._back = back

    def block(self, start: int, stop: int, step: int = 1) -> torch.Tensor:
        return self._aligned.block(start, stop, step) - self._back.block(start, stop, step)

    def release(self) -> None:
        self._aligned.release()
        self._back.release()


def aligned_delta(models: Pair, matrix: Matrix, device: torch.device) -> DeltaRows:
    """W_aligned - W_base."""
    return DeltaRows(models.base, models.aligned, matrix, device)


def later_delta(models: Pair, later: Counterpart, matrix: Matrix, device: torch.device) -> Delta:
    """W_later - W_base."""
    name = later.names[matrix.name]
    rows = later.row_maps.get(matrix.name)
    if rows is None:
        return DeltaRows(models.base, later.checkpoint, replace(matrix, name=name), device)
    way_back = replace(matrix, base_name=name, base_start=0, row_map=rows)
    return Rejoined(
        aligned_delta(models, matrix, device), DeltaRows(later.checkpoint, models.aligned, way_back, device)
    )
