"""The files of a result, against the sizes and hashes in its manifest."""

import os
from collections.abc import Mapping
from pathlib import Path

from safelox.hashing import hash_files
from safelox.manifest import MANIFEST_NAME, FileRecord
from safelox.progress import Progress
from safelox.verification.report import Check, check


def check_files(folder: Path, recorded: Mapping[str, FileRecord], progress: Progress) -> Check:
    """Whether every recorded file is there, with its size and its SHA-256."""
    present = {name: folder / name for name in recorded if (folder / name).is_file()}
    sizes = {name: path.stat().st_size for name, path in present.items()}
    whole = {name: path for name, path in present.items() if sizes[name] == recorded[name].bytes}
    hashes = hash_files(whole, "hash the result", progress)
    problems = []
    for name, record in recorded.items():
        if name not in present:
            problems.append(f"{name} is missing")
        elif name not in whole:
            problems.append(f"{name} has {sizes[name]} bytes, {record.bytes} were written")
        elif hashes[name].sha256 != record.sha256:
            edited = " (an edited model card changes it)" if name == "README.md" else ""
            problems.append(f"{name} has other contents than were written{edited}")
    return check("files", problems, f"{len(recorded)} files have the size and the SHA-256 that were written")


def check_nothing_else(folder: Path, recorded: Mapping[str, FileRecord]) -> Check:
    """Whether the folder holds no other file, which a loader might pick up.

    Names that begin with a dot are left aside: git and the hub's client keep their own files there.
    """
    problems = []
    for directory, directories, names in os.walk(folder):
        directories[:] = [name for name in directories if not name.startswith(".")]
        inside = Path(directory).relative_to(folder)
        files = [(inside / name).as_posix() for name in sorted(names) if not name.startswith(".")]
        problems += [f"{file} was not written by safelox" for file in files if file not in recorded]
    problems = [problem for problem in problems if not problem.startswith(f"{MANIFEST_NAME} ")]
    return check("unexpected files", problems, "none")
