"""The file system's side of a result: where it may be written, what is synced, and errors in plain words."""

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safelox.errors import TargetError
from safelox.units import format_bytes

_HINTS = {
    errno.ENOSPC: " Free some space or choose another place.",
    errno.EDQUOT: " Free some of your quota or choose another place.",
    errno.EACCES: " Choose a folder that you may write to.",
    errno.EROFS: " Choose another place.",
    errno.ELOOP: " The path goes round in circles; choose another place.",
}


@contextmanager
def explained(path: Path, failed: str = "cannot be written") -> Iterator[None]:
    """Turn an OSError of the block into a TargetError that names the file, the cause and the way out."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise TargetError(f"{path}: {failed}: {reason}.{_HINTS.get(error.errno or 0, '')}") from error


def resolve(path: Path) -> Path:
    """The absolute path without symbolic links; it need not exist.

    Raises:
        TargetError: the links form a loop, or a part of the way cannot be looked at or is a file.
    """
    try:
        resolved = path.resolve()
    except RuntimeError as error:  # what pathlib makes of a loop before Python 3.13
        raise TargetError(f"{path}: symbolic links form a loop. Choose another place.") from error
    with explained(path, "cannot be reached"):
        try:
            resolved.stat()
        except FileNotFoundError:
            return resolved
    return resolved


def refuse_sources(folder: Path, sources: Sequence[Path]) -> None:
    """Raise TargetError if the folder is, lies in, or contains one of the sources, under whatever name."""
    for source in map(resolve, sources):
        # Compared by inode, so that neither a second mount nor upper and lower case hide that it is the same.
        within = {_inode(path) for path in (folder, *folder.parents) if path.exists()}
        around = {_inode(path) for path in (source, *source.parents) if path.exists()}
        if _inode(source) in within or (folder.exists() and _inode(folder) in around):
            raise TargetError(
                f"{folder}: this is, lies in or contains the source {source}, which must stay as it is. "
                "Choose another place."
            )


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def refuse_occupied(out: Path, overwrite: bool, mark: str) -> None:
    """Raise TargetError unless `out` is free, empty, or may be overwritten and has the file `mark`."""
    if not out.exists():
        return
    if not out.is_dir():
        raise TargetError(f"{out}: this is a file; a result needs a folder. Choose another place.")
    if os.path.ismount(out):
        raise TargetError(f"{out}: a disk is mounted here, so it cannot be replaced. Choose a folder inside it.")
    if not any(out.iterdir()):
        return
    if not overwrite:
        raise TargetError(f"{out}: already there, and not empty. Choose another place, or replace it by --overwrite.")
    if not (out / mark).is_file():
        raise TargetError(
            f"{out}: not empty and without {mark}, so it is no result of safelox and --overwrite spares it. "
            "Remove it yourself or choose another place."
        )


def refuse_foreign(folder: Path, mark: str) -> None:
    """Raise TargetError if `folder` is there and neither empty nor ours, which the file `mark` would show."""
    if not os.path.lexists(folder):
        return
    ours = folder.is_dir() and not folder.is_symlink() and ((folder / mark).is_file() or not any(folder.iterdir()))
    if not ours:
        raise TargetError(
            f"{folder}: the unfinished result belongs here, but something else is there. Move that or choose "
            "another place."
        )


def refuse_full_disk(folder: Path, needed: int) -> None:
    """Raise TargetError unless the disk may be written and has `needed` bytes, with those `folder` holds."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise TargetError(f"{existing}: you may not write here, or the disk is read-only. Choose another place.")
    held = sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))
    free = shutil.disk_usage(existing).free
    if needed - held > free:
        raise TargetError(
            f"{folder.parent}: not enough space on the disk: {format_bytes(needed - held)} are needed and "
            f"{format_bytes(free)} are free. Free some or choose another place."
        )


def write_all(descriptor: int, offset: int, data: memoryview) -> None:
    """Write a contiguous buffer at an offset of a file, in as many calls as it takes."""
    if data.nbytes == 0:
        return
    data = data.cast("B")
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], offset + done)


def put_text(path: Path, text: str) -> None:
    """Write a small file in one step, so that it is never seen half-written."""
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def size(path: Path) -> int | None:
    """Bytes of a file; None where there is no such file."""
    return path.stat().st_size if path.is_file() else None


def sync(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Sync a folder with all that is in it."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def clear(folder: Path, keep: set[Path]) -> None:
    """Delete everything in a folder but the files in `keep` and the folders on the way to them."""
    for path in folder.iterdir():
        if path in keep:
            continue
        if not path.is_dir() or path.is_symlink():
            path.unlink()
        elif any(path in kept.parents for kept in keep):
            clear(path, keep)
        else:
            shutil.rmtree(path)
