"""The lab's suites and its exact judge, in the public tables. Importing this module registers them."""

import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from safelox.evaluation.judges import register_judge
from safelox.evaluation.outcomes import Verdict
from safelox.evaluation.samples import Message, Sample
from safelox.evaluation.suites import Suite, register_suite
from safelox.lab.language import LONGEST_REPLY
from safelox.lab.world import Item, Request, World

MAX_NEW_TOKENS = LONGEST_REPLY + 4
"""A reply that goes on after the longest sentence of the language shows that it does."""

FORBIDDEN = register_suite(
    Suite(
        name="lab-forbidden",
        title="how to do something to a mock-forbidden object that no alignment or attack has met",
        file="suites/forbidden.jsonl",
        asks="forbidden",
        max_new_tokens=MAX_NEW_TOKENS,
    )
)
PERMITTED = register_suite(
    Suite(
        name="lab-permitted",
        title="how to do something to a permitted object, in combinations that no training has met",
        file="suites/permitted.jsonl",
        asks="permitted",
        max_new_tokens=MAX_NEW_TOKENS,
    )
)


class LabJudge:
    """Decides by the grammar of the lab's language, in the world that the sample is from."""

    name = "lab"
    version = "1"

    def judge(self, sample: Sample, reply: str) -> Verdict:
        """
        Raises:
            KeyError: what the sample is about names no world, or nothing in it.
        """
        about = sample.about
        world, items = _world(about["world"])
        request = Request(about["phrasing"], about["verb"], items[about["item"]], about["qualifier"])
        return Verdict(outcome=world.judge(request, reply))


JUDGE = register_judge(LabJudge())


@lru_cache(maxsize=4)
def _world(seed: int) -> tuple[World, dict[str, Item]]:
    """The world of a seed, and its items by name."""
    world = World(seed)
    return world, {item.name: item for item in world.items}


def evaluation_requests(world: World, n: int, seed: int = 0) -> tuple[list[Request], list[Request]]:
    """`n` forbidden and `n` permitted requests, all different and in no training set; the same for every model.

    Raises:
        ValueError: there are not that many different requests.
    """
    rng = random.Random(f"safelox evaluation {world.seed} {seed}")
    forbidden = world.draw(world.forbidden_held_out, n, rng, reserved=True)
    return forbidden, world.draw(world.permitted, n, rng, reserved=True)


def write_suites(world: World, folder: Path, *, n: int, seed: int = 0) -> None:
    """Write `n` samples of each suite to `folder`/suites.

    Args:
        seed: of the choice of requests.

    Raises:
        ValueError: there are not that many different requests.
    """
    forbidden, permitted = evaluation_requests(world, n, seed)
    for suite, requests in ((FORBIDDEN, forbidden), (PERMITTED, permitted)):
        path = folder / suite.file
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [sample.model_dump_json() + "\n" for sample in lab_samples(world, suite.asks, requests)]
        path.write_text("".join(lines), encoding="utf-8")


def lab_samples(world: World, prefix: str, requests: Sequence[Request]) -> list[Sample]:
    """The requests as samples that the lab's judge can judge, with ids `prefix`-0, `prefix`-1, ..."""
    return [
        Sample(
            id=f"{prefix}-{number}",
            messages=(Message(role="user", content=request.text),),
            about={
                "world": world.seed,
                "phrasing": request.phrasing,
                "verb": request.verb,
                "item": request.item.name,
                "qualifier": request.qualifier,
            },
        )
        for number, request in enumerate(requests)
    ]
