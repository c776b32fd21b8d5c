"""search.json: what decides what a search does, so that only the same search goes on in a folder."""

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from safelox.analysis.search.bench import CONFIRM, PROMPTS, SCRATCH, TRIALS, Way
from safelox.analysis.search.bounds import Limits
from safelox.analysis.search.record import FILE, ProxyAttack, SuiteRecord
from safelox.analysis.search.space import Space
from safelox.errors import TargetError
from safelox.evaluation import Backend
from safelox.evaluation.judges import find_judges
from safelox.manifest import Record
from safelox.writer.disk import put_text

SETTINGS, JOURNAL, SUBSPACE, LOCK = "search.json", "search.journal", "subspace.safetensors", ".lock"
_OWN = (FILE, SETTINGS, JOURNAL, SUBSPACE, TRIALS, CONFIRM, PROMPTS, SCRATCH)


class Settings(Record):
    """search.json: everything but how many points are tried."""

    base: str
    aligned: str
    ranks: tuple[int, ...]
    coefs: tuple[float, ...]
    seed: int
    suites: tuple[SuiteRecord, ...]
    judges: Mapping[str, str]
    """Version by name."""
    attack: ProxyAttack
    limits: Mapping[str, float]
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    embeddings: bool
    vocab: str
    system: str | None
    format: str | None
    max_new_tokens: int | None
    backend: Backend


def make_settings(
    way: Way, space: Space, suites: Sequence[SuiteRecord], attack: ProxyAttack, limits: Limits, seed: int
) -> Settings:
    """The settings of a search."""
    return Settings(
        base=way.base,
        aligned=way.aligned,
        ranks=space.ranks,
        coefs=space.coefs,
        seed=seed,
        suites=tuple(suites),
        judges={name: judge.version for name, judge in find_judges(way.judges).items()} if way.judges else {},
        attack=attack,
        limits=limits._asdict(),
        include=way.include,
        exclude=way.exclude,
        embeddings=way.embeddings,
        vocab=way.vocab,
        system=way.system,
        format=way.format,
        max_new_tokens=way.max_new_tokens,
        backend=way.backend,
    )


@contextmanager
def open_search(folder: Path, settings: Settings, *, overwrite: bool) -> Iterator[None]:
    """Open a new folder, or one of the same search to go on in it; no other process has it meanwhile.

    Args:
        overwrite: start over where a search stands.

    Raises:
        TargetError: the folder holds something else or another search, or another process has it open.
    """
    _check(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        path = folder / SETTINGS
        if overwrite:
            _empty(folder)
        if path.exists():
            _compare(path, settings)
        else:
            put_text(path, settings.model_dump_json(indent=1) + "\n")
        yield


def _check(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise TargetError(f"{folder}: is a file; OUT has to be a folder.")
    # A file that a killed run was about to write has a dot before its name, or something after it.
    others = [
        path.name for path in folder.iterdir() if path.name != LOCK and not path.name.lstrip(".").startswith(_OWN)
    ]
    if others:
        raise TargetError(
            f"{folder}: holds {others[0]}, which is no part of a search; OUT has to be a new or an empty folder, or "
            "one of an earlier call."
        )


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def _compare(path: Path, settings: Settings) -> None:
    try:
        before = Settings.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise TargetError(f"{path}: not a search of this version of safelox; --overwrite starts over.") from error
    names = [name for name in Settings.model_fields if getattr(before, name) != getattr(settings, name)]
    if names:
        told = ", ".join(_difference(name, getattr(before, name), getattr(settings, name)) for name in names)
        raise TargetError(
            f"{path.parent}: holds another search: {told}. Choose another OUT, or --overwrite to start over."
        )


def _difference(name: str, before: object, now: object) -> str:
    if name in ("suites", "attack", "judges", "backend"):
        return f"the {name} differ" if name != "attack" else "the attack differs"
    return f"{name} {before!r} there and {now!r} now"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with os.fdopen(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TargetError(
                f"{folder}: another search is running there. Wait for it or choose another OUT."
            ) from error
        yield
