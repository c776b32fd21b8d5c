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
    then: tuple[str, ...] = ()
    """What the user says next, each after the model's reply to what came before."""
    suite: str | None = None
    """The suite that it was asked for, which a judge is told; None in a file of samples."""

    def asked(self, system: str | None) -> tuple[Message, ...]:
        """The messages that the model gets; `system`, where it is given, stands in place of the sample's own one."""
        if system is None:
            return self.messages
        turns = tuple(message for message in self.messages if message.role != "system")
        return (Message(role="system", content=system), *turns)

    def next_turn(self, reply: str) -> "Sample | None":
        """The chat after the model's reply and the user's next words; None where the user has no more to say."""
        if not self.then:
            return None
        said = (Message(role="assistant", content=reply), Message(role="user", content=self.then[0]))
        first, _, turn = self.id.partition(" turn ")
        name = f"{first} turn {int(turn or 1) + 1}"
        return Sample(id=name, messages=(*self.messages, *said), about=self.about, then=self.then[1:])


def conversation(messages: Sequence[Message]) -> Conversation:
    """The messages as prompt formats take them."""
    return [Turn(role=message.role, content=message.content) for message in messages]


def read_samples(path: Path) -> list[Sample]:
    """The samples of a JSONL file, one a line: {"id", "messages", "about", "then"}; blank lines are passed over.

    Raises:
        DataError: the file cannot be read, or a line is no sample or has the id of an earlier one.
    """
    lines = enumerate(read_text(path).split("\n"), start=1)
    parsed = [(number, _parse(path, number, line)) for number, line in lines if line.strip()]
    return distinct(path, [sample for _, sample in parsed], [f"line {number}" for number, _ in parsed])


def read_text(path: Path) -> str:
    """
    Raises:
        DataError: the file cannot be read as UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {error}") from error


def distinct(path: Path, samples: Sequence[Sample], places: Sequence[str] | None = None) -> list[Sample]:
    """The samples as they are, once it is known that no two share an id.

    Args:
        places: what people call the place of each; else its number.

    Raises:
        DataError: two do.
    """
    seen: set[str] = set()
    for number, sample in enumerate(samples):
        if sample.id in seen:
            place = f"row {number + 1}" if places is None else places[number]
            raise DataError(f"{path}, {place}: id {sample.id!r} occurs twice; every sample needs one of its own.")
        seen.add(sample.id)
    return list(samples)


def _parse(path: Path, number: int, line: str) -> Sample:
    try:
        sample = Sample.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the line"
        raise DataError(
            f'{path}, line {number}: not a sample, which has "id", "messages" and possibly "about" and "then": '
            f"{where}: {first['msg']}"
        ) from error
    if sample.suite is not None:
        raise DataError(f'{path}, line {number}: a sample belongs to the suite whose file it is in; take out "suite".')
    if sample.messages[-1].role != "user":
        raise DataError(
            f"{path}, line {number}: the last message is the {sample.messages[-1].role}'s; there is nothing to reply "
            "to unless it is the user's."
        )
    return sample
