"""What a recipe comes to: its pairs, defences and attacks one by one, every grid written out."""

import re
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

from safelox.attacks import Training, find_attack
from safelox.attacks.lora import Lora
from safelox.drift_metrics.report import FILE as DRIFT
from safelox.evaluation.judges import MODEL_JUDGES
from safelox.experiment.recipe.analysis_entries import LandscapeEntry, RankCurveEntry
from safelox.experiment.recipe.entries import AttackEntry, DefenceEntry, JudgeEntry, PairEntry, Recipe, repeated
from safelox.experiment.recipe.reading import Key, Problem
from safelox.experiment.record import AttackRecord, DefenceRecord

BASE, ALIGNED = "base", "aligned"
"""Names of the models of a pair as they are."""
RESERVED = ("attack", DRIFT)
"""What else is in the folder of a model's results."""
_LABELS = {"lox": "LoX", "full-rank": "full-rank control", "random-subspace": "random subspace", "noise": "noise"}


class Pair(NamedTuple):
    """One pair of the experiment."""

    name: str
    entry: PairEntry
    seed: int


class Defence(NamedTuple):
    """One defence."""

    record: DefenceRecord
    entry: DefenceEntry

    @property
    def model(self) -> str:
        """Name of the model that is attacked, among those of a pair."""
        return slug(self.record.name) if self.entry.moves else ALIGNED


class Attack(NamedTuple):
    """One attack with one setting and one seed."""

    record: AttackRecord
    entry: AttackEntry

    @property
    def slug(self) -> str:
        record = self.record
        return slug(f"{record.name}-{record.variant}-seed-{record.seed}")


def is_of(attack: Attack, entry: LandscapeEntry) -> bool:
    """Whether a landscape is of this attack."""
    record = attack.record
    return (record.name, record.variant) == (entry.attack, entry.variant) and entry.seed in (None, record.seed)


class Grid(NamedTuple):
    """All of them."""

    pairs: tuple[Pair, ...]
    defences: tuple[Defence, ...]
    attacks: tuple[Attack, ...]


def expand(recipe: Recipe) -> Grid:
    """Write out the grids of a recipe.

    Raises:
        UsageError: there is no such attack, or its training is changed to what makes no sense.
    """
    return Grid(
        tuple(_pairs(recipe)),
        tuple(defence for entry in recipe.defences for defence in _defences(entry)),
        tuple(attack for entry in recipe.attacks for attack in _attacks(entry)),
    )


def grid_problems(recipe: Recipe, grid: Grid) -> Iterator[Problem]:
    """Names that occur twice, or that name nothing."""
    names: dict[str, list[str]] = {
        "pairs": [pair.name for pair in grid.pairs],
        "defences": [defence.record.name for defence in grid.defences],
        "attacks": [f"{attack.record.label}, seed {attack.record.seed}" for attack in grid.attacks],
        "evaluations": [entry.name for entry in recipe.evaluations],
        "analyses": [entry.name for entry in recipe.analyses],
    }
    for what, found in names.items():
        for name in repeated(found):
            hint = "; give one of them another variant" if what == "attacks" else ""
            yield Problem((what,), f"{name} comes twice{hint}")
    folders = [attack.slug for attack in grid.attacks]
    if not repeated(names["attacks"]) and repeated(folders):
        yield Problem(("attacks",), f"two variants would have one folder, {repeated(folders)[0]}; rename one of them")
    for number, evaluation in enumerate(recipe.evaluations):
        if evaluation.name in RESERVED:
            yield Problem(("evaluations", number, "name"), f"{evaluation.name} is the name of another folder")
    if not (recipe.evaluations or recipe.drift or recipe.analyses):
        yield Problem((), "nothing is measured: give evaluations, drift or analyses")
    attacks = {entry.name for entry in recipe.attacks}
    for number, evaluation in enumerate(recipe.evaluations):
        for name in evaluation.after or ():
            if name not in attacks:
                yield Problem(("evaluations", number, "after"), f"no attack of this recipe is called {name!r}")
    for number, analysis in enumerate(recipe.analyses):
        if analysis.kind != "spectrum" and analysis.evaluation not in names["evaluations"]:
            yield Problem(("analyses", number, "evaluation"), _none_called("evaluation", analysis.evaluation, names))
        if analysis.kind == "rank-curve" or analysis.kind == "landscape":
            yield from _suite_problems(("analyses", number, "suites"), analysis, recipe)
        if analysis.kind == "rank-curve" and repeated([str(rank) for rank in analysis.ranks]):
            yield Problem(("analyses", number, "ranks"), "a rank comes twice")
        if analysis.kind == "landscape":
            yield from _landscape_problems(("analyses", number), analysis, grid)
    judges = [judge.partition("=")[0] for evaluation in recipe.evaluations for judge in evaluation.judges]
    if recipe.judge != JudgeEntry() and not any(judge in MODEL_JUDGES for judge in judges):
        yield Problem(("judge",), "no evaluation has a judge that is a model, for whom this would be")
    if recipe.expected is None:
        return
    labels = {(attack.record.name, attack.record.variant) for attack in grid.attacks} | {(None, "")}
    for number, expected in enumerate(recipe.expected.values):
        place = ("expected", "values", number)
        if expected.defence not in names["defences"]:
            yield Problem((*place, "defence"), _none_called("defence", expected.defence, names))
        if (expected.attack, expected.variant) not in labels:
            yield Problem(
                (*place, "attack"), f"no attack {expected.attack!r} with variant {expected.variant!r} is here"
            )
        if expected.evaluation not in names["evaluations"]:
            yield Problem((*place, "evaluation"), _none_called("evaluation", expected.evaluation, names))


def _suite_problems(key: Key, entry: RankCurveEntry | LandscapeEntry, recipe: Recipe) -> Iterator[Problem]:
    asked = [name for found in recipe.evaluations if found.name == entry.evaluation for name in found.suites]
    for name in entry.suites:
        if asked and name not in asked:
            yield Problem(key, f"evaluation {entry.evaluation} does not ask {name!r}, but {', '.join(asked)}")


def _landscape_problems(key: Key, entry: LandscapeEntry, grid: Grid) -> Iterator[Problem]:
    moving = [defence.record.name for defence in grid.defences if defence.entry.moves]
    if entry.defence not in moving:
        there = ", ".join(moving) or "none"
        yield Problem((*key, "defence"), f"{entry.defence!r} is no defence here that moves weights; there are: {there}")
    if not any(defence.record.method == "none" for defence in grid.defences):
        yield Problem(key, "a landscape is seen from the aligned model: add the defence none")
    if not any(is_of(attack, entry) for attack in grid.attacks):
        which = f"{entry.attack!r} with variant {entry.variant!r}"
        yield Problem((*key, "attack"), f"no attack {which} is here{'' if entry.seed is None else ' with that seed'}")


def _none_called(what: str, name: str, names: dict[str, list[str]]) -> str:
    return f"no {what} of this recipe is called {name!r}; there are: {', '.join(names[f'{what}s']) or 'none'}"


def slug(name: str) -> str:
    """A name of a folder that says the same."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower().replace(" %", "pc")).strip("-.")


def _pairs(recipe: Recipe) -> Iterator[Pair]:
    for entry in recipe.pairs:
        for seed in entry.seeds:
            yield Pair(entry.name if len(entry.seeds) == 1 else f"{entry.name}-{seed}", entry, seed)


def _defences(entry: DefenceEntry) -> Iterator[Defence]:
    if not entry.moves:
        name = "none" if entry.method == "none" else "SafeInst"
        yield Defence(DefenceRecord(name=name, method=entry.method, rank=None, coef=None), entry)
        return
    for rank, coef in product(entry.rank, entry.coef):
        name = f"{_LABELS[entry.method]} {rank} x {coef:g}"
        yield Defence(DefenceRecord(name=name, method=entry.method, rank=rank, coef=coef), entry)


def _attacks(entry: AttackEntry) -> Iterator[Attack]:
    """The plain setting first: the published rate, and no harmful rows."""
    ratios = (None,) if entry.poison is None else entry.poison.ratios
    for ratio, factor, seed in product(ratios, entry.learning_rates, entry.seeds):
        told = [
            entry.variant or ("" if entry.lora is None else "LoRA"),
            "" if factor == 1 else f"lr x{factor:g}",
            f"poison {100 * ratio:g} %" if ratio else "",
        ]
        record = AttackRecord(
            name=entry.name,
            variant=", ".join(filter(None, told)),
            seed=seed,
            learning_rate_factor=factor,
            poison_ratio=ratio,
            settings=_settings(entry, factor),
        )
        yield Attack(record, entry)


def training_of(entry: AttackEntry, factor: float) -> Training:
    """The attack's hyperparameters as the recipe changes them, with this factor of the learning rate.

    Raises:
        UsageError: there is no such attack, or its training is changed to what makes no sense.
    """
    training = find_attack(entry.name).hyperparameters(paper_exact=entry.paper_exact).changed(**entry.training.changes)
    return training.changed(learning_rate=training.learning_rate * factor)


def _settings(entry: AttackEntry, factor: float) -> dict[str, float | int | str]:
    settings: dict[str, float | int | str] = dict(entry.training.model_dump(exclude_none=True))
    if factor != 1:
        settings["learning_rate"] = training_of(entry, factor).learning_rate
    if entry.lora is not None:
        lora = {"rank": Lora().rank, "alpha": Lora().alpha} | entry.lora.model_dump(exclude_none=True)
        settings |= {f"lora_{name}": lora[name] for name in ("rank", "alpha")}
        if entry.lora.targets is not None:
            settings["lora_targets"] = ", ".join(entry.lora.targets)
    return settings
