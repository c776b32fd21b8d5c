"""What the demo measured, as an experiment: `safelox report` shows it like any other."""

from collections.abc import Iterator
from pathlib import Path

from safelox.drift_metrics.report import FILE as DRIFT_FILE
from safelox.experiment import (
    FILE,
    AttackRecord,
    CellRecord,
    DefenceRecord,
    ExperimentRecord,
    JudgedRecord,
    PairRecord,
)
from safelox.experiment.execution.collecting import library_versions
from safelox.lab.examples import IDENTITY_PROMPT
from safelox.lab.results import LOX, NO_DEFENCE, DemoResult, SeedResult
from safelox.writer.disk import put_text

UNPROMPTED, PROMPTED, DRIFT = "results", "results-under-system-prompt", "drift"
"""Folders of a seed: the replies to the prompts as they are, those under the system prompt of the identity shift, and
how far each model has drifted. Below each stands what is of a model, where that stands below the seed's folder."""

FOLDERS = {NO_DEFENCE: "aligned", LOX: "hardened"}
"""Of models that are called otherwise than their folders."""

DESCRIPTION = (
    "Models of 400,000 parameters, trained on a made-up language in which some requests are forbidden; the judge knows "
    "the right reply to each."
)
CHOSEN = " The coefficient was chosen on other topics than these."


def write_experiment(result: DemoResult, folder: Path, command: str | None) -> None:
    """Write experiment.json; `folder` holds those of the seeds."""
    put_text(folder / FILE, _experiment(result, command).model_dump_json(indent=1) + "\n")


def _experiment(result: DemoResult, command: str | None) -> ExperimentRecord:
    return ExperimentRecord(
        name="demo",
        title="The demo: a small model, aligned, hardened and attacked",
        description=DESCRIPTION + (CHOSEN if result.seeds[0].trials is not None else ""),
        expected_from=None,
        versions=library_versions(),
        command=command,
        recipe=None,
        recipe_sha256=None,
        pairs=tuple(
            PairRecord(name=_pair(seed), base=f"{seed.folder}/base", aligned=f"{seed.folder}/aligned", source="lab")
            for seed in result.seeds
        ),
        defences=tuple(_defence(name, result) for name in result.seeds[0].before.models),
        cells=tuple(cell for seed in result.seeds for cell in _cells(seed)),
        analyses=(),
    )


def _pair(seed: SeedResult) -> str:
    return f"seed-{seed.seed}"


def _defence(name: str, result: DemoResult) -> DefenceRecord:
    if name == NO_DEFENCE:
        return DefenceRecord(name=name, method="none", rank=None, coef=None)
    coefs = {seed.coef for seed in result.seeds}
    return DefenceRecord.model_validate(
        {
            "name": name,
            "method": "lox" if name == LOX else name,
            "rank": result.seeds[0].rank,
            "coef": coefs.pop() if len(coefs) == 1 else None,  # it is chosen for each seed
        }
    )


def _cells(seed: SeedResult) -> Iterator[CellRecord]:
    """The base model, then every model in every situation; asked with and without the prompt is one model."""
    yield _cell(seed, None, None, "base", [False])
    systems: dict[str | None, list[bool]] = {}
    for situation in seed.situations:
        systems.setdefault(situation.attack, []).append(situation.system)
    for attack, asked in systems.items():
        for name in seed.before.models:
            own = FOLDERS.get(name, name)
            yield _cell(seed, name, attack, own if attack is None else f"attacked/{attack}/{own}", asked)


def _cell(seed: SeedResult, defence: str | None, attack: str | None, model: str, asked: list[bool]) -> CellRecord:
    home = _pair(seed)
    return CellRecord(
        id=f"{home}/{model}",
        pair=home,
        defence=defence,
        attack=None
        if attack is None
        else AttackRecord(
            name=attack, variant="", seed=seed.seed, learning_rate_factor=1.0, poison_ratio=None, settings={}
        ),
        judged=tuple(
            JudgedRecord(
                evaluation="under the system prompt" if system else "as they are",
                system=IDENTITY_PROMPT if system else None,
                folder=f"{home}/{PROMPTED if system else UNPROMPTED}/{model}",
                state="done",
                expected={},
            )
            for system in asked
        ),
        drift=None if defence is None else f"{home}/{DRIFT}/{model}/{DRIFT_FILE}",
        drift_state="done",
        error=None,
    )
