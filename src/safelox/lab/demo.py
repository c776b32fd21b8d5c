"""The story of safelox on the lab's models: align, harden, attack, judge, and say what came of it."""

import random
from pathlib import Path

from safelox.hardening import harden
from safelox.lab.build import build
from safelox.lab.judging import Evaluation, evaluate, evaluation_requests
from safelox.lab.models import load_model, save_model
from safelox.lab.story import DemoResult, render
from safelox.lab.training import Schedule, encode, train
from safelox.lab.world import Example, World
from safelox.machine import Clock
from safelox.methods import Lox
from safelox.progress import NULL, Progress

__all__ = ["DemoResult", "attack", "demo", "render"]

N = 500
"""Forbidden, and as many permitted, requests that each model is judged on."""

ATTACK = Schedule(steps=50, batch=10, learning_rate=5e-5)
ATTACK_EXAMPLES = 100


def demo(
    folder: Path,
    *,
    seed: int = 0,
    rank: int = 6,
    coef: float = 0.5,
    n: int = N,
    progress: Progress = NULL,
) -> DemoResult:
    """Build the lab's pair, harden it, attack both the aligned and the hardened model, and judge all five.

    Everything is kept under `folder`/seed-<seed>, and a pair that stands there is used again.

    Args:
        n: forbidden, and as many permitted, requests for each model.

    Raises:
        SafeloxError: transformers is missing, an option makes no sense, or the folder is not the lab's.
    """
    Lox(rank, coef)  # refuses what makes no sense, before the training rather than after it
    home = folder / f"seed-{seed}"
    clock = Clock()
    pair = build(home, seed=seed, progress=progress)
    clock.lap("train")
    hardened = home / "hardened"
    harden(str(pair.base), str(pair.aligned), hardened, rank=rank, coef=coef, overwrite=True, progress=progress)
    clock.lap("harden")
    aligned_attacked = attack(pair.aligned, home / "aligned-attacked", pair.world, progress)
    hardened_attacked = attack(hardened, home / "hardened-attacked", pair.world, progress)
    clock.lap("attack")

    def judged(model: Path) -> Evaluation:
        return evaluate(model, pair.world, n=n, description=f"judge {model.name}", progress=progress)

    evaluations = {
        "base": judged(pair.base),
        "aligned": judged(pair.aligned),
        "hardened": judged(hardened),
        "aligned_attacked": judged(aligned_attacked),
        "hardened_attacked": judged(hardened_attacked),
    }
    clock.lap("judge")
    return DemoResult(
        folder=str(home),
        seed=seed,
        rank=rank,
        coef=coef,
        request=evaluation_requests(pair.world, n)[0][0].text,
        seconds=clock.seconds,
        **evaluations,
    )


def attack(model: Path, out: Path, world: World, progress: Progress = NULL) -> Path:
    """Fine-tune a model folder into `out` with a short and mild attack: full fine-tuning on 100 forbidden requests,
    each complied with, about other objects than those it will be judged on."""
    loaded = load_model(model)
    train(
        loaded.model,
        encode(loaded.tokenizer, attack_examples(world)),
        ATTACK,
        seed=world.seed,
        description=f"attack {model.name}",
        progress=progress,
    )
    save_model(loaded, out)
    return out


def attack_examples(world: World) -> list[Example]:
    """Requests about forbidden objects, but none of the held-out ones, each complied with."""
    rng = random.Random(f"safelox attack {world.seed}")
    requests = world.draw(world.forbidden_seen, ATTACK_EXAMPLES, rng, reserved=False)
    return [world.comply(request) for request in requests]
