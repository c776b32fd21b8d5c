"""The main job, from a base and an aligned model to a hardened one: plan, check, stream, write, and tell."""

import hashlib
import json
import math
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

import safelox
from safelox.adapter_output import AdapterOutput
from safelox.card import write_card
from safelox.delta import prefetch
from safelox.engine import (
    Decompose,
    Pair,
    check_kinship,
    decompose_matrix,
    memory_of,
    open_pair,
    run_side_by_side,
    worker_count,
)
from safelox.errors import UsageError
from safelox.hashing import hash_files, source_records
from safelox.layout import check_dtype
from safelox.machine import Clock, MemoryWatch, chosen_device, environment, process_age, resident_memory
from safelox.manifest import (
    FORMAT,
    CarriedRecord,
    Environment,
    FileRecord,
    Manifest,
    MatrixRecord,
    MethodRecord,
)
from safelox.methods import ControlName, chosen_method
from safelox.output import Item, ModelOutput, Output
from safelox.pairing import Carried, Wish
from safelox.progress import NULL, Progress
from safelox.spectra.auto import PLANNED, find_rank
from safelox.subspace import Subspace
from safelox.summary import HardenPlan, Summary
from safelox.writer import FileHash, Target
from safelox.writer.disk import explained


def harden(
    base: str,
    aligned: str,
    out: str | Path,
    *,
    rank: int | Literal["full", "auto"] = 6,
    coef: float = 1.25,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    embeddings: bool = True,
    vocab: Literal["error", "common"] = "error",
    adapter: bool = False,
    subspace: str | Path | None = None,
    control: ControlName | None = None,
    device: str = "cpu",
    workers: int | None = None,
    max_memory: int | None = None,
    dtype: Literal["bf16", "fp16", "fp32"] | None = None,
    overwrite: bool = False,
    force: bool = False,
    allow_pickle: bool = False,
    hash_sources: bool = True,
    seed: int = 0,
    command: str | None = None,
    progress: Progress = NULL,
) -> Summary:
    """Write the hardened model to `out`: W_aligned + coef * (rank-k part of W_aligned - W_base), matrix by matrix.

    A run that was killed goes on where it was when it is called again in the same way, and gives the same bytes.

    Args:
        base, aligned: model references: a folder, or org/name[@revision] on the hub, each optionally with +adapter.
        rank: leading singular directions to extrapolate, or "full"; or "auto", for one that is found from the spectra
            as `safelox.spectra.auto` says.
        coef: at least 0; with 0 every tensor is ALIGNED's, byte for byte.
        include, exclude: globs on tensor names; exclude wins.
        embeddings: False leaves the embeddings and the output head as they are.
        vocab: what to do where the vocabularies differ; "common" extrapolates the rows of the tokens that both have.
        adapter: write a PEFT LoRA adapter for ALIGNED in place of a whole model.
        subspace: a file that `decompose` wrote for the same pair, to be used in place of a decomposition.
        control: write no hardened model but one that is changed as much as that would be, matrix by matrix, in another
            direction: "full-rank", "random-subspace" or "noise". See `methods.Control`.
        workers: matrices worked on at once; the number of cores by default. It does not change a byte.
        max_memory: bytes of anonymous memory that must do; by default 1 GB and twice the largest tensor in fp32.
        dtype: of the floating tensors of the result; as in ALIGNED by default.
        force: go on although the delta is zero, or as large as the weights.
        command: what the manifest says was called.

    Raises:
        SafeloxError: one of its kinds; nothing then stands under the final name that was not there before.
    """
    clock = Clock(startup=process_age())
    method = chosen_method(1 if rank == "auto" else rank, coef, control, seed)
    wish = Wish(include, exclude, embeddings, vocab)
    torch_device = chosen_device(device)
    check_dtype(dtype)
    with ExitStack() as stack:
        memory = stack.enter_context(MemoryWatch())
        models = stack.enter_context(open_pair(base, aligned, wish, allow_pickle=allow_pickle))
        found_rank = None
        if rank == "auto":
            team = worker_count(models, workers, max_memory)
            if not force:
                check_kinship(models)
            found_rank = find_rank(models, subspace, seed, torch_device, team, progress)
            method = replace(method, rank=found_rank.rank)
            clock.lap("find_rank")
        decompose: Decompose = partial(decompose_matrix, models, seed)
        opened, subspace_record = None, None
        if subspace is not None:
            opened = stack.enter_context(Subspace.open(Path(subspace), models, method))
            decompose, subspace_record = opened.decompose, hash_files({"subspace": Path(subspace)})["subspace"]
        output: Output
        if adapter:
            output = AdapterOutput(models, method, decompose, torch_device, dtype)
        else:
            output = ModelOutput(models, method, decompose, torch_device, dtype)
        models = output.models
        method.check_rank((matrix.rows, matrix.columns) for matrix in models.pairing.matrices)
        team = worker_count(models, workers, max_memory)
        if not force:
            check_kinship(models)
        record = MethodRecord(
            name="lox",
            rank=method.rank,
            coef=coef,
            seed=seed,
            include=tuple(include),
            exclude=tuple(exclude),
            embeddings=embeddings,
            vocab=vocab,
            dtype=dtype,
            subspace=subspace_record,
            control=control,
            auto_rank=found_rank,
        )
        described = environment(torch_device)
        with Target(
            Path(out),
            output.files,
            fingerprint=_fingerprint(models, output, record, described),
            overwrite=overwrite,
            sources=models.folders,
        ) as target:
            clock.lap("plan")
            sources = source_records(models.base, models.aligned, hash_sources, progress)
            if opened is not None:
                opened.compare_sources(*sources)
            clock.lap("hash_sources")
            _write_items(output, target, team, progress)
            clock.lap("work")
            with explained(target.folder):
                output.add_other_files(target)
            manifest = Manifest(
                format=FORMAT,
                safelox=safelox.__version__,
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                command=command or shlex.join(sys.argv),
                kind=output.kind,
                method=record,
                base=sources[0],
                aligned=sources[1],
                matrices=_matrix_records(output, target),
                carried=_carried_records(models.pairing.carried),
                notes=models.pairing.notes,
                files={},
                environment=described,
            )
            manifest = _finish(target, manifest)
            clock.lap("finish")
    return Summary(
        out=str(out),
        kind=output.kind,
        manifest=manifest,
        seconds=clock.seconds,
        peak_memory_bytes=memory.peak_anonymous,
        peak_mapped_bytes=memory.peak_mapped,
        bytes_written=sum(file.size for file in output.files),
        resumed_items=len(target.done),
    )


def plan_harden(
    base: str,
    aligned: str,
    *,
    rank: int | Literal["full", "auto"] = 6,
    coef: float = 1.25,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    embeddings: bool = True,
    vocab: Literal["error", "common"] = "error",
    adapter: bool = False,
    control: ControlName | None = None,
    device: str = "cpu",
    workers: int | None = None,
    max_memory: int | None = None,
    dtype: Literal["bf16", "fp16", "fp32"] | None = None,
    allow_pickle: bool = False,
) -> HardenPlan:
    """What `harden` would do with the same arguments: only headers are read, and nothing is written.

    Raises:
        UsageError: as `harden`; or an adapter of rank "auto", whose size cannot be told from headers.
        SafeloxError: as `harden`.
    """
    if rank == "auto" and adapter:
        raise UsageError(
            "the size of an adapter depends on its rank, and rank `auto` is only found by reading the weights: give a "
            "rank, or harden without the dry run."
        )
    method = chosen_method(1 if rank == "auto" else rank, coef, control, seed=0)
    torch_device = chosen_device(device)
    check_dtype(dtype)
    wish = Wish(include, exclude, embeddings, vocab)
    with open_pair(base, aligned, wish, allow_pickle=allow_pickle) as models:
        kind = AdapterOutput if adapter else ModelOutput
        output = kind(models, method, partial(decompose_matrix, models, 0), torch_device, dtype)
        models = output.models
        method.check_rank((matrix.rows, matrix.columns) for matrix in models.pairing.matrices)
        team = worker_count(models, workers, max_memory)
        matrices = models.pairing.matrices
        others = 0 if adapter else sum(path.stat().st_size for path in models.aligned.other_files().values())
        return HardenPlan(
            matrices=len(matrices),
            carried=_carried_records(models.pairing.carried),
            notes=(*models.pairing.notes, *([PLANNED] if rank == "auto" else [])),
            parameters_touched=sum(matrix.rows * matrix.columns for matrix in matrices),
            parameters_total=sum(math.prod(info.shape) for info in models.aligned.tensors.values()),
            peak_memory_bytes=resident_memory()[0] + sum(sorted(map(memory_of, matrices))[-team:]),
            disk_bytes=sum(file.size for file in output.files) + others,
            workers=team,
        )


def _fingerprint(models: Pair, output: Output, method: MethodRecord, described: Environment) -> str:
    """Names everything that the bytes of the result depend on."""
    sources = []
    for model in (models.base, models.aligned):
        sources.append(model.base_identity())
        if model.adapter is not None:
            status = model.adapter.file.stat()
            sources.append(f"{model.adapter.file} {status.st_ino} {status.st_size} {status.st_mtime_ns}")
    maps = [matrix.row_map.numpy().tobytes() for matrix in models.pairing.matrices if matrix.row_map is not None]
    what = {
        "safelox": safelox.__version__,
        "kind": output.kind,
        "environment": described.model_dump(),
        "method": method.model_dump(),
        "sources": sources,
        "items": [item.label for item in output.items],
        "row_maps": [hashlib.sha256(row_map).hexdigest() for row_map in maps],
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _write_items(output: Output, target: Target, workers: int, progress: Progress) -> None:
    """Write every item that an earlier run has not written yet."""
    todo = [item for item in output.items if item.label not in target.done]
    with progress.task("harden", sum(item.parameters for item in todo), "parameters") as task:

        def work(item: Item) -> None:
            output.write(item, target)
            task.advance(item.parameters, item.label)

        def prepare(item: Item) -> None:
            if item.matrix is not None:
                prefetch(output.models.base, output.models.aligned, item.matrix)

        run_side_by_side(todo, work, workers, prepare)


def _finish(target: Target, manifest: Manifest) -> Manifest:
    """Write the model card and the manifest, and give the folder its name."""
    with explained(target.folder):
        card_note = write_card(target.folder, manifest)
    notes = manifest.notes if card_note is None else (*manifest.notes, card_note)

    def last(hashes: dict[str, FileHash]) -> None:
        nonlocal manifest
        files = {name: FileRecord(bytes=entry.bytes, sha256=entry.sha256) for name, entry in hashes.items()}
        manifest = manifest.model_copy(update={"files": files, "notes": notes})
        with explained(target.folder):
            manifest.write(target.folder)

    target.finish(last)
    return manifest


def _matrix_records(output: Output, target: Target) -> tuple[MatrixRecord, ...]:
    labels = [item.label for item in output.items if item.matrix is not None]
    return tuple(MatrixRecord.model_validate(target.records[label]) for label in labels)


def _carried_records(carried: Sequence[Carried]) -> tuple[CarriedRecord, ...]:
    return tuple(CarriedRecord(name=item.name, reason=item.reason) for item in carried)
