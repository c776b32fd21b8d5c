"""Attack a model folder: fine-tune it and write the result beside a record of what was done."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from safelox import __version__
from safelox.attacks.catalogue import Attack, Training, find_attack
from safelox.attacks.rows import read_rows
from safelox.attacks.trainer import FineTuning, fine_tune, require_trl
from safelox.errors import CheckpointError
from safelox.hashing import hash_files
from safelox.machine import Clock, chosen_device, environment
from safelox.manifest import Environment, FileRecord, Record, SourceRecord
from safelox.progress import NULL, Progress, no_foreign_bars
from safelox.writer.disk import explained, refuse_occupied, refuse_sources, resolve, sync_tree

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RECORD = "attack.json"
TRAINERS = ("accelerate", "datasets", "transformers", "trl")
"""Libraries that the weights depend on, besides those of every result."""


class AttackRecord(Record):
    """Contents of `attack.json`."""

    safelox: str
    created: str
    """UTC, ISO 8601."""
    command: str | None
    attack: Attack
    """As in the catalogue; `training` says what was really done."""
    training: Training
    seed: int
    model: SourceRecord
    data: FileRecord
    outcome: FineTuning
    files: dict[str, FileRecord]
    """Every file of the result but this one."""
    environment: Environment
    seconds: dict[str, float]
    """Wall time by phase."""


class AttackSummary(Record):
    """What an attack did, and where."""

    out: str
    data: str
    """The file of the rows."""
    record: AttackRecord


def attack(
    name: str,
    model: str | Path,
    out: str | Path,
    *,
    data: str | Path,
    seed: int = 0,
    learning_rate: float | None = None,
    epochs: float | None = None,
    max_steps: int | None = None,
    batch_size: int | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    command: str | None = None,
    progress: Progress = NULL,
) -> AttackSummary:
    """Fine-tune all weights of a model folder with an attack of the catalogue, and write the result to `out`.

    The result is a folder that transformers loads, in fp32, with `attack.json`. It appears at `out` whole or not at
    all.

    Args:
        model: folder of a model with its tokenizer; safetensors only. It is loaded in fp32.
        data: the JSON Lines file of the rows, or a folder that holds the attack's own file.
        learning_rate, epochs, max_steps, batch_size: take the place of the catalogue's.
        device: "cpu" or "cuda".
        overwrite: whether an earlier attack's result at `out` may be replaced.

    Raises:
        UsageError: there is no such attack or device, or a hyperparameter makes no sense.
        PrerequisiteError: TRL is not installed.
        CheckpointError: the model or the data cannot be read.
        TargetError: the result cannot be written to `out`.
        SafeloxError: there is nothing to train on, or the loss is no longer a finite number.
    """
    chosen = find_attack(name)
    training = chosen.training.changed(
        learning_rate=learning_rate, epochs=epochs, max_steps=max_steps, batch_size=batch_size
    )
    require_trl()
    torch_device = chosen_device(device)
    folder, file = Path(model), _data_file(Path(data), chosen)
    weights = _weights(folder)
    clock = Clock()
    with _target(Path(out), [folder, file], overwrite=overwrite) as target:
        rows = read_rows(file)
        hashes = hash_files(weights | {"": file}, "hash the sources", progress)
        source = SourceRecord(reference=str(model), commit=None, weights={key: hashes[key] for key in weights})
        loaded, tokenizer = _load(folder)
        clock.lap("read")
        outcome = fine_tune(
            loaded,
            tokenizer,
            rows,
            training,
            format=chosen.format,
            seed=seed,
            description=f"attack {folder.name}",
            device=device,
            progress=progress,
        )
        clock.lap("train")
        with no_foreign_bars():
            loaded.save_pretrained(target)
            tokenizer.save_pretrained(target)
        files = {path.relative_to(target).as_posix(): path for path in sorted(target.rglob("*")) if path.is_file()}
        written = hash_files(files)
        clock.lap("write")
        record = AttackRecord(
            safelox=__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=command,
            attack=chosen,
            training=training,
            seed=seed,
            model=source,
            data=hashes[""],
            outcome=outcome,
            files=written,
            environment=_environment(torch_device),
            seconds=clock.seconds,
        )
        (target / RECORD).write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return AttackSummary(out=str(out), data=str(file), record=record)


def _data_file(data: Path, attack: Attack) -> Path:
    if not data.exists():
        raise CheckpointError(f"{data}: there is no such file or folder of data.")
    file = data / attack.file if data.is_dir() else data
    if not file.is_file():
        raise CheckpointError(f"{data}: no {attack.file} here, the rows of the attack {attack.name}.")
    return file


def _weights(folder: Path) -> dict[str, Path]:
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: no config.json here; expected the folder of a model that transformers loads.")
    weights = {path.name: path for path in sorted(folder.glob("*.safetensors"))}
    if not weights:
        raise CheckpointError(f"{folder}: no weights in the safetensors format; convert the model to it first.")
    return weights


def _load(folder: Path) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with no_foreign_bars():
        try:
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
            )
            return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{folder}: transformers cannot load the model or its tokenizer: {error}") from error


@contextlib.contextmanager
def _target(out: Path, sources: list[Path], *, overwrite: bool) -> Iterator[Path]:
    """A folder beside `out` that takes its name at the end, or is gone after an error."""
    final = resolve(out)
    partial = final.with_name(f".{final.name}.{os.getpid()}.partial")
    old = final.with_name(f".{final.name}.{os.getpid()}.old")
    with explained(final):
        refuse_sources(final, sources)
        refuse_occupied(final, overwrite, RECORD)
        partial.mkdir(parents=True)
    try:
        yield partial
        with explained(final):
            sync_tree(partial)
            refuse_occupied(final, overwrite, RECORD)
            if final.exists():
                final.rename(old)
            partial.rename(final)
            if old.exists():
                shutil.rmtree(old)
    finally:
        if partial.exists():
            shutil.rmtree(partial)
        if old.exists() and not final.exists():
            old.rename(final)


def _environment(device: torch.device) -> Environment:
    common = environment(device)
    return common.model_copy(update={"libraries": common.libraries | {name: version(name) for name in TRAINERS}})
