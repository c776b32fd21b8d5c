"""What is known of each data set: where it comes from, under what licence, and by which checksums it is recognised.

The sets themselves stand in table.json, which is data, not code.
"""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal, Self

from pydantic import Field, TypeAdapter, model_validator

from safelox.errors import UsageError
from safelox.manifest import Record


class Checksum(Record):
    """What the bytes of a file are recognised by: either of the two, or both."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    git_blob: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    """The id that git gives to the content of a file."""

    @model_validator(mode="after")
    def _one_at_least(self) -> Self:
        if self.sha256 is None and self.git_blob is None:
            raise ValueError("give the SHA-256, the git blob id, or both")
        return self


class StandIn(Record):
    """A file that may take the place of an original; a run on it is called after it."""

    name: str
    """What it is, in a few words, such as "random 9k"."""
    note: str
    """How it differs from the original."""
    file: str
    """Its path inside a folder of data."""
    checksum: Checksum


class Source(Record):
    """Where the original can be fetched."""

    kind: Literal["github", "dataset"]
    """A repository on GitHub, or a data set on the Hugging Face hub."""
    repository: str
    revision: str
    """The commit, so that the bytes cannot change."""
    file: str
    """Path inside the repository."""


class KnownData(Record):
    """One data set, in one file."""

    name: str
    title: str
    file: str
    """The original's path inside a folder of data."""
    also: tuple[str, ...] = ()
    """Other paths under which the original is looked for."""
    licence: str
    note: str | None = None
    """What to know before using it."""
    home: str
    """Web page of those who made it."""
    source: Source | None = None
    """None where nobody gives it away; `note` then says what to do."""
    originals: tuple[Checksum, ...] = ()
    """Checksums of the original, one for each form in which it was published; none where they are not known."""
    stand_ins: tuple[StandIn, ...] = ()
    used_by: tuple[str, ...]
    """Attacks, suites and options that read it."""

    @model_validator(mode="after")
    def _fetched_bytes_are_known(self) -> Self:
        if self.source is not None and not self.originals:
            raise ValueError("a data set that can be fetched needs a checksum")
        if self.source is None and self.note is None:
            raise ValueError("a data set that cannot be fetched needs a note that says how to get it")
        return self

    @property
    def how_to_get(self) -> str:
        """One sentence for whoever lacks the file."""
        if self.source is None:
            return f"It cannot be fetched. {self.note}"
        return f"`safelox data fetch {self.name}` gets it (licence: {self.licence})."


@cache
def known_data() -> dict[str, KnownData]:
    """Every known data set by its name, in the order in which they are listed."""
    text = files("safelox.known_data").joinpath("table.json").read_bytes()
    return {known.name: known for known in TypeAdapter(list[KnownData]).validate_json(text)}


def find_known(names: Sequence[str]) -> list[KnownData]:
    """The known data sets of these names.

    Raises:
        UsageError: one is unknown.
    """
    known = known_data()
    for name in names:
        if name not in known:
            raise UsageError(f"no data set is called {name!r}; known are: {', '.join(known)}.")
    return [known[name] for name in names]
