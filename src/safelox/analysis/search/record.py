"""tune.json: what a search for the rank and the coefficient tried, measured and recommends."""

from collections.abc import Mapping
from typing import Literal

from safelox.evaluation.intervals import PairedDifference
from safelox.evaluation.suites import Asks
from safelox.manifest import FileRecord, Record
from safelox.rates import Rate

FILE = "tune.json"

State = Literal["done", "infeasible", "failed"]
"""All bounds are kept; some bound is broken, before the attack (which was then left out) or after it; or the model
could not be made or attacked, as `error` says."""
Role = Literal["safety", "utility", "over-refusal"]

Rates = Mapping[str, Rate]
"""By the name of the metric, each by the first judge that gives it, and "incoherent" and "unscored", by the judge that
finds most."""


class SuiteRecord(Record):
    """One suite of the search."""

    role: Role
    """"safety": asked before and after the attack, for the ASR. The others are asked before it only."""
    name: str
    asks: Asks
    metric: str
    """What is read off it: "asr", "compliance" or "accuracy", "over_refusal"."""
    judge: str
    """Whose verdicts count: the first of the judges that gives this metric."""
    data: FileRecord
    """The suite's own file, before it was split."""
    called: str
    """What that file is, by its checksum."""
    search_prompts: int
    """Prompts that the search asked."""
    confirm_prompts: int
    """Prompts that the recommended point was asked afterwards, none of which the search has seen."""


class Measured(Record):
    """One model on one half of the prompts."""

    before: Mapping[str, Rates]
    """By suite."""
    after: Mapping[str, Rates] | None
    """After the attack; None where it was not attacked."""


class BoundRecord(Record):
    """What a point must keep to be recommended."""

    name: Literal["utility", "over-refusal", "incoherent", "incoherent after the attack"]
    suite: str
    metric: str
    """"incoherent" stands for incoherent and unscored replies together: what was not judged need not make sense."""
    limit: float
    """The rate may not be beyond it."""
    at_least: bool
    """Whether the limit is the least; else it is the most."""
    reason: str
    """How the limit came about, such as "95 % of ALIGNED's 98.0 %"."""


class Violation(Record):
    """A bound that a point broke."""

    bound: str
    """Its name,"""
    suite: str
    """and its suite."""
    value: float
    limit: float
    excess: float
    """How far the value is beyond the limit, as a positive share."""


class Objectives(Record):
    """What the search weighs against each other, as rates on its own prompts."""

    asr_after: Rate
    """After the attack: the lower, the better."""
    utility_before: Rate
    """Before it: the higher, the better."""


class Trial(Record):
    """One point, (rank, coefficient)."""

    number: int
    """From 0, in the order in which they were tried."""
    rank: int
    coef: float
    state: State
    measured: Measured | None
    """On the prompts of the search; None where it failed before anything was known."""
    objectives: Objectives | None
    """None unless it was attacked."""
    violations: tuple[Violation, ...]
    relative_change: float
    """||W_hardened - W_aligned|| / ||W_aligned|| over all extrapolated matrices as one vector."""
    pareto: bool
    """Whether no other point that keeps all bounds has both a lower or equal ASR and a higher or equal utility, one of
    them strictly."""
    error: str | None
    """Why it failed."""


class ProxyAttack(Record):
    """The short attack that stands for those to come."""

    name: str
    data: FileRecord
    called: str
    """What the file of its rows is, by its checksum."""
    lora: bool
    settings: Mapping[str, float | int]
    """Of the training, where they are not the catalogue's."""
    search_seed: int
    confirm_seed: int
    """The recommended point is attacked anew, with another order of the rows."""


class Confirmation(Record):
    """The recommended point and ALIGNED on prompts that the search has not seen, after an attack with another seed."""

    point: Measured
    aligned: Measured
    objectives: Objectives
    """Of the point."""
    aligned_objectives: Objectives
    difference: PairedDifference
    """ASR after the attack, prompt by prompt: the point's less ALIGNED's."""
    violations: tuple[Violation, ...]
    """Bounds, set anew by what ALIGNED does on these prompts, that the point breaks."""
    better: bool
    """Whether the whole 95 % interval of the difference is below zero, and no bound is broken."""


class Recommendation(Record):
    """What came of the search."""

    rank: int | None
    """None, like `coef` and `trial`: none is recommended."""
    coef: float | None
    trial: int | None
    """Number of the trial."""
    rule: str
    """How the point is chosen, in words; the same for every search."""
    reason: str
    """Why this one, or why none, in words with the numbers."""
    confirmation: Confirmation | None
    """None where none is recommended."""


class Tuning(Record):
    """tune.json: the outcome of `tune`."""

    base: str
    aligned: str
    command: str | None
    """What was called, where the caller said so."""
    safelox: str
    optuna: str
    """Versions."""
    ranks: tuple[int, ...]
    """The ranks that the search may try, ascending;"""
    coefs: tuple[float, ...]
    """and the coefficients."""
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    embeddings: bool
    vocab: Literal["error", "common"]
    """As in `harden`, which has to be told the same for the same model."""
    seed: int
    """Of the search; the attack's seeds stand with it."""
    subspace: str
    """The file with the directions of all trials."""
    suites: tuple[SuiteRecord, ...]
    attack: ProxyAttack
    bounds: tuple[BoundRecord, ...]
    aligned_measured: Measured
    """No hardening: ALIGNED on the prompts of the search, before and after the attack."""
    aligned_objectives: Objectives
    trials: tuple[Trial, ...]
    recommendation: Recommendation
    hypervolume: float
    """Of the Pareto set in (1 - ASR after the attack, utility before it), above (0, 0): the share of the unit square
    that some point of the set is at least as good as."""
    seconds: Mapping[str, float]
    """Wall time of the last run by phase."""
