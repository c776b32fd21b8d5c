"""The lab's suites and its exact judge, in the public tables. Importing this module registers them."""

import random
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Literal

from safelox.evaluation.judges import register_judge
from safelox.evaluation.outcomes import Verdict
from safelox.evaluation.samples import Message, Sample
from safelox.evaluation.suites import Suite, register_suite
from safelox.lab.arithmetic import Problem, draw_problems
from safelox.lab.language import LONGEST_REPLY
from safelox.lab.world import Item, Request, World

MAX_NEW_TOKENS = LONGEST_REPLY + 4
"""A reply that goes on after the longest sentence of the language shows that it does."""


def _register(name: str, title: str, asks: Literal["forbidden", "permitted"]) -> Suite:
    file = f"suites/{name.removeprefix('lab-')}.jsonl"
    return register_suite(Suite(name=name, title=title, file=file, asks=asks, max_new_tokens=MAX_NEW_TOKENS))


FORBIDDEN = _register(
    "lab-forbidden", "how to do something to a mock-forbidden object that no alignment or attack has met", "forbidden"
)
PERMITTED = _register(
    "lab-permitted", "how to do something to a permitted object, in combinations that no training has met", "permitted"
)
PERMITTED_HELD_OUT = _register(
    "lab-permitted-held-out",
    "how to do something to a permitted object that no alignment or attack has met",
    "permitted",
)
ARITHMETIC = _register("lab-arithmetic", "word problems that no training has met", "permitted")
SELECTION_FORBIDDEN = _register(
    "lab-selection-forbidden", "as lab-forbidden, about a kind of object that no other suite asks about", "forbidden"
)
SELECTION_PERMITTED = _register(
    "lab-selection-permitted", "as lab-permitted, about a kind of object that no other suite asks about", "permitted"
)
SUITES = (FORBIDDEN, PERMITTED, PERMITTED_HELD_OUT, ARITHMETIC, SELECTION_FORBIDDEN, SELECTION_PERMITTED)


class LabJudge:
    """Decides by the grammar of the lab's language, in the world that the sample is from."""

    name = "lab"
    version = "2"

    def judge(self, sample: Sample, reply: str) -> Verdict:
        """
        Raises:
            KeyError: what the sample is about names no world, or nothing in it.
            TypeError: it describes no request and no problem.
        """
        about = sample.about
        if "problem" in about:
            return Verdict(outcome=Problem(**about["problem"]).judge(reply))
        world, items = _world(about["world"])
        request = Request(about["phrasing"], about["verb"], items[about["item"]], about["qualifier"])
        return Verdict(outcome=world.judge(request, reply))


JUDGE = register_judge(LabJudge())


@lru_cache(maxsize=4)
def _world(seed: int) -> tuple[World, dict[str, Item]]:
    """The world of a seed, and its items by name."""
    world = World(seed)
    return world, {item.name: item for item in world.items}


def evaluation_requests(world: World, suite: Suite, n: int, seed: int = 0) -> list[Request]:
    """`n` different requests of a suite, none of which is in a training set; the same for every model.

    Raises:
        KeyError: the suite asks no requests.
        ValueError: there are not that many different requests.
    """
    items = {
        FORBIDDEN.name: world.forbidden_held_out,
        PERMITTED.name: world.permitted_seen,
        PERMITTED_HELD_OUT.name: world.permitted_held_out,
        SELECTION_FORBIDDEN.name: world.forbidden_held_out,
        SELECTION_PERMITTED.name: world.permitted_seen,
    }[suite.name]
    selection = suite in (SELECTION_FORBIDDEN, SELECTION_PERMITTED)
    topic = [item for item in items if item.for_selection == selection]
    return world.draw(topic, n, random.Random(f"safelox {suite.name} {world.seed} {seed}"), reserved=True)


def write_suites(world: World, folder: Path, *, n: int, seed: int = 0) -> None:
    """Write `n` samples of each suite to `folder`/suites.

    Args:
        seed: of the choice of requests.

    Raises:
        ValueError: there are not that many different requests.
    """
    for suite in SUITES:
        path = folder / suite.file
        path.parent.mkdir(parents=True, exist_ok=True)
        if suite == ARITHMETIC:
            rng = random.Random(f"safelox {suite.name} {world.seed} {seed}")
            samples = _problem_samples(draw_problems(n, rng, reserved=True))
        else:
            samples = request_samples(world, path.stem, evaluation_requests(world, suite, n, seed))
        path.write_text("".join(sample.model_dump_json() + "\n" for sample in samples), encoding="utf-8")


def request_samples(world: World, prefix: str, requests: Sequence[Request]) -> list[Sample]:
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


def _problem_samples(problems: Sequence[Problem]) -> list[Sample]:
    return [
        Sample(
            id=f"arithmetic-{number}",
            messages=(Message(role="user", content=problem.text),),
            about={"problem": asdict(problem)},
        )
        for number, problem in enumerate(problems)
    ]
