"""The steps of an experiment: what is done, in which order, what each needs, and the key that names its result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from safelox.experiment.plan.digests import code_of, key_of
from safelox.experiment.plan.grid import Attack, Grid
from safelox.experiment.plan.references import Found
from safelox.experiment.recipe.entries import EvaluationEntry, Recipe
from safelox.experiment.record import AnalysisKind
from safelox.experiment.works import Work


@dataclass(frozen=True)
class Step:
    """One piece of work in its place."""

    work: Work
    key: str
    needs: tuple[str, ...]
    """Ids of the steps whose results it reads."""
    cell: str
    """What it belongs to, for the dealing out among machines."""

    @property
    def id(self) -> str:
        """Unique: the place of its result."""
        return self.work.target

    @property
    def goal(self) -> bool:
        """Whether its result is what the experiment is for, and not only needed for another."""
        return self.work.kind not in ("pair", "decompose", "harden", "attack")

    @property
    def temporary(self) -> bool:
        """Whether its result goes when nothing needs it any more."""
        return self.work.kind == "attack"


class Cell(NamedTuple):
    """One model of the experiment, with the steps that measure it."""

    id: str
    pair: str
    defence: str | None
    attack: Attack | None
    judged: tuple[tuple[EvaluationEntry, str], ...]
    """Evaluations, each with the id of its step."""
    drift: str | None


class Analysis(NamedTuple):
    """Something measured of a pair, with the id of its step."""

    kind: AnalysisKind
    name: str
    pair: str
    step: str


@dataclass(frozen=True)
class Plan:
    """All steps, each after those that it needs."""

    recipe: Recipe
    grid: Grid
    found: Mapping[str, Found]
    steps: tuple[Step, ...]
    cells: tuple[Cell, ...]
    analyses: tuple[Analysis, ...]

    @cached_property
    def by_id(self) -> dict[str, Step]:
        return {step.id: step for step in self.steps}

    @cached_property
    def readers(self) -> dict[str, list[Step]]:
        """The steps that need each."""
        found: dict[str, list[Step]] = {step.id: [] for step in self.steps}
        for step in self.steps:
            for need in step.needs:
                found[need].append(step)
        return found


class Steps:
    """Steps as they are collected, each once."""

    def __init__(self) -> None:
        self._steps: dict[str, Step] = {}

    @property
    def all(self) -> tuple[Step, ...]:
        return tuple(self._steps.values())

    def add(self, work: Work, needs: Sequence[str], cell: str, inputs: Mapping[str, Any], code: str = "") -> str:
        """The id of the step that does this work.

        Args:
            needs: ids of the steps whose results it reads.
            cell: what it belongs to.
            inputs: whatever else it reads, by hash or definition.
            code: of a work whose code is not safelox's own.
        """
        if work.target not in self._steps:
            keys = [self._steps[need].key for need in needs]
            key = key_of(work.kind, work.decides(), keys, inputs, code or code_of(work.kind))
            self._steps[work.target] = Step(work, key, tuple(dict.fromkeys(needs)), cell)
        return work.target
