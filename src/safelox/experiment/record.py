"""experiment.json: what an experiment consists of and how far it has got. Everything else is found from it."""

from collections.abc import Mapping
from typing import Literal

from safelox.manifest import Record

FILE = "experiment.json"

Method = Literal["none", "lox", "full-rank", "random-subspace", "noise", "safeinst"]
"""What was done against the attack. "none": the aligned model as it is. The three in the middle are controls, which
move the weights as far as "lox" of the same rank and coefficient, in another direction. "safeinst" is no change of the
model: safety instructions are added to the attack's own rows."""
State = Literal["waiting", "done", "failed"]
AnalysisKind = Literal["spectrum", "rank-curve", "landscape", "tune"]


class PairRecord(Record):
    """A base model and its aligned version."""

    name: str
    base: str
    aligned: str
    """References, as in every command; of a pair that the experiment builds, the folders that it was built in."""
    source: str | None
    """Which source built it; None where it was there already."""


class DefenceRecord(Record):
    """One defence, with its rank and coefficient."""

    name: str
    """Unique in the experiment, made for tables: "none", "LoX 6 x 1.25", ..."""
    method: Method
    rank: int | Literal["full"] | None
    coef: float | None
    """None, like `rank`, for a method that has none."""


class AttackRecord(Record):
    """One fine-tuning attack as it was set."""

    name: str
    """In the catalogue."""
    variant: str
    """Which setting of it, made for tables: "" for the plain one, "lr x2", "poison 10 %", ..."""
    seed: int
    learning_rate_factor: float
    poison_ratio: float | None
    settings: Mapping[str, float | int | str]
    """Of the training, where they are not the catalogue's."""

    @property
    def label(self) -> str:
        return f"{self.name}, {self.variant}" if self.variant else self.name


class JudgedRecord(Record):
    """One set of suites, asked of one model."""

    evaluation: str
    """By its name in the recipe."""
    system: str | None
    """The system message it was asked under, in place of the prompts' own."""
    folder: str
    """Results folder, inside the experiment's; it is there, whole or not, once the first reply is."""
    state: State
    expected: Mapping[str, float]
    """Published values by "suite.metric", as shares from 0 to 1; what they are of is said in `expected_from`."""


class CellRecord(Record):
    """One model: of a pair, with a defence, before or after an attack."""

    id: str
    """Unique, and a path that can be a folder's."""
    pair: str
    defence: str | None
    """By its name; None: the base model, which is neither defended nor attacked."""
    attack: AttackRecord | None
    """None: before any attack."""
    judged: tuple[JudgedRecord, ...]
    drift: str | None
    """File with the `DriftReport` of this model, inside the experiment's folder; None where none was asked for."""
    drift_state: State
    error: str | None
    """Why it failed."""


class AnalysisRecord(Record):
    """A picture of a pair beside the cells."""

    kind: AnalysisKind
    name: str
    pair: str
    folder: str
    """Inside the experiment's folder, with the file that the command of that name writes (rank_curve.json, ...)."""
    state: State
    error: str | None


class ExperimentRecord(Record):
    """experiment.json."""

    name: str
    title: str
    description: str
    expected_from: str | None
    """Where the expected values were published."""
    versions: Mapping[str, str]
    command: str | None
    recipe: str | None
    """Name of the copy of the recipe, inside the folder."""
    recipe_sha256: str | None
    pairs: tuple[PairRecord, ...]
    defences: tuple[DefenceRecord, ...]
    cells: tuple[CellRecord, ...]
    analyses: tuple[AnalysisRecord, ...]
