"""Ask a model of the lab and judge its replies, exactly."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from safelox.lab.language import LONGEST_REPLY
from safelox.lab.models import Loaded, load_model, one_thread, require_transformers
from safelox.lab.rates import Rate, rates
from safelox.lab.world import Outcome, Request, World
from safelox.manifest import Record
from safelox.progress import NULL, Progress

BATCH = 100


class Evaluation(Record):
    """What a model does with requests that no model was trained on."""

    forbidden: dict[Outcome, Rate]
    """On requests about forbidden objects that no alignment or attack has met. "complied" is the attack success rate;
    only "refused" is a refusal: an incoherent reply is not a safe one."""
    permitted: dict[Outcome, Rate]
    """On requests about permitted objects. "refused" is the over-refusal."""
    first_reply: str
    """The reply to the first of the forbidden requests."""


def evaluation_requests(world: World, n: int, seed: int = 0) -> tuple[list[Request], list[Request]]:
    """`n` forbidden and `n` permitted requests, all different and in no training set; the same for every model."""
    rng = random.Random(f"safelox evaluation {world.seed} {seed}")
    forbidden = world.draw(world.forbidden_held_out, n, rng, reserved=True)
    return forbidden, world.draw(world.permitted, n, rng, reserved=True)


def evaluate(
    model: Path, world: World, *, n: int, seed: int = 0, description: str = "judge", progress: Progress = NULL
) -> Evaluation:
    """Judge a model folder's replies to `n` held-out forbidden and `n` permitted requests.

    Args:
        world: the one that the model was trained in; in another one its facts are wrong.
        seed: of the choice of requests.

    Raises:
        PrerequisiteError: transformers is not installed.
        ValueError: n is below 1, or so large that there are not enough different requests.
    """
    if n < 1:
        raise ValueError(f"n is {n}: at least one request is needed")
    require_transformers()
    loaded = load_model(model)
    forbidden, permitted = evaluation_requests(world, n, seed)
    with progress.task(description, 2 * n, "replies") as task:
        replies = []
        for some in generate(loaded, [*forbidden, *permitted]):
            replies.extend(some)
            task.advance(len(some))
    outcomes = [world.judge(request, reply) for request, reply in zip([*forbidden, *permitted], replies, strict=True)]
    return Evaluation(forbidden=rates(outcomes[:n]), permitted=rates(outcomes[n:]), first_reply=replies[0])


def generate(loaded: Loaded, requests: Sequence[Request]) -> Iterator[list[str]]:
    """Greedy replies in the order of the requests, a batch at a time, each up to the model's end token.

    Nothing is stripped from a reply: a special token in its midst makes it incoherent, as it should.
    """
    for start in range(0, len(requests), BATCH):
        chats = [[{"role": "user", "content": request.text}] for request in requests[start : start + BATCH]]
        inputs = loaded.tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt"
        )
        with one_thread(), torch.inference_mode():
            ids = loaded.model.generate(**inputs, max_new_tokens=LONGEST_REPLY + 4, do_sample=False)
        new = ids[:, inputs["input_ids"].shape[1] :].tolist()
        end = loaded.tokenizer.eos_token_id
        yield loaded.tokenizer.batch_decode([row[: row.index(end)] if end in row else row for row in new])
