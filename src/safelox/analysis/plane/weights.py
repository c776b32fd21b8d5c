"""One model in memory that gets the weights of one point after another, each time from the files."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from safelox.analysis.loaded import found_weights
from safelox.analysis.plane.models import SIDES, STARTS, FourModels, Weight
from safelox.analysis.plane.noise import RandomDirections
from safelox.analysis.plane.record import ModelName
from safelox.analysis.plane.vectors import NOWHERE, PLACES, Moves
from safelox.engine import run_side_by_side
from safelox.errors import CheckpointError
from safelox.language_models import LanguageModel
from safelox.lowrank import block_bounds


@dataclass(frozen=True)
class Spot:
    """Where a model lies: one of the four, moved along the moves between them, or at random."""

    start: ModelName
    moves: Moves = NOWHERE
    """What is added to the start."""
    random: tuple[int, float] | None = None
    """The number of a random direction, and so much of it."""

    @property
    def shares(self) -> dict[ModelName, float]:
        """How much of each model's weights those of the spot are, before anything random; they sum up to 1."""
        shares: dict[ModelName, float] = {self.start: 1.0}
        for name, move in zip(STARTS, self.moves, strict=True):
            for model, change in ((name, move), (STARTS[name], -move)):
                shares[model] = shares.get(model, 0.0) + change
        return {name: share for name, share in shares.items() if share}

    @property
    def model(self) -> ModelName | None:
        """The model of the four that lies there, if one does."""
        place = PLACES[self.start].plus(1.0, self.moves)
        if self.random is not None and self.random[1]:
            return None
        return next((name for name, own in PLACES.items() if own == place), None)


def weights_at(models: FourModels, spot: Spot, weight: Weight, directions: RandomDirections) -> Iterator[Tensor]:
    """One tensor of the model at a spot, in the blocks of `block_bounds`: (rows, columns), fp64.

    A start that is not moved keeps its values bit for bit.
    """
    shares = spot.shares
    noise = None if spot.random is None else directions.blocks(spot.start, spot.random[0], weight, spot.random[1])
    for start, stop in block_bounds(*weight.matrix_shape):
        values = None
        for name, share in shares.items():
            rows = models.rows(name, weight, start, stop)
            if values is None:
                # Rows in fp64 are those of the mapped file, which must not be changed.
                values = rows if len(shares) == 1 else rows.mul(share)
            else:
                values.add_(rows, alpha=share)
        part = None if noise is None else next(noise)
        assert values is not None  # shares sum up to 1, so that there are some
        yield values if part is None else values.add(part)


class MovingModel:
    """A model whose weights can be set to those of any spot.

    Args:
        loaded: HARDENED as transformers has loaded it; it is changed in place.
        directions: for spots along a random one.

    Raises:
        CheckpointError: transformers keeps a tensor elsewhere than the files do, so that it cannot be set.
    """

    def __init__(self, models: FourModels, loaded: LanguageModel, directions: RandomDirections) -> None:
        self._models, self._loaded, self._directions = models, loaded, directions
        self._places = dict(found_weights(loaded.model, models.checkpoints["hardened"].tensors))
        lost = [weight for weight in models.weights if weight.name not in self._places and self._differs(weight)]
        if lost:
            raise CheckpointError(
                f"{models.checkpoints['hardened'].reference}: transformers keeps {len(lost)} tensors under other names "
                f"than the files do, such as {lost[0].name}, so that they cannot be set in memory."
            )

    def at(self, spot: Spot) -> LanguageModel:
        """The model at a spot: sums are formed in fp64 and rounded once to the dtype of the loaded model.

        It is one and the same model at every call.
        """
        if spot.random is not None:
            self._directions.measure(spot.start, spot.random[0])

        def work(weight: Weight) -> None:
            place = self._places[weight.name].view(weight.matrix_shape)
            blocks = weights_at(self._models, spot, weight, self._directions)
            for (start, stop), rows in zip(block_bounds(*weight.matrix_shape), blocks, strict=True):
                place[start:stop].copy_(rows)
            self._models.release(weight)

        found = [weight for weight in self._models.weights if weight.name in self._places]
        run_side_by_side(found, work, len(os.sched_getaffinity(0)))
        return self._loaded

    def _differs(self, weight: Weight) -> bool:
        for bounds in block_bounds(*weight.matrix_shape):
            one, *others = (self._models.rows(name, weight, *bounds) for name in SIDES)
            if not all(torch.equal(one, other) for other in others):
                return True
        return False
