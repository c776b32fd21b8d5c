"""What a plan comes to: trainings, replies, verdicts and disk, before anything is done."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from safelox.evaluation.judges import MODEL_JUDGES
from safelox.evaluation.suites import SUITES
from safelox.experiment.execution.marks import Marks
from safelox.experiment.plan.prerequisites import Checked
from safelox.experiment.plan.steps import Plan, Step
from safelox.experiment.sources import find_source
from safelox.experiment.works import Attacked, BuildPair, Curve, Evaluate, Harden, Plane, Search
from safelox.manifest import Record


class Forecast(Record):
    """What `safelox run --dry-run` tells. What is done already is counted nowhere but in `done`."""

    name: str
    title: str
    pairs: int
    defences: tuple[str, ...]
    attacks: tuple[str, ...]
    """Every setting and seed."""
    cells: int
    """Models that are judged or measured."""
    results: int
    """Evaluations, drifts and analyses."""
    done: int
    """Of these."""
    trainings: int
    hardened: int
    """Models that are hardened, or changed as much in other directions."""
    replies: int
    """That models generate, searches and lines of landscapes at most."""
    verdicts: int
    """That judges give on them."""
    paid_verdicts: int
    """Of these, those by judges that are models, which cost time or money."""
    largest_cost: float | None
    """US dollars, if every evaluation spends its budget; None where there is no budget, or no judge to pay."""
    models_on_disk: int
    """At most at once, if attacked models are deleted when they are judged;"""
    disk_peak: int | None
    """and how many bytes they are; None where the size of a model is not known."""
    disk_kept: int | None
    """Bytes, if they are kept."""
    unknown: tuple[str, ...]
    """Suites whose prompts are not here to be counted."""
    missing: tuple[str, ...]
    """What has to be there before this can run."""


def forecast(plan: Plan, checked: Checked, marks: Marks, *, jobs: int, missing: tuple[str, ...]) -> Forecast:
    """Count what is left to do."""
    goals = [step for step in plan.steps if step.goal]
    left = [step for step in goals if not marks.done(step)]
    needed = _needed(plan, left, marks)
    works = [step.work for step in needed]
    asking = [work for work in works if isinstance(work, Evaluate | Curve | Plane | Search)]
    counts = [count for work in asking for count in _counts(work, checked)]
    unknown = {suite for work in asking for suite in work.suites if _prompts(work, suite, checked) is None}
    paying = sum(work.models for work in asking if _paid(work.asked.judges))
    models, sizes = _models(plan, needed, jobs), _sizes(plan)
    budget = plan.recipe.judge.budget
    return Forecast(
        name=plan.recipe.name,
        title=plan.recipe.title,
        pairs=len(plan.grid.pairs),
        defences=tuple(defence.record.name for defence in plan.grid.defences),
        attacks=tuple(f"{attack.record.label}, seed {attack.record.seed}" for attack in plan.grid.attacks),
        cells=len({cell.id for cell in plan.cells}),
        results=len(goals),
        done=len(goals) - len(left),
        trainings=sum(work.trainings for work in works),
        hardened=sum(isinstance(work, Harden) for work in works),
        replies=sum(count.replies for count in counts),
        verdicts=sum(count.replies * count.judges for count in counts),
        paid_verdicts=sum(count.replies * count.paid for count in counts),
        largest_cost=budget * paying if budget is not None and paying else None,
        models_on_disk=len(models.made) + models.at_once,
        disk_peak=None if sizes is None else models.most(sizes),
        disk_kept=None if sizes is None else models.kept(sizes),
        unknown=tuple(sorted(unknown)),
        missing=missing,
    )


class _Count(NamedTuple):
    """Of one suite."""

    replies: int
    judges: int
    paid: int


def _counts(work: Evaluate | Curve | Plane | Search, checked: Checked) -> Iterator[_Count]:
    for suite in work.suites:
        prompts = _prompts(work, suite, checked)
        if prompts is not None:
            judges = (SUITES[suite].judges if suite in SUITES else ()) or work.asked.judges
            yield _Count(prompts * work.models * work.asked.samples, len(judges), _paid(judges))


def _prompts(work: Evaluate | Curve | Plane | Search, suite: str, checked: Checked) -> int | None:
    """How many of a suite are asked; None where that is not known."""
    exact = SUITES[suite].paper if suite in SUITES and work.asked.paper_exact else None
    found, limit = checked.prompts.get(suite), work.limit or (None if exact is None else exact.limit)
    return found if found is None or limit is None else min(found, limit)


def _paid(judges: Sequence[str]) -> int:
    return sum(judge.partition("=")[0] in MODEL_JUDGES for judge in judges)


def _needed(plan: Plan, left: list[Step], marks: Marks) -> list[Step]:
    """These steps, and those that have to be done for them."""
    found: dict[str, Step] = {}
    waiting = list(left)
    while waiting:
        step = waiting.pop()
        if step.id not in found:
            found[step.id] = step
            waiting += [plan.by_id[need] for need in step.needs if not marks.present(plan.by_id[need])]
    return list(found.values())


class _Models(NamedTuple):
    """The models that stand on disk at once: their pairs, an entry each."""

    made: list[str]
    """That stay: built and hardened ones."""
    attacked: list[str]
    """All that are attacked;"""
    at_once: int
    """and how many of them are there at once if they are deleted."""

    def most(self, sizes: Mapping[str, int]) -> int:
        """Bytes, if attacked models are deleted. One is counted as large as the model that was attacked, though a LoRA
        takes far less."""
        attacked = sorted((sizes[pair] for pair in self.attacked), reverse=True)
        return sum(sizes[pair] for pair in self.made) + sum(attacked[: self.at_once])

    def kept(self, sizes: Mapping[str, int]) -> int:
        return sum(sizes[pair] for pair in (*self.made, *self.attacked))


def _models(plan: Plan, needed: list[Step], jobs: int) -> _Models:
    made: list[str] = []
    attacked: list[str] = []
    waiting = 0
    for step in needed:
        pair = step.cell.partition("/")[0]
        if isinstance(step.work, BuildPair):
            made += [pair, pair]
        elif isinstance(step.work, Harden):
            made.append(pair)
        elif isinstance(step.work, Attacked):
            attacked.append(pair)
            waiting += any(isinstance(reader.work, Plane) for reader in plan.readers[step.id])
    return _Models(made, attacked, min(len(attacked), jobs + 1 + waiting))


def _sizes(plan: Plan) -> dict[str, int] | None:
    """Bytes of one model of each pair; None where one is not known."""
    sizes: dict[str, int] = {}
    for pair in plan.grid.pairs:
        size = plan.found[pair.name].bytes if pair.name in plan.found else None
        if pair.entry.source is not None:
            size = find_source(pair.entry.source).bytes
        if size is None:
            return None
        sizes[pair.name] = size
    return sizes
