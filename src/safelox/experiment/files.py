"""Files that several processes write: always whole, and never the same one at the same time."""

import os
import shutil
import uuid
from pathlib import Path

DELETING = ".deleting-"


def put(path: Path, text: str) -> bool:
    """Write a file in one step, unless it reads so already; whether it was written.

    Folders on the way are made. Of several processes that write it at once, one has its way, and nobody sees a mix.
    """
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
    return True


def delete(folder: Path) -> None:
    """Delete a folder so that it is never seen half there; another process may do the same."""
    doomed = folder.with_name(f"{folder.name}{DELETING}{uuid.uuid4().hex}")
    try:
        folder.rename(doomed)
    except FileNotFoundError:
        return
    shutil.rmtree(doomed)


def delete_leftovers(folder: Path) -> None:
    """Delete what processes that were killed were deleting."""
    for path in folder.rglob(f"*{DELETING}*"):
        shutil.rmtree(path, ignore_errors=True)
