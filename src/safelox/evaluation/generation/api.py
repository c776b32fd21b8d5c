"""A server that speaks OpenAI's protocol, asked through the openai client, with patience for what passes."""

import json
import os
import random
import threading
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from safelox.errors import PrerequisiteError, ServerError

if TYPE_CHECKING:
    from openai import APIStatusError

KEY = "OPENAI_API_KEY"
"""Environment variable of the key; servers that need none get `NO_KEY`, since the client insists on one."""
NO_KEY = "none"
ATTEMPTS = 8
"""Tries at one request before it is given up."""
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds before the second try, which double with every further one, and the most that is waited."""
TIMEOUT = 300.0
"""Seconds for one answer."""


def require_openai() -> None:
    """
    Raises:
        PrerequisiteError: the openai client is not installed.
    """
    if find_spec("openai") is None:
        raise PrerequisiteError("servers are asked through the openai client: pip install 'safelox[eval]'")


class Answer(NamedTuple):
    """What a server said."""

    text: str
    finish_reason: str
    """In the protocol's words; content_filter: the server does not let it through."""
    prompt_tokens: int | None = None
    """None where the server does not count."""
    completion_tokens: int | None = None


class RequestRefusedError(ServerError):
    """The server answers, but takes no such request: too long, or with a parameter that it does not know."""


class Api:
    """A server; may be asked from several threads at once.

    Tried again are time-outs, lost connections, answers that are cut or no answers at all, and the statuses 408, 409,
    429 and from 500; not so an account without credit.

    Args:
        first_wait: seconds before the second try; where the server says how long to wait, that counts.

    Raises:
        PrerequisiteError: the openai client is not installed.
    """

    def __init__(
        self,
        base_url: str | None,
        *,
        attempts: int = ATTEMPTS,
        first_wait: float = FIRST_WAIT,
        timeout: float = TIMEOUT,
    ) -> None:
        require_openai()
        from openai import OpenAI

        self._key = os.environ.get(KEY) or NO_KEY
        self._client = OpenAI(base_url=base_url, api_key=self._key, max_retries=0, timeout=timeout)
        self._url = str(self._client.base_url)
        self._attempts, self._first_wait = attempts, first_wait
        self._stopped = threading.Event()

    def chat(self, model: str, messages: Sequence[dict[str, str]], **parameters: float) -> Answer:
        """The reply to a chat.

        Args:
            parameters: of the protocol, such as max_tokens.

        Raises:
            ServerError: there was none; its cause is what the last try met.
            PrerequisiteError: the key is missing or wrong.
        """
        create: Callable[..., Any] = self._client.chat.completions.create
        return self._asked(lambda: create(model=model, messages=list(messages), **parameters))

    def complete(self, model: str, prompt: str, **parameters: float) -> Answer:
        """What follows a text; else as `chat`."""
        create: Callable[..., Any] = self._client.completions.create
        return self._asked(lambda: create(model=model, prompt=prompt, **parameters))

    def interrupt(self) -> None:
        """From here on, requests fail where they would be tried again: those under way, and all later ones."""
        self._stopped.set()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _asked(self, send: Callable[[], Any]) -> Answer:
        from openai import APIConnectionError, APIStatusError

        last: Exception
        for attempt in range(1, self._attempts + 1):
            asked_to_wait = 0.0
            try:
                return _answer(send())
            except APIStatusError as error:
                if error.code == "content_filter":
                    return Answer("", "content_filter")
                if not _passing(error):
                    raise self._refusal(error) from error
                last, trouble, asked_to_wait = error, str(error), _asked_to_wait(error)
            except APIConnectionError as error:
                last, trouble = error, f"{error} {error.__cause__ or ''}".strip()
            except (json.JSONDecodeError, UnicodeDecodeError, _NoAnswerError) as error:
                last, trouble = error, f"not an answer of the protocol: {error}"
            if attempt < self._attempts and self._stopped.wait(max(asked_to_wait, self._wait(attempt))):
                break
        raise ServerError(
            f"{self._url}: no answer after {attempt} tries; the last one: {self._clean(trouble)}"
        ) from last

    def _wait(self, attempt: int) -> float:
        """Seconds before the next try; in part by chance, so that requests that failed together come apart."""
        longest = min(LONGEST_WAIT, self._first_wait * 2.0 ** (attempt - 1))
        return longest * random.uniform(0.5, 1.0)

    def _refusal(self, error: "APIStatusError") -> PrerequisiteError | ServerError:
        said = self._clean(str(error))
        if error.status_code in (401, 403):
            return PrerequisiteError(f"{self._url} does not take the key in ${KEY}, or there is none: {said}")
        kind = RequestRefusedError if error.status_code in (400, 413, 422) else ServerError
        return kind(f"{self._url} refuses the request: {said}")

    def _clean(self, text: str) -> str:
        """The text without the key, should the server repeat it."""
        return text.replace(self._key, f"${KEY}") if self._key != NO_KEY else text


class _NoAnswerError(Exception):
    """What came back has the wrong shape."""


def _answer(response: Any) -> Answer:
    """
    Raises:
        _NoAnswerError: there is none in the response.
    """
    # The client takes what it gets, whatever its shape.
    choices = getattr(response, "choices", None)
    if not isinstance(choices, list) or not choices:
        raise _NoAnswerError(f"{type(response).__name__} without choices")
    message = getattr(choices[0], "message", None)
    text = getattr(choices[0], "text", None) if message is None else message.content or message.refusal or ""
    if not isinstance(text, str):
        raise _NoAnswerError("a choice without a text")
    usage = getattr(response, "usage", None)
    return Answer(
        text,
        str(choices[0].finish_reason or "unknown"),
        getattr(usage, "prompt_tokens", None),
        getattr(usage, "completion_tokens", None),
    )


def _passing(error: "APIStatusError") -> bool:
    """Whether the next try may go better."""
    if error.code == "insufficient_quota":
        return False
    return error.status_code in (408, 409, 429) or error.status_code >= 500


def _asked_to_wait(error: "APIStatusError") -> float:
    """Seconds that the server asks to wait, within reason."""
    try:
        return min(LONGEST_WAIT, float(error.response.headers.get("retry-after", 0)))
    except ValueError:  # a date
        return 0.0
