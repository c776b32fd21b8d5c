"""The steps of one pair."""

from collections.abc import Iterator, Sequence
from typing import Any

from safelox.drift_metrics.report import FILE as DRIFT
from safelox.experiment.plan.digests import Hashes
from safelox.experiment.plan.grid import ALIGNED, BASE, Attack, Defence, Grid, Pair, is_of, slug, training_of
from safelox.experiment.plan.inputs import Inputs
from safelox.experiment.plan.references import Found
from safelox.experiment.plan.steps import Analysis, Cell, Steps
from safelox.experiment.recipe.analysis_entries import AnalysisEntry, LandscapeEntry
from safelox.experiment.recipe.entries import EvaluationEntry, Recipe
from safelox.experiment.sources import find_source
from safelox.experiment.works import (
    SAFEINST,
    Attacked,
    BuildPair,
    Curve,
    Decompose,
    Drift,
    Evaluate,
    Harden,
    Model,
    Plane,
    Search,
    Spectrum,
    Work,
    suites_of,
)

BEFORE = "before"


class PairSteps:
    """The steps of one pair."""

    def __init__(
        self, steps: Steps, recipe: Recipe, grid: Grid, pair: Pair, found: Found | None, hashes: Hashes
    ) -> None:
        """
        Args:
            found: the models; None where the pair's source makes them.
        """
        self._steps, self._recipe, self._grid, self._pair = steps, recipe, grid, pair
        self._inputs = Inputs(recipe, pair, hashes)
        name = pair.name
        if found is not None:
            self._models = {BASE: found.base, ALIGNED: found.aligned}
            self._roots: tuple[str, ...] = ()
            self._content: dict[str, Any] = dict(found.content)
        else:
            assert pair.entry.source is not None, "a pair is found or made"
            source = find_source(pair.entry.source)
            work = BuildPair(
                target=f"pairs/{name}", source=source.name, seed=pair.seed, options=dict(pair.entry.options)
            )
            self._roots = (self._steps.add(work, (), f"{name}/{BASE}", {}, source.code()),)
            self._models = {kind: Model(path=f"pairs/{name}/{kind}", inside=True) for kind in (BASE, ALIGNED)}
            self._content = {}
        self._ids: dict[str, tuple[str, ...]] = {BASE: self._roots, ALIGNED: self._roots}
        self._device = recipe.compute.device

    def cell(self, defence: Defence | None, attack: Attack | None) -> Cell:
        """One model with all that measures it."""
        pair, entry = self._pair.name, None if defence is None else defence.entry
        id = f"{pair}/{BASE}"
        if defence is not None:
            id = self._cell_id(defence, attack)
        start = BASE if defence is None else defence.model
        if defence is not None and defence.entry.moves:
            self._harden(defence, id)
        model, needs = self._models[start], self._ids[start]
        # A defence that leaves the model as it is has the same results before an attack as any other such.
        place = f"{pair}/{start}/{BEFORE}" if attack is None else id
        if defence is not None and attack is not None:
            model, needs = self._attack(defence, attack, id)
        judged = tuple(
            (evaluation, self._evaluate(evaluation, model, needs, place, id))
            for evaluation in self._recipe.evaluations
            if attack is None or evaluation.after is None or attack.record.name in evaluation.after
        )
        drift = None
        if self._recipe.drift is not None and defence is not None:
            hardened = start if attack is not None and entry is not None and entry.moves else None
            drift = self._drift(model, needs, hardened, place, id)
        return Cell(id, pair, None if defence is None else defence.record.name, attack, judged, drift)

    def analyses(self) -> Iterator[Analysis]:
        for entry in self._recipe.analyses:
            target, cell = f"analyses/{self._pair.name}/{entry.name}", f"{self._pair.name}/{entry.name}"
            work, needs, inputs = self._analysis(entry, target)
            step = self._steps.add(work, tuple(dict.fromkeys((*self._roots, *needs))), cell, self._content | inputs)
            yield Analysis(entry.kind, entry.name, self._pair.name, step)

    def _analysis(self, entry: AnalysisEntry, target: str) -> tuple[Work, Sequence[str], dict[str, Any]]:
        """The work, the steps that it needs, and what else it reads."""
        if entry.kind == "spectrum":
            return Spectrum(target=target, subspace=self._subspace(), ranks=entry.ranks), (self._subspace(),), {}
        recipe, asked = self._recipe, self._recipe.evaluation(entry.evaluation)
        if entry.kind == "tune":
            suites = [name for name in (entry.suite, entry.utility_suite, entry.over_refusal_suite) if name is not None]
            inputs = self._inputs.asked(suites, asked) | self._inputs.attack(entry.attack)
        else:
            suites = list(entry.suites or asked.suites)
            inputs = self._inputs.asked(suites_of(asked, entry.suites), asked)
        shared: dict[str, Any] = {
            "target": target,
            "entry": entry,
            "asked": asked,
            "compute": recipe.compute,
            "judge": recipe.judge,
            "data": self._inputs.suite_data(suites),
            "seed": recipe.seed,
        }
        if entry.kind == "landscape":
            models, needs = self._corners(entry)
            return Plane(**(shared | models)), needs, inputs
        shared |= {"base": self._models[BASE], "aligned": self._models[ALIGNED], "subspace": self._subspace()}
        if entry.kind == "tune":
            return Search(**shared, attack_data=self._inputs.attack_data(entry.attack)), (self._subspace(),), inputs
        return Curve(**shared), (self._subspace(),), inputs

    def _corners(self, entry: LandscapeEntry) -> tuple[dict[str, Model], Sequence[str]]:
        """The four models of a landscape, and the steps that made them."""
        defence = next(found for found in self._grid.defences if found.record.name == entry.defence)
        none = next(found for found in self._grid.defences if found.record.method == "none")
        attack = next(found for found in self._grid.attacks if is_of(found, entry))
        models = {"origin": self._models[ALIGNED], "hardened": self._models[defence.model]}
        needs = [*self._ids[defence.model]]
        for name, start in (("tuned", none), ("hardened_tuned", defence)):
            models[name], steps = self._attack(start, attack, self._cell_id(start, attack))
            needs += steps
        return models, needs

    def _subspace(self) -> str:
        work = Decompose(
            target=f"subspaces/{self._pair.name}.safetensors",
            base=self._models[BASE],
            aligned=self._models[ALIGNED],
            rank=self._recipe.subspace_rank,
            seed=self._recipe.seed,
            device=self._device,
        )
        return self._steps.add(work, self._roots, f"{self._pair.name}/{BASE}", self._content)

    def _cell_id(self, defence: Defence, attack: Attack | None) -> str:
        return f"{self._pair.name}/{slug(defence.record.name)}/{BEFORE if attack is None else attack.slug}"

    def _harden(self, defence: Defence, cell: str) -> None:
        record, method, name = defence.record, defence.record.method, defence.model
        assert record.rank is not None, "defences that move weights have a rank"
        assert record.coef is not None, "and a coefficient"
        subspace = None if record.rank == "full" else self._subspace()
        work = Harden(
            target=f"models/{self._pair.name}/{name}/hardened",
            base=self._models[BASE],
            aligned=self._models[ALIGNED],
            subspace=subspace,
            rank=record.rank,
            coef=record.coef,
            control=None if method == "lox" or method == "none" or method == "safeinst" else method,
            seed=self._recipe.seed,
            device=self._device,
        )
        needs = self._roots if subspace is None else (*self._roots, subspace)
        self._ids[name] = (self._steps.add(work, needs, cell, self._content),)
        self._models[name] = Model(path=work.target, inside=True)

    def _attack(self, defence: Defence, attack: Attack, cell: str) -> tuple[Model, tuple[str, ...]]:
        record, entry, start = attack.record, attack.entry, self._models[defence.model]
        safeinst = None
        if defence.record.method == SAFEINST:
            safeinst = "" if defence.entry.file is None else str(defence.entry.file)
        training = training_of(entry, record.learning_rate_factor)
        work = Attacked(
            target=f"models/{cell}",
            model=start,
            entry=entry.model_copy(update={"seeds": (record.seed,), "learning_rates": (record.learning_rate_factor,)}),
            learning_rate=training.learning_rate,
            seed=record.seed,
            poison_ratio=record.poison_ratio,
            safeinst=safeinst,
            compute=self._recipe.compute.model_copy(update={"batch_size": None}),
            data=self._inputs.attack_data(entry.name),
            record=f"results/{cell}/attack",
        )
        inputs = self._inputs.attack(entry.name) | {"training": training.model_dump()}
        if entry.poison is not None:
            inputs["poison"] = self._inputs.file(None, str(entry.poison.file), entry.poison.file)
        if safeinst is not None:
            inputs[SAFEINST] = self._inputs.safeinst(safeinst)
        needs = tuple(dict.fromkeys((*self._roots, *self._ids[defence.model])))
        step = self._steps.add(work, needs, cell, self._input_of(defence.model) | inputs)
        if entry.lora is not None and not entry.lora.merge:
            return start.model_copy(update={"adapter": step}), (*needs, step)
        return Model(path=step, inside=True), (*self._roots, step)

    def _evaluate(self, entry: EvaluationEntry, model: Model, needs: Sequence[str], place: str, cell: str) -> str:
        work = Evaluate(
            target=f"results/{place}/{entry.name}",
            model=model,
            entry=entry,
            compute=self._recipe.compute,
            judge=self._recipe.judge,
            seed=self._recipe.seed,
            data=self._inputs.suite_data(entry.suites),
        )
        inputs = self._inputs.asked(suites_of(entry), entry)
        if not needs or model in (self._models[BASE], self._models[ALIGNED]):
            inputs |= self._input_of(BASE if model == self._models[BASE] else ALIGNED)
        return self._steps.add(work, tuple(dict.fromkeys((*self._roots, *needs))), cell, inputs)

    def _drift(self, model: Model, needs: Sequence[str], hardened: str | None, place: str, cell: str) -> str:
        assert self._recipe.drift is not None, "drift is asked for"
        subspace = self._subspace()
        work = Drift(
            target=f"results/{place}/{DRIFT}",
            base=self._models[BASE],
            aligned=self._models[ALIGNED],
            tuned=model,
            hardened=None if hardened is None else self._models[hardened],
            subspace=subspace,
            rank=self._recipe.drift.rank,
            overlap=self._recipe.drift.overlap,
            seed=self._recipe.seed,
            device=self._device,
        )
        others = () if hardened is None else self._ids[hardened]
        every = tuple(dict.fromkeys((*self._roots, subspace, *others, *needs)))
        return self._steps.add(work, every, cell, self._content)

    def _input_of(self, model: str) -> dict[str, Any]:
        """What a step reads that starts from this model, if it is one of the pair as it is."""
        if model not in (BASE, ALIGNED):
            return {}
        own = {name: found for name, found in self._content.items() if name.startswith(model)}
        return {"content": own, "model": model}
