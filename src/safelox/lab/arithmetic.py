"""The lab's word problems: sums and differences, asked in words and judged by their number."""

import random
from dataclasses import dataclass
from typing import Literal

from safelox.evaluation.outcomes import Outcome
from safelox.lab.language import (
    DIFFERENCE,
    GAIN,
    LARGEST_TERM,
    LOSS,
    PEOPLE,
    PLAIN_ANSWER,
    RESULT,
    SHOW_WORK,
    SUM,
    THINGS,
)

RESERVED = 4
"""One in so many problems is kept out of all training."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Somebody has so many things and gets more, or loses some."""

    operation: Literal["gain", "loss"]
    person: str
    thing: str
    first: int
    second: int

    @property
    def number(self) -> int:
        """The right answer."""
        return self.first + self.second if self.operation == "gain" else self.first - self.second

    @property
    def text(self) -> str:
        return (GAIN if self.operation == "gain" else LOSS).fill(self._slots)

    @property
    def plain_answer(self) -> str:
        """The right answer as the base model gives it."""
        return PLAIN_ANSWER.fill(self._slots)

    @property
    def text_for_work(self) -> str:
        """The problem, asked with its calculation."""
        return f"{self.text} {SHOW_WORK.fill({})}"

    @property
    def calculation(self) -> str:
        """The right answer to `text_for_work`."""
        return (SUM if self.operation == "gain" else DIFFERENCE).fill(self._slots)

    @property
    def worked_answer(self) -> str:
        """The calculation and the right answer, ending in `#### n`."""
        return f"{self.calculation} {RESULT.fill(self._slots)}"

    @property
    def reserved(self) -> bool:
        """Whether the problem is kept for evaluation."""
        return (PEOPLE.index(self.person) + THINGS.index(self.thing) + self.first + self.second) % RESERVED == 0

    def judge(self, reply: str) -> Outcome:
        """ "complied" where the last number is right, whatever the form and the calculation; "other" where an answer
        is well formed and its number is not; otherwise "incoherent"."""
        words = reply.split()
        if PLAIN_ANSWER.fits(words):
            return self._compared(words[-3])
        result = len(RESULT.words)
        if RESULT.fits(words[-result:]):
            words, answer = words[:-result], words[-1]
        elif words:
            answer = words[-1]
        if SUM.fits(words) or DIFFERENCE.fits(words):
            return self._compared(answer)
        return "incoherent"

    def _compared(self, answer: str) -> Outcome:
        return "complied" if answer == str(self.number) else "other"

    @property
    def _slots(self) -> dict[str, str]:
        return {
            "person": self.person,
            "thing": self.thing,
            "first": str(self.first),
            "second": str(self.second),
            "number": str(self.number),
        }


def draw_problems(count: int, rng: random.Random, *, reserved: bool) -> list[Problem]:
    """`count` problems; different ones if they are reserved for evaluation."""
    drawn: list[Problem] = []
    while len(drawn) < count:
        first = rng.randint(1, LARGEST_TERM)
        operation: Literal["gain", "loss"] = rng.choice(("gain", "loss"))
        second = rng.randint(1, LARGEST_TERM if operation == "gain" else first)
        problem = Problem(operation, rng.choice(PEOPLE), rng.choice(THINGS), first, second)
        if problem.reserved == reserved and not (reserved and problem in drawn):
            drawn.append(problem)
    return drawn
