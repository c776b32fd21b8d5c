"""One weights file of a result while it grows: which of its bytes are written, and its hash so far."""

import errno
import hashlib
import os
from bisect import bisect_right
from pathlib import Path

from safelox.writer.disk import explained, write_all

_fdatasync = getattr(os, "fdatasync", os.fsync)  # macOS has only the latter


class Coverage:
    """Which bytes of a file are written: disjoint stretches, in order, that do not touch each other."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._starts: list[int] = []
        self._stops: list[int] = []

    def add(self, start: int, stop: int) -> None:
        """Count bytes start..stop as written.

        Raises:
            AssertionError: they are not in the file, or one of them is written already.
        """
        starts, stops = self._starts, self._stops
        at = bisect_right(starts, start)
        if not 0 <= start <= stop <= self.size:
            raise AssertionError(f"bytes {start}..{stop} are not in a file of {self.size} bytes")
        if start == stop:
            return
        if (at > 0 and stops[at - 1] > start) or (at < len(starts) and starts[at] < stop):
            raise AssertionError(f"some of the bytes {start}..{stop} are written already")
        first = at - (at > 0 and stops[at - 1] == start)
        last = at + (at < len(starts) and starts[at] == stop)
        new_start = min([start, *starts[first:last]])
        new_stop = max([stop, *stops[first:last]])
        starts[first:last], stops[first:last] = [new_start], [new_stop]

    @property
    def prefix(self) -> int:
        """Number of bytes, from the first on, that are written without a gap."""
        return self._stops[0] if self._starts and self._starts[0] == 0 else 0


class OutFile:
    """A file of known size, written in any order by any threads, and hashed from its beginning by one.

    Attributes:
        coverage: which bytes are whole; kept by the owner, who also guards it against other threads.
        hashed: number of bytes, from the first on, that the digest has seen.
    """

    def __init__(self, path: Path, header: bytes, size: int, *, new: bool) -> None:
        """Open the file, or make it: the header, then a hole up to its size."""
        self.path = path
        self.size = size
        self.coverage = Coverage(size)
        self.coverage.add(0, len(header))
        self.hashed = 0
        self._digest = hashlib.sha256()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if new:
            write_all(self._descriptor, 0, memoryview(header))
            os.ftruncate(self._descriptor, size)

    def write(self, offset: int, data: memoryview) -> None:
        """Write a contiguous buffer, `offset` bytes from the beginning of the file."""
        assert offset + data.nbytes <= self.size, f"{self.path}: bytes beyond its end"
        with explained(self.path):
            write_all(self._descriptor, offset, data)

    def sync(self) -> None:
        """Wait until everything written so far is on the disk."""
        with explained(self.path):
            _fdatasync(self._descriptor)

    def hash_on(self, stop: int, buffer: memoryview) -> None:
        """Hash the next bytes, as many as the buffer holds but none after `stop`."""
        piece = buffer[: min(len(buffer), stop - self.hashed)]
        with explained(self.path, "cannot be read back"):
            count = os.preadv(self._descriptor, [piece], self.hashed)
            if count == 0:
                raise OSError(errno.EIO, "somebody has cut it short")
        self._digest.update(piece[:count])
        self.hashed += count

    @property
    def sha256(self) -> str:
        assert self.hashed == self.size, f"{self.path} is not hashed to its end"
        return self._digest.hexdigest()

    def close(self) -> None:
        os.close(self._descriptor)
