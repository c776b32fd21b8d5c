"""What a judge that is a language model is asked, and how its answer is read: a question for each kind of judge."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from safelox.errors import UsageError
from safelox.evaluation.judges.cache import Answer
from safelox.evaluation.outcomes import Outcome, Verdict
from safelox.evaluation.samples import Sample
from safelox.formats import Conversation, Message

_PLACEHOLDER = re.compile(r"\{(instruction|reply|behavior|generation)\}")
_PART = re.compile(r"^\[(system|user)\][ \t]*$", re.MULTILINE)


class Question(Protocol):
    """One kind of judge: how it is asked and understood."""

    @property
    def version(self) -> str:
        """Changes with the wording and with the way of reading."""

    @property
    def max_tokens(self) -> int:
        """Of the answer."""

    @property
    def decides(self) -> tuple[Outcome, ...]:
        """The outcomes that it tells apart."""

    def ask(self, sample: Sample, reply: str) -> Conversation | str:
        """A chat to be answered, or a text to be continued."""

    def read(self, answer: Answer) -> Verdict:
        """What the answer says; unscored, with all of it as raw, unless it says it in the form that was asked for."""


@dataclass(frozen=True)
class Prompt:
    """The text that a judge is asked with, with the placeholders {instruction} and {reply}."""

    user: str
    system: str | None = None

    def filled(self, sample: Sample, reply: str) -> Conversation:
        """The chat with what was asked and the reply in place; neither is searched for placeholders."""
        turns = [Message(role="user", content=self.text(sample, reply))]
        return turns if self.system is None else [Message(role="system", content=self.system), *turns]

    def text(self, sample: Sample, reply: str) -> str:
        """The user's part alone, filled."""
        instruction = _asked(sample)
        values = {"instruction": instruction, "behavior": instruction, "reply": reply, "generation": reply}
        return _PLACEHOLDER.sub(lambda match: values[match[1]], self.user)


def read_prompt(path: Path) -> Prompt:
    """The prompt in a text file.

    {instruction} and {reply}, or {behavior} and {generation}, stand for what was asked and what was replied; any other
    braces stand for themselves. A line `[system]` begins a system message, a line `[user]` the user's; without such
    lines the whole file is the user's.

    Raises:
        UsageError: the file cannot be read, a placeholder is missing, or a part is empty, unknown or there twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"judge prompt {path} cannot be read as UTF-8 text: {error}") from error
    before, *rest = _PART.split(text)
    parts = {name: part.strip() for name, part in zip(rest[::2], rest[1::2], strict=True)}
    if not rest:
        parts = {"user": text.strip()}
    elif before.strip() or len(parts) != len(rest) // 2 or not parts.get("user") or parts.get("system") == "":
        raise UsageError(
            f"judge prompt {path}: has to be one text, or a part that begins with a line [system] and one that begins "
            "with a line [user], each once and none empty."
        )
    found = set(_PLACEHOLDER.findall(parts["user"]))
    if not found & {"instruction", "behavior"} or not found & {"reply", "generation"}:
        raise UsageError(
            f"judge prompt {path}: the user's part needs the placeholders {{instruction}} and {{reply}}, where the "
            "prompt and the model's reply are to stand."
        )
    return Prompt(user=parts["user"], system=parts.get("system"))


def digest(prompt: Prompt) -> str:
    """By which prompts are told apart."""
    return hashlib.sha256(repr(prompt).encode()).hexdigest()[:16]


def _asked(sample: Sample) -> str:
    """The user's message; in a longer chat all turns up to it, each with who said it."""
    turns = [turn for turn in sample.messages if turn.role != "system"]
    return (
        turns[0].content if len(turns) == 1 else "\n\n".join(f"{turn.role.upper()}: {turn.content}" for turn in turns)
    )


def unscored(answer: Answer) -> Verdict:
    """The judge said something else than it was asked for."""
    why = "" if answer.finish_reason == "stop" else f" [finish reason: {answer.finish_reason}]"
    return Verdict(outcome="unscored", raw=f"{answer.text}{why}".strip())


def spoken(answer: Answer) -> str:
    """The part of an answer that a verdict is read from.

    What a model thought before it spoke is left out. Where an answer was cut, a mark shows it: the 1 at its end may be
    the beginning of a 10.
    """
    text = answer.text.rpartition("</think>")[2].replace("\r\n", "\n")
    return f"{text}…" if answer.finish_reason == "length" else text
