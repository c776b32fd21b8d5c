"""One call of the command line, from its arguments to its exit code."""

import json
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import typer
from typer.exceptions import TyperException

from safelox.errors import SafeloxError, TargetError

if TYPE_CHECKING:
    from pydantic import BaseModel

INTERRUPTED = 130

_AFTER_INTERRUPT = {
    "harden": "What is done so far is kept: run the same command again to go on from there.",
    "evaluate": "The replies so far are kept: run the same command again to go on from there.",
    "rank-curve": "The replies so far are kept: run the same command again to go on from there.",
    "tune": "What was tried so far is kept: run the same command again to go on from there.",
    "run": "What is done so far is kept: run the same command again to go on from there.",
    "attack": "What was saved is kept: the same command with --resume goes on from there, or starts over.",
    "decompose": "Run the same command again to start over; nothing was left under the name of the result.",
}


@dataclass
class Session:
    """What the commands need to know of the call that they serve; typer hands it to them as `context.obj`."""

    command: str
    """The command as it would be typed."""
    debug: bool
    """Whether errors show their traceback."""


class Command(Protocol):
    """What typer makes of an app."""

    def main(self, args: Sequence[str], prog_name: str, *, standalone_mode: bool, obj: Any) -> Any: ...


class _Shown(Protocol):
    """What every error of typer's parser is, beyond what its public type says."""

    def show(self) -> None: ...


def run(command: Command, arguments: Sequence[str]) -> int:
    """Run a command and return its exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

    An error that the user can mend is one line on stderr, `error: ...`. With `--json` it is also the one JSON document
    on stdout: {"error": {"type": ..., "message": ..., "exit_code": ...}}. Any other exception is a defect of safelox
    and leaves as it is, with its traceback.
    """
    as_json = "--json" in arguments  # known before the parser is, whose own errors follow it too
    debug = os.environ.get("SAFELOX_DEBUG", "0") not in ("", "0")
    session = Session(shlex.join(["safelox", *arguments]), debug)
    try:
        code = command.main(arguments, "safelox", standalone_mode=False, obj=session)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read stdout has left. It is pointed elsewhere, since Python flushes it once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        code = INTERRUPTED
    except (SafeloxError, TyperException, OSError) as error:
        return _failed(error, session, as_json=as_json)
    if code == INTERRUPTED:
        hint = next((_AFTER_INTERRUPT[word] for word in arguments if word in _AFTER_INTERRUPT), "")
        message = f"interrupted. {hint}".rstrip()
        typer.echo(f"\n{message}", err=True)
        if as_json:
            _print_error("Interrupted", message, INTERRUPTED)
    return code or 0


def show(result: "BaseModel", text: str, *, as_json: bool, quiet: bool) -> None:
    """Print a result: as its JSON document, or as the text for people unless that is not wanted."""
    if as_json:
        typer.echo(result.model_dump_json(indent=1, by_alias=True))
    elif not quiet:
        typer.echo(text)


def check_saved(folder: Path | None, name: str, *, overwrite: bool) -> Path | None:
    """Where `save` is to put a result, before any work; None where it is not wanted.

    Raises:
        TargetError: there is a result already, or the folder cannot be one.
    """
    if folder is None:
        return None
    file = folder / name
    if file.exists() and not overwrite:
        raise TargetError(f"{file} is there already. Give another folder, or say --overwrite to replace it.")
    if folder.exists() and not folder.is_dir():
        raise TargetError(f"{folder}: is a file; --out takes a folder.")
    return file


def save(result: "BaseModel", file: Path | None) -> None:
    """Write the JSON document of a result, where one is wanted."""
    if file is not None:
        from safelox.writer.disk import put_text

        file.parent.mkdir(parents=True, exist_ok=True)
        put_text(file, result.model_dump_json(indent=1, by_alias=True) + "\n")


def _failed(error: SafeloxError | TyperException | OSError, session: Session, *, as_json: bool) -> int:
    code = getattr(error, "exit_code", 1)
    message = error.format_message() if isinstance(error, TyperException) else _with_notes(error)
    if session.debug:
        traceback.print_exception(error)
    if isinstance(error, TyperException):
        cast(_Shown, error).show()  # with the usage line of its command
    else:
        typer.echo(f"error: {message}", err=True)
    if as_json:
        _print_error(type(error).__name__, message, code)
    return int(code)


def _with_notes(error: SafeloxError | OSError) -> str:
    """The message, and what was added while the error was on its way."""
    notes = getattr(error, "__notes__", ())
    return " ".join([f"{str(error).removesuffix('.')}.", *notes]) if notes else str(error)


def _print_error(kind: str, message: str, code: int) -> None:
    typer.echo(json.dumps({"error": {"type": kind, "message": message, "exit_code": code}}))
