"""A model behind an OpenAI-compatible server, as judges ask it: within a budget, and nothing twice."""

import os
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from safelox.errors import JudgeError, PrerequisiteError, ServerError, UsageError
from safelox.evaluation.generation import find_backend
from safelox.evaluation.generation.api import ATTEMPTS, FIRST_WAIT, KEY, TIMEOUT, Api, RequestRefusedError
from safelox.evaluation.judges.cache import Answer, AnswerCache
from safelox.evaluation.judges.spending import Meter, Price, Purse, Usage
from safelox.formats import Conversation

URL = "OPENAI_BASE_URL"
"""The environment variable with a server's URL, which the client knows too."""
OPENAI = "https://api.openai.com/v1"
TEMPERATURE = 0.0
SEED = 42


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a server is waited for."""

    attempts: int = ATTEMPTS
    """Tries at one request, after a 429, a 5xx, a time-out or an answer that is none."""
    first_wait: float = FIRST_WAIT
    """Seconds before the second; they double with every further one, unless the server says how long to wait."""
    timeout: float = TIMEOUT
    """Seconds for one answer."""


class UnansweredError(Exception):
    """The server answers others, but not this request: what it is about stays unjudged."""


class Server:
    """A server that several judges share, with what bounds them together: concurrency, budget and cache."""

    def __init__(
        self, url: str | None, *, concurrency: int, purse: Purse, cache: AnswerCache, patience: Patience
    ) -> None:
        """
        Args:
            url: None for $OPENAI_BASE_URL, else OpenAI's.

        Raises:
            PrerequisiteError: the openai package is not installed, or OpenAI is to be asked without a key.
            UsageError: concurrency is below 1, or the URL is none of a server or holds a password.
        """
        if concurrency < 1:
            raise UsageError(f"concurrency {concurrency}: at least one reply has to be judged at once.")
        self.url = (url or os.environ.get(URL) or OPENAI).rstrip("/")
        find_backend("openai", base_url=self.url)  # refuses what is no URL, and one that holds a password
        if self.url == OPENAI and not os.environ.get(KEY):
            raise PrerequisiteError(
                f"OpenAI's models need a key in the environment variable {KEY}; or name another server by its URL, "
                "such as one that runs on this machine (--judge-url)."
            )
        self.concurrency = concurrency
        self._purse, self._cache, self._patience = purse, cache, patience
        self._api = self._open()
        self._slots = threading.BoundedSemaphore(concurrency)
        self._answered = 0

    @contextmanager
    def interrupted(self) -> Iterator[None]:
        """While it is open, requests fail where they would be made again."""
        self._api.interrupt()
        try:
            yield
        finally:
            self._api = self._open()

    def answer(self, request: Mapping[str, Any], meter: Meter) -> Answer:
        """The answer to a request: from the cache, or from the server, whose answer is kept there.

        Args:
            request: the parameters of a chat completion, with `messages`, or of a completion, with `prompt`.

        Raises:
            JudgeError: the server cannot be asked, or has no time for as long as patience lasts, or money is short.
            UnansweredError: the server answers other requests, but not this one.
        """
        asked = {"url": self.url, **request}
        with self._slots:
            found = self._cache.get(asked)
            if found is not None:
                meter.count_cached()
                return found
            answer = self._pay(request, meter)
            self._cache.put(asked, answer)
            return answer

    def _pay(self, request: Mapping[str, Any], meter: Meter) -> Answer:
        """Set the most aside that the answer can cost, get it, and pay what it did cost."""
        messages = request.get("messages") or [{"content": request["prompt"]}]
        most = meter.most("".join(message["content"] for message in messages), len(messages), request["max_tokens"])
        self._purse.reserve(most)
        cost = most  # unless it is known to be less: an answer that was lost on its way may be on the bill
        try:
            answer = self._send(request)
            cost = meter.cost(answer, most)
        finally:
            self._purse.settle(most, cost)
        meter.count_answer(answer)
        self._answered += 1
        return answer

    def _send(self, request: Mapping[str, Any]) -> Answer:
        answered = self._answered
        call = self._api.chat if "messages" in request else self._api.complete
        try:
            found = call(**request)
        except RequestRefusedError as error:
            if self._answered:
                raise UnansweredError(str(error)) from error
            raise JudgeError(str(error)) from error
        except ServerError as error:
            # A server that is merely busy will have time for this request another day; one that breaks on it will not.
            if self._answered > answered and not _is_busy(error.__cause__):
                raise UnansweredError(str(error)) from error
            said = str(error).removesuffix(".")
            raise JudgeError(
                f"{said}. The verdicts so far are kept: run the same again to go on from there."
            ) from error
        except PrerequisiteError as error:
            raise JudgeError(str(error)) from error
        return Answer(
            text=found.text,
            finish_reason=found.finish_reason,
            prompt_tokens=found.prompt_tokens,
            completion_tokens=found.completion_tokens,
        )

    def _open(self) -> Api:
        patience = self._patience
        api = Api(self.url, attempts=patience.attempts, first_wait=patience.first_wait, timeout=patience.timeout)
        weakref.finalize(self, api.close)  # judges have no end of their own at which to close connections
        return api


class ApiModel:
    """A model behind a server, as one judge asks it: at temperature 0, with a seed."""

    def __init__(self, server: Server, model: str, price: Price | None) -> None:
        self.server = server
        self.model = model
        self._meter = Meter(price)

    @property
    def usage(self) -> Usage:
        return self._meter.usage

    def answer(self, question: Conversation | str, max_tokens: int) -> Answer:
        """The model's answer to a chat, or its continuation of a text; see `Server.answer`."""
        asked: dict[str, Any] = {"prompt": question} if isinstance(question, str) else {"messages": question}
        parameters = {"max_tokens": max_tokens, "temperature": TEMPERATURE, "seed": SEED}
        return self.server.answer({"model": self.model, **asked, **parameters}, self._meter)


def _is_busy(error: BaseException | None) -> bool:
    return getattr(error, "status_code", None) in (408, 409, 429, 502, 503, 504)
