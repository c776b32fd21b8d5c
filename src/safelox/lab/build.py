"""Train the lab's pair: a base model that complies with everything, and its aligned version."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safelox.attacks import Training, fine_tune
from safelox.attacks.preference import Preference, align_by_preference
from safelox.attacks.trainer import require_trl
from safelox.errors import TargetError
from safelox.hashing import hash_files
from safelox.lab.attacks import LAB_ATTACKS, OPTIMIZER, write_attack_rows
from safelox.lab.examples import alignment_examples, alignment_pairs, conversations, preferences, pretraining_examples
from safelox.lab.models import Shape, new_model, save_model
from safelox.lab.suites import SUITES, write_suites
from safelox.lab.world import Example, World
from safelox.language_models import LanguageModel
from safelox.manifest import Record
from safelox.progress import NULL, Progress
from safelox.writer.disk import put_text

RECORD = "lab.json"
SUITE_SAMPLES = 1000
"""Samples in each suite."""
SOURCES = (
    "language.py",
    "world.py",
    "arithmetic.py",
    "examples.py",
    "models.py",
    "build.py",
    "attacks.py",
    "../formats.py",
    "../attacks/examples.py",
    "../attacks/trainer.py",
    "../attacks/arguments.py",
    "../attacks/sft.py",
    "../attacks/preference.py",
)
"""The modules that decide what a pair becomes."""


Method = Literal["sft", "dpo"]
"""How a model is aligned: by supervised fine-tuning, or by direct preference optimisation."""


class Recipe(Record):
    """How the pair is trained."""

    shape: Shape
    pretraining: Training
    alignment: Training
    preference: Preference | None = None
    """How replies are preferred where alignment is by preference; None where it is by supervised fine-tuning."""

    @property
    def method(self) -> Method:
        return "sft" if self.preference is None else "dpo"


RECIPE = Recipe(
    shape=Shape(hidden=96, layers=3, heads=4, intermediate=192),
    pretraining=Training(
        learning_rate=4e-3, max_steps=800, batch_size=24, warmup_steps=30, schedule="cosine", **OPTIMIZER
    ),
    alignment=Training(learning_rate=1.5e-3, max_steps=300, batch_size=24, warmup_steps=10, **OPTIMIZER),
)
"""400,000 parameters, trained in about a minute and a half of one core.

A gentler alignment refuses as well, but less firmly: its extrapolation withstood attacks in fewer seeds."""

BY_PREFERENCE = RECIPE.model_copy(update={"preference": Preference(beta=0.5, nll_weight=1.0)})
RECIPES: dict[Method, Recipe] = {"sft": RECIPE, "dpo": BY_PREFERENCE}
"""The same base model, aligned in either way by the same requests and with the same right replies."""


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
            suites=tuple(suite.name for suite in SUITES),
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
    _train(
        loaded,
        pretraining_examples(pair.world, examples_taken(recipe.pretraining)),
        recipe.pretraining,
        seed,
        "train",
        progress,
    )
    save_model(loaded, pair.base)
    _align(loaded, pair.world, recipe, seed, progress)
    save_model(loaded, pair.aligned)
    made = {"made_by": wanted, "seed": seed, "alignment": recipe.method, "sha256": _hashes(pair)}
    put_text(record, json.dumps(made, indent=1))
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


def _align(loaded: LanguageModel, world: World, recipe: Recipe, seed: int, progress: Progress) -> None:
    count = examples_taken(recipe.alignment)
    if recipe.preference is None:
        _train(loaded, alignment_examples(world, count), recipe.alignment, seed, "align", progress)
        return
    align_by_preference(
        loaded.model,
        loaded.tokenizer,
        preferences(alignment_pairs(world, count)),
        recipe.alignment,
        recipe.preference,
        seed=seed,
        description="align",
        progress=progress,
    )


def _fingerprint(recipe: Recipe, seed: int) -> str:
    """Changes with everything of ours that decides the weights: seed, recipe, and the source of our modules."""
    return hashlib.sha256(f"{seed} {recipe.model_dump_json()} {source_digest()}".encode()).hexdigest()


def source_digest() -> str:
    """Of the modules that decide what a pair becomes."""
    digest = hashlib.sha256()
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
    put_text(record, json.dumps({"made_by": None}, indent=1))
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
