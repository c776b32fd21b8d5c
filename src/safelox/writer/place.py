"""Where a result stands: its final name, the partial folder beside it, and the lock that keeps other runs away."""

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from safelox.errors import TargetError
from safelox.manifest import MANIFEST_NAME
from safelox.writer import disk
from safelox.writer.disk import explained
from safelox.writer.journal import Journal

JOURNAL_NAME = ".safelox-journal"


class Place:
    """OUT, and beside it OUT.partial, locked from `open` until `close`, and what OUT had before it is replaced.

    Attributes:
        out: the final name.
        folder: OUT.partial.
        journal: in that folder; there once it is open.
    """

    journal: Journal

    def __init__(self, out: Path, *, overwrite: bool, mark: str = MANIFEST_NAME) -> None:
        """Only names are made; nothing is looked at but symbolic links.

        Args:
            overwrite: whether a finished result of safelox at `out` may be replaced; it stays until `rename`.
            mark: the file by which such a result is known as ours.
        """
        self.out = disk.resolve(out)
        self.folder = self.out.parent / f"{self.out.name}.partial"
        self._old = self.out.parent / f"{self.out.name}.safelox-old"
        self._overwrite = overwrite
        self._mark = mark

    def path(self, name: str) -> Path:
        """Where a file of the result lies until it is finished; `name` may lead into sub-folders.

        Raises:
            TargetError: the name leads elsewhere.
        """
        path = Path(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise TargetError(f"{name!r} is no name of a file inside a model's folder: the model's index is wrong.")
        assert path.parts[0] != JOURNAL_NAME, "the journal's name is taken"
        return self.folder / path

    def open(self, size: int, sources: Sequence[Path]) -> None:
        """Make the partial folder, or take over one that was left unfinished, and lock it.

        Args:
            size: bytes that the result will take.
            sources: folders or files that are read; the result may not be, lie in or contain any of them.

        Raises:
            TargetError: the result cannot be written there; nothing was changed.
        """
        for folder in (self.out, self.folder, self._old):
            disk.refuse_sources(folder, sources)
        self._refuse_occupied()
        disk.refuse_foreign(self.folder, JOURNAL_NAME)
        disk.refuse_full_disk(self.folder, size)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.journal = Journal(self.folder / JOURNAL_NAME)

    def recover(self) -> None:
        """Give OUT back what it had, where a run was killed between the two renames of an overwrite."""
        if self._old.exists() and not self.out.exists():
            self._old.rename(self.out)
        self._refuse_occupied()

    def clear(self, keep: Sequence[Path] = ()) -> None:
        """Delete everything in the partial folder but the journal and the files in `keep`."""
        disk.clear(self.folder, keep={self.journal.path, *keep})

    def rename(self) -> None:
        """Give the partial folder the final name; the journal goes, and what was there before."""
        self._refuse_occupied()  # others may have put something there since the start
        replaces = self.out.exists() and any(self.out.iterdir())
        if replaces:
            if self._old.exists():
                shutil.rmtree(self._old)
            self.out.rename(self._old)
        try:
            self.folder.rename(self.out)
        except OSError:
            if replaces:
                self._old.rename(self.out)
            raise
        disk.sync(self.out.parent)
        # Not before: as long as the folder has its old name, the locked journal keeps other runs away.
        (self.out / JOURNAL_NAME).unlink()
        disk.sync(self.out)
        if replaces:
            with explained(self._old, f"{self.out} is new and whole, but what it replaces cannot be deleted"):
                shutil.rmtree(self._old)

    def remove(self) -> None:
        """Remove the partial folder as far as that is possible: an error that led here is the one to be seen."""
        if self.folder.exists():
            with contextlib.suppress(OSError):
                self.clear()
                self.journal.path.unlink()
                self.folder.rmdir()

    def close(self) -> None:
        """Let others have it."""
        self.journal.close()

    def _refuse_occupied(self) -> None:
        disk.refuse_occupied(self.out, self._overwrite, self._mark)
