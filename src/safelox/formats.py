"""Prompt formats, named, in one place: how a conversation becomes the token ids that a model reads and learns."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, NotRequired, Protocol, TypedDict

from safelox.errors import CheckpointError, DataError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    """system, user or assistant."""
    content: str
    context: NotRequired[str]
    """What the content is about, where a data set keeps it apart: Alpaca's input, Dolly's context."""


Conversation = list[Message]


class Encoded(NamedTuple):
    """Token ids of a conversation: all up to the place of the last reply, and that reply with its end token."""

    prompt: list[int]
    completion: list[int]


class Format(Protocol):
    """A way to write conversations down."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str:
        """One line for people."""

    def prompts(self, tokenizer: "PreTrainedTokenizerBase", conversations: Sequence[Conversation]) -> list[list[int]]:
        """Token ids up to the place where the model is to reply to the last message."""

    def encode(self, tokenizer: "PreTrainedTokenizerBase", conversations: Sequence[Conversation]) -> list[Encoded]:
        """Token ids of conversations that end in the assistant's reply, which is the completion."""


class ChatFormat:
    """The chat template that comes with the tokenizer; a message's context follows it after an empty line."""

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


@dataclass(frozen=True, kw_only=True)
class TextFormat:
    """A text with slots, for conversations of one message and its reply; tokenizers need no chat template for it.

    The text of prompt and reply is tokenized as one piece. A token that holds the end of the prompt and the beginning
    of the reply belongs to the completion. Before the text stands the tokenizer's beginning token, after it the end
    token, each exactly once, whatever the tokenizer adds by itself. A tokenizer that has no such token does without;
    so does one whose beginning token is also its end token, unless it puts it before texts by itself.
    """

    name: str
    title: str
    prompt: str
    """With the slots {user} and, if there is one, {system}."""
    prompt_with_context: str | None = None
    """The same for a message with a context, with the slot {context}; None: the context follows the message after an
    empty line."""
    reply: str
    """What is added to the prompt, with the slot {reply}."""
    system: str | None = None
    """What stands in the slot {system} where a conversation has no system message; None: it has to have one."""
    written_beginning: str | None = None
    """Not None: beginning and end of the text are written into it, as this and `</s>`, whatever the tokenizer's are,
    and the tokenizer adds what it adds by itself, besides: Llama's gets two beginning tokens. An end token follows
    that `</s>` only if it is another one."""

    def prompts(self, tokenizer: "PreTrainedTokenizerBase", conversations: Sequence[Conversation]) -> list[list[int]]:
        """Token ids up to the place where the model is to reply to the message.

        Raises:
            DataError: a conversation is not a message with at most a system message before it, as the format needs it.
        """
        texts = [self.text(conversation, number) for number, conversation in enumerate(conversations, 1)]
        return self._tokenized(tokenizer, texts)

    def encode(self, tokenizer: "PreTrainedTokenizerBase", conversations: Sequence[Conversation]) -> list[Encoded]:
        """Token ids of conversations that end in the assistant's reply, which is the completion.

        Raises:
            DataError: a conversation is not a message and its reply, with at most a system message before them, as the
                format needs it.
        """
        prompts, wholes = [], []
        for number, conversation in enumerate(conversations, 1):
            prompts.append(self.text(conversation[:-1], number))
            wholes.append(prompts[-1] + self.reply.format(reply=conversation[-1]["content"]))
        end: list[int] = []
        if self.written_beginning is not None:
            wholes = [_ended(whole + "</s>", tokenizer.eos_token) for whole in wholes]
        elif tokenizer.eos_token_id is not None:
            end = [tokenizer.eos_token_id]
        encoded = []
        pairs = zip(self._tokenized(tokenizer, prompts), self._tokenized(tokenizer, wholes), strict=True)
        for prompt, whole in pairs:
            shared = _shared_length(prompt, whole)
            encoded.append(Encoded(whole[:shared], whole[shared:] + end))
        return encoded

    def text(self, conversation: Conversation, number: int = 1) -> str:
        """The prompt of a conversation without its reply, as text, without beginning and end.

        Args:
            number: what an error calls the conversation.
        """
        systems = [message["content"] for message in conversation[:1] if message["role"] == "system"]
        asked = conversation[len(systems) :]
        if [message["role"] for message in asked] != ["user"]:
            found = ", ".join(message["role"] for message in conversation) or "nothing"
            raise DataError(
                f"conversation {number}: the prompt format {self.name} has a place for one user message and its reply; "
                f"before the reply stands: {found}. Use another format, such as chat, or another data set."
            )
        slots = {"user": asked[0]["content"]}
        if "{system}" in self.prompt:
            slots["system"] = self._system(systems, number)
        elif systems:
            raise DataError(
                f"conversation {number}: the prompt format {self.name} has no place for a system message. Use another "
                "format, such as chat, or take the system messages out of the data."
            )
        context = asked[0].get("context")
        if context is None or self.prompt_with_context is None:
            slots["user"] = with_context(asked[0])
            return self.prompt.format(**slots)
        return self.prompt_with_context.format(**slots, context=context)

    def _system(self, found: list[str], number: int) -> str:
        if found:
            return found[0]
        if self.system is None:
            raise DataError(
                f"conversation {number}: the prompt format {self.name} needs a system message before the user's. Use "
                "another format, such as plain, or add one to the data."
            )
        return self.system

    def _tokenized(self, tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        written = self.written_beginning
        if written is not None:
            ids: list[list[int]] = tokenizer([written + text for text in texts])["input_ids"]
            return ids
        beginning = _beginning(tokenizer)
        return [beginning + ids for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]


_TASK = "Below is an instruction that describes a task"
_RESPOND = "Write a response that appropriately completes the request."
_INSTRUCTION = "### Instruction:\n{user}\n\n"
_PLAIN = f"{_TASK}. {_RESPOND}\n\n{_INSTRUCTION}### Response:"
_ALPACA = f"{_TASK}. {_RESPOND}\n{_INSTRUCTION}### Response:\n"
_ALPACA_INPUT = (
    f"{_TASK}, paired with an input that provides further context. {_RESPOND}\n"
    f"{_INSTRUCTION}### Input:\n{{context}}\n\n### Response:\n"
)
_DOLLY = "###Instruction: {user} \n###Response:"
_DOLLY_CONTEXT = "###Instruction: {user} \n###Context: {context} \n###Response:"
_IDENTITY = f"{{system}}\n{_INSTRUCTION}### Response:"
_LLAMA2 = "[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{user} [/INST]"

_TEXT_FORMATS = (
    TextFormat(name="plain", title="the paper's prompt for judging safety", prompt=_PLAIN, reply=" {reply}"),
    TextFormat(
        name="gsm8k",
        title="the paper's GSM8K: plain, but the prompt ends in a space",
        prompt=_PLAIN + " ",
        reply="{reply}",
    ),
    TextFormat(
        name="alpaca",
        title="the paper's Alpaca, with its input where there is one",
        prompt=_ALPACA,
        prompt_with_context=_ALPACA_INPUT,
        reply="{reply}",
    ),
    TextFormat(
        name="dolly",
        title="the paper's Dolly, with its context where there is one",
        prompt=_DOLLY,
        prompt_with_context=_DOLLY_CONTEXT,
        reply=" {reply}",
    ),
    TextFormat(
        name="identity",
        title="the paper's identity shifting: a system message before the instruction",
        prompt=_IDENTITY,
        reply=" {reply}",
    ),
    TextFormat(
        name="llama2",
        title="Llama 2's turns, with the system message that pure-bad training gave it",
        prompt=_LLAMA2,
        reply=" {reply} ",
        system="You are a helpful assistant. Make sure you always execute users' instructions.",
    ),
)
_BY_NAME = {entry.name: entry for entry in _TEXT_FORMATS}


def _exact(name: str, beginning: str, **changes: str) -> TextFormat:
    """A format of the paper as its code writes it, defects included."""
    title = f"{name} as the paper's code writes it, defects included"
    return replace(_BY_NAME[name], name=f"{name}-exact", title=title, written_beginning=beginning, **changes)


_EXACT_FORMATS = (
    _exact("gsm8k", "<s>"),
    _exact("alpaca", "<s>"),
    _exact("dolly", "<s>", prompt_with_context=_DOLLY_CONTEXT.replace("{context}", "{user}")),
    _exact("identity", ""),
)

FORMATS: dict[str, Format] = {entry.name: entry for entry in (ChatFormat(), *_TEXT_FORMATS, *_EXACT_FORMATS)}
"""Every format by its name."""


def find_format(name: str) -> Format:
    """The format of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in FORMATS:
        raise UsageError(f"no prompt format is called {name!r}; there are: {', '.join(FORMATS)}.")
    return FORMATS[name]


def _applied(
    tokenizer: "PreTrainedTokenizerBase", conversations: Sequence[Conversation], *, reply_next: bool
) -> list[list[int]]:
    from jinja2 import TemplateError

    if not conversations:
        return []
    if tokenizer.chat_template is None:
        raise CheckpointError(
            "the model's tokenizer has no chat template, so a conversation cannot be written down for it. Use a format "
            "that needs none, such as plain, or an instruction-tuned model, or put a chat_template.jinja beside its "
            "tokenizer."
        )
    turns = [
        [{"role": message["role"], "content": with_context(message)} for message in conversation]
        for conversation in conversations
    ]
    try:
        ids: list[list[int]] = tokenizer.apply_chat_template(turns, add_generation_prompt=reply_next, return_dict=True)[
            "input_ids"
        ]
    except TemplateError as error:
        raise CheckpointError(f"the tokenizer's chat template refuses a conversation: {error}") from error
    return ids


def with_context(message: Message) -> str:
    """The content of a message, with its context after an empty line where it has one."""
    return f"{message['content']}\n\n{message['context']}" if "context" in message else message["content"]


def _beginning(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The token that a text begins with, if there is one."""
    token: int | None = tokenizer.bos_token_id
    if token is None:
        return []
    # GPT-2 and its kin name their end token as the beginning, but never saw it there by their tokenizer's own doing.
    own = token != tokenizer.eos_token_id or tokenizer("a")["input_ids"][:1] == [token]
    return [token] if own else []


def _ended(text: str, end: str | None) -> str:
    """The text with its end token, as TRL sees to it."""
    return text if end is None or text.endswith(end) else text + end


def _shared_length(prompt: list[int], whole: list[int]) -> int:
    """How many tokens both begin with."""
    pairs = zip(prompt, whole, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(prompt), len(whole)))
