"""The folder being written, as its callers see it.

Two threads work beside the callers'. The committer makes items durable: it syncs the files that they touch,
then appends them to the journal, many at a time. The hasher follows the part of each file that is whole from
its first byte on, while it is still in the page cache. Neither holds the lock while it waits for the disk.
"""

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

from safelox.errors import TargetError
from safelox.writer import disk
from safelox.writer.disk import explained
from safelox.writer.outfile import OutFile
from safelox.writer.place import Place

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Buffer

_ROUND_SECONDS = 0.5  # the least time from one commit to the next: each makes the disk flush its cache
_PIECE_BYTES = 8 << 20  # what is hashed at once: enough that the thread seldom asks for the interpreter lock


@dataclass(frozen=True)
class FilePlan:
    """One weights file of the result."""

    name: str
    """Path inside the folder."""
    header: bytes
    """Written at offset 0."""
    size: int
    """Bytes of the whole file, header included."""


class FileHash(NamedTuple):
    """Size and SHA-256 (hexadecimal) of a file."""

    bytes: int
    sha256: str


class Target:
    """The folder being written: `folder` (OUT.partial) until `finish` gives it its name.

    A context manager: left without `finish`, whatever the reason, it keeps what is durable, to be resumed by the next
    Target with the same `out`, files and fingerprint; the error that led there is given a note that says so. `write`
    and `complete` may be called from any number of threads; these should have ended when the context is left.

    Attributes:
        folder: where the files are until `finish`; further files may be put there with `copy` and `put`.
        done: ids of the items that an earlier run has written; they must not be written again.
        records: item id -> the record given with it, as it comes back from JSON: for all of `done`, and for
            what was completed since.
    """

    def __init__(
        self,
        out: Path,
        files: Sequence[FilePlan],
        *,
        fingerprint: str,
        overwrite: bool = False,
        sources: Sequence[Path] = (),
    ) -> None:
        """Open a new target, or one that was left unfinished.

        out: the folder to make; it may exist if it is empty. Folders on the way to it are made.
        fingerprint: names everything that the bytes depend on; work found under another one is thrown away.
        overwrite: whether a finished result of safelox at `out` may be replaced; it stays until `finish`.
        sources: folders or files that are read; `out` may not be, lie in or contain any of them.

        Raises:
            TargetError: the result cannot be written there; nothing was changed.
        """
        self._place = Place(out, overwrite=overwrite)
        self.out, self.folder = self._place.out, self._place.folder
        self._files: list[OutFile] = []
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._pending: list[tuple[str, set[int]]] = []
        self._given = self._durable = self._writing = 0
        self._new = self._hurry = self._closed = False
        self._failure: Exception | None = None
        paths = [self._place.path(plan.name) for plan in files]
        assert len(set(paths)) == len(paths), "two files of the result have one name"
        with explained(self.out):
            self._place.open(sum(plan.size for plan in files), sources)
        try:
            with explained(self.out):
                self._open(files, paths, fingerprint)
        except BaseException:
            self.abort()
            raise

    def _open(self, files: Sequence[FilePlan], paths: Sequence[Path], fingerprint: str) -> None:
        self._place.recover()
        plan = [(file.name, file.size, hashlib.sha256(file.header).hexdigest()) for file in files]
        identity = hashlib.sha256(json.dumps([fingerprint, plan]).encode()).hexdigest()
        entries = self._place.journal.read(identity)
        if any(disk.size(path) != file.size for path, file in zip(paths, files, strict=True)):
            entries = None
        self._new = entries is None
        self._place.clear(keep=() if self._new else paths)
        if self._new:
            self._place.journal.restart()
        for path, file in zip(paths, files, strict=True):
            self._files.append(OutFile(path, file.header, file.size, new=self._new))
        if self._new:
            disk.sync_tree(self.folder)
            disk.sync(self.folder.parent)
            self._place.journal.append([identity])
        self.records: dict[str, dict[str, object]] = {}
        for entry in entries or ():
            self._count(entry["item"], entry["record"], entry["spans"])
        self.done = frozenset(self.records)
        self._given = self._durable = len(self.done)
        for work in (self._commit, self._hash):
            self._threads.append(threading.Thread(target=self._watch, args=(work,), daemon=True))
            self._threads[-1].start()

    def _count(self, item: str, record: dict[str, object], spans: Sequence[tuple[int, int, int]]) -> None:
        assert item not in self.records, f"item {item} was completed twice"
        for file, start, stop in spans:
            self._files[file].coverage.add(start, stop)
        self.records[item] = record

    @property
    def resumable(self) -> bool:
        """Whether the partial folder is there and holds work that the next run will not have to do again."""
        return self._durable > 0 and self.folder.exists()

    def write(self, file: int, offset: int, data: "Buffer | NDArray[Any]") -> None:
        """Write the bytes of a contiguous buffer into a weights file, at `offset` from its beginning."""
        with self._changed:
            self._check()
            self._writing += 1  # keeps the file open: a closed one's number may already be another file's
        try:
            self._files[file].write(offset, memoryview(cast("Buffer", data)))
        except TargetError as error:
            self._fail(error)
            raise
        finally:
            with self._changed:
                self._writing -= 1
                if self._closed:
                    self._changed.notify_all()

    def complete(self, item: str, record: dict[str, object], spans: Sequence[tuple[int, int, int]]) -> None:
        """Say that all bytes of an item are written; returns at once.

        record: anything JSON can hold; it comes back in `records`.
        spans: (file, start, stop) of the bytes, from the beginning of the file. All spans and headers
            together must cover every file exactly once.
        """
        line = json.dumps({"item": item, "record": record, "spans": spans})
        with self._changed:
            self._check()
            self._count(item, json.loads(line)["record"], spans)
            self._pending.append((line, {file for file, _, _ in spans}))
            self._given += 1
            self._changed.notify_all()

    def copy(self, source: Path, name: str) -> None:
        """Copy a file into the folder; `name` may lead into sub-folders."""
        path = self._place_other(name)
        with explained(path, f"{source} cannot be copied here"):
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, path)

    def put(self, name: str, text: str | bytes) -> None:
        """Write a small file into the folder; `name` may lead into sub-folders."""
        path = self._place_other(name)
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode() if isinstance(text, str) else text)

    def hashes(self) -> dict[str, FileHash]:
        """Wait until every item is durable and hashed; name -> hash of every file in the folder by then."""
        with self._changed:
            self._check()
            for file in self._files:
                if file.coverage.prefix < file.size:
                    raise AssertionError(f"{file.path}: byte {file.coverage.prefix} was never written")
            self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._failure is not None or self._settled())
            self._check()
        known = {file.path: file.sha256 for file in self._files}
        result = {}
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and path != self._place.journal.path:
                with explained(path, "cannot be read back"), path.open("rb") as stream:
                    sha256 = known.get(path) or hashlib.file_digest(stream, "sha256").hexdigest()
                result[path.relative_to(self.folder).as_posix()] = FileHash(path.stat().st_size, sha256)
        return result

    def finish(self, last: Callable[[dict[str, FileHash]], None] | None = None) -> None:
        """Wait for everything, call `last` with the hashes to add the last files, and give OUT its name.

        An exception before that, also one of `last`, leaves the partial folder and nothing new at OUT.
        """
        hashes = self.hashes()
        if last is not None:
            last(hashes)
        with explained(self.out):
            disk.sync_tree(self.folder)
            self._place.rename()
        self._stop()
        self._place.close()

    def abort(self) -> None:
        """Stop: commit what is complete and keep it for resuming; where there is nothing, leave nothing."""
        if self._closed:
            return
        self._stop()
        if self._new and self._durable == 0:
            self._place.remove()
        self._place.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()
        if isinstance(error, Exception) and self.resumable:
            error.add_note(f"What is done so far is kept in {self.folder}: run the same again to go on from there.")

    def _stop(self) -> None:
        with self._changed:
            self._closed = self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._writing == 0)
        for thread in self._threads:
            thread.join()
        for file in self._files:
            file.close()

    def _settled(self) -> bool:
        return self._durable == self._given and all(file.hashed == file.size for file in self._files)

    def _place_other(self, name: str) -> Path:
        path = self._place.path(name)
        assert all(path != file.path for file in self._files), f"{name} is a weights file"
        return path

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        assert not self._closed, "the target was closed"

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    def _watch(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - raised in the callers' threads, at their next call
            self._fail(error)

    def _commit(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closed)
                batch, self._pending = self._pending, []
            if not batch:
                return
            for file in sorted({file for _, files in batch for file in files}):
                self._files[file].sync()
            self._place.journal.append([line for line, _ in batch])
            with self._changed:
                self._durable += len(batch)
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._hurry, timeout=_ROUND_SECONDS)

    def _hash(self) -> None:
        buffer = memoryview(bytearray(_PIECE_BYTES))
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._unhashed() is not None)
                file = self._unhashed()
                if self._closed or file is None:
                    return
                stop = file.coverage.prefix
            while file.hashed < stop and not self._closed:
                file.hash_on(stop, buffer)
            with self._changed:
                self._changed.notify_all()

    def _unhashed(self) -> OutFile | None:
        return next((file for file in self._files if file.hashed < file.coverage.prefix), None)
