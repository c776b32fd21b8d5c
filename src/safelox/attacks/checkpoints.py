"""Checkpoints of a training: whole models under `checkpoints`, the newest with what it takes to go on from it.

A checkpoint is written to `checkpoint-N` and gets its name, `checkpoints/epoch-E` or `checkpoints/step-N`, when it is
whole. Whatever has the first kind of name was left half-written by a run that was killed.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from safelox.errors import CheckpointError, TargetError
from safelox.writer.disk import explained, sync, sync_tree

FOLDER = "checkpoints"
TORN = "checkpoint-*"
PROGRESS = "trainer_state.json"
"""How far a training was, with its losses so far; the trainer's own file."""
STATE = (
    "optimizer*",
    "scheduler.pt",
    "scaler.pt",
    "rng_state*.pth",
    "training_args.bin",
    "pytorch_model_fsdp*",
    "global_step*",
    "latest",
    "zero_to_fp32.py",
)
"""What only a training that goes on needs; DeepSpeed and FSDP have names of their own."""

Every = int | Literal["epoch"]


class Checkpoints(NamedTuple):
    """Where the checkpoints of a training go, and which there are to be."""

    folder: Path
    """That of the unfinished result."""
    every: Every | None = None
    """Steps from one to the next, or one after every epoch; None for none but after an interruption."""
    keep: int | None = None
    """Only the newest so many stay; None for all."""
    resume: bool = False
    """Go on from the newest, if there is any."""


def all_checkpoints(folder: Path) -> list[Path]:
    """Those of a result, finished or not, the oldest first."""
    return sorted((path.parent for path in (folder / FOLDER).glob(f"*/{PROGRESS}")), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which a checkpoint was taken.

    Raises:
        CheckpointError: its record of that cannot be read.
    """
    path = checkpoint / PROGRESS
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["global_step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not the state of a training: {error}. Remove {checkpoint}.") from error


def resumable(folder: Path) -> Path | None:
    """The newest checkpoint that a training can go on from."""
    able = [path for path in all_checkpoints(folder) if any(path.glob("optimizer*")) or any(path.glob("global_step*"))]
    return able[-1] if able else None


def discard_torn(folder: Path) -> None:
    """Remove what a run that was killed left half-written."""
    for path in folder.glob(TORN):
        shutil.rmtree(path)


@contextlib.contextmanager
def saving(folder: Path, what: str = "a checkpoint") -> Iterator[None]:
    """Write weights: after an error no half-written checkpoint is left, so that its space is free again.

    Raises:
        TargetError: they cannot be written, for instance because the disk is full.
    """
    from safetensors import SafetensorError

    try:
        with explained(folder, f"{what} cannot be written"):
            yield
    except BaseException as error:
        with contextlib.suppress(OSError):
            discard_torn(folder)
        if not isinstance(error, SafetensorError | RuntimeError):  # what safetensors and torch make of a full disk
            raise
        raise TargetError(
            f"{folder}: {what} cannot be written: {error}. Free some space, or keep fewer checkpoints."
        ) from error


def publish(written: Path, name: str, checkpoints: Checkpoints) -> None:
    """Give a whole checkpoint its name; older ones lose what it takes to go on, and those too many or unasked go."""
    final = checkpoints.folder / FOLDER / name
    if final.exists():  # saved twice at the same step: by an interruption in the last step of an epoch
        shutil.rmtree(written)
        return
    final.parent.mkdir(exist_ok=True)
    (written / "training_args.bin").unlink(missing_ok=True)
    sync_tree(written)
    written.rename(final)
    sync(final.parent)
    older = [path for path in all_checkpoints(checkpoints.folder) if path != final]
    for path in older:
        _strip(path)
    _remove_unasked(older, checkpoints.every)
    prune(checkpoints)


def prune(checkpoints: Checkpoints) -> None:
    """Remove the oldest of too many."""
    if checkpoints.keep is not None:
        for path in all_checkpoints(checkpoints.folder)[: -checkpoints.keep]:
            shutil.rmtree(path)


def finish(checkpoints: Checkpoints) -> tuple[str, ...]:
    """Leave only models that were asked for, and say where they are inside the folder."""
    _remove_unasked(all_checkpoints(checkpoints.folder), checkpoints.every)
    left = all_checkpoints(checkpoints.folder)
    for path in left:
        _strip(path)
    if not left:
        shutil.rmtree(checkpoints.folder / FOLDER, ignore_errors=True)
    return tuple(f"{FOLDER}/{path.name}" for path in left)


def _strip(checkpoint: Path) -> None:
    for pattern in STATE:
        for path in checkpoint.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _remove_unasked(found: list[Path], every: Every | None) -> None:
    for path in found:
        if not _is_asked(path, every):
            shutil.rmtree(path)


def _is_asked(checkpoint: Path, every: Every | None) -> bool:
    """Whether it is one of the regular ones, not that of an interruption."""
    if every == "epoch":
        return checkpoint.name.startswith("epoch-")
    return every is not None and step_of(checkpoint) % every == 0
