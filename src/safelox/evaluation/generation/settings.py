"""What is asked of a generator, and what it gives: the same for every backend."""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple, Protocol, Self

from pydantic import model_validator

from safelox.errors import UsageError
from safelox.formats import Conversation
from safelox.manifest import Record

NEAR_TIE = 1e-4
"""Two tokens whose logits are closer than this are nearly tied: rounding can decide between them."""


class GenerationSettings(Record):
    """How replies are made: everything but the model and the prompts that could change one."""

    max_new_tokens: int
    format: str = "chat"
    """How prompts are written, by its name in `safelox.formats.FORMATS`."""
    temperature: float = 0.0
    """0: greedy."""
    top_p: float = 1.0
    """Tokens are drawn from the smallest set of likely ones that has this probability; 1: from all."""
    samples: int = 1
    """Replies to each prompt."""
    seed: int = 0
    """Of the drawing; greedy replies do not depend on it."""

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        """
        Raises:
            UsageError: a number makes no sense.
        """
        if self.max_new_tokens < 1:
            raise UsageError(f"max_new_tokens {self.max_new_tokens}: a reply needs at least one token.")
        if self.samples < 1:
            raise UsageError(f"samples {self.samples}: every prompt needs at least one reply.")
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"temperature {self.temperature}: has to be 0, which is greedy, or above.")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p {self.top_p}: has to be above 0 and at most 1.")
        if self.greedy and self.samples > 1:
            raise UsageError(f"{self.samples} greedy replies would all be the same; set a temperature above 0.")
        if self.greedy and self.top_p < 1:
            raise UsageError(f"top_p {self.top_p} has no say in greedy replies; set a temperature above 0.")
        return self


class Reply(NamedTuple):
    """What a model said."""

    text: str
    """The new tokens alone, without the one that ended them; nothing is stripped."""
    near_tie: bool | None
    """Whether at some step the two likeliest tokens were closer than `NEAR_TIE`, so that another batch size, machine
    or library could give another reply; None where it is not known, or where tokens were drawn."""
    finish_reason: str
    """stop: the model ended it; length: it was cut at max_new_tokens; else in the server's words."""
    draw: int = 0
    """Which of the prompt's replies it is, from 0 to samples - 1."""


class Generator(Protocol):
    """Something that replies."""

    def replies(
        self,
        prompts: Sequence[Conversation],
        settings: GenerationSettings,
        *,
        done: Collection[tuple[int, int]] = (),
    ) -> Iterator[tuple[int, Reply]]:
        """Every prompt's index with each of its replies, as soon as there is one, in whatever order.

        Args:
            done: (index, draw) of the replies that are there already and are not made again.
        """

    def close(self) -> None:
        """Let go of what it holds; it is not asked again."""


def wanted(prompts: int, samples: int, done: Collection[tuple[int, int]]) -> list[tuple[int, int]]:
    """(index, draw) of every reply that is still to be made."""
    there = set(done)
    return [(index, draw) for index in range(prompts) for draw in range(samples) if (index, draw) not in there]


def drawing_seed(settings: GenerationSettings, draw: int, prompt: str) -> int:
    """Seed of one reply's random numbers, from 0 to 2^63 - 1."""
    text = f"{settings.seed} {draw} {prompt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
