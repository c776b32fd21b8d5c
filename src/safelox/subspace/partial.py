"""A subspace file while it grows: whole under its final name, or not there at all."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from safelox.errors import TargetError
from safelox.subspace.description import is_subspace, unfinished_header
from safelox.units import format_bytes
from safelox.writer import disk
from safelox.writer.disk import explained


class PartialFile:
    """`FILE.partial` beside FILE, until `finish` gives it its name.

    A context manager: left without `finish`, it removes what it wrote. What a killed run left there is overwritten.
    `write` may be called from several threads.
    """

    def __init__(self, file: Path, size: int, *, overwrite: bool, sources: Sequence[Path]) -> None:
        """Check that the file can be written, and begin.

        Args:
            size: bytes that are needed.
            overwrite: whether a subspace file that is there may be replaced; it stays until `finish`.
            sources: folders that are read; the file may not lie in any of them.

        Raises:
            TargetError: it cannot be written; nothing was changed.
        """
        self.file = disk.resolve(file)
        self.path = self.file.parent / f"{self.file.name}.partial"
        self._overwrite = overwrite
        self._holds_lock = False
        with explained(self.file):
            disk.refuse_sources(self.file, sources)
            self._refuse_folder()
            self._refuse_occupied()
            if os.path.lexists(self.path) and not self._is_ours():
                raise TargetError(
                    f"{self.path}: the unfinished result belongs here, but something else is there. Move it."
                )
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            with explained(self.path):
                self._lock()
                self._holds_lock = True
                os.ftruncate(self._descriptor, 0)
                self.write(0, memoryview(unfinished_header()))
                self._refuse_full_disk(size)
        except BaseException:
            self._close()
            raise

    def write(self, offset: int, data: memoryview) -> None:
        """Write the bytes of a contiguous buffer at an offset from the beginning of the file."""
        with explained(self.path):
            disk.write_all(self._descriptor, offset, data)

    def finish(self, header: bytes) -> None:
        """Write the header, wait until everything is on the disk, and give the file its name."""
        self.write(0, memoryview(header))
        with explained(self.file):
            os.fsync(self._descriptor)
            self._refuse_occupied()  # others may have put something there since the start
            self.path.replace(self.file)
            self._holds_lock = False
            disk.sync(self.file.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _refuse_folder(self) -> None:
        folder = self.file.parent
        if not folder.is_dir():
            raise TargetError(f"{folder}: there is no such folder. Make it, or choose another FILE.")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise TargetError(f"{folder}: you may not write here, or the disk is read-only. Choose another FILE.")

    def _refuse_occupied(self) -> None:
        if not self.file.exists():
            return
        if not self.file.is_file():
            raise TargetError(f"{self.file}: not a file, which a subspace is. Choose another FILE.")
        if not self._overwrite:
            raise TargetError(f"{self.file}: already there. Choose another FILE, or replace it by --overwrite.")
        if not is_subspace(self.file):
            raise TargetError(
                f"{self.file}: no subspace file, so --overwrite spares it. Remove it yourself or choose another FILE."
            )

    def _is_ours(self) -> bool:
        regular = self.path.is_file() and not self.path.is_symlink()
        return regular and (self.path.stat().st_size == 0 or is_subspace(self.path))

    def _lock(self) -> None:
        """Keep other runs away; the lock goes with the process."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held the lock may have finished, and so taken the file away, before this call.
            ours = self.path.exists() and os.path.samestat(self.path.stat(), os.fstat(self._descriptor))
        except BlockingIOError:
            ours = False
        if not ours:
            raise TargetError(f"{self.file}: another run is writing the same file. Wait for it or choose another FILE.")

    def _refuse_full_disk(self, size: int) -> None:
        free = shutil.disk_usage(self.path.parent).free
        if size > free:
            raise TargetError(
                f"{self.file.parent}: not enough space on the disk: {format_bytes(size)} are needed and "
                f"{format_bytes(free)} are free. Free some or choose another FILE."
            )

    def _close(self) -> None:
        """Let go of the file, and remove it if it is still unfinished."""
        if self._holds_lock and self.path.exists():
            with contextlib.suppress(OSError):  # an error that led here is the one to be seen
                self.path.unlink()
        os.close(self._descriptor)
