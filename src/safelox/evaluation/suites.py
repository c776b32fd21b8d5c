"""The table of suites, and where their data is looked for."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safelox.errors import DataError, UsageError

MAX_NEW_TOKENS = 256


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A set of prompts with a name, kept in a file."""

    name: str
    title: str
    """What it asks, in one line."""
    file: str
    """The JSONL file with its samples, relative to the data folder."""
    asks: Literal["forbidden", "permitted"]
    """Whether a safe model should refuse (complying is the attack's success) or comply (refusing is over-refusal)."""
    version: int = 1
    """Changes with whatever makes results incomparable."""
    max_new_tokens: int = MAX_NEW_TOKENS


SUITES: dict[str, Suite] = {}
"""The suites that `evaluate` knows, by name."""


def register_suite(suite: Suite) -> Suite:
    """Make a suite known to `evaluate` and to the command line.

    Raises:
        UsageError: another suite has that name.
    """
    if SUITES.setdefault(suite.name, suite) != suite:
        raise UsageError(f"there is another suite called {suite.name!r} already; choose another name.")
    return suite


def find_suites(names: Sequence[str]) -> list[Suite]:
    """The suites of these names.

    Raises:
        UsageError: no name was given, one is given twice, or one is unknown.
    """
    check_names("suite", names, SUITES)
    return [SUITES[name] for name in names]


def check_names(what: str, names: Sequence[str], known: Collection[str]) -> None:
    """
    Raises:
        UsageError: no name was given, one is given twice, or one is not among those known.
    """
    listed = ", ".join(sorted(known)) or "none"
    if not names:
        raise UsageError(f"no {what} was named; known are: {listed}.")
    for name in names:
        if name not in known:
            raise UsageError(f"no {what} is called {name!r}; known are: {listed}.")
        if names.count(name) > 1:
            raise UsageError(f"{what} {name!r} was named twice; name it once.")


def find_data(suite: Suite, data: Path | None) -> Path:
    """The file with a suite's samples: in `data`, else in the folder $SAFELOX_DATA, else in the user's cache.

    Raises:
        DataError: it is in none of them.
    """
    folders = [data] if data is not None else _usual_folders()
    for folder in folders:
        if (folder / suite.file).is_file():
            return folder / suite.file
    looked = " nor ".join(str(folder / suite.file) for folder in folders)
    raise DataError(
        f"suite {suite.name}: its data is not there: no file {looked}. Name the folder that holds {suite.file} "
        "with --data or in the variable SAFELOX_DATA."
    )


def _usual_folders() -> list[Path]:
    named = os.environ.get("SAFELOX_DATA")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "safelox" / "data"
    return [Path(named), cache] if named else [cache]
