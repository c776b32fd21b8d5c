"""The checksums of a file, and which known file they are those of."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from safelox.errors import DataError
from safelox.known_data.table import Checksum
from safelox.manifest import FileRecord

PIECE_BYTES = 1 << 20


class Digests(NamedTuple):
    """What the content of one file hashes to."""

    record: FileRecord
    git_blob: str

    def match(self, checksum: Checksum) -> bool:
        """Whether these are the bytes that a checksum stands for: all of it that is known has to fit."""
        return checksum.sha256 in (None, self.record.sha256) and checksum.git_blob in (None, self.git_blob)

    def match_any(self, checksums: tuple[Checksum, ...]) -> bool:
        return any(self.match(checksum) for checksum in checksums)


def digest(path: Path) -> Digests:
    """The digests of a file, read once.

    Raises:
        DataError: it cannot be read.
    """
    sha256 = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            # Git hashes the length before the content. It is no protection against anybody here, only a name.
            blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
            while piece := stream.read(PIECE_BYTES):
                sha256.update(piece)
                blob.update(piece)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error
    return Digests(FileRecord(bytes=size, sha256=sha256.hexdigest()), blob.hexdigest())
