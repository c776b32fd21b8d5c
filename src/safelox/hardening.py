"""The main job: from a base and an aligned model to a hardened one. Plan, check, stream, write, and tell what was done."""

import hashlib
import json
import math
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch

import safelox
from safelox.card import write_card
from safelox.checkpoint import DTYPES
from safelox.delta import DeltaRows
from safelox.engine import Pair, check_kinship, memory_of, open_pair, run_side_by_side, worker_count
from safelox.extrapolation import extrapolate
from safelox.hashing import source_records
from safelox.layout import Layout, plan_layout
from safelox.lowrank import block_bounds
from safelox.machine import MemoryWatch, chosen_device, environment, process_age, resident_memory
from safelox.manifest import FORMAT, CarriedRecord, FileRecord, Manifest, MatrixRecord, MethodRecord, SourceRecord
from safelox.methods import Lox
from safelox.pairing import Carried, Matrix
from safelox.progress import NULL, Progress
from safelox.summary import HardenPlan, Summary
from safelox.writer import FileHash, Target

COPY_BYTES = 8 << 20


def harden(
    base: str,
    aligned: str,
    out: str | Path,
    *,
    rank: int | Literal["full"] = 6,
    coef: float = 1.25,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    embeddings: bool = True,
    vocab: Literal["error", "common"] = "error",
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
    """Write the hardened model to `out`: W_aligned + coef * (rank-k part of W_aligned - W_base) for every weight matrix.

    Args:
        base, aligned: model references: a folder, or org/name[@revision] on the hub, each optionally with +adapter.
        rank: leading singular directions to extrapolate, or "full".
        coef: at least 0; with 0 every tensor is ALIGNED's, byte for byte.
        include, exclude: globs on tensor names; exclude wins.
        embeddings: False leaves the embeddings and the output head as they are.
        vocab: what to do where the vocabularies differ; "common" extrapolates the rows of the tokens that both have.
        workers: matrices worked on at once; the number of cores by default. It does not change a byte.
        max_memory: bytes of anonymous memory that must do; by default 1 GB and twice the largest tensor in fp32.
        dtype: of the floating tensors of the result; as in ALIGNED by default.
        force: go on although the delta is zero, or as large as the weights.
        command: what the manifest says was called.

    Raises:
        SafeloxError: in one of its kinds, before anything is written under the final name.
    """
    clock = _Clock()
    method = Lox(rank, coef)
    with (
        MemoryWatch() as memory,
        open_pair(
            base,
            aligned,
            include=include,
            exclude=exclude,
            embeddings=embeddings,
            vocab=vocab,
            allow_pickle=allow_pickle,
        ) as models,
    ):
        record = MethodRecord(
            name="lox", rank=rank, coef=coef, seed=seed, include=tuple(include), exclude=tuple(exclude),
            embeddings=embeddings, vocab=vocab, dtype=dtype, subspace=None,
        )  # fmt: skip
        job = _Job(models, method, record, plan_layout(models.aligned, dtype), chosen_device(device))
        team = worker_count(models, workers, max_memory)
        if not force:
            check_kinship(models)
        target = Target(
            Path(out),
            job.layout.files,
            fingerprint=job.fingerprint(),
            overwrite=overwrite,
            sources=_source_folders(models),
        )
        with target:
            clock.lap("plan")
            sources = source_records(models.base, models.aligned, hash_sources, progress)
            clock.lap("hash_sources")
            job.run(target, team, progress)
            clock.lap("work")
            manifest = job.finish(target, sources, command or shlex.join(sys.argv))
            clock.lap("finish")
    return Summary(
        out=str(out),
        kind="model",
        manifest=manifest,
        seconds=clock.seconds,
        peak_memory_bytes=memory.peak_anonymous,
        peak_mapped_bytes=memory.peak_mapped,
        bytes_written=job.layout.size_bytes,
        resumed_items=len(target.done),
    )


def plan_harden(
    base: str,
    aligned: str,
    out: str | Path,
    *,
    rank: int | Literal["full"] = 6,
    coef: float = 1.25,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    embeddings: bool = True,
    vocab: Literal["error", "common"] = "error",
    workers: int | None = None,
    max_memory: int | None = None,
    dtype: Literal["bf16", "fp16", "fp32"] | None = None,
    allow_pickle: bool = False,
) -> HardenPlan:
    """What `harden` would do with the same arguments: nothing is written, and only headers are read."""
    Lox(rank, coef)
    with open_pair(
        base, aligned, include=include, exclude=exclude, embeddings=embeddings, vocab=vocab, allow_pickle=allow_pickle
    ) as models:
        team = worker_count(models, workers, max_memory)
        matrices = models.pairing.matrices
        others = sum(path.stat().st_size for path in models.aligned.other_files().values())
        return HardenPlan(
            matrices=len(matrices),
            carried=_carried_records(models.pairing.carried),
            notes=models.pairing.notes,
            parameters_touched=sum(matrix.rows * matrix.columns for matrix in matrices),
            parameters_total=sum(math.prod(info.shape) for info in models.aligned.tensors.values()),
            peak_memory_bytes=resident_memory()[0] + sum(sorted(map(memory_of, matrices))[-team:]),
            disk_bytes=plan_layout(models.aligned, dtype).size_bytes + others,
            workers=team,
        )


def _carried_records(carried: Sequence[Carried]) -> tuple[CarriedRecord, ...]:
    return tuple(CarriedRecord(name=item.name, reason=item.reason) for item in carried)


class _Clock:
    """Wall time by phase, from the start of the process."""

    def __init__(self) -> None:
        self.seconds = {"startup": process_age()}
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] = now - self._last
        self._last = now


@dataclass(frozen=True)
class _Item:
    """One unit of work: a matrix to extrapolate, or a tensor to carry."""

    label: str
    tensor: str
    matrix: Matrix | None


@dataclass(frozen=True)
class _Job:
    models: Pair
    method: Lox
    record: MethodRecord
    layout: Layout
    device: torch.device

    def fingerprint(self) -> str:
        """Names everything that the bytes of the result depend on."""
        aligned, base = self.models.aligned, self.models.base
        sources = [base.base_identity(), aligned.base_identity()]
        for model in (base, aligned):
            if model.adapter is not None:
                status = model.adapter.file.stat()
                sources.append(f"{model.adapter.folder} {status.st_ino} {status.st_size} {status.st_mtime_ns}")
        maps = [m.row_map.numpy().tobytes() for m in self.models.pairing.matrices if m.row_map is not None]
        what = {
            "safelox": safelox.__version__,
            "environment": environment(self.device).model_dump(),
            "method": self.record.model_dump(),
            "sources": sources,
            "matrices": [matrix.label for matrix in self.models.pairing.matrices],
            "row_maps": [hashlib.sha256(row_map).hexdigest() for row_map in maps],
        }
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    def run(self, target: Target, workers: int, progress: Progress) -> None:
        """Write every tensor that an earlier run has not written yet, in the order of the files."""
        pairing = self.models.pairing
        items = [_Item(matrix.label, matrix.name, matrix) for matrix in pairing.matrices]
        items += [_Item(carried.name, carried.name, None) for carried in pairing.carried]
        items.sort(key=self._position)
        todo = [item for item in items if item.label not in target.done]
        with progress.task("harden", sum(map(self._size, todo)), "B") as task:

            def work(item: _Item) -> None:
                if item.matrix is None:
                    self._carry(target, item.label)
                else:
                    self._harden(target, item.matrix)
                task.advance(self._size(item), item.label)

            run_side_by_side(todo, work, workers)

    def finish(self, target: Target, sources: tuple[SourceRecord, SourceRecord], command: str) -> Manifest:
        """Copy everything that is not weights, write index, model card and manifest, and give the folder its name."""
        for name, path in self.models.aligned.other_files().items():
            target.copy(path, name)
        if self.layout.index is not None:
            target.put(*self.layout.index)
        if self.record.dtype is not None:
            _set_dtype(target.folder / "config.json", self.record.dtype)
        records = [MatrixRecord.model_validate(target.records[matrix.label]) for matrix in self.models.pairing.matrices]
        manifest = Manifest(
            format=FORMAT,
            safelox=safelox.__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=command,
            kind="model",
            method=self.record,
            base=sources[0],
            aligned=sources[1],
            matrices=tuple(records),
            carried=_carried_records(self.models.pairing.carried),
            notes=self.models.pairing.notes,
            files={},
            environment=environment(self.device),
        )
        card_note = write_card(target.folder, manifest)
        notes = manifest.notes if card_note is None else (*manifest.notes, card_note)

        def last(hashes: dict[str, FileHash]) -> None:
            nonlocal manifest
            files = {name: FileRecord(bytes=entry.bytes, sha256=entry.sha256) for name, entry in hashes.items()}
            manifest = manifest.model_copy(update={"files": files, "notes": notes})
            manifest.write(target.folder)

        target.finish(last)
        return manifest

    def _harden(self, target: Target, matrix: Matrix) -> None:
        place = self.layout.places[matrix.name]
        dtype = DTYPES[place.dtype]
        row_bytes = matrix.columns * dtype.itemsize
        first = place.start + matrix.start * row_bytes

        def write(row: int, rows: torch.Tensor) -> None:
            target.write(place.file, first + row * row_bytes, as_bytes(rows))

        delta = DeltaRows(self.models.base, self.models.aligned, matrix, self.device)
        record = extrapolate(self.models, delta, self.method, self.record.seed, dtype, write)
        delta.release()
        target.complete(
            matrix.label, record.model_dump(mode="json"), [(place.file, first, first + matrix.rows * row_bytes)]
        )

    def _carry(self, target: Target, name: str) -> None:
        """Write a tensor as it is in ALIGNED."""
        aligned, place = self.models.aligned, self.layout.places[name]
        if (
            aligned.tensors[name] == aligned.stored[name]
            and aligned.lora(name) is None
            and place.dtype == aligned.stored[name].dtype
        ):
            size = place.stop - place.start
            for start in range(0, size, COPY_BYTES):
                piece = aligned.stored_bytes(name, start, min(start + COPY_BYTES, size))
                target.write(place.file, place.start + start, as_bytes(piece))
        else:
            dtype = DTYPES[place.dtype]
            rows, columns = aligned.tensors[name].matrix_shape
            for start, stop in block_bounds(rows, columns):
                piece = aligned.rows(name, start, stop).to(dtype)
                target.write(place.file, place.start + start * columns * dtype.itemsize, as_bytes(piece))
        aligned.release(name)
        target.complete(name, {}, [(place.file, place.start, place.stop)] if place.stop > place.start else [])

    def _position(self, item: _Item) -> tuple[int, int]:
        place = self.layout.places[item.tensor]
        return place.file, place.start + (item.matrix.start if item.matrix else 0)

    def _size(self, item: _Item) -> int:
        if item.matrix is not None:
            return item.matrix.rows * item.matrix.columns
        return math.prod(self.models.aligned.tensors[item.tensor].shape)


def as_bytes(values: torch.Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, without a copy."""
    flat: memoryview = values.reshape(-1).view(torch.uint8).numpy().data
    return flat


def _set_dtype(config: Path, dtype: str) -> None:
    """Make config.json say the dtype that the weights now have."""
    content: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
    name = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[dtype]
    for key in ("dtype", "torch_dtype"):
        if key in content:
            content[key] = name
    config.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _source_folders(models: Pair) -> list[Path]:
    folders = [models.base.folder, models.aligned.folder]
    return folders + [model.adapter.folder for model in (models.base, models.aligned) if model.adapter is not None]
