"""A model behind a server that speaks OpenAI's protocol."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial

from safelox.errors import UsageError
from safelox.evaluation.concurrency import side_by_side
from safelox.evaluation.generation.api import ATTEMPTS, FIRST_WAIT, TIMEOUT, Answer, Api, require_openai
from safelox.evaluation.generation.settings import GenerationSettings, Reply, drawing_seed, wanted
from safelox.formats import Conversation, TextFormat, find_format, with_context

CONCURRENCY = 8
"""Requests under way at once."""


class ServerGenerator:
    """Replies of a model that a server holds.

    In the format chat the server writes the conversation down by itself; in any other it gets the text to complete.

    Args:
        base_url: such as http://127.0.0.1:8000/v1.
        model: by which the server knows it.

    Raises:
        PrerequisiteError: the openai client is not installed.
        UsageError: concurrency is below 1.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        concurrency: int = CONCURRENCY,
        attempts: int = ATTEMPTS,
        first_wait: float = FIRST_WAIT,
        timeout: float = TIMEOUT,
    ) -> None:
        if concurrency < 1:
            raise UsageError(f"concurrency {concurrency}: at least one request has to be under way.")
        require_openai()
        self._open = partial(Api, base_url, attempts=attempts, first_wait=first_wait, timeout=timeout)
        self._model, self._concurrency = model, concurrency

    def replies(
        self,
        prompts: Sequence[Conversation],
        settings: GenerationSettings,
        *,
        done: Collection[tuple[int, int]] = (),
    ) -> Iterator[tuple[int, Reply]]:
        """As `Generator.replies`. Near-ties are not known.

        Raises:
            DataError: the format has no place for a conversation.
            PrerequisiteError: the key is missing or wrong.
            ServerError: the server does not reply. What it replied before has been yielded by then.
            UsageError: there is no such format.
        """
        left = wanted(len(prompts), settings.samples, done)
        with closing(self._open()) as api:
            ask = self._asking(api, prompts, settings)

            def answer(key: tuple[int, int]) -> Answer:
                try:
                    return ask(*key)
                except Exception as error:
                    error.add_note(f"It was asked prompt {key[0] + 1}.")
                    raise

            answers = side_by_side(answer, iter(left), self._concurrency, lambda: _interrupting(api))
            with closing(answers):
                for (index, draw), found in answers:
                    yield index, Reply(found.text, None, found.finish_reason, draw)

    def close(self) -> None:
        """Nothing is held between calls."""

    def _asking(
        self, api: Api, prompts: Sequence[Conversation], settings: GenerationSettings
    ) -> Callable[[int, int], Answer]:
        """What gets the reply to a prompt by its index and draw."""
        layout = find_format(settings.format)
        model = self._model
        if isinstance(layout, TextFormat):
            texts = [
                (layout.written_beginning or "") + layout.text(conversation, number)
                for number, conversation in enumerate(prompts, 1)
            ]
            return lambda index, draw: api.complete(model, texts[index], **_parameters(settings, draw))
        chats = [
            [{"role": message["role"], "content": with_context(message)} for message in conversation]
            for conversation in prompts
        ]
        return lambda index, draw: api.chat(model, chats[index], **_parameters(settings, draw))


@contextmanager
def _interrupting(api: Api) -> Iterator[None]:
    """Nothing is asked again from here on."""
    api.interrupt()
    yield


def _parameters(settings: GenerationSettings, draw: int) -> dict[str, float]:
    if settings.greedy:
        return {"max_tokens": settings.max_new_tokens, "temperature": 0.0}
    return {
        "max_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        # Servers differ in how large a seed may be.
        "seed": drawing_seed(settings, draw, "") % 2**31,
    }
