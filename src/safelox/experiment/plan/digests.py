"""What the key of a step is made of besides its parameters: the bytes of files, and the code that works on them."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from safelox.experiment.files import put
from safelox.experiment.fresh import source_hash, stamp
from safelox.hashing import hash_files
from safelox.progress import NULL, Progress

MEMORY = "steps/inputs.json"
UNKNOWN = "unknown"
"""In place of a hash that nobody has worked out."""
_WEIGHTS = ("checkpoint", "pairing", "lowrank", "methods.py", "delta.py", "engine.py", "subspace", "layout.py")
_CODE = {
    "decompose": _WEIGHTS,
    "harden": (*_WEIGHTS, "steps.py", "extrapolation.py", "output.py", "writer", "hardening.py"),
    "attack": ("attacks", "formats.py", "language_models.py"),
    "evaluate": ("evaluation", "formats.py", "language_models.py"),
    "drift": (*_WEIGHTS, "drift_metrics"),
    "spectrum": ("subspace", "spectra"),
    "landscape": ("checkpoint", "evaluation", "analysis", "formats.py", "language_models.py"),
    "tune": (*_WEIGHTS, "steps.py", "extrapolation.py", "attacks", "evaluation", "analysis", "formats.py"),
    "rank-curve": (*_WEIGHTS, "evaluation", "analysis", "formats.py", "language_models.py"),
}
"""The parts of safelox that decide the result of each kind of step: when their source changes, it is made again. The
works themselves, which hand the parameters on, count for all."""


class Hashes:
    """SHA-256 of files, remembered by their size and time, so that a model of many gigabytes is read once."""

    def __init__(self, out: Path, *, work_out: bool = True) -> None:
        """
        Args:
            work_out: whether hashes that are not known yet are worked out; else they are `UNKNOWN`.
        """
        self._file = out / MEMORY
        self._work_out = work_out
        remembered = json.loads(self._file.read_text(encoding="utf-8")) if self._file.is_file() else {}
        self._known: dict[str, list[Any]] = remembered.get("files", {})
        self.pins: dict[str, str] = remembered.get("pins", {})
        """References to the hub, each with the commit that was found first."""
        self.used: dict[str, list[Any]] = {}
        """[size, time, hash] of every file that was asked for, by its path."""

    def of(self, files: Mapping[str, Path], progress: Progress = NULL) -> dict[str, str]:
        """The hash of every file, by the names that are given.

        Raises:
            CheckpointError: a file cannot be read.
        """
        stamps = {name: (str(path.absolute()), stamp(path)) for name, path in files.items()}
        new = {
            name: path
            for name, path in files.items()
            if self._known.get(stamps[name][0], [])[:2] != stamps[name][1] and self._work_out
        }
        found = hash_files(new, "hash the inputs", progress) if new else {}
        hashes: dict[str, str] = {}
        for name, (path, (size, time)) in stamps.items():
            known = self._known.get(path, [])
            if name in found:
                hashes[name] = found[name].sha256
            else:
                hashes[name] = known[2] if known[:2] == [size, time] else UNKNOWN
            self.used[path] = [size, time, hashes[name]]
        return hashes

    def keep(self) -> None:
        """Remember what was asked for."""
        put(self._file, json.dumps({"files": self._known | self.used, "pins": self.pins}, indent=1) + "\n")


def key_of(kind: str, decides: Mapping[str, Any], needs: Iterable[str], inputs: Mapping[str, Any], code: str) -> str:
    """The key of a step: the same for the same kind, parameters, inputs and code, and for no other.

    Args:
        needs: keys of the steps whose results it reads.
        inputs: whatever else it reads, by hash or definition.
    """
    whole = [kind, decides, sorted(needs), inputs, code]
    return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()


@lru_cache
def code_of(kind: str) -> str:
    """Changes with the source of whatever makes a result of this kind."""
    return source_hash((*_CODE[kind], "experiment/works"))
