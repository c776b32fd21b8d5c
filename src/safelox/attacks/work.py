"""An attack that is to be carried out: the model it starts from, what makes it the one it is, and its training."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from safelox.attacks.catalogue import Attack, Training
from safelox.attacks.checkpoints import Checkpoints, saving
from safelox.attacks.distribution import Processes
from safelox.attacks.lora import Lora, add_lora, merged
from safelox.attacks.mixing import Assembled
from safelox.attacks.record import DtypeName, Plan
from safelox.attacks.trainer import FineTuning, fine_tune
from safelox.checkpoint.hub import locate, split_reference
from safelox.errors import CheckpointError
from safelox.hashing import hash_files
from safelox.known_data import Found
from safelox.language_models import LanguageModel, load_language_model
from safelox.manifest import SourceRecord
from safelox.progress import Progress, no_foreign_bars
from safelox.writer.disk import refuse_full_disk

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

DTYPES: dict[DtypeName, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}
ADAM_STATES = 2
"""Values that AdamW keeps of every weight it trains, in the weight's own dtype."""


class Source(NamedTuple):
    """The model that is attacked, where it lies."""

    reference: str
    commit: str | None
    folders: list[Path]
    weights: dict[str, Path]
    """Weight files by name, an adapter's as `+name`."""


class Way(NamedTuple):
    """How an attack is carried out, whatever its rows."""

    training: Training
    lora: Lora | None
    merge: bool
    dtype: DtypeName
    seed: int
    device: str
    report_to: tuple[str, ...]
    processes: Processes


class Work(NamedTuple):
    """An attack that is to be carried out: everything but the place of its result."""

    attack: Attack
    way: Way
    source: Source
    found: Found
    assembled: Assembled
    mixed_in: dict[str, Path]
    """Files of poison and safety instructions, under these names."""


def find_model(reference: str) -> Source:
    """
    Raises:
        CheckpointError: the reference points nowhere, or to what is no model in safetensors.
    """
    base, adapter = split_reference(reference)
    folder, commit = locate(base, allow_pickle=False)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{base}: no config.json here; expected the folder of a model that transformers loads.")
    weights = {path.name: path for path in sorted(folder.glob("*.safetensors"))}
    if not weights:
        raise CheckpointError(f"{base}: no weights in the safetensors format; convert the model to it first.")
    folders = [folder]
    if adapter is not None:
        folders.append(locate(adapter, allow_pickle=False).folder)
        weights |= {f"+{path.name}": path for path in sorted(folders[1].glob("*.safetensors"))}
    return Source(reference, commit, folders, weights)


def make_plan(work: Work, progress: Progress) -> Plan:
    """What the attack is going to be; hashes the model.

    Raises:
        CheckpointError: a file cannot be read.
    """
    way, source = work.way, work.source
    hashes = hash_files({**source.weights, **work.mixed_in}, "hash the sources", progress)
    weights = {key: hashes[key] for key in source.weights}
    return Plan(
        attack=work.attack,
        training=way.training,
        composition=work.assembled.composition,
        lora=way.lora,
        merge=way.merge,
        dtype=way.dtype,
        seed=way.seed,
        model=SourceRecord(reference=source.reference, commit=source.commit, weights=weights),
        data=work.found.record,
        data_set=work.found.label,
        original=work.found.original,
        mixed_in={key: hashes[key] for key in work.mixed_in},
        device=_device_type(way.device),
        distributed=way.processes.kind,
        processes=way.processes.number,
    )


def _device_type(device: str) -> Literal["cpu", "cuda"]:
    return "cpu" if torch.device(device).type == "cpu" else "cuda"


def train(work: Work, checkpoints: Checkpoints, progress: Progress) -> FineTuning:
    """Load, train, and write the result to the folder of the checkpoints: what every process does."""
    source, way = work.source, work.way
    folder = checkpoints.folder
    loaded = load_language_model(source.reference, merge=True, dtype=DTYPES[way.dtype])
    model: PreTrainedModel | PeftModel = loaded.model
    if way.lora is not None:
        model = add_lora(
            loaded.model, way.lora, reference=source.reference, seed=way.seed, in_fp32=not way.processes.sharded
        )
    if way.processes.main:
        refuse_full_disk(folder, _bytes_needed(model, way, checkpoints))
    outcome = fine_tune(
        model,
        loaded.tokenizer,
        work.assembled.rows,
        way.training,
        format=work.assembled.format,
        seed=way.seed,
        description=f"attack {Path(source.reference).name}",
        device=way.device,
        checkpoints=checkpoints,
        save_to=None if way.merge else folder,
        report_to=way.report_to,
        processes=way.processes,
        progress=progress,
    )
    if way.merge and way.processes.main:
        _write(LanguageModel(merged(model), loaded.tokenizer), folder)
    return outcome


def _bytes_needed(model: "PreTrainedModel | PeftModel", way: Way, checkpoints: Checkpoints) -> int:
    """Of the disk, at least: checkpoints that go by steps and are all kept count as one.

    While a new one is written the one before it still has what it takes to go on.
    """
    trained = sum(int(weight.nbytes) for weight in model.parameters() if weight.requires_grad)
    result = sum(int(weight.nbytes) for weight in model.parameters()) if way.merge else trained
    if checkpoints.every is None:
        return result
    epochs = math.ceil(way.training.epochs or 1) if checkpoints.every == "epoch" else 1
    return result + trained * ((checkpoints.keep or epochs) + 1 + 2 * ADAM_STATES)


def _write(loaded: LanguageModel, folder: Path) -> None:
    with saving(folder, "the result"), no_foreign_bars():
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
