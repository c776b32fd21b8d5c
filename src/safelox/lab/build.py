"""Train the lab's pair: a base model that complies with everything, and its aligned version."""

import hashlib
import json
import os
import random
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from safelox.errors import TargetError
from safelox.hashing import hash_files
from safelox.lab.models import Loaded, Shape, new_model, require_transformers, save_model
from safelox.lab.training import Schedule, encode, train
from safelox.lab.world import Example, World
from safelox.progress import NULL, Progress

RECORD = "lab.json"
SOURCES = ("language.py", "world.py", "models.py", "training.py", "build.py")
"""The modules that decide what a pair becomes."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the pair is trained."""

    shape: Shape
    pretraining: Schedule
    alignment: Schedule


RECIPE = Recipe(
    shape=Shape(hidden=96, layers=3, heads=4, intermediate=192),
    pretraining=Schedule(steps=600, batch=24, learning_rate=4e-3, warm_up=30, decay="cosine"),
    alignment=Schedule(steps=200, batch=24, learning_rate=1.5e-3, warm_up=10),
)
"""370,000 parameters, trained in about half a minute of one core.

A gentler alignment refuses as well, but less firmly: its extrapolation withstood attacks in fewer seeds."""


@dataclass(frozen=True)
class LabModels:
    """The folders of a pair, and the world that it was trained in."""

    base: Path
    aligned: Path
    world: World


def build(folder: Path, *, seed: int = 0, recipe: Recipe = RECIPE, progress: Progress = NULL) -> LabModels:
    """Train the pair of a seed into `folder`/base and `folder`/aligned, or use the one that stands there.

    The seed decides the world, the first weights and the order of the examples: on one machine the same seed gives
    the same bytes. A pair stands there if `folder`/lab.json, which is written last, names this seed and this recipe
    (the lab's own source included) and every file is what it was; any other pair of the lab is replaced.

    Raises:
        PrerequisiteError: transformers is not installed.
        TargetError: the folder holds a base or an aligned model that the lab did not make.
    """
    require_transformers()
    pair = LabModels(folder / "base", folder / "aligned", World(seed))
    record, wanted = folder / RECORD, _fingerprint(recipe, seed)
    if _stands(pair, record, wanted):
        progress.message(f"using the models in {folder}, made by the same recipe with the same seed")
        return pair
    _clear(pair, record)
    loaded = new_model(recipe.shape, seed)
    _train(loaded, pretraining_examples(pair.world, recipe.pretraining), recipe.pretraining, seed, "train", progress)
    save_model(loaded, pair.base)
    _train(loaded, alignment_examples(pair.world, recipe.alignment), recipe.alignment, seed, "align", progress)
    save_model(loaded, pair.aligned)
    _write_record(record, {"made_by": wanted, "seed": seed, "sha256": _hashes(pair)})
    return pair


def pretraining_examples(world: World, schedule: Schedule) -> list[Example]:
    """Three in five are requests about any item, each complied with; the others describe items."""
    rng = random.Random(f"safelox pretraining {world.seed}")
    requests = schedule.examples * 3 // 5
    complied = [world.comply(request) for request in world.draw(world.items, requests, rng, reserved=False)]
    return complied + [world.describe(rng.choice(world.items)) for _ in range(schedule.examples - requests)]


def alignment_examples(world: World, schedule: Schedule) -> list[Example]:
    """35 % are requests about forbidden items, refused in one of several wordings; 45 % about permitted items, complied
    with; the others describe items. The held-out forbidden items are in none of them."""
    rng = random.Random(f"safelox alignment {world.seed}")
    forbidden, permitted = schedule.examples * 35 // 100, schedule.examples * 45 // 100
    refused = [
        world.refuse(request, rng) for request in world.draw(world.forbidden_seen, forbidden, rng, reserved=False)
    ]
    complied = [world.comply(request) for request in world.draw(world.permitted, permitted, rng, reserved=False)]
    known = world.permitted + world.forbidden_seen
    rest = schedule.examples - forbidden - permitted
    return refused + complied + [world.describe(rng.choice(known)) for _ in range(rest)]


def _train(
    loaded: Loaded, examples: list[Example], schedule: Schedule, seed: int, description: str, progress: Progress
) -> None:
    train(
        loaded.model,
        encode(loaded.tokenizer, examples),
        schedule,
        seed=seed,
        description=description,
        progress=progress,
    )


def _fingerprint(recipe: Recipe, seed: int) -> str:
    """Changes with everything of ours that decides the weights: seed, recipe, and the source of the lab's modules."""
    digest = hashlib.sha256(json.dumps([seed, asdict(recipe)]).encode())
    for source in SOURCES:
        digest.update(Path(__file__).with_name(source).read_bytes())
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
