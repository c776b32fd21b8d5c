"""What a recipe may say of the analyses of its pairs."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from safelox.experiment.recipe.fields import Count, Integer, Name, Names, Positive, listed
from safelox.manifest import Record


class SpectrumEntry(Record):
    """The spectrum of the pair's delta."""

    kind: Literal["spectrum"]
    name: Name = "spectrum"
    ranks: Annotated[tuple[Count, ...], BeforeValidator(listed)] = ()


class RankCurveEntry(Record):
    """How safe the pair's model is with so many directions of its alignment."""

    kind: Literal["rank-curve"]
    name: Name = "rank-curve"
    evaluation: Name
    """Whose suites, judges and settings it takes."""
    suites: Names = ()
    """Of these; none: all."""
    limit: Count | None = None
    ranks: Annotated[tuple[Annotated[Integer, Field(ge=0)], ...], BeforeValidator(listed), Field(min_length=1)]
    rho: Annotated[float, Field(gt=0, le=1)] = 0.01
    modules: Names = ()


class LandscapeEntry(Record):
    """The safety of the models around one defence and one attack on it."""

    kind: Literal["landscape"]
    name: Name = "landscape"
    evaluation: Name
    """Whose suites, judges and settings it takes."""
    suites: Names = ()
    """Of these; none: all."""
    limit: Count | None = None
    defence: str
    """By its name in tables, such as "LoX 6 x 1.25"."""
    attack: str
    variant: str = ""
    seed: Annotated[Integer, Field(ge=0)] | None = None
    """Of the attack; None: its first."""
    points: Annotated[Integer, Field(ge=2)] = 7
    """Along each of the two directions."""
    range_a: tuple[float, float] | None = None
    range_b: tuple[float, float] | None = None
    lines: Names = ()
    """Lines to ask models along as well: tuned, crossed, hardened."""


class TuneEntry(Record):
    """The search for a rank and a coefficient."""

    kind: Literal["tune"]
    name: Name = "tune"
    evaluation: Name
    """Whose judges and settings it takes."""
    attack: str
    """In the catalogue."""
    suite: str
    utility_suite: str
    over_refusal_suite: str | None = None
    limit: Count | None = None
    trials: Count
    ranks: Annotated[tuple[Count, ...], BeforeValidator(listed), Field(min_length=1)]
    coefs: tuple[float, float]
    coef_step: Positive
    attack_steps: Count | None = None
    attack_lr: Positive | None = None
    attack_lora: bool = False


AnalysisEntry = Annotated[SpectrumEntry | RankCurveEntry | LandscapeEntry | TuneEntry, Field(discriminator="kind")]
