"""Which items of an unfinished result are on the disk, and who may write it: the journal and its lock."""

import fcntl
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safelox.errors import TargetError
from safelox.writer.disk import explained, write_all


class Journal:
    """The list of durable items, one JSON line each after a first line that says what the work is."""

    def __init__(self, path: Path) -> None:
        """Open and lock the journal, or make an empty one."""
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held the lock may have finished, and so taken the file away, between these two calls.
            ours = path.exists() and os.path.samestat(path.stat(), os.fstat(self._descriptor))
        except BlockingIOError:
            ours = False
        except BaseException:
            os.close(self._descriptor)
            raise
        if not ours:
            os.close(self._descriptor)
            raise TargetError(
                f"{path.parent}: another run is writing the same result. Wait for it or choose another OUT."
            )

    def read(self, identity: str) -> list[dict[str, Any]] | None:
        """The items of the work of that identity, less what is torn; None if the journal is of other work."""
        lines = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0).split(b"\n")[:-1]
        if not lines or lines[0] != identity.encode():
            return None
        entries: list[dict[str, Any]] = []
        for line in lines[1:]:
            try:
                entries.append(json.loads(line))
            except ValueError:  # written when the power went
                break
        self._size = sum(len(line) + 1 for line in lines[: 1 + len(entries)])
        os.ftruncate(self._descriptor, self._size)
        return entries

    def restart(self) -> None:
        """Forget everything."""
        os.ftruncate(self._descriptor, 0)
        self._size = 0

    def append(self, lines: Sequence[str]) -> None:
        """Add lines, and wait until they are on the disk."""
        data = memoryview("".join(line + "\n" for line in lines).encode())
        with explained(self.path):
            write_all(self._descriptor, self._size, data)
            os.fsync(self._descriptor)
        self._size += len(data)

    def close(self) -> None:
        """Let others have it."""
        os.close(self._descriptor)
