"""Prompts, each with what a judge needs to know of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from safelox.errors import DataError
from safelox.formats import Conversation
from safelox.formats import Message as Turn
from safelox.manifest import Record


class Message(Record):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


class Sample(Record):
    """A chat to be answered; its last turn is the user's."""

    id: str
    """Unique in its suite."""
    messages: tuple[Message, ...] = Field(min_length=1)
    about: dict[str, Any] = Field(default_factory=dict)
    """What the judge needs, such as a reference answer; the model never sees it."""

    def asked(self, system: str | None) -> tuple[Message, ...]:
        """The messages that the model gets; `system`, where it is given, stands in place of the sample's own one."""
        if system is None:
            return self.messages
        turns = tuple(message for message in self.messages if message.role != "system")
        return (Message(role="system", content=system), *turns)


def conversation(messages: Sequence[Message]) -> Conversation:
    """The messages as prompt formats take them."""
    return [Turn(role=message.role, content=message.content) for message in messages]


def read_samples(path: Path) -> list[Sample]:
    """The samples of a JSONL file, one a line: {"id", "messages", "about"}; blank lines are passed over.

    Raises:
        DataError: the file cannot be read, or a line is no sample or has the id of an earlier one.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    samples: dict[str, Sample] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        sample = _parse(path, number, line)
        if sample.id in samples:
            raise DataError(f"{path}, line {number}: id {sample.id!r} occurs twice; every sample needs one of its own.")
        samples[sample.id] = sample
    return list(samples.values())


def _parse(path: Path, number: int, line: str) -> Sample:
    try:
        sample = Sample.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the line"
        raise DataError(
            f'{path}, line {number}: not a sample, which has "id", "messages" and possibly "about": '
            f"{where}: {first['msg']}"
        ) from error
    if sample.messages[-1].role != "user":
        raise DataError(
            f"{path}, line {number}: the last message is the {sample.messages[-1].role}'s; there is nothing to reply "
            "to unless it is the user's."
        )
    return sample
