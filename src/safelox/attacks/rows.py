"""Conversations to train on, read from a JSON Lines file."""

import json
from pathlib import Path
from typing import Any

from safelox.errors import CheckpointError
from safelox.formats import Conversation, Message

_KNOWN_ROLES = ("system", "user", "assistant")


def read_rows(path: Path) -> list[Conversation]:
    """The conversations of a file with `{"messages": [{"role": ..., "content": ...}, ...]}` in every line.

    Each must have a user message and end in the assistant's. Other keys of a line are of no concern; empty lines
    are passed over.

    Raises:
        CheckpointError: the file cannot be read or has no rows, or a line is not such a conversation.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: not a text file in UTF-8: {error}") from error
    rows = [_conversation(f"{path}, line {number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise CheckpointError(f"{path}: no rows to train on; expected one conversation in every line.")
    return rows


def _conversation(place: str, line: str) -> Conversation:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise CheckpointError(f"{place}: not JSON: {error}. Expected one JSON object in every line.") from error
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list):
        raise CheckpointError(f'{place}: expected an object with a list "messages".')
    conversation = [_message(place, message) for message in messages]
    if len(conversation) < 2 or conversation[-1]["role"] != "assistant":
        raise CheckpointError(f"{place}: expected a conversation that ends in the assistant's reply to a message.")
    return conversation


def _message(place: str, message: Any) -> Message:
    if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
        raise CheckpointError(f'{place}: expected each message to be an object with "role" and "content".')
    role, content = message["role"], message["content"]
    if role not in _KNOWN_ROLES:
        raise CheckpointError(f"{place}: the role {role!r} is none of {', '.join(_KNOWN_ROLES)}.")
    if not isinstance(content, str) or not content.strip():
        raise CheckpointError(f"{place}: the {role}'s content must be a text that is not empty.")
    return Message(role=role, content=content)
