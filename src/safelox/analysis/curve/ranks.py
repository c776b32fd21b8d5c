"""One model in memory that gets the weights of one rank after another: W_base + the rank-r part of W_aligned - W_base.

As the paper's script has it: at every rank above 0 whatever has no such part, such as the weights of norms, has its
full delta; rank 0 means no delta at all, so that these go back to BASE too; and a matrix with no more than r rows or
columns has its full delta, which is its rank-r part up to rounding. What is not selected always has its full delta.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from safelox.analysis.loaded import found_weights
from safelox.delta import DeltaRows
from safelox.engine import Pair
from safelox.errors import CheckpointError
from safelox.language_models import LanguageModel
from safelox.lowrank import LowRank, block_bounds
from safelox.pairing import Matrix
from safelox.pairing.selection import matches

if TYPE_CHECKING:
    pass

CPU = torch.device("cpu")


Directions = Callable[[], Mapping[str, LowRank]]
"""Gives the leading directions of every matrix, by its label."""


class RankedModel:
    """A model whose weights can be set to those of any rank, up to that of the directions.

    Args:
        models: BASE and ALIGNED.
        modules: globs on ALIGNED's tensor names, of the tensors whose delta is cut; none: of all.
        loaded: ALIGNED as transformers has loaded it; it is changed in place.
        directions: asked once, when a rank above 0 first needs them.

    Raises:
        CheckpointError: transformers keeps a tensor elsewhere than the files do, so that it cannot be set.
    """

    def __init__(self, models: Pair, modules: Sequence[str], loaded: LanguageModel, directions: Directions) -> None:
        self._models, self._loaded, self._directions = models, loaded, directions
        self._others = _others(models, modules)
        self._weights = dict(found_weights(loaded.model, models.aligned.tensors))
        lost = [matrix.name for matrix in models.pairing.matrices if matrix.name not in self._weights]
        lost += [name for name in self._others if name not in self._weights and self._differs(name)]
        if lost:
            raise CheckpointError(
                f"{models.aligned.reference}: transformers keeps {len(lost)} tensors under other names than the files "
                f"do, such as {lost[0]}, so that they cannot be set in memory. Choose others by modules."
            )

    @torch.no_grad()
    def at(self, rank: int | None) -> LanguageModel:
        """The model with the rank-`rank` part of the delta; None: with the full delta, which is ALIGNED.

        Sums are formed in fp32, or in fp64 where a model is stored in it, and rounded once to the dtype of the loaded
        model. It is one and the same model at every call.
        """
        for matrix in self._models.pairing.matrices:
            self._set_matrix(matrix, rank)
        source = self._models.base if rank == 0 else self._models.aligned
        for name in self._others:
            if name in self._weights:
                weight = self._weights[name]
                weight.copy_(source.rows(name).view(weight.shape))
        return self._loaded

    @cached_property
    def _factors(self) -> Mapping[str, LowRank]:
        return self._directions()

    def _differs(self, name: str) -> bool:
        return not torch.equal(self._models.base.rows(name), self._models.aligned.rows(name))

    def _set_matrix(self, matrix: Matrix, rank: int | None) -> None:
        delta = DeltaRows(self._models.base, self._models.aligned, matrix, CPU)
        weight = self._weights[matrix.name].view(self._models.aligned.tensors[matrix.name].matrix_shape)
        whole = rank is None or min(delta.shape) <= rank
        for start, stop in block_bounds(*delta.shape):
            rows = delta.aligned(start, stop) if whole else self._rows(delta, rank or 0, start, stop)
            weight[matrix.start + start : matrix.start + stop].copy_(rows)
        delta.release()

    def _rows(self, delta: DeltaRows, rank: int, start: int, stop: int) -> Tensor:
        """Rows of W_base + the rank-r part; tokens that BASE does not know keep their rows of ALIGNED."""
        rows = delta.base(start, stop)
        if rank:
            factors = self._factors[delta.matrix.label]
            part = factors.left[start:stop, :rank] @ factors.right[:rank]
            rows = rows.to(delta.working) + part
        if delta.matrix.row_map is not None:
            unknown = delta.matrix.row_map[start:stop] < 0
            rows = torch.where(unknown[:, None], delta.aligned(start, stop).to(rows.dtype), rows)
        return rows


def _others(models: Pair, modules: Sequence[str]) -> list[str]:
    """Selected tensors of both models of which no low-rank part is taken."""
    ours, theirs = models.base.tensors, models.aligned.tensors
    taken = {matrix.name for matrix in models.pairing.matrices}
    return [
        name
        for name, tensor in theirs.items()
        if name not in taken
        and (not modules or matches(name, modules))
        and name in ours
        and ours[name].shape == tensor.shape
    ]
