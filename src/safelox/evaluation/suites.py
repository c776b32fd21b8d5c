"""The table of suites."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safelox.errors import DataError, UsageError

MAX_NEW_TOKENS = 256

Asks = Literal["forbidden", "permitted", "answer", "help"]
"""What a suite is for, and so what is read off it: prompts that a safe model refuses (complying is the attack's
success); prompts that it should comply with (refusing is over-refusal); questions with one right answer, for which
judges score 1; everyday instructions whose replies get scores."""


@dataclass(frozen=True, kw_only=True)
class PaperExact:
    """How the paper's own script asks a suite, where that differs from what is the default here."""

    format: str
    """A name of `safelox.formats.FORMATS`."""
    max_new_tokens: int
    limit: int | None = None
    """It asks the first so many prompts; None for all."""
    empty_reply: str | None = None
    """What judges get to see in place of a reply without a single character."""


@dataclass(frozen=True, kw_only=True)
class WorkedExamples:
    """Solved problems that may be put before each question."""

    source: str
    """The known data set that they are from."""
    file: str
    """Its path inside a data folder."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A set of prompts with a name, kept in a file."""

    name: str
    title: str
    """What it asks, in one line."""
    file: str
    """The file with its prompts, relative to the data folder."""
    source: str | None = None
    """The known data set (a name of `safelox.known_data.known_data()`) that the file is; None for any other."""
    reader: str = "samples"
    """How the file is read: a name of `safelox.evaluation.readers.READERS`."""
    asks: Asks
    version: int = 1
    """Changes with whatever makes results incomparable."""
    max_new_tokens: int = MAX_NEW_TOKENS
    judges: tuple[str, ...] = ()
    """The judges of its own, by their names in `JUDGES`; where there are any, no others are asked."""
    examples: WorkedExamples | None = None
    paper: PaperExact | None = None
    """None: the paper does not ask it."""


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


def find_suites(suites: Sequence[str | Suite]) -> list[Suite]:
    """The suites: those given by their names from the table, others as they are.

    Raises:
        UsageError: none was given, two have the same name, or a name is unknown.
    """
    own = {suite.name: suite for suite in suites if isinstance(suite, Suite)}
    known = {**SUITES, **own}
    names = [suite if isinstance(suite, str) else suite.name for suite in suites]
    check_names("suite", names, known)
    return [known[name] for name in names]


CUSTOM = "custom"
"""The name of the suite that a file of one's own makes."""


def custom_suite(file: Path, asks: Asks = "forbidden") -> Suite:
    """A suite called "custom", of a file of one's own.

    Args:
        file: JSON Lines of samples, or of objects with a text "prompt"; or a CSV file with a column "prompt".

    Raises:
        DataError: there is no such file.
    """
    if not file.is_file():
        raise DataError(f"{file}: there is no such file of prompts.")
    title = f"the prompts of {file.name}"
    return Suite(name=CUSTOM, title=title, file=str(file.absolute()), reader="custom", asks=asks)


def with_custom(names: Sequence[str], file: Path | None, asks: Asks | None) -> list[str | Suite]:
    """The suites as they are named, "custom" made of the file.

    Args:
        asks: what it asks for; None: what is forbidden.

    Raises:
        UsageError: there is a file but no suite "custom", or the other way round; or there is no file and yet `asks`.
        DataError: there is no such file.
    """
    if (file is not None) != (CUSTOM in names):
        raise UsageError("the suite custom and a file of prompts go together: --suite custom --suite-file FILE.")
    if file is None:
        if asks is not None:
            raise UsageError(f"{asks!r} would be what the suite custom asks for, but that is not asked; leave it out.")
        return list(names)
    own = custom_suite(file, asks or "forbidden")
    return [own if name == CUSTOM else name for name in names]


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
