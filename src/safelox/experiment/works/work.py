"""What every kind of work is, and how it names what it reads."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from safelox.manifest import Record
from safelox.progress import Progress


class Model(Record):
    """A model that a step reads."""

    path: str
    """A reference; or, if `inside`, a folder inside the experiment's."""
    inside: bool
    adapter: str | None = None
    """Folder of a LoRA on top of it, inside the experiment's."""

    def reference(self, out: Path) -> str:
        base = str(out / self.path) if self.inside else self.path
        return base if self.adapter is None else f"{base}+{out / self.adapter}"


class Data(Record):
    """Where a step looks for data first; no path: in the usual places alone."""

    path: str | None
    inside: bool = False

    def folder(self, out: Path) -> Path | None:
        if self.path is None:
            return None
        return out / self.path if self.inside else Path(self.path)


class Work(Record, ABC):
    """A piece of work whose result is one folder or file of the experiment's."""

    kind: ClassVar[str]
    places: ClassVar[frozenset[str]] = frozenset()
    """Fields that say where something is. What it is, is for the steps that made it to say."""
    target: str
    """Folder or file of the result, inside the experiment's folder."""

    @property
    @abstractmethod
    def proof(self) -> str:
        """The file or folder that is there when the result is, inside the experiment's folder."""

    @property
    def trainings(self) -> int:
        """How many it takes at most."""
        return 0

    @property
    def models(self) -> int:
        """How many models, or changes of one, it asks at most."""
        return 0

    @property
    def suites(self) -> tuple[str, ...]:
        """What it asks each of them."""
        return ()

    @abstractmethod
    def do(self, out: Path, *, resume: bool, progress: Progress) -> None:
        """Make the result, or go on with an unfinished one of exactly the same work if `resume`.

        Raises:
            SafeloxError: it cannot be done.
        """

    def decides(self) -> dict[str, Any]:
        """Whatever of its fields decides the result."""
        return self.model_dump(mode="json", exclude={"target", *self.places})


class OfPair(Work, ABC):
    """Work that reads the models of a pair as they are."""

    places = frozenset({"base", "aligned", "subspace", "data"})
    base: Model
    aligned: Model
