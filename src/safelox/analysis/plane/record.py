"""The results of a landscape: landscape.json."""

from typing import Literal

from safelox.evaluation.results import JudgeResult
from safelox.manifest import Record
from safelox.rates import Rate

ModelName = Literal["origin", "hardened", "tuned", "hardened_tuned"]
LineKind = Literal["tuned", "crossed", "hardened"]
"""Which lines are asked for: each start along its own fine-tuning, along the other's, or from ORIGIN to HARDENED."""
FILE = "landscape.json"
ASR = "asr"
Judged = dict[str, dict[str, JudgeResult]]
"""By suite and judge, as in results.json."""


class PlacedModel(Record):
    """One of the four models: where it lies, and what it says itself, which is no point of the plane if it lies off."""

    name: ModelName
    reference: str
    a: float
    """Along the direction of hardening, from ORIGIN; an L2 norm over all weights as one vector, as all lengths are."""
    b: float
    """Along the direction of fine-tuning."""
    off_plane: float
    """Distance from the plane."""
    distance: float
    """Distance from ORIGIN."""
    folder: str
    """Its results, inside OUT."""
    results: Judged


class Axis(Record):
    """One of the two directions, which are orthogonal and of norm 1."""

    label: str
    norm: float
    """Of the vector that it is the direction of: HARDENED - ORIGIN, or the mean fine-tuning less what lies along the
    first direction."""
    whole_norm: float
    """The same before anything was taken away; equal to `norm` for the first direction."""


class Cosines(Record):
    """Between the three moves that span the plane."""

    hardening_tuning: float
    """HARDENED - ORIGIN and TUNED - ORIGIN."""
    hardening_hardened_tuning: float
    """HARDENED - ORIGIN and HARDENED_TUNED - HARDENED."""
    tunings: float
    """TUNED - ORIGIN and HARDENED_TUNED - HARDENED."""


class Directions(Record):
    """The moves between the models, as vectors of all weights."""

    tensors: int
    """Weights that count, each once where it is tied."""
    parameters: int
    tuning_norm: float
    """Of TUNED - ORIGIN."""
    hardened_tuning_norm: float
    """Of HARDENED_TUNED - HARDENED."""
    cosines: Cosines
    a: Axis
    b: Axis


class PlanePoint(Record):
    """The model ORIGIN + a d1 + b d2."""

    a: float
    b: float
    folder: str
    """Its results, inside OUT."""
    results: Judged


class Plane(Record):
    """The points of the grid: every b for the first a, then for the second, and so on."""

    a: tuple[float, ...]
    """Ascending."""
    b: tuple[float, ...]
    points: tuple[PlanePoint, ...]

    def rates(self, suite: str, judge: str, metric: str) -> list[list[Rate]]:
        """A metric, or "incoherent" or "unscored", with its counts and intervals: a row for every a, over all b."""
        found = [rate_of(point.results[suite][judge], metric) for point in self.points]
        return [found[i : i + len(self.b)] for i in range(0, len(found), len(self.b))]


class LinePoint(Record):
    """The model START + u * direction."""

    u: float
    distance: float
    """From START."""
    folder: str
    results: Judged


class Line(Record):
    """Models along one direction from one of the four."""

    name: str
    kind: LineKind | Literal["random"]
    start: ModelName
    direction: str
    """In words."""
    norm: float
    """The length that u = 1 is."""
    points: tuple[LinePoint, ...]
    """By ascending u."""

    def rates(self, suite: str, judge: str, metric: str) -> list[Rate]:
        """As `Plane.rates`, at every point."""
        return [rate_of(point.results[suite][judge], metric) for point in self.points]


class Rise(Record):
    """How the ASR rises along a line from u = 0 on, by straight lines between its points."""

    line: str
    suite: str
    judge: str
    half: float | None
    """The first u at which the ASR is a half; None where it never is."""
    half_distance: float | None
    """The same as a distance from the start."""
    width: float | None
    """From the first u with a quarter to the first with three quarters, which says how steep it rises; None where it
    does not rise so far."""
    width_distance: float | None
    mean: float
    """Mean ASR over the part of the line from u = 0 on."""


class Basin(Record):
    """How safe one of the models stays on average where its weights are moved at random."""

    start: ModelName
    suite: str
    judge: str
    directions: int
    reach: float
    """u was spaced evenly from -reach to reach."""
    n: int
    """Replies at every point."""
    margin: float
    """Mean of 1 - ASR over all points of all directions."""
    visage: float
    """The same over the points with ASR < 1 alone, as VISAGE takes it; NaN where there is none."""
    inside: int
    """Points with ASR < 1."""
    points: int
    incoherent: float
    """Mean share of incoherent replies, which a margin counts as safe."""
    refusal: float | None
    """Mean share of refusals; None where the judge tells none."""


class RandomMoves(Record):
    """What the random directions are."""

    directions: int
    points: int
    """Along each."""
    norm: float | Literal["tensors"]
    """Their common norm; or "tensors": in each tensor of two or more dimensions that of its weights in the start, and 0
    in all others, as VISAGE has it."""
    reach: float
    seed: int


class Landscape(Record):
    """landscape.json: the outcome of `landscape`."""

    models: tuple[PlacedModel, ...]
    """ORIGIN, HARDENED, TUNED and HARDENED_TUNED."""
    directions: Directions
    paper_exact: bool
    command: str | None
    """What was called, where the caller said so."""
    judges: dict[str, tuple[str, ...]]
    """Of every suite."""
    plane: Plane | None
    """None where only lines were asked for."""
    lines: tuple[Line, ...]
    """Those along random directions come last."""
    rises: tuple[Rise, ...]
    """Of every line along no random direction, for every suite and judge with an ASR."""
    random: RandomMoves | None
    basins: tuple[Basin, ...]

    def model(self, name: ModelName) -> PlacedModel:
        return next(placed for placed in self.models if placed.name == name)


def rate_of(found: JudgeResult, name: str) -> Rate:
    """A metric, or the share of an outcome.

    Raises:
        KeyError: the judge gives none of this name.
    """
    rates = {str(outcome): rate for outcome, rate in found.outcomes.items()} | found.metrics
    return rates[name]
