"""The moves between the four models as vectors of all their weights: inner products, directions, coordinates.

Everything follows from the inner products of three moves, HARDENED - ORIGIN, TUNED - ORIGIN and HARDENED_TUNED -
HARDENED, which one pass over the models gives, a block of rows at a time, in fp64.
"""

import math
import os
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch

from safelox.analysis.plane.models import SIDES, STARTS, FourModels, Weight
from safelox.analysis.plane.record import Axis, Cosines, Directions, ModelName
from safelox.engine import run_side_by_side
from safelox.errors import CheckpointError, PairingError
from safelox.lowrank import block_bounds
from safelox.progress import NULL, Progress

SMALLEST_SINE = 1e-4
"""Of the angle between the mean fine-tuning and the direction of hardening. Below it rounding would decide the second
direction."""


class Moves(NamedTuple):
    """A vector: so much of each of the three moves."""

    hardening: float = 0.0
    tuning: float = 0.0
    hardened_tuning: float = 0.0

    def plus(self, factor: float, other: "Moves") -> "Moves":
        return Moves(*(one + factor * two for one, two in zip(self, other, strict=True)))

    def times(self, factor: float) -> "Moves":
        return Moves(*(factor * one for one in self))


NOWHERE = Moves()
PLACES: dict[ModelName, Moves] = {
    "origin": NOWHERE,
    "hardened": Moves(hardening=1.0),
    "tuned": Moves(tuning=1.0),
    "hardened_tuned": Moves(hardening=1.0, hardened_tuning=1.0),
}
"""Where the models lie, from ORIGIN."""
_MEAN_TUNING = Moves(tuning=0.5, hardened_tuning=0.5)

Gram = tuple[tuple[float, float, float], ...]
"""Inner products of the three moves with each other."""


@dataclass(frozen=True)
class Frame:
    """The plane: its two directions, and where anything lies in it."""

    gram: Gram

    def inner(self, one: Moves, other: Moves) -> float:
        return math.fsum(one[i] * other[j] * self.gram[i][j] for i in range(3) for j in range(3))

    def norm(self, vector: Moves) -> float:
        return math.sqrt(max(0.0, self.inner(vector, vector)))

    def cosine(self, one: Moves, other: Moves) -> float:
        return self.inner(one, other) / (self.norm(one) * self.norm(other))

    @cached_property
    def first(self) -> Moves:
        """d1: HARDENED - ORIGIN, normalised."""
        return PLACES["hardened"].times(1 / self.norm(PLACES["hardened"]))

    @cached_property
    def rest(self) -> Moves:
        """The mean of the two fine-tunings, less what lies along d1."""
        return _MEAN_TUNING.plus(-self.inner(_MEAN_TUNING, self.first), self.first)

    @cached_property
    def second(self) -> Moves:
        """d2: the rest, normalised."""
        return self.rest.times(1 / self.norm(self.rest))

    def at(self, a: float, b: float) -> Moves:
        """The point of the plane."""
        return self.first.times(a).plus(b, self.second)

    def coordinates(self, place: Moves) -> tuple[float, float, float]:
        """a, b and the distance from the plane."""
        a, b = self.inner(place, self.first), self.inner(place, self.second)
        return a, b, self.norm(place.plus(-1.0, self.at(a, b)))

    def directions(self, models: FourModels) -> Directions:
        """What there is to say of the two directions."""
        hardening, tuning, hardened_tuning = Moves(1.0), Moves(0.0, 1.0), Moves(0.0, 0.0, 1.0)
        length = self.norm(hardening)
        return Directions(
            tensors=len(models.weights),
            parameters=sum(math.prod(weight.shape) for weight in models.weights),
            tuning_norm=self.norm(tuning),
            hardened_tuning_norm=self.norm(hardened_tuning),
            cosines=Cosines(
                hardening_tuning=self.cosine(hardening, tuning),
                hardening_hardened_tuning=self.cosine(hardening, hardened_tuning),
                tunings=self.cosine(tuning, hardened_tuning),
            ),
            a=Axis(label="hardening", norm=length, whole_norm=length),
            b=Axis(label="fine-tuning", norm=self.norm(self.rest), whole_norm=self.norm(_MEAN_TUNING)),
        )


def measure(models: FourModels, progress: Progress = NULL) -> Frame:
    """The plane through the four models, in one pass over all weights.

    Raises:
        CheckpointError: a value is not finite.
        PairingError: two of the models are the same, or fine-tuning went along the hardening: there is no plane.
    """
    products: dict[str, list[float]] = {}
    with progress.task("compare", len(models.weights), "tensors") as task:

        def work(weight: Weight) -> None:
            products[weight.name] = _products(models, weight)
            task.advance(1, weight.name)

        run_side_by_side(models.weights, work, len(os.sched_getaffinity(0)))
    # In the order of the files, so that the sums do not depend on which tensor was done first.
    hh, ht, hx, tt, tx, xx = (math.fsum(products[weight.name][i] for weight in models.weights) for i in range(6))
    frame = Frame(((hh, ht, hx), (ht, tt, tx), (hx, tx, xx)))
    _check(frame)
    return frame


def _products(models: FourModels, weight: Weight) -> list[float]:
    """The six inner products of the three moves in one tensor."""
    sums: list[list[float]] = [[] for _ in range(6)]
    for start, stop in block_bounds(*weight.matrix_shape):
        moves = []
        for name, origin in STARTS.items():
            moves.append((models.rows(name, weight, start, stop) - models.rows(origin, weight, start, stop)).flatten())
        pairs = [(i, j) for i in range(3) for j in range(i, 3)]
        for parts, (i, j) in zip(sums, pairs, strict=True):
            parts.append(float(torch.dot(moves[i], moves[j])))
    models.release(weight)
    found = [math.fsum(parts) if all(map(math.isfinite, parts)) else math.nan for parts in sums]
    if not all(map(math.isfinite, found)):
        raise CheckpointError(
            f"tensor {weight.name}: a value of {_not_finite(models, weight)} is NaN or infinite, so that there are "
            "no distances. Mend the model."
        )
    return found


def _not_finite(models: FourModels, weight: Weight) -> str:
    sides = [
        side
        for name, side in SIDES.items()
        if not all(models.rows(name, weight, *bounds).isfinite().all() for bounds in block_bounds(*weight.matrix_shape))
    ]
    return " and of ".join(sides)


def _check(frame: Frame) -> None:
    """
    Raises:
        PairingError: the moves span no plane.
    """
    for name, start in STARTS.items():
        if not frame.norm(PLACES[name].plus(-1.0, PLACES[start])):
            raise PairingError(
                f"{SIDES[name]} does not differ from {SIDES[start]} in any weight, so there is no plane through "
                "the four models. Is it the right folder?"
            )
    if frame.norm(frame.rest) < SMALLEST_SINE * max(frame.norm(PLACES["tuned"]), frame.norm(Moves(0.0, 0.0, 1.0))):
        raise PairingError(
            "the mean of the two fine-tunings (TUNED - ORIGIN and HARDENED_TUNED - HARDENED) is zero or goes along "
            "HARDENED - ORIGIN, so there is no second direction for a plane. Are the four models in the right order?"
        )
