"""The table of pair sources: who builds a base and an aligned model where a recipe does not name them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from safelox.errors import UsageError
from safelox.progress import Progress


class BuiltPair(NamedTuple):
    """Folders of a pair that was built."""

    base: Path
    aligned: Path


Build = Callable[[Path, int, Mapping[str, Any], Progress], BuiltPair]
"""From a folder of its own, a seed and options, to a pair in that folder. The same seed and options give the same
bytes, and what stands there whole is used again. The data of `attacks` and `suites` goes into the folder as well."""


@dataclass(frozen=True, kw_only=True)
class PairSource:
    """Something that builds pairs."""

    name: str
    build: Build
    check: Callable[[Mapping[str, Any]], None]
    """
    Raises:
        UsageError: the options make no sense.
    """
    code: Callable[[], str]
    """Changes with whatever of its code decides the result."""
    attacks: tuple[str, ...] = ()
    """Whose rows it writes into the folder."""
    suites: Mapping[str, int] = field(default_factory=dict)
    """Samples of the suites that it writes there, by name."""
    trainings: int = 2
    bytes: int
    """About as many of one model on disk."""


SOURCES: dict[str, PairSource] = {}
"""Every pair source by its name."""


def register_pair_source(source: PairSource) -> PairSource:
    """Make a source known to recipes.

    Raises:
        UsageError: another one has that name.
    """
    if SOURCES.setdefault(source.name, source) != source:
        raise UsageError(f"there is another pair source called {source.name!r} already; choose another name.")
    return source


def find_source(name: str) -> PairSource:
    """The source of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in SOURCES:
        raise UsageError(f"no pair source is called {name!r}; there are: {', '.join(sorted(SOURCES)) or 'none'}.")
    return SOURCES[name]
