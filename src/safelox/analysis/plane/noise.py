"""Random directions: Gaussian noise in all weights, drawn again wherever it is needed and never held whole."""

import hashlib
import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from safelox.analysis.plane.models import FourModels, Weight
from safelox.analysis.plane.record import ModelName
from safelox.lowrank import block_bounds

Norm = float | Literal["tensors"]
"""As `RandomMoves.norm` has it."""


class RandomDirections:
    """As many random directions as are asked for, by their numbers; the same for the same seed, from every model.

    Args:
        norm: of every direction as a vector of all weights; or "tensors": in each tensor of two or more dimensions that
            of its weights in the model that is moved, and 0 in all others.
    """

    def __init__(self, models: FourModels, norm: Norm, seed: int) -> None:
        self._models, self._norm, self._seed = models, norm, seed
        self._lengths: dict[int, dict[str, float]] = {}
        self._weight_norms: dict[ModelName, dict[str, float]] = {}

    def length(self, start: ModelName) -> float:
        """The norm of a direction from this model."""
        if self._norm != "tensors":
            return self._norm
        return math.sqrt(math.fsum(value**2 for value in self._norms_of_weights(start).values()))

    def measure(self, start: ModelName, number: int) -> None:
        """Find out how a direction has to be scaled, once, before several threads ask for its blocks."""
        self._scale(start, number, self._models.weights[0])

    def blocks(self, start: ModelName, number: int, weight: Weight, factor: float) -> Iterator[Tensor | None]:
        """The direction times a factor in one tensor, in the blocks of `block_bounds`: fp64; None where it is 0."""
        scale = factor * self._scale(start, number, weight)
        for noise in self._noise(number, weight):
            yield noise.double().mul_(scale) if scale else None

    def _scale(self, start: ModelName, number: int, weight: Weight) -> float:
        if number not in self._lengths:
            self._lengths[number] = {other.name: _norm_of(self._noise(number, other)) for other in self._models.weights}
        lengths = self._lengths[number]
        if self._norm != "tensors":
            return self._norm / math.sqrt(math.fsum(value**2 for value in lengths.values()))
        return self._norms_of_weights(start).get(weight.name, 0.0) / lengths[weight.name]

    def _norms_of_weights(self, start: ModelName) -> dict[str, float]:
        if start not in self._weight_norms:
            self._weight_norms[start] = {
                weight.name: _norm_of(
                    self._models.rows(start, weight, *bounds) for bounds in block_bounds(*weight.matrix_shape)
                )
                for weight in self._models.weights
                if len(weight.shape) > 1
            }
        return self._weight_norms[start]

    def _noise(self, number: int, weight: Weight) -> Iterator[Tensor]:
        """Standard normal numbers, in fp32: which ones depends on nothing but the seed, the number and the tensor."""
        text = f"{self._seed} {number} {weight.name} {weight.shape}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "little")
        generator = torch.Generator().manual_seed(seed)
        for start, stop in block_bounds(*weight.matrix_shape):
            yield torch.randn(stop - start, weight.matrix_shape[1], generator=generator)


def _norm_of(blocks: Iterator[Tensor]) -> float:
    squares = (float(torch.linalg.vector_norm(block, dtype=torch.float64)) ** 2 for block in blocks)
    return math.sqrt(math.fsum(squares))
