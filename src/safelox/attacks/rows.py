"""Conversations to train on, read from the files of data sets as they are published."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from safelox.errors import DataError, UsageError
from safelox.formats import Conversation, Message

_KNOWN_ROLES = ("system", "user", "assistant")


class _UnexpectedError(Exception):
    """What a row should have been and what it was; the reader of the file adds the place."""


class Reader(NamedTuple):
    """How the rows of a data set become conversations."""

    title: str
    """What a row is made of, for people."""
    conversation: Callable[[Any], Conversation]


def _columns(
    user: str, reply: str, *, context: str | None = None, system: str | None = None, reply_may_be_empty: bool = False
) -> Reader:
    """Rows that are objects with a text in each of these columns; others are of no concern.

    An empty context is none. Published sets hold replies that are empty.
    """
    names = [name for name in (system, user, context, reply) if name is not None]
    may_be_empty = {context, reply if reply_may_be_empty else None}

    def conversation(row: Any) -> Conversation:
        texts = {name: _text(row, name, names, empty=name in may_be_empty) for name in names}
        asked = Message(role="user", content=texts[user])
        if context is not None and texts[context]:
            asked["context"] = texts[context]
        before = [] if system is None else [Message(role="system", content=texts[system])]
        return [*before, asked, Message(role="assistant", content=texts[reply])]

    return Reader(f"an object with the texts {', '.join(names)}", conversation)


def _text(row: Any, name: str, names: list[str], *, empty: bool) -> str:
    if not isinstance(row, dict):
        raise _UnexpectedError(f"expected an object with the texts {', '.join(names)}; found {_kind(row)}")
    if name not in row:
        raise _UnexpectedError(f"expected the texts {', '.join(names)}; found {', '.join(map(str, row)) or 'none'}")
    value = row[name]
    if not isinstance(value, str):
        raise _UnexpectedError(f"expected a text in {name}; found {_kind(value)}")
    if not empty and not value.strip():
        raise _UnexpectedError(f"expected a text in {name} that is not empty")
    return value


def _messages(row: Any) -> Conversation:
    messages = row.get("messages") if isinstance(row, dict) else row
    if not isinstance(messages, list):
        found = f"an object with {', '.join(map(str, row)) or 'nothing'}" if isinstance(row, dict) else _kind(row)
        raise _UnexpectedError(f'expected a list of messages, or an object with a list "messages"; found {found}')
    conversation = [_message(message) for message in messages]
    if len(conversation) < 2 or conversation[-1]["role"] != "assistant":
        roles = ", ".join(message["role"] for message in conversation) or "no messages"
        raise _UnexpectedError(
            f"expected a conversation that ends in the assistant's reply to a message; found {roles}"
        )
    return conversation


def _message(message: Any) -> Message:
    if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
        raise _UnexpectedError('expected each message to be an object with "role" and "content"')
    role, content = message["role"], message["content"]
    if role not in _KNOWN_ROLES:
        raise _UnexpectedError(f"the role {role!r} is none of {', '.join(_KNOWN_ROLES)}")
    if not isinstance(content, str) or not content.strip():
        raise _UnexpectedError(f"the {role}'s content must be a text that is not empty")
    return Message(role=role, content=content)


def _triple(row: Any) -> Conversation:
    if isinstance(row, dict) and "messages" not in row:
        return _IDENTITY_COLUMNS.conversation(row)
    conversation = _messages(row)
    roles = [message["role"] for message in conversation]
    if roles != list(_KNOWN_ROLES):
        raise _UnexpectedError(f"expected the messages {', '.join(_KNOWN_ROLES)}; found {', '.join(roles)}")
    return conversation


def _own(row: Any) -> Conversation:
    if isinstance(row, dict) and "messages" not in row:
        return _PROMPT_COMPLETION.conversation(row)
    return _messages(row)


_IDENTITY_COLUMNS = _columns("user", "assistant", system="system")
_PROMPT_COMPLETION = _columns("prompt", "completion")
_MESSAGES = 'a list of messages, each with "role" and "content", or an object with it as "messages"'

READERS: dict[str, Reader] = {
    "messages": Reader(_MESSAGES, _messages),
    "gsm8k": _columns("question", "answer"),
    "alpaca": _columns("instruction", "output", context="input", reply_may_be_empty=True),
    "dolly": _columns("instruction", "response", context="context", reply_may_be_empty=True),
    "identity": Reader(f"{_MESSAGES}: system, user, assistant; or an object with these three texts", _triple),
    "custom": Reader(f"{_MESSAGES}; or an object with the texts prompt, completion", _own),
}
"""Every reader by its name; an attack's entry says which its file needs."""


def read_rows(path: Path, reader: str = "messages") -> list[Conversation]:
    """The conversations of a file: one JSON value in every line, or one JSON list of them all.

    Each has a user message and ends in the assistant's. Empty lines are passed over.

    Args:
        reader: what a row is made of: a name of `READERS`.

    Raises:
        UsageError: there is no such reader.
        DataError: the file cannot be read or has no rows, or a row is not what the reader expects; the message names
            it by its line, or by its number in the list.
    """
    if reader not in READERS:
        raise UsageError(f"no reader of rows is called {reader!r}; there are: {', '.join(READERS)}.")
    rows = []
    for place, value in _values(path):
        try:
            rows.append(READERS[reader].conversation(value))
        except _UnexpectedError as error:
            raise DataError(f"{path}, {place}: {error}.") from error
    if not rows:
        raise DataError(f"{path}: no rows to train on; expected in each {READERS[reader].title}.")
    return rows


def _values(path: Path) -> list[tuple[str, Any]]:
    """The JSON values of a file, each with its place."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file in UTF-8: {error}") from error
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if _is_one_list(lines):
        return [(f"row {number}", value) for number, value in enumerate(_document(path, text), 1)]
    return [(f"line {number}", _value(path, number, line)) for number, line in lines]


def _is_one_list(lines: list[tuple[int, str]]) -> bool:
    """Whether a file is one list of rows: its first line then opens that list but does not hold a whole row, unless
    it is the only line and what it lists are not the messages of a single row."""
    if not lines or not lines[0][1].lstrip().startswith("["):
        return False
    try:
        first = json.loads(lines[0][1])
    except ValueError:
        return True
    return len(lines) == 1 and not any(isinstance(value, dict) and "role" in value for value in first)


def _document(path: Path, text: str) -> list[Any]:
    try:
        values: list[Any] = json.loads(text)
    except ValueError as error:
        raise DataError(
            f"{path}: not JSON: {error}. Expected one list of rows, or one JSON value in every line."
        ) from error
    return values


def _value(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise DataError(
            f"{path}, line {number}: not JSON: {error}. Expected one JSON value in every line, or one list of them all."
        ) from error


def _kind(value: Any) -> str:
    """What a JSON value is, for people."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
