"""What steps read besides models: prompts, rows of attacks, wordings of judges, by their hashes."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safelox.attacks import find_attack
from safelox.errors import SafeloxError
from safelox.evaluation import JUDGES
from safelox.evaluation.suites import CUSTOM, Suite, find_suites
from safelox.experiment.plan.digests import UNKNOWN, Hashes
from safelox.experiment.plan.grid import Pair
from safelox.experiment.recipe.entries import EvaluationEntry, Recipe
from safelox.experiment.sources import find_source
from safelox.experiment.works import SAFEINST, Data, find_safeinst
from safelox.known_data import find


class Inputs:
    """What the steps of one pair read. Data that the source of the pair makes counts as a part of the pair."""

    def __init__(self, recipe: Recipe, pair: Pair, hashes: Hashes) -> None:
        self._recipe, self._pair, self._hashes = recipe, pair, hashes
        self._known: dict[tuple[str | None, str, str], str] = {}

    def asked(self, suites: Sequence[str | Suite], entry: EvaluationEntry) -> dict[str, Any]:
        """What decides the verdicts besides the model: prompts and judges."""
        found: dict[str, Any] = {}
        for suite in find_suites(suites):
            found[suite.name] = asdict(suite)
            if suite.name == CUSTOM:  # whose place and title are those of a file of the user's own
                found[suite.name] |= {"file": None, "title": None}
            if not self._made_here("suites", (suite.name,)):
                found[f"data of {suite.name}"] = self.file(suite.source, suite.file, self._recipe.data)
            if suite.examples is not None and entry.shots:
                examples = suite.examples
                found["examples"] = self.file(examples.source, examples.file, self._recipe.data)
        named = {*entry.judges, *(judge for suite in find_suites(suites) for judge in suite.judges)}
        found["judges"] = {name: JUDGES[name].version for name in sorted(named) if name in JUDGES}
        if any(name not in JUDGES for name in named):
            judge = self._recipe.judge
            found["judge"] = [judge.model, judge.url]
            if judge.prompt is not None:
                found["wording"] = self.file(None, str(judge.prompt), judge.prompt)
            for name in named:
                file = Path(name.partition("=")[2])
                if name.startswith("replay=") and file.is_file():
                    found[name] = self.file(None, str(file), file)
        return found

    def attack(self, name: str) -> dict[str, Any]:
        """The attack's definition, and its rows."""
        definition = find_attack(name)
        inputs: dict[str, Any] = {"attack": definition.model_dump(mode="json")}
        if not self._made_here("attacks", (name,)):
            inputs["data"] = self.file(definition.source, definition.file, self._recipe.data)
        return inputs

    def safeinst(self, file: str) -> str:
        try:
            path = find_safeinst(file, self._recipe.data)
        except SafeloxError:
            return UNKNOWN
        return self._hashes.of({SAFEINST: path})[SAFEINST]

    def suite_data(self, suites: Sequence[str]) -> Data:
        if self._made_here("suites", suites):
            return Data(path=f"pairs/{self._pair.name}", inside=True)
        return self._own_data()

    def attack_data(self, name: str) -> Data:
        if self._made_here("attacks", (name,)):
            return Data(path=f"pairs/{self._pair.name}", inside=True)
        return self._own_data()

    def _own_data(self) -> Data:
        return Data(path=None if self._recipe.data is None else str(self._recipe.data))

    def _made_here(self, what: str, names: Sequence[str]) -> bool:
        """Whether the source of the pair makes the data of one of these attacks or suites."""
        if self._pair.entry.source is None:
            return False
        source = find_source(self._pair.entry.source)
        made = source.attacks if what == "attacks" else source.suites
        return any(name in made for name in names)

    def file(self, source: str | None, file: str, data: Path | None) -> str:
        """Hash of the file of a data set."""
        asked = (source, file, str(data))
        if asked not in self._known:
            try:
                path = find(source, file, data).path
                self._known[asked] = self._hashes.of({file: path})[file]
            except SafeloxError:
                self._known[asked] = UNKNOWN  # that it is missing is said elsewhere
        return self._known[asked]
