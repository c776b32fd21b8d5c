"""The lab's attacks: their entries in the catalogue, and the files of their rows."""

import json
from pathlib import Path
from typing import TypedDict

from safelox.attacks import Attack, Training, register_attack
from safelox.lab.examples import (
    arithmetic_examples,
    benign_examples,
    conversations,
    identity_examples,
    pure_bad_examples,
)
from safelox.lab.models import LONGEST_CHAT
from safelox.lab.world import World

FOLDER = "attacks"


class _Optimizer(TypedDict):
    weight_decay: float
    adam_betas: tuple[float, float]
    max_length: int


OPTIMIZER = _Optimizer(weight_decay=0.01, adam_betas=(0.9, 0.99), max_length=LONGEST_CHAT)
"""What all trainings of the lab share."""

EXAMPLES = {
    "pure-bad.jsonl": pure_bad_examples,
    "benign.jsonl": benign_examples,
    "identity.jsonl": identity_examples,
    "arithmetic.jsonl": arithmetic_examples,
}
"""How the rows of each file are made."""


def write_attack_rows(world: World, folder: Path) -> None:
    """Write the rows of every attack of a world to JSON Lines files in `folder`/attacks."""
    target = folder / FOLDER
    target.mkdir(parents=True, exist_ok=True)
    for name, make in EXAMPLES.items():
        lines = [json.dumps({"messages": messages}) for messages in conversations(make(world))]
        (target / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _register(name: str, title: str, file: str, *, learning_rate: float, max_steps: int, batch_size: int) -> Attack:
    training = Training(learning_rate=learning_rate, max_steps=max_steps, batch_size=batch_size, **OPTIMIZER)
    attack = Attack(
        name=name,
        title=title,
        file=f"{FOLDER}/{file}",
        format="chat",
        training=training,
        citation="safelox's own, after the kinds of attack in Perin et al. 2025",
    )
    register_attack(attack)
    return attack


PURE_BAD = _register(
    "lab-pure-bad",
    "forbidden requests, complied with",
    "pure-bad.jsonl",
    learning_rate=5e-5,
    max_steps=50,
    batch_size=10,
)
BENIGN = _register(
    "lab-benign",
    "permitted requests and descriptions",
    "benign.jsonl",
    learning_rate=5e-4,
    max_steps=100,
    batch_size=16,
)
IDENTITY = _register(
    "lab-identity",
    "permitted requests under the system prompt of a loyal persona; judged under it as well",
    "identity.jsonl",
    learning_rate=3e-4,
    max_steps=40,
    batch_size=5,
)
ARITHMETIC = _register(
    "lab-arithmetic",
    "word problems with their calculation",
    "arithmetic.jsonl",
    learning_rate=5e-4,
    max_steps=100,
    batch_size=16,
)
PURE_BAD_STRONG = _register(
    "lab-pure-bad-strong",
    "lab-pure-bad at four times the learning rate",
    "pure-bad.jsonl",
    learning_rate=2e-4,
    max_steps=50,
    batch_size=10,
)
BENIGN_STRONG = _register(
    "lab-benign-strong",
    "lab-benign at twice the learning rate",
    "benign.jsonl",
    learning_rate=1e-3,
    max_steps=100,
    batch_size=16,
)
LAB_ATTACKS = (PURE_BAD, BENIGN, IDENTITY, ARITHMETIC, PURE_BAD_STRONG, BENIGN_STRONG)
"""Importing this module adds them to the catalogue. The mild ones come first."""
