"""Answers of a model that were paid for already, on disk, by what was asked."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from safelox.errors import JudgeError
from safelox.known_data import cache_folder
from safelox.manifest import Record


class Answer(Record):
    """What a model said."""

    text: str
    finish_reason: str
    """stop: the model ended it; length: it was cut; else in the server's words."""
    prompt_tokens: int | None = None
    """None where the server does not count."""
    completion_tokens: int | None = None


class AnswerCache:
    """A folder with one file for each answer. Neither what was asked nor any key is in it."""

    def __init__(self, folder: Path | None = None) -> None:
        """
        Args:
            folder: None for $XDG_CACHE_HOME/safelox/judges, or ~/.cache/safelox/judges.
        """
        self.folder = folder or cache_folder().with_name("judges")

    def get(self, asked: Mapping[str, Any]) -> Answer | None:
        """The answer to exactly this: server, model, prompt and parameters; None where there is none.

        Raises:
            JudgeError: it cannot be read.
        """
        try:
            return Answer.model_validate_json(self._path(asked).read_bytes())
        except (FileNotFoundError, ValidationError):  # what was damaged is asked for again
            return None
        except OSError as error:
            raise self._failed(error) from error

    def put(self, asked: Mapping[str, Any], answer: Answer) -> None:
        """Keep an answer; a reader sees all of it or nothing.

        Raises:
            JudgeError: it cannot be written.
        """
        path = self._path(asked)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=".")
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(answer.model_dump_json())
            os.replace(unfinished, path)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> JudgeError:
        return JudgeError(
            f"{self.folder}: the answers of judges are kept here, so that none is paid for twice, but that failed: "
            f"{error}. Make room, or name another place by XDG_CACHE_HOME."
        )

    def _path(self, asked: Mapping[str, Any]) -> Path:
        content = json.dumps(asked, sort_keys=True, ensure_ascii=True).encode()
        digest = hashlib.sha256(content).hexdigest()
        return self.folder / digest[:2] / f"{digest[2:]}.json"
