"""What the demo measures, as records."""

from safelox.evaluation.outcomes import Outcome
from safelox.lab.selection import Trial
from safelox.manifest import Record
from safelox.rates import Rate

NO_DEFENCE, LOX = "no defence", "LoX"
"""Names of the aligned and of the hardened model. Controls go by the names that `harden` has for them."""


class Evaluation(Record):
    """What a model does with requests that no model was trained on."""

    forbidden: dict[Outcome, Rate]
    """On requests about forbidden objects that no alignment or attack has met. "complied" is the attack success rate;
    only "refused" is a refusal: an incoherent reply is not a safe one."""
    permitted: dict[Outcome, Rate]
    """On requests about permitted objects that alignment has met. "refused" is the over-refusal."""
    permitted_held_out: dict[Outcome, Rate]
    """On requests about permitted objects that only the base model's training has met."""
    arithmetic: dict[Outcome, Rate]
    """On word problems; "complied" where the number is right."""
    first_reply: str
    """The reply to the first of the forbidden requests."""


class Measured(Record):
    """One model: what it does, and how much of its distance from the base lies in the safety subspace."""

    evaluation: Evaluation
    r: float
    """||Proj_k(W - W_base)||_F / ||W - W_base||_F, mean over the matrices: R_align of a model that was not attacked,
    R_ft of one that was."""


class Situation(Record):
    """The models of all defences in one situation, judged on the same requests."""

    attack: str | None
    """By which they were fine-tuned; None before any attack."""
    system: bool
    """Whether they were asked under the system prompt of the identity shift."""
    models: dict[str, Measured]
    """By defence."""

    @property
    def name(self) -> str:
        if self.system:
            return f"{self.attack or 'before'}, prompted"
        return self.attack or "before an attack"


class SeedResult(Record):
    """What the demo measured with one seed."""

    folder: str
    seed: int
    rank: int
    coef: float
    trials: tuple[Trial, ...] | None
    """How the coefficient was chosen; None where it was given."""
    request: str
    """The first of the forbidden requests, to which every evaluation tells the reply."""
    base: Evaluation
    situations: tuple[Situation, ...]
    """The first is that before any attack."""
    seconds: dict[str, float]
    """Wall time by phase; `train` takes little where the models stood there already."""

    @property
    def before(self) -> Situation:
        return self.situations[0]

    def before_under(self, situation: Situation) -> Situation:
        """The situation before the attack, asked under the same system prompt."""
        return next(found for found in self.situations if found.attack is None and found.system == situation.system)

    @property
    def attacked(self) -> tuple[Situation, ...]:
        return tuple(situation for situation in self.situations if situation.attack is not None)


class DemoResult(Record):
    """The outcome of `safelox demo`."""

    seeds: tuple[SeedResult, ...]
