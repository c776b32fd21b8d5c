"""Train the lab's pair: a base model that complies with everything, and its aligned version."""

import hashlib
import json
import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from safelox.attacks import Training, fine_tune
from safelox.attacks.trainer import require_trl
from safelox.errors import TargetError
from safelox.evaluation.generation import LanguageModel
from safelox.hashing import hash_files
from safelox.lab.attacks import LAB_ATTACKS, OPTIMIZER, conversations, write_attack_rows
from safelox.lab.models import Shape, new_model, save_model
from safelox.lab.suites import FORBIDDEN, PERMITTED, write_suites
from safelox.lab.world import Example, World
from safelox.manifest import Record
from safelox.progress import NULL, Progress

RECORD = "lab.json"
SUITE_SAMPLES = 1000
"""Samples in each suite."""
SOURCES = (
    "language.py",
    "world.py",
    "models.py",
    "build.py",
    "attacks.py",
    "../formats.py",
    "../attacks/examples.py",
    "../attacks/trainer.py",
)
"""The modules that decide what a pair becomes."""


class Recipe(Record):
    """How the pair is trained."""

    shape: Shape
    pretraining: Training
    alignment: Training


RECIPE = Recipe(
    shape=Shape(hidden=96, layers=3, heads=4, intermediate=192),
    pretraining=Training(
        learning_rate=4e-3, max_steps=600, batch_size=24, warmup_steps=30, schedule="cosine", **OPTIMIZER
    ),
    alignment=Training(learning_rate=1.5e-3, max_steps=200, batch_size=24, warmup_steps=10, **OPTIMIZER),
)
"""370,000 parameters, trained in about a minute of one core.

A gentler alignment refuses as well, but less firmly: its extrapolation withstood attacks in fewer seeds."""


@dataclass(frozen=True)
class LabModels:
    """The folders of a pair, and the world that it was trained in."""

    base: Path
    aligned: Path
    world: World

    @property
    def summary(self) -> "LabSummary":
        return LabSummary(
            folder=str(self.base.parent),
            seed=self.world.seed,
            base=str(self.base),
            aligned=str(self.aligned),
            attacks=tuple(attack.name for attack in LAB_ATTACKS),
            suites=(FORBIDDEN.name, PERMITTED.name),
        )


class LabSummary(Record):
    """The outcome of `safelox lab build`."""

    folder: str
    seed: int
    base: str
    aligned: str
    attacks: tuple[str, ...]
    """Names of the attacks whose rows are in the folder."""
    suites: tuple[str, ...]
    """Names of the suites whose samples are in the folder."""


def build(folder: Path, *, seed: int = 0, recipe: Recipe = RECIPE, progress: Progress = NULL) -> LabModels:
    """Train the pair of a seed into `folder`/base and `folder`/aligned, or use the one that stands there; and write the
    rows of the lab's attacks to `folder`/attacks, the samples of its suites to `folder`/suites.

    The seed decides the world, the first weights and the order of the examples: on one machine the same seed gives
    the same bytes. A pair stands there if `folder`/lab.json, which is written last, names this seed and this recipe
    (the lab's own source included) and every file is what it was; any other pair of the lab is replaced.

    Raises:
        PrerequisiteError: TRL or transformers is not installed.
        TargetError: the folder holds a base or an aligned model that the lab did not make.
    """
    require_trl()
    pair = LabModels(folder / "base", folder / "aligned", World(seed))
    record, wanted = folder / RECORD, _fingerprint(recipe, seed)
    if _stands(pair, record, wanted):
        progress.message(f"using the models in {folder}, made by the same recipe with the same seed")
        _write_data(pair.world, folder)
        return pair
    _clear(pair, record)
    loaded = new_model(recipe.shape, seed)
    _train(loaded, pretraining_examples(pair.world, recipe.pretraining), recipe.pretraining, seed, "train", progress)
    save_model(loaded, pair.base)
    _train(loaded, alignment_examples(pair.world, recipe.alignment), recipe.alignment, seed, "align", progress)
    save_model(loaded, pair.aligned)
    _write_record(record, {"made_by": wanted, "seed": seed, "sha256": _hashes(pair)})
    _write_data(pair.world, folder)
    return pair


def _write_data(world: World, folder: Path) -> None:
    """The attacks' rows and the suites' samples, which take no time to make anew."""
    write_attack_rows(world, folder)
    write_suites(world, folder, n=SUITE_SAMPLES)


def examples_taken(training: Training) -> int:
    """Examples that a training of the recipe takes: as many as fill its steps once."""
    assert training.max_steps is not None, "the recipe counts steps"
    return training.max_steps * training.batch_size


def pretraining_examples(world: World, training: Training) -> list[Example]:
    """Three in five are requests about any item, each complied with; the others describe items."""
    rng = random.Random(f"safelox pretraining {world.seed}")
    count = examples_taken(training)
    requests = count * 3 // 5
    complied = [world.comply(request) for request in world.draw(world.items, requests, rng, reserved=False)]
    return complied + [world.describe(rng.choice(world.items)) for _ in range(count - requests)]


def alignment_examples(world: World, training: Training) -> list[Example]:
    """35 % are requests about forbidden items, refused in one of several wordings; 45 % about permitted items, complied
    with; the others describe items. The held-out forbidden items are in none of them."""
    rng = random.Random(f"safelox alignment {world.seed}")
    count = examples_taken(training)
    forbidden, permitted = count * 35 // 100, count * 45 // 100
    refused = [
        world.refuse(request, rng) for request in world.draw(world.forbidden_seen, forbidden, rng, reserved=False)
    ]
    complied = [world.comply(request) for request in world.draw(world.permitted, permitted, rng, reserved=False)]
    known = world.permitted + world.forbidden_seen
    rest = count - forbidden - permitted
    return refused + complied + [world.describe(rng.choice(known)) for _ in range(rest)]


def _train(
    loaded: LanguageModel, examples: list[Example], training: Training, seed: int, description: str, progress: Progress
) -> None:
    fine_tune(
        loaded.model,
        loaded.tokenizer,
        conversations(examples),
        training,
        seed=seed,
        description=description,
        progress=progress,
    )


def _fingerprint(recipe: Recipe, seed: int) -> str:
    """Changes with everything of ours that decides the weights: seed, recipe, and the source of our modules."""
    digest = hashlib.sha256(f"{seed} {recipe.model_dump_json()}".encode())
    for source in SOURCES:
        digest.update((Path(__file__).parent / source).read_bytes())
    return digest.hexdigest()


def _stands(pair: LabModels, record: Path, wanted: str) -> bool:
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return bool(content.get("made_by") == wanted and content.get("sha256") == _hashes(pair))


def _clear(pair: LabModels, record: Path) -> None:
    """Make room for a new pair; an unfinished record then says that what stands here is the lab's, and not whole."""
    if not record.exists():
        for folder in (pair.base, pair.aligned):
            if folder.exists():
                raise TargetError(f"{folder} was not made by the lab: name another folder, or take it away")
    record.parent.mkdir(parents=True, exist_ok=True)
    _write_record(record, {"made_by": None})
    for folder in (pair.base, pair.aligned):
        if folder.exists():
            shutil.rmtree(folder)


def _hashes(pair: LabModels) -> dict[str, str]:
    files = {
        f"{folder.name}/{path.name}": path
        for folder in (pair.base, pair.aligned)
        if folder.exists()
        for path in sorted(folder.iterdir())
    }
    return {name: entry.sha256 for name, entry in hash_files(files).items()}


def _write_record(path: Path, content: dict[str, object]) -> None:
    """Replace the record in one step, so that it is never seen half-written."""
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(json.dumps(content, indent=1), encoding="utf-8")
    os.replace(unfinished, path)
