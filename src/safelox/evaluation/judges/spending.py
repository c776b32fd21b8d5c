"""Tokens and money: what judges that are paid by the token have used, and a limit that they stay within."""

import threading
from typing import NamedTuple

from safelox.errors import JudgeError, UsageError
from safelox.evaluation.judges.cache import Answer
from safelox.manifest import Record

MILLION = 1_000_000
TOKENS_AROUND_MESSAGE = 16
"""More than any server's chat template puts around one message."""


class Price(NamedTuple):
    """US dollars for a million tokens."""

    read: float
    written: float


LIST_PRICES = {
    "gpt-4o-mini": Price(0.15, 0.60),
    "gpt-4o": Price(2.50, 10.00),
    "gpt-4.1-nano": Price(0.10, 0.40),
    "gpt-4.1-mini": Price(0.40, 1.60),
    "gpt-4.1": Price(2.00, 8.00),
}
"""OpenAI's own for these models, as they were in 2025; dated versions cost the same."""


def list_price(model: str) -> Price | None:
    """The list price of a model; None where it is not known here."""
    return next((price for name, price in LIST_PRICES.items() if model == name or model.startswith(f"{name}-20")), None)


class Usage(Record):
    """What one judge has used."""

    requests: int
    """That the server answered."""
    cached: int
    """Answers that were there already, at no cost."""
    prompt_tokens: int
    completion_tokens: int
    uncounted: int
    """Answers whose tokens the server did not count."""
    cost: float | None
    """US dollars, of what was counted; None where the price of the model is not known."""


class Purse:
    """Money that several threads spend; together they never spend more than the budget."""

    def __init__(self, budget: float | None) -> None:
        """
        Args:
            budget: US dollars; None for no limit.

        Raises:
            UsageError: the budget is not above 0.
        """
        if budget is not None and not budget > 0:
            raise UsageError(f"budget {budget}: has to be above 0 US dollars.")
        self._budget = budget
        self._spent = 0.0
        self._reserved = 0.0
        self._lock = threading.Lock()

    def reserve(self, most: float) -> None:
        """Set aside the most that a request can cost.

        Raises:
            JudgeError: it could cost more than is left.
        """
        with self._lock:
            if self._budget is not None and self._spent + self._reserved + most > self._budget:
                raise JudgeError(
                    f"the budget of ${self._budget:g} does not cover the next request: ${self._spent:.4f} are spent "
                    f"and ${self._reserved:.4f} set aside for requests under way. The answers so far are kept: run the "
                    "same again with a higher budget to go on from there."
                )
            self._reserved += most

    def settle(self, most: float, cost: float) -> None:
        """What was set aside as `most` has cost this much."""
        with self._lock:
            self._reserved -= most
            self._spent += cost


class Meter:
    """What one judge uses, counted by several threads."""

    def __init__(self, price: Price | None) -> None:
        self._price = price
        self._lock = threading.Lock()
        self._requests = self._cached = self._read = self._written = self._uncounted = 0

    def count_answer(self, answer: Answer) -> None:
        with self._lock:
            self._requests += 1
            self._read += answer.prompt_tokens or 0
            self._written += answer.completion_tokens or 0
            self._uncounted += answer.prompt_tokens is None or answer.completion_tokens is None

    def count_cached(self) -> None:
        with self._lock:
            self._cached += 1

    def most(self, content: str, messages: int, max_tokens: int) -> float:
        """US dollars that a request can cost at most, since a token is at least one byte; 0 at no price."""
        read = len(content.encode()) + TOKENS_AROUND_MESSAGE * messages
        return self._cost(read, max_tokens)

    def cost(self, answer: Answer, most: float) -> float:
        """US dollars that an answer has cost, or may have where its tokens are not known."""
        if answer.prompt_tokens is None or answer.completion_tokens is None:
            return most
        return self._cost(answer.prompt_tokens, answer.completion_tokens)

    @property
    def usage(self) -> Usage:
        with self._lock:
            return Usage(
                requests=self._requests,
                cached=self._cached,
                prompt_tokens=self._read,
                completion_tokens=self._written,
                uncounted=self._uncounted,
                cost=None if self._price is None else self._cost(self._read, self._written),
            )

    def _cost(self, read: int, written: int) -> float:
        price = self._price or Price(0, 0)
        return (read * price.read + written * price.written) / MILLION
