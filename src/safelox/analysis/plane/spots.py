"""The models that are asked, each with its name and its place: the four, the grid, and lines."""

from collections.abc import Iterator
from typing import NamedTuple

from safelox.analysis.plane.grid import Grid, spread
from safelox.analysis.plane.models import SIDES
from safelox.analysis.plane.noise import Norm, RandomDirections
from safelox.analysis.plane.record import ModelName
from safelox.analysis.plane.vectors import Frame, Moves
from safelox.analysis.plane.weights import Spot

MODELS_FOLDER, PLANE_FOLDER, LINES_FOLDER = "models", "plane", "lines"
"""Inside OUT."""


class Asked(NamedTuple):
    """One model to be asked."""

    folder: str
    """For its results, inside OUT."""
    change: str
    """What it is, in words."""
    spot: Spot


class PlannedLine(NamedTuple):
    """As `Line`, with a model for every u."""

    name: str
    kind: str
    start: ModelName
    direction: str
    norm: float
    points: tuple[tuple[float, Asked], ...]


def model_spot(name: ModelName) -> Asked:
    return Asked(f"{MODELS_FOLDER}/{name}", f"with the weights of {SIDES[name]}", Spot(name))


def plane_spots(frame: Frame, grid: Grid) -> Iterator[tuple[float, float, Asked]]:
    """a, b and the model of every point of the grid: every b for the first a, then for the second, and so on."""
    for a in grid.a:
        for b in grid.b:
            change = f"at a = {a!r}, b = {b!r} in the plane from ORIGIN"
            yield a, b, _asked(f"{PLANE_FOLDER}/{a:.12g}_{b:.12g}", change, Spot("origin", frame.at(a, b)))


def line_spots(frame: Frame, kind: str, points: int, reach: float) -> Iterator[PlannedLine]:
    """The lines of a kind, each with u from 0 to `reach`."""
    hardening, tuning, hardened_tuning = Moves(1.0), Moves(0.0, 1.0), Moves(0.0, 0.0, 1.0)
    named = {
        hardening: "HARDENED - ORIGIN",
        tuning: "TUNED - ORIGIN",
        hardened_tuning: "HARDENED_TUNED - HARDENED",
    }
    lines: dict[str, dict[ModelName, Moves]] = {
        "tuned": {"origin": tuning, "hardened": hardened_tuning},
        "crossed": {"origin": hardened_tuning, "hardened": tuning},
        "hardened": {"origin": hardening},
    }
    for start, move in lines[kind].items():
        name = f"{start}-{kind}"
        spots = []
        for u in spread((0.0, reach), points):
            change = f"with the weights of {SIDES[start]} + {u!r} ({named[move]})"
            spots.append((u, _asked(f"{LINES_FOLDER}/{name}/{u:.12g}", change, Spot(start, move.times(u)))))
        yield PlannedLine(name, kind, start, named[move], frame.norm(move), tuple(spots))


def random_spots(
    directions: RandomDirections, number: int, points: int, reach: float, norm: Norm, seed: int
) -> Iterator[PlannedLine]:
    """The lines along one random direction from ORIGIN and from HARDENED, each with u from -reach to reach."""
    starts: tuple[ModelName, ...] = ("origin", "hardened")
    for start in starts:
        name = f"{start}-random-{number}"
        spots = []
        for u in spread((-reach, reach), points):
            change = (
                f"with the weights of {SIDES[start]} + {u!r} of random direction {number} (seed {seed}, norm {norm})"
            )
            spots.append((u, _asked(f"{LINES_FOLDER}/{name}/{u:.12g}", change, Spot(start, random=(number, u)))))
        length = directions.length(start)
        yield PlannedLine(name, "random", start, f"random direction {number}", length, tuple(spots))


def _asked(folder: str, change: str, spot: Spot) -> Asked:
    """A spot where one of the four models lies is that model's, which nobody has to ask twice."""
    return Asked(folder, change, spot) if spot.model is None else model_spot(spot.model)
