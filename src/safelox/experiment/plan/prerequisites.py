"""Whether a recipe can be carried out: what it names has to be known, and what it reads has to be there."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from safelox.analysis.plane import Lines
from safelox.analysis.plane.wanted import check_wanted
from safelox.analysis.search.space import Space
from safelox.analysis.search.study import require_optuna
from safelox.attacks import find_attack
from safelox.attacks.lora import Lora
from safelox.attacks.trainer import require_trl
from safelox.errors import SafeloxError, UsageError
from safelox.evaluation.judges import MODEL_JUDGES
from safelox.evaluation.planning import Asking, plan_suites
from safelox.evaluation.suites import Suite, find_suites
from safelox.experiment.plan.digests import Hashes
from safelox.experiment.plan.grid import Grid, expand, grid_problems, training_of
from safelox.experiment.plan.references import Found, find_pair
from safelox.experiment.recipe.analysis_entries import TuneEntry
from safelox.experiment.recipe.entries import AttackEntry, EvaluationEntry, Recipe
from safelox.experiment.recipe.reading import Key, Problem
from safelox.experiment.sources import PairSource, find_source
from safelox.experiment.works import find_safeinst, judges_of, suites_of
from safelox.formats import find_format
from safelox.known_data import find
from safelox.language_models import require_peft
from safelox.machine import chosen_device
from safelox.methods import Lox
from safelox.progress import Progress


@dataclass
class Checked:
    """What came of looking at all that a recipe names."""

    wrong: list[Problem] = field(default_factory=list)
    """Of the recipe itself: names that nobody knows, values that make no sense."""
    missing: list[Problem] = field(default_factory=list)
    """What is known but not here: models, data, packages, keys, a GPU."""
    grid: Grid | None = None
    """None where something is wrong."""
    found: dict[str, Found] = field(default_factory=dict)
    """The pairs that are here, by name."""
    prompts: dict[str, int] = field(default_factory=dict)
    """Of every suite whose prompts are known, how many they are."""

    @contextmanager
    def at(self, *key: str | int) -> Iterator[None]:
        """An error of the block becomes a problem at this key."""
        try:
            yield
        except UsageError as error:
            self.wrong.append(Problem(key, str(error)))
        except SafeloxError as error:
            self.missing.append(Problem(key, str(error)))


def check(recipe: Recipe, hashes: Hashes, progress: Progress, *, fetch: bool) -> Checked:
    """Look up everything that a recipe names; nothing is trained, asked or judged.

    Args:
        fetch: whether models may be fetched from the hub.
    """
    checked = Checked()
    for number, pair in enumerate(recipe.pairs):
        if pair.source is not None:
            with checked.at("pairs", number, "source"):
                source = find_source(pair.source)
                with checked.at("pairs", number, "options"):
                    source.check(pair.options)
    for number, defence in enumerate(recipe.defences):
        for rank in defence.rank:
            for coef in defence.coef:
                with checked.at("defences", number):
                    Lox(rank, coef)
        if defence.method == "safeinst":
            with checked.at("defences", number, "file"):
                find_safeinst("" if defence.file is None else str(defence.file), recipe.data)
    for number, attack in enumerate(recipe.attacks):
        _check_attack(checked, ("attacks", number), attack, recipe)
    for number, evaluation in enumerate(recipe.evaluations):
        _check_evaluation(checked, ("evaluations", number), evaluation, recipe, fetch=fetch)
    for number, analysis in enumerate(recipe.analyses):
        if analysis.kind == "tune":
            _check_tune(checked, ("analyses", number), analysis, recipe)
        if analysis.kind == "landscape":
            with checked.at("analyses", number):
                lines = Lines(analysis.lines) if analysis.lines else None
                check_wanted(True, analysis.points, analysis.range_a, analysis.range_b, lines, None, False)
    with checked.at("compute", "device"):
        try:
            chosen_device(recipe.compute.device)
        except UsageError as error:
            checked.missing.append(Problem(("compute", "device"), str(error)))
    if recipe.attacks:
        with checked.at("attacks"):
            require_trl()
    if not checked.wrong:
        checked.grid = expand(recipe)
        checked.wrong += grid_problems(recipe, checked.grid)
    if not checked.wrong:
        for number, pair in enumerate(recipe.pairs):
            if pair.source is None:
                with checked.at("pairs", number):
                    checked.found[pair.name] = find_pair(pair, hashes, progress, fetch=fetch)
    return checked


def sources_of(recipe: Recipe) -> list[PairSource | None]:
    """Who builds each pair; None for those that are there, or that nobody knows how to build."""
    found: list[PairSource | None] = []
    for entry in recipe.pairs:
        try:
            found.append(None if entry.source is None else find_source(entry.source))
        except UsageError:
            found.append(None)
    return found


def _check_attack(checked: Checked, key: Key, entry: AttackEntry, recipe: Recipe) -> None:
    with checked.at(*key, "name"):
        known = find_attack(entry.name)
        with checked.at(*key, "training"):
            training_of(entry, 1.0)
        if entry.paper_exact and known.exact_format is None:
            raise UsageError("the paper's code does not have this attack, so it cannot be as exact as that.")
        _find_rows(entry.name, recipe)
    if entry.format is not None:
        with checked.at(*key, "format"):
            find_format(entry.format)
            if entry.paper_exact:
                raise UsageError("the paper's exact texts have formats of their own: leave format or paper_exact out.")
    if entry.poison is not None:
        with checked.at(*key, "poison", "file"):
            find(None, str(entry.poison.file), entry.poison.file)
    if entry.lora is not None:
        with checked.at(*key, "lora"):
            require_peft()
            Lora.checked(**entry.lora.model_dump(exclude_none=True, exclude={"merge"}))


def _from_hub(judge: str, recipe: Recipe) -> bool:
    """Whether a judge is a model that would be fetched and run here."""
    name, _, model = judge.partition("=")
    if name not in MODEL_JUDGES:
        return False
    chosen = model or recipe.judge.model or MODEL_JUDGES[name].model
    return chosen.startswith("hub:") or (MODEL_JUDGES[name].local and recipe.judge.url is None)


def _find_rows(name: str, recipe: Recipe) -> None:
    """
    Raises:
        SafeloxError: there is no such attack, or its rows are not here and no source makes them.
    """
    known = find_attack(name)
    if not all(source is not None and name in source.attacks for source in sources_of(recipe)):
        find(known.source, known.file, recipe.data)


def _check_tune(checked: Checked, key: Key, entry: TuneEntry, recipe: Recipe) -> None:
    with checked.at(*key):
        require_optuna()
        Space.checked(entry.ranks, *entry.coefs, entry.coef_step)
    with checked.at(*key, "attack"):
        _find_rows(entry.attack, recipe)
    asked = next((found for found in recipe.evaluations if found.name == entry.evaluation), None)
    for name in ("suite", "utility_suite", "over_refusal_suite"):
        suite = getattr(entry, name)
        if suite is not None and asked is not None:
            with checked.at(*key, name):
                _count_prompts(checked, (*key, name), find_suites([suite]), asked, recipe)


def _check_evaluation(checked: Checked, key: Key, entry: EvaluationEntry, recipe: Recipe, *, fetch: bool) -> None:
    suites: list[Suite] = []
    with checked.at(*key, "suites"):
        suites = find_suites(suites_of(entry))
    _count_prompts(checked, (*key, "suites"), suites, entry, recipe)
    with checked.at(*key, "judges"):
        if not entry.judges and not all(suite.judges for suite in suites):
            raise UsageError("the suites have no judges of their own: name at least one.")
        # Whoever may not fetch a model does not look whether one of a judge's is here either.
        judges_of(tuple(name for name in entry.judges if fetch or not _from_hub(name, recipe)), recipe.judge)


def _count_prompts(checked: Checked, key: Key, suites: Sequence[Suite], entry: EvaluationEntry, recipe: Recipe) -> None:
    """Look the prompts up that the suites ask, as the evaluation asks them."""
    sources = sources_of(recipe)
    asking = Asking(
        entry.limit,
        entry.format,
        entry.max_new_tokens,
        entry.shots,
        entry.paper_exact,
        entry.temperature,
        entry.top_p,
        entry.samples,
        recipe.seed,
    )
    for suite in suites:
        with checked.at(*key):
            made = [None if source is None else source.suites.get(suite.name) for source in sources]
            if None not in made:
                checked.prompts[suite.name] = max(number for number in made if number is not None)
            else:
                planned = plan_suites([suite], asking, () if suite.judges else entry.judges, recipe.data)
                checked.prompts[suite.name] = planned[suite.name].original
