"""experiment.json: made anew from the marks on disk each time, so that of several processes none undoes another's."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import ValidationError

import safelox
from safelox.experiment.execution.marks import Marks
from safelox.experiment.files import put
from safelox.experiment.plan.grid import ALIGNED, BASE
from safelox.experiment.plan.steps import Cell, Plan, Step
from safelox.experiment.recipe.entries import EvaluationEntry
from safelox.experiment.record import (
    FILE,
    AnalysisRecord,
    CellRecord,
    ExperimentRecord,
    JudgedRecord,
    PairRecord,
    State,
)

RECIPE_COPY = "recipe.yaml"
LIBRARIES = ("torch", "safetensors", "numpy", "transformers", "peft", "trl", "datasets", "tokenizers", "openai")


class Header:
    """What experiment.json says besides the states."""

    def __init__(self, text: str, command: str | None) -> None:
        self.text, self.command = text, command
        self.sha256 = hashlib.sha256(text.encode()).hexdigest()


def record_of(plan: Plan, marks: Marks, header: Header) -> ExperimentRecord:
    """The experiment as it stands now."""
    recipe = plan.recipe
    return ExperimentRecord(
        name=recipe.name,
        title=recipe.title,
        description=recipe.description,
        expected_from=None if recipe.expected is None else recipe.expected.source,
        versions=library_versions(),
        command=header.command,
        recipe=RECIPE_COPY,
        recipe_sha256=header.sha256,
        pairs=tuple(_pairs(plan)),
        defences=tuple(defence.record for defence in plan.grid.defences),
        cells=tuple(_cell(plan, cell, marks) for cell in plan.cells),
        analyses=tuple(
            AnalysisRecord(
                kind=analysis.kind,
                name=analysis.name,
                pair=analysis.pair,
                folder=analysis.step,
                state=_state(plan, analysis.step, marks),
                error=_error(plan, plan.by_id[analysis.step], marks),
            )
            for analysis in plan.analyses
        ),
    )


def write_record(out: Path, plan: Plan, marks: Marks, header: Header) -> ExperimentRecord:
    """Write experiment.json, until it says what the marks say: another process may have written what it saw before.

    The command is that of the first who ran this recipe here, so that slices do not write theirs over each other's.
    """
    while True:
        record = record_of(plan, marks, header).model_copy(update={"command": _first_command(out, header)})
        if not put(out / FILE, json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"):
            return record


def _first_command(out: Path, header: Header) -> str | None:
    try:
        there = ExperimentRecord.model_validate_json((out / FILE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return header.command
    return there.command if there.recipe_sha256 == header.sha256 else header.command


def _pairs(plan: Plan) -> Iterator[PairRecord]:
    for pair in plan.grid.pairs:
        if pair.entry.source is None:
            found = plan.found[pair.name]
            yield PairRecord(name=pair.name, base=found.base.path, aligned=found.aligned.path, source=None)
        else:
            folder = f"pairs/{pair.name}"
            yield PairRecord(
                name=pair.name, base=f"{folder}/{BASE}", aligned=f"{folder}/{ALIGNED}", source=pair.entry.source
            )


def _cell(plan: Plan, cell: Cell, marks: Marks) -> CellRecord:
    steps = [step for _, step in cell.judged] + ([] if cell.drift is None else [cell.drift])
    errors = [error for step in steps if (error := _error(plan, plan.by_id[step], marks)) is not None]
    return CellRecord(
        id=cell.id,
        pair=cell.pair,
        defence=cell.defence,
        attack=None if cell.attack is None else cell.attack.record,
        judged=tuple(
            JudgedRecord(
                evaluation=entry.name,
                system=entry.system,
                folder=step,
                state=_state(plan, step, marks),
                expected=_expected(plan, cell, entry),
            )
            for entry, step in cell.judged
        ),
        drift=cell.drift,
        drift_state="done" if cell.drift is None else _state(plan, cell.drift, marks),
        error="; ".join(dict.fromkeys(errors)) or None,
    )


def _expected(plan: Plan, cell: Cell, entry: EvaluationEntry) -> Mapping[str, float]:
    expected = plan.recipe.expected
    if expected is None:
        return {}
    attack = (None, "") if cell.attack is None else (cell.attack.record.name, cell.attack.record.variant)
    return {
        name: value
        for found in expected.values
        if (found.defence, found.attack, found.variant) == (cell.defence, *attack) and found.evaluation == entry.name
        for name, value in found.values.items()
    }


def _state(plan: Plan, id: str, marks: Marks) -> State:
    step = plan.by_id[id]
    if marks.done(step):
        return "done"
    return "waiting" if _error(plan, step, marks) is None else "failed"


def _error(plan: Plan, step: Step, marks: Marks) -> str | None:
    """Why a step that is not done failed, or one that it needs."""
    if marks.done(step):
        return None
    own = marks.last_failure(step)
    if own is not None:
        return f"{step.id}: {own}"
    return next((error for need in step.needs if (error := _error(plan, plan.by_id[need], marks)) is not None), None)


def library_versions() -> dict[str, str]:
    """Of safelox and of the libraries that decide results, as far as they are installed."""
    found = {"safelox": safelox.__version__}
    for library in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[library] = version(library)
    return found
