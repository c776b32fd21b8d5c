"""What a recipe may say: models of its YAML. Unknown keys are errors, and so is what makes no sense by itself."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BeforeValidator, Field, model_validator

from safelox.attacks.catalogue import Changes, LossOn, Schedule, Truncation
from safelox.experiment.recipe.analysis_entries import AnalysisEntry
from safelox.experiment.recipe.fields import Count, Integer, Name, Names, Positive, Rank, Seeds, Share, listed
from safelox.experiment.record import Method
from safelox.manifest import Record

SUBSPACE_RANK = 64
"""Directions that a pair is decomposed to unless something needs more, so that another rank costs no decomposition."""


class PairEntry(Record):
    """A base model and its aligned version: two references, or a source that builds them."""

    name: Name
    base: str | None = None
    aligned: str | None = None
    source: str | None = None
    """Name of a pair source."""
    seeds: Seeds = (0,)
    """Of the source: a pair each."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Of the source."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        given = {self.base is not None, self.aligned is not None}
        if given == {self.source is not None}:
            raise ValueError("expected either base and aligned, or source")
        if len(given) == 2:
            raise ValueError("base and aligned go together")
        if self.source is None and (self.options or self.seeds != (0,)):
            raise ValueError("seeds and options belong to a source, but there is none")
        return self


class DefenceEntry(Record):
    """A method, with every combination of its ranks and coefficients."""

    method: Method
    rank: Annotated[tuple[Rank, ...], BeforeValidator(listed)] = ()
    coef: Annotated[tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...], BeforeValidator(listed)] = ()
    file: Path | None = None
    """Of safeinst: the safety instructions; None: the known data set of that name."""

    @property
    def moves(self) -> bool:
        """Whether the method makes another model of the aligned one."""
        return self.method not in ("none", "safeinst")

    @model_validator(mode="after")
    def _what_belongs(self) -> Self:
        if self.moves and not (self.rank and self.coef):
            raise ValueError(f"method {self.method} needs a rank and a coef")
        if not self.moves and (self.rank or self.coef):
            raise ValueError(f"method {self.method} has neither rank nor coef")
        if self.file is not None and self.method != "safeinst":
            raise ValueError(f"method {self.method} takes no file")
        return self


class TrainingEntry(Record):
    """Hyperparameters in place of the attack's, by the names of `Training`."""

    learning_rate: float | None = None
    epochs: float | None = None
    max_steps: Integer | None = None
    batch_size: Integer | None = None
    accumulation: Integer | None = None
    warmup_steps: Integer | None = None
    schedule: Schedule | None = None
    weight_decay: float | None = None
    max_grad_norm: float | None = None
    max_length: Integer | None = None
    truncation: Truncation | None = None
    loss_on: LossOn | None = None

    @property
    def changes(self) -> Changes:
        return cast(Changes, self.model_dump(exclude_none=True))


class PoisonEntry(Record):
    """Harmful rows among the attack's own."""

    file: Path
    ratios: Annotated[tuple[Share, ...], BeforeValidator(listed), Field(min_length=1)]


class LoraEntry(Record):
    """LoRA in place of all weights."""

    rank: Count | None = None
    alpha: Positive | None = None
    targets: tuple[str, ...] | None = None
    merge: bool = False


class AttackEntry(Record):
    """An attack of the catalogue, in every combination of seed, learning rate and poison ratio."""

    name: str
    variant: str = ""
    """Tells apart two entries of the same attack."""
    seeds: Seeds = (0,)
    learning_rates: Annotated[tuple[Positive, ...], BeforeValidator(listed), Field(min_length=1)] = (1.0,)
    """Factors of the attack's own."""
    poison: PoisonEntry | None = None
    training: TrainingEntry = TrainingEntry()
    lora: LoraEntry | None = None
    format: str | None = None
    paper_exact: bool = False
    save_every: Count | Literal["epoch"] | None = None
    """Optimizer steps between checkpoints that a killed training goes on from; the last one is kept."""


class EvaluationEntry(Record):
    """Suites and judges, asked of every model."""

    name: Name
    suites: Annotated[Names, Field(min_length=1)]
    judges: Names = ()
    suite_file: Path | None = None
    """The prompts of the suite custom."""
    suite_asks: Literal["forbidden", "permitted", "help"] | None = None
    """What the suite custom asks for."""
    after: Names | None = None
    """Attacks after which it is asked, besides the models before any attack; None: all."""
    limit: Count | None = None
    system: str | None = None
    format: str | None = None
    max_new_tokens: Count | None = None
    shots: Integer = 0
    paper_exact: bool = False
    temperature: float = 0.0
    top_p: float = 1.0
    samples: Count = 1


class DriftEntry(Record):
    """R_align and R_ft of every model."""

    rank: Count = 100
    overlap: bool = False


class ExpectedEntry(Record):
    """Published values of one model, to be shown beside the measured ones."""

    defence: str = "none"
    """By its name in tables, such as "LoX 6 x 1.25"."""
    attack: str | None = None
    """None: before any attack."""
    variant: str = ""
    evaluation: Name
    values: dict[str, Share]
    """By suite.metric, as shares from 0 to 1."""


class Expected(Record):
    """Published values, and where they stand."""

    source: str
    values: tuple[ExpectedEntry, ...]


class JudgeEntry(Record):
    """What the judges share that are models."""

    model: str | None = None
    url: str | None = None
    prompt: Path | None = None
    budget: Positive | None = None
    """US dollars that they may spend on one evaluation of one model."""
    price: tuple[float, float] | None = None
    concurrency: Count = 8
    device: str | None = None


class ComputeEntry(Record):
    """Where models are trained and asked, and in what numbers."""

    device: str = "cpu"
    dtype: Literal["bf16", "fp32"] | None = None
    """Of weights and computation; None: fp32 on the CPU, bf16 on a GPU that has it."""
    batch_size: Count | None = None
    """Prompts that are answered at once."""


class Recipe(Record):
    """A recipe: pairs x defences x attacks x evaluations, and what is measured of the pairs beside that."""

    name: Name
    title: str
    description: str = ""
    seed: Annotated[Integer, Field(ge=0)] = 0
    """Of decompositions and of random controls."""
    data: Path | None = None
    """Folder that data is looked for in first."""
    compute: ComputeEntry = ComputeEntry()
    judge: JudgeEntry = JudgeEntry()
    pairs: Annotated[tuple[PairEntry, ...], Field(min_length=1)]
    defences: Annotated[tuple[DefenceEntry, ...], Field(min_length=1)]
    attacks: tuple[AttackEntry, ...] = ()
    evaluations: tuple[EvaluationEntry, ...] = ()
    drift: DriftEntry | None = None
    analyses: tuple[AnalysisEntry, ...] = ()
    expected: Expected | None = None

    def evaluation(self, name: str) -> EvaluationEntry:
        return next(entry for entry in self.evaluations if entry.name == name)

    @property
    def subspace_rank(self) -> int:
        """Directions of its delta that every pair is decomposed to."""
        return max(SUBSPACE_RANK, *self._ranks())

    def _ranks(self) -> Iterator[int]:
        yield 0
        yield 0 if self.drift is None else self.drift.rank
        for defence in self.defences:
            yield from (rank for rank in defence.rank if rank != "full")
        for analysis in self.analyses:
            if analysis.kind != "landscape":
                yield from analysis.ranks


def repeated(names: Sequence[str]) -> list[str]:
    """The names that stand there more than once, each once."""
    return sorted({name for name in names if names.count(name) > 1})
