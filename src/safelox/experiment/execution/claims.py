"""Who works on which step, where several processes and machines share one folder.

A claim is a file that only one process can create. It tells its owner, who touches it as long as it lives. A claim
whose owner is dead is taken away: at once where the owner was a process of this machine, else when it was not touched
for so long that it must be.
"""

import contextlib
import errno
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError

from safelox.experiment.execution.marks import STEPS
from safelox.manifest import Record

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
HEARTBEAT_SECONDS = 5.0
DEAD_AFTER_SECONDS = 600.0
"""Clocks of machines, and what a file server holds back, may differ by minutes."""


class Owner(Record):
    """Who holds a claim."""

    machine: str
    process: int
    born: str
    """Tells the process from a later one of the same number."""
    family: int | None = None
    """Process that started it and looks after it, and so says what becomes of its claim when it dies."""
    token: str


class Claims:
    """The claims in the folder of an experiment."""

    def __init__(self, out: Path, family: int | None = None) -> None:
        """
        Args:
            family: process that looks after this one.
        """
        self._out, self._family = out, family

    @contextlib.contextmanager
    def held(self, id: str) -> Iterator[bool]:
        """Whether the step is this process's to work on for as long as the context is open."""
        path = self._out / STEPS / f"{id}.claim"
        owner = _me(self._family)
        if not (_create(path, owner) or (_take_from_the_dead(path, owner) and _create(path, owner))):
            yield False
            return
        stop = threading.Event()
        thread = threading.Thread(target=_keep_alive, args=(path, stop), daemon=True)
        thread.start()
        try:
            yield True
        finally:
            stop.set()
            thread.join()
            if _read(path) == owner:
                path.unlink(missing_ok=True)

    def held_by(self, process: int) -> list[str]:
        """Ids of the steps that a process of this machine holds."""
        return [id for id, owner in self._all() if (owner.machine, owner.process) == (_machine(), process)]

    def bury(self, process: int) -> None:
        """Take away the claims of a process of this machine that is known to be gone."""
        for id in self.held_by(process):
            (self._out / STEPS / f"{id}.claim").unlink(missing_ok=True)

    def all(self) -> list[str]:
        """Ids of the steps that anybody holds."""
        return [id for id, _ in self._all()]

    def _all(self) -> Iterator[tuple[str, Owner]]:
        root = self._out / STEPS
        for path in sorted(root.rglob("*.claim")):
            owner = _read(path)
            if owner is not None:
                yield path.relative_to(root).as_posix().removesuffix(".claim"), owner


def _create(path: Path, owner: Owner) -> bool:
    """The file with the owner in it, linked to its name: whole, and by one process only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_name(f".{path.name}.{owner.token}")
    written.write_text(owner.model_dump_json(), encoding="utf-8")
    try:
        os.link(written, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _create_in_place(path, owner)
    finally:
        written.unlink()
    return True


def _create_in_place(path: Path, owner: Owner) -> bool:
    """The same on disks that have no links: by one process only, though others may see it empty for a moment."""
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(owner.model_dump_json())
    except FileExistsError:
        return False
    return True


def _take_from_the_dead(path: Path, heir: Owner) -> bool:
    """Take away the claim of an owner who is dead; whether the claim is gone."""
    owner = _read(path)
    if owner is None:
        return not path.exists()
    related = owner.family is not None and (owner.machine, owner.family) == (heir.machine, heir.family)
    if related or not _is_dead(path, owner):
        return False
    grave = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.rename(grave)
    except FileNotFoundError:
        return True  # somebody else was faster
    taken = _read(grave)
    if taken != owner:
        # Somebody else was faster, and has claimed it since: give it back.
        with contextlib.suppress(FileExistsError):
            os.link(grave, path)
    grave.unlink()
    return taken == owner


def _is_dead(path: Path, owner: Owner) -> bool:
    if owner.machine == _machine():
        return _born(owner.process) != owner.born
    try:
        return time.time() - path.stat().st_mtime > DEAD_AFTER_SECONDS
    except FileNotFoundError:
        return False


def _keep_alive(path: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)


def _read(path: Path) -> Owner | None:
    try:
        return Owner.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _me(family: int | None) -> Owner:
    process = os.getpid()
    return Owner(machine=_machine(), process=process, born=_born(process), family=family, token=uuid.uuid4().hex)


@lru_cache
def _machine() -> str:
    """This machine, or this container on it: whoever shares its process numbers, until the next boot."""
    parts = [socket.gethostname()]
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if boot.exists() and namespace.exists():
        parts += [boot.read_text().strip(), os.readlink(namespace)]
    return " ".join(parts)


def _born(process: int) -> str:
    """When a process of this machine was started, in whatever unit; "" where there is none, or it is dead."""
    if not Path("/proc/self/stat").exists():
        return "alive" if _runs(process) else ""
    try:
        born = _fields(Path(f"/proc/{process}/stat"))[19]
        threads = [_fields(path)[0] for path in Path(f"/proc/{process}/task").glob("*/stat")]
    except (FileNotFoundError, ProcessLookupError):
        return ""
    # Who is killed is seen as dead before all its threads are, and until then it holds its files, and their locks.
    return "" if all(state in "ZX" for state in threads) else born


def _fields(status: Path) -> list[str]:
    """What Linux tells of a process or thread, from its state on."""
    return status.read_text().rpartition(")")[2].split()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
