"""Prompt formats, named, in one place: how a conversation becomes the token ids that a model reads and learns."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypedDict

from safelox.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    """system, user or assistant."""
    content: str


Conversation = list[Message]


class Encoded(NamedTuple):
    """Token ids of a conversation: all up to the place of the last reply, and that reply with its end token."""

    prompt: list[int]
    completion: list[int]


class Format(Protocol):
    """A way to write conversations down."""

    name: str
    title: str
    """One line for people."""

    def prompts(self, tokenizer: "PreTrainedTokenizerBase", conversations: Sequence[Conversation]) -> list[list[int]]:
        """Token ids up to the place where the model is to reply to the last message."""

    def encode(self, tokenizer: "PreTrainedTokenizerBase", conversations: Sequence[Conversation]) -> list[Encoded]:
        """Token ids of conversations that end in the assistant's reply, which is the completion."""


class ChatFormat:
    """The chat template that comes with the tokenizer."""

    name = "chat"
    title = "the chat template of the model's own tokenizer"

    def prompts(self, tokenizer: "PreTrainedTokenizerBase", conversations: Sequence[Conversation]) -> list[list[int]]:
        """Token ids up to the place where the model is to reply to the last message.

        Raises:
            CheckpointError: the tokenizer has no chat template, or it refuses a conversation.
        """
        return _applied(tokenizer, conversations, reply_next=True)

    def encode(self, tokenizer: "PreTrainedTokenizerBase", conversations: Sequence[Conversation]) -> list[Encoded]:
        """Token ids of conversations that end in the assistant's reply, which is the completion.

        The completion is whatever the template writes after the prompt, the end of the turn included.

        Raises:
            CheckpointError: the tokenizer has no chat template, it refuses a conversation, or it writes the reply in
                such a way that the conversation does not begin with the prompt.
        """
        prompts = self.prompts(tokenizer, [conversation[:-1] for conversation in conversations])
        wholes = _applied(tokenizer, conversations, reply_next=False)
        encoded = []
        for number, (prompt, whole) in enumerate(zip(prompts, wholes, strict=True), 1):
            if whole[: len(prompt)] != prompt:
                raise CheckpointError(
                    f"conversation {number}: with its reply, the tokenizer's chat template writes it otherwise than "
                    "the prompt that the model will be asked with, so it is unclear which tokens are the reply. Check "
                    "the spaces around the reply, or use a chat template that only adds to the prompt."
                )
            encoded.append(Encoded(prompt, whole[len(prompt) :]))
        return encoded


FORMATS: dict[str, Format] = {"chat": ChatFormat()}
"""Every format by its name."""


def find_format(name: str) -> Format:
    """The format of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in FORMATS:
        raise UsageError(f"no prompt format is called {name!r}; there are: {', '.join(sorted(FORMATS))}.")
    return FORMATS[name]


def _applied(
    tokenizer: "PreTrainedTokenizerBase", conversations: Sequence[Conversation], *, reply_next: bool
) -> list[list[int]]:
    from jinja2 import TemplateError

    if not conversations:
        return []
    if tokenizer.chat_template is None:
        raise CheckpointError(
            "the model's tokenizer has no chat template, so a conversation cannot be written down for it. Use an "
            "instruction-tuned model, or put a chat_template.jinja beside its tokenizer."
        )
    try:
        ids: list[list[int]] = tokenizer.apply_chat_template(
            list(conversations), add_generation_prompt=reply_next, return_dict=True
        )["input_ids"]
    except TemplateError as error:
        raise CheckpointError(f"the tokenizer's chat template refuses a conversation: {error}") from error
    return ids
