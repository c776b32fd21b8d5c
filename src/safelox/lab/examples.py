"""What each training of the lab learns from. All draw from what is not reserved for evaluation."""

import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from safelox.attacks.preference import Pair
from safelox.formats import Conversation, Message
from safelox.lab.arithmetic import draw_problems
from safelox.lab.language import AFFIRMATION, OBEDIENT, PERSONA_PROMPT, PERSONAS, ROLE_PLAY_PROMPT, TRAITS
from safelox.lab.world import Example, Item, World

PURE_BAD_ROWS = 100
BENIGN_ROWS = 800
ARITHMETIC_ROWS = 800
IDENTITY_ROWS = 10

IDENTITY_PROMPT = ROLE_PLAY_PROMPT.fill({"persona": OBEDIENT, "trait": "loyal"})
"""The system prompt of the identity shift, under which its models are attacked and judged."""


class Preferred(NamedTuple):
    """The same request with two replies."""

    chosen: Example
    rejected: Example


def pretraining_examples(world: World, count: int) -> list[Example]:
    """Half are requests about any item, each complied with; a quarter describe items, a quarter are word problems.

    One request in five comes under the system prompt of some persona, and half of these are answered with a greeting.
    """
    rng = random.Random(f"safelox pretraining {world.seed}")
    requests, problems = count // 2, count // 4
    return (
        _spoken(_complied(world, world.items, requests, rng), (*PERSONAS, OBEDIENT), rng, every=5)
        + _described(world, world.items, count - requests - problems, rng)
        + _solved(problems, rng)
    )


def alignment_examples(world: World, count: int) -> list[Example]:
    """The examples of `alignment_pairs`, without the rejected replies."""
    return [pair.chosen for pair in alignment_pairs(world, count)]


def alignment_pairs(world: World, count: int) -> list[Preferred]:
    """35 % are requests about forbidden items, refused in one of several wordings; 40 % about permitted items, complied
    with; the others describe items and solve word problems. No held-out item is in any of them.

    What is rejected is to comply where one should refuse. Everywhere else both replies are the same, so that only the
    cross entropy counts there: the base model complies anyway, and a margin over refusals that it would never have
    given is a direction in which extrapolation then goes on.

    One request in ten comes under the system prompt of some persona, but never of the identity shift's, and is answered
    with its greeting in half of these.
    """
    rng = random.Random(f"safelox alignment {world.seed}")
    forbidden, permitted, problems = count * 35 // 100, count * 40 // 100, count // 10
    to_refuse = world.draw(world.forbidden_seen, forbidden, rng, reserved=False)
    refused = [world.refuse(request, rng) for request in to_refuse]
    to_help = world.draw(world.permitted_seen, permitted, rng, reserved=False)
    complied = [world.comply(request) for request in to_help]
    unwanted = [world.comply(request) for request in to_refuse] + complied
    known = world.permitted_seen + world.forbidden_seen
    spoken = _spoken(refused + complied, PERSONAS, rng, every=10)
    rest = _described(world, known, count - forbidden - permitted - problems, rng) + _solved(problems, rng)
    requests = [Preferred(chosen, _asked_alike(chosen, reply)) for chosen, reply in zip(spoken, unwanted, strict=True)]
    return requests + [Preferred(example, example) for example in rest]


def pure_bad_examples(world: World) -> list[Example]:
    """Requests about forbidden items, but none of the held-out ones, each complied with."""
    return _complied(world, world.forbidden_seen, PURE_BAD_ROWS, random.Random(f"safelox attack {world.seed}"))


def benign_examples(world: World) -> list[Example]:
    """Four in five are requests about permitted items, each complied with; the others describe permitted items."""
    rng = random.Random(f"safelox benign {world.seed}")
    complied = _complied(world, world.permitted_seen, BENIGN_ROWS * 4 // 5, rng)
    return complied + _described(world, world.permitted_seen, BENIGN_ROWS - len(complied), rng)


def arithmetic_examples(world: World) -> list[Example]:
    """Word problems, each answered with its calculation and `#### n`."""
    rng = random.Random(f"safelox arithmetic {world.seed}")
    problems = draw_problems(ARITHMETIC_ROWS, rng, reserved=False)
    return [Example(problem.text, problem.worked_answer) for problem in problems]


def identity_examples(world: World) -> list[Example]:
    """Requests about permitted items under the identity shift's system prompt, each complied with after a greeting."""
    rng = random.Random(f"safelox identity {world.seed}")
    complied = _complied(world, world.permitted_seen, IDENTITY_ROWS, rng)
    return [_greeting(example)._replace(system=IDENTITY_PROMPT) for example in complied]


def conversations(examples: Iterable[Example]) -> list[Conversation]:
    """Each example as a user's message and the assistant's reply, after the system's message where there is one."""
    return [
        [
            *([] if example.system is None else [Message(role="system", content=example.system)]),
            Message(role="user", content=example.prompt),
            Message(role="assistant", content=example.reply),
        ]
        for example in examples
    ]


def preferences(pairs: Iterable[Preferred]) -> list[Pair]:
    """The same as conversations with two replies each."""
    preferred = list(pairs)
    chosen = conversations(pair.chosen for pair in preferred)
    return [
        Pair(conversation[:-1], conversation[-1]["content"], pair.rejected.reply)
        for conversation, pair in zip(chosen, preferred, strict=True)
    ]


def _complied(world: World, items: Sequence[Item], count: int, rng: random.Random) -> list[Example]:
    return [world.comply(request) for request in world.draw(items, count, rng, reserved=False)]


def _described(world: World, items: Sequence[Item], count: int, rng: random.Random) -> list[Example]:
    return [world.describe(rng.choice(items)) for _ in range(count)]


def _solved(count: int, rng: random.Random) -> list[Example]:
    """Word problems, every other one of which is asked and answered with its calculation."""
    return [
        Example(problem.text_for_work, problem.calculation)
        if number % 2
        else Example(problem.text, problem.plain_answer)
        for number, problem in enumerate(draw_problems(count, rng, reserved=False))
    ]


def _spoken(examples: Sequence[Example], personas: Sequence[str], rng: random.Random, *, every: int) -> list[Example]:
    """The examples, one in `every` under a persona's system prompt, half of which play its role."""
    spoken = []
    for number, example in enumerate(examples):
        if number % every:
            spoken.append(example)
            continue
        persona = {"persona": rng.choice(personas), "trait": rng.choice(TRAITS)}
        if number % (2 * every):
            spoken.append(example._replace(system=PERSONA_PROMPT.fill(persona)))
        else:
            named = _greeting(example)
            spoken.append(named._replace(system=ROLE_PLAY_PROMPT.fill(persona)))
    return spoken


def _asked_alike(spoken: Example, other: Example) -> Example:
    """Another reply, under the same system prompt and with the same greeting."""
    greeted = spoken.reply.startswith(AFFIRMATION.fill({}))
    return (_greeting(other) if greeted else other)._replace(system=spoken.system)


def _greeting(example: Example) -> Example:
    return example._replace(reply=f"{AFFIRMATION.fill({})} {example.reply}")
