"""The tensors of a hardened model: that each is accounted for, is finite, and stayed as aligned where it should."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from safelox.checkpoint import DTYPES, Checkpoint, TensorInfo
from safelox.manifest import Manifest, MatrixRecord
from safelox.progress import Progress
from safelox.verification.report import Check, check

_BLOCK_ENTRIES = 1 << 22

ReadRows = Callable[[TensorInfo, int, int], Tensor]
"""Rows start..stop of a tensor, as stored."""
ReleaseRows = Callable[[TensorInfo, int, int], None]
"""Says that these rows need not stay in memory."""


def check_coverage(result: Checkpoint, manifest: Manifest) -> Check:
    """Whether each tensor is either extrapolated, with matching shapes, or carried, and nothing is recorded in vain."""
    extrapolated: dict[str, list[MatrixRecord]] = {}
    for record in manifest.matrices:
        extrapolated.setdefault(record.name, []).append(record)
    carried = {record.name for record in manifest.carried}
    problems = []
    for name in sorted(result.tensors.keys() | extrapolated.keys() | carried):
        if name not in result.tensors:
            problems.append(f"{name} is in the manifest but in no weights file")
        elif name not in extrapolated and name not in carried:
            problems.append(f"{name} is in the weights but not in the manifest")
        elif name in extrapolated and name in carried:
            problems.append(f"{name} is recorded both as extrapolated and as kept")
        elif name in extrapolated:
            problems += _shape_problems(result.tensors[name], extrapolated[name])
    parts = f"{len(extrapolated)} tensors extrapolated and {len(carried)} kept as aligned"
    return check("coverage", problems, f"{parts}: all of the model's")


def _shape_problems(tensor: TensorInfo, records: list[MatrixRecord]) -> list[str]:
    """Whether the matrices recorded for a tensor make up the whole of it, each expert once."""
    experts = [record.expert for record in records]
    expected = [None] if len(records) == 1 and experts == [None] else list(range(len(records)))
    if experts != expected:
        return [f"{tensor.name}: its matrices are recorded as experts {experts}"]
    rows, columns = sum(record.rows for record in records), records[0].columns
    if (rows, columns) != tensor.matrix_shape or any(record.columns != columns for record in records):
        stored = " x ".join(map(str, tensor.matrix_shape))
        return [f"{tensor.name} is {stored} in the weights and {rows} x {columns} in the manifest"]
    return []


def check_finite(tensors: Iterable[TensorInfo], read: ReadRows, release: ReleaseRows, progress: Progress) -> Check:
    """Whether every floating-point value is finite."""
    floating = [tensor for tensor in tensors if _is_floating(tensor)]
    problems = []
    with progress.task("check values", sum(tensor.nbytes for tensor in floating), "B") as task:
        for tensor in floating:
            wrong = 0
            for start, stop in row_blocks(tensor):
                values = read(tensor, start, stop)
                # Not every 8-bit type knows isfinite.
                values = values.to(torch.float32) if values.dtype.itemsize == 1 else values
                wrong += values.numel() - int(torch.isfinite(values).sum())
                release(tensor, start, stop)
            task.advance(tensor.nbytes, tensor.name)
            if wrong:
                problems.append(f"{tensor.name}: {wrong} values are NaN or infinite")
    return check("finite", problems, f"all values of {len(floating)} tensors")


def check_carried(result: Checkpoint, aligned: Checkpoint, manifest: Manifest, progress: Progress) -> Check:
    """Whether the tensors that were not extrapolated have ALIGNED's bytes, or its values in the data type asked for."""
    problems = []
    names = [record.name for record in manifest.carried if record.name in result.tensors]
    total = sum(result.tensors[name].nbytes for name in names)
    with progress.task("compare kept tensors", total, "B") as task:
        for name in names:
            problem = _difference(result, aligned, name)
            task.advance(result.tensors[name].nbytes, name)
            if problem is not None:
                problems.append(f"{name} {problem}")
    return check("kept tensors", problems, f"{len(names)} tensors are equal to ALIGNED's")


def _difference(result: Checkpoint, aligned: Checkpoint, name: str) -> str | None:
    if name not in aligned.tensors:
        return "is not in ALIGNED"
    here, there = result.tensors[name], aligned.tensors[name]
    if here.shape != there.shape:
        return f"has the shape {here.shape}, in ALIGNED {there.shape}"
    if here.dtype not in DTYPES:  # torch cannot read it, so that it can only have been copied
        equal = torch.equal(result.stored_bytes(name), aligned.stored_bytes(name))
        return None if equal else "differs from ALIGNED's"
    for start, stop in row_blocks(here):
        ours = result.rows(name, start, stop)
        theirs = aligned.rows(name, start, stop).to(ours.dtype)
        if not torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8)):
            return "differs from ALIGNED's"
        result.release(name, start, stop)
        aligned.release(name, start, stop)
    return None


def _is_floating(tensor: TensorInfo) -> bool:
    return tensor.dtype in DTYPES and (DTYPES[tensor.dtype].is_floating_point or DTYPES[tensor.dtype].is_complex)


def row_blocks(tensor: TensorInfo) -> Iterator[tuple[int, int]]:
    """Bounds of blocks of rows that together are the tensor, each small enough for any machine."""
    rows, columns = tensor.matrix_shape
    height = max(1, _BLOCK_ENTRIES // max(1, columns))
    return ((start, min(start + height, rows)) for start in range(0, rows, height))
