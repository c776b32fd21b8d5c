"""Attack a model: fine-tune it and write the result beside a record of what was done."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Unpack

import torch

from safelox import __version__
from safelox.attacks.catalogue import Changes, find_attack
from safelox.attacks.checkpoints import Checkpoints, Every, finish
from safelox.attacks.distribution import Kind, find_processes, group_ended, told_by_main
from safelox.attacks.lora import Lora
from safelox.attacks.mixing import assemble
from safelox.attacks.record import RECORD, AttackRecord, AttackSummary, DtypeName
from safelox.attacks.trainer import require_reporting, require_trl
from safelox.attacks.unfinished import begin, saying_how_to_go_on, unfinished
from safelox.attacks.work import Way, Work, find_model, make_plan, train
from safelox.errors import UsageError
from safelox.hashing import hash_files
from safelox.known_data import find
from safelox.language_models import require_peft
from safelox.machine import Clock, chosen_device, environment
from safelox.manifest import Environment
from safelox.progress import NULL, Progress
from safelox.writer.place import JOURNAL_NAME, Place

TRAINERS = ("accelerate", "datasets", "transformers", "trl")
"""Libraries that the weights depend on, besides those of every result."""


def attack(
    name: str,
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    format: str | None = None,
    poison: str | os.PathLike[str] | None = None,
    poison_ratio: float | None = None,
    safeinst: str | os.PathLike[str] | None = None,
    paper_exact: bool = False,
    lora: bool = False,
    lora_rank: int | None = None,
    lora_alpha: float | None = None,
    lora_targets: Sequence[str] | None = None,
    merge: bool = False,
    dtype: DtypeName | None = None,
    save_every: Every | None = None,
    keep: int | None = None,
    resume: bool = False,
    report_to: Sequence[str] = (),
    distributed: Kind | None = None,
    seed: int = 0,
    device: str = "cpu",
    overwrite: bool = False,
    command: str | None = None,
    progress: Progress = NULL,
    **changes: Unpack[Changes],
) -> AttackSummary:
    """Fine-tune a model with an attack of the catalogue, and write the result to `out`.

    The result is a folder that transformers loads, or with `lora` an adapter for MODEL, with `attack.json` and
    `log.jsonl`, the course of the loss. It appears at `out` whole or not at all: until then all is in OUT.partial,
    which stays after an error or Ctrl-C where it has a checkpoint. The first Ctrl-C saves one.

    Args:
        model: a folder, or org/name[@revision] on the hub; +ADAPTER adds a LoRA, which is merged into the weights
            first. Safetensors only.
        data: the file of the rows, or a folder that holds the attack's own; else $SAFELOX_DATA, the user's cache and
            the place where it is published are looked at in turn.
        format: name of the prompt format, in place of the attack's.
        poison, poison_ratio, safeinst, paper_exact: what is mixed into the rows; see `assemble`.
        lora: train LoRA factors in place of all weights.
        lora_rank, lora_alpha, lora_targets: of these factors, as in `Lora`.
        merge: with `lora`, write the whole model with the factors added to its weights.
        dtype: of the weights and of the computation; None for bf16 on a GPU that has it, else fp32.
        save_every: steps from one checkpoint to the next, or "epoch"; each is a model that can be evaluated.
        keep: the newest so many stay; None for all.
        resume: go on from the newest checkpoint of the same attack, if there is one. The result is the same as without
            the interruption, bit for bit on one machine's CPU.
        report_to: services that the trainer reports to, such as "tensorboard" or "wandb".
        distributed: what the launcher has to have started; None for whatever it did.
        device: "cpu" or "cuda".
        overwrite: whether an earlier attack's result at `out` may be replaced, and an unfinished one forgotten.
        changes: hyperparameters that take the place of the attack's, by their names in `Training`.

    Raises:
        UsageError: there is no such attack, format or device, or values do not go together or make no sense.
        PrerequisiteError: a package is not installed, or processes did not come together as they were to.
        CheckpointError: the model cannot be read.
        DataError: the data cannot be found or read.
        TargetError: the result or a checkpoint cannot be written, or there is an unfinished attack.
        SafeloxError: there is nothing to train on, or the loss is no longer a finite number.
        KeyboardInterrupt: after Ctrl-C, when a checkpoint is saved.
    """
    chosen = find_attack(name)
    chosen_lora = _lora(lora, lora_rank, lora_alpha, lora_targets, merge=merge)
    _check_saving(save_every, keep)
    torch_device = chosen_device(device)
    processes = find_processes(distributed, torch_device.type)
    if merge and processes.sharded:
        raise UsageError(f"with {processes.kind} no process has the whole model, so nothing can be merged into it.")
    way = Way(
        training=chosen.hyperparameters(paper_exact=paper_exact).changed(**changes),
        lora=chosen_lora,
        merge=merge,
        dtype=dtype or _best_dtype(torch_device),
        seed=seed,
        device=device,
        report_to=tuple(report_to),
        processes=processes,
    )
    require_trl()
    require_reporting(report_to)
    if not processes.main:
        progress = NULL
    clock = Clock()
    source = find_model(os.fspath(model))
    if lora and not merge and len(source.folders) > 1:
        raise UsageError(
            f"{source.reference}: the result would be an adapter for a model that is not on disk, the one with its "
            "adapter merged into it; ask for the merged result."
        )
    found = find(
        chosen.source, chosen.file, None if data is None else Path(data), fetch=processes.main, progress=progress
    )
    mixed_in = {key: Path(path) for key, path in (("poison", poison), ("safeinst", safeinst)) if path is not None}
    assembled = assemble(
        chosen,
        found.path,
        format=format,
        poison=mixed_in.get("poison"),
        poison_ratio=poison_ratio,
        safeinst=mixed_in.get("safeinst"),
        paper_exact=paper_exact,
        seed=seed,
    )
    work = Work(chosen, way, source, found, assembled, mixed_in)
    place = Place(Path(out), overwrite=overwrite, mark=RECORD)
    checkpoints = Checkpoints(place.folder, save_every, keep, resume)
    clock.lap("read")
    with group_ended():
        if not processes.main:
            train(work, checkpoints, progress)
            summary = None
        else:
            record = _carry_out(work, place, checkpoints, clock, command, progress, overwrite=overwrite)
            summary = AttackSummary(out=os.fspath(out), data=str(found.path), record=record)
        told: AttackSummary = told_by_main(summary)
    return told


def _carry_out(
    work: Work,
    place: Place,
    checkpoints: Checkpoints,
    clock: Clock,
    command: str | None,
    progress: Progress,
    *,
    overwrite: bool,
) -> AttackRecord:
    """Train, and write the record: what the main process does."""
    sources = [*work.source.folders, work.found.path, *work.mixed_in.values()]
    with unfinished(place, sources):
        plan = make_plan(work, progress)
        begin(place, plan, resume=checkpoints.resume, overwrite=overwrite)
        clock.lap("hash")
        with saying_how_to_go_on(place.folder):
            outcome = train(work, checkpoints, progress)
            clock.lap("train")
            left = finish(checkpoints)
            files = hash_files(_files(place.folder), "hash the result", progress)
            clock.lap("write")
            record = AttackRecord(
                **dict(plan),
                safelox=__version__,
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                command=command,
                outcome=outcome,
                checkpoints=left,
                files=files,
                environment=_environment(chosen_device(work.way.device), peft=work.way.lora is not None),
                seconds=clock.seconds,
            )
            (place.folder / RECORD).write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return record


def _lora(
    wanted: bool, rank: int | None, alpha: float | None, targets: Sequence[str] | None, *, merge: bool
) -> Lora | None:
    """
    Raises:
        UsageError: something of LoRA is given without it, or makes no sense.
    """
    given = {"rank": rank, "alpha": alpha, "targets": None if targets is None else tuple(targets)}
    given = {key: value for key, value in given.items() if value is not None}
    if not wanted:
        if given or merge:
            what = "merging" if merge else next(iter(given))
            raise UsageError(f"LoRA's {what} is given, but not that it is to be LoRA.")
        return None
    require_peft()
    return Lora.checked(**given)


def _check_saving(save_every: Every | None, keep: int | None) -> None:
    if isinstance(save_every, int) and save_every < 1:
        raise UsageError(f"a checkpoint every {save_every} steps makes no sense: at least 1, or every epoch.")
    if keep is not None and (keep < 1 or save_every is None):
        raise UsageError(f"keeping {keep} checkpoints makes no sense: say when they are saved, and keep at least 1.")


def _best_dtype(device: torch.device) -> DtypeName:
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def _files(folder: Path) -> dict[str, Path]:
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    found.pop(JOURNAL_NAME)
    return found


def _environment(device: torch.device, *, peft: bool) -> Environment:
    common = environment(device)
    names = (*TRAINERS, "peft") if peft else TRAINERS
    return common.model_copy(update={"libraries": common.libraries | {name: version(name) for name in names}})
