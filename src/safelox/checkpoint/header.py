"""The header of a safetensors file: what it promises about the tensors, and whether the file can keep it.

A file is an 8-byte little-endian length, a JSON header of that length, and the values, one tensor after the other
without holes. Everything that can be wrong with it is found here without reading a single value.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch

from safelox.errors import CheckpointError

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
"""Names of the safetensors format and what torch calls them."""

DTYPE_NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}

BITS: dict[str, int] = {name: 8 * dtype.itemsize for name, dtype in DTYPES.items()} | {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}
"""Size of one value, also of those packed types of the format that torch has no dtype for."""

LONGEST_HEADER = 100_000_000
"""The format's own limit, in bytes."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor as its file's header describes it."""

    name: str
    dtype: str
    """Name in the safetensors format, a key of DTYPES where torch knows it."""
    shape: tuple[int, ...]
    file: Path
    start: int
    """First byte of the values, from the beginning of the file (`Shard.pickled` says when this is not so)."""
    stop: int

    @property
    def nbytes(self) -> int:
        return self.stop - self.start

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """(rows, columns) with all leading dimensions taken together; a vector is one row, a scalar is (1, 1)."""
        columns = self.shape[-1] if self.shape else 1
        rows = 1
        for size in self.shape[:-1]:
            rows *= size
        return rows, columns


@dataclass(frozen=True)
class Shard:
    """One weights file."""

    name: str
    """File name inside the model's folder, as a safetensors file."""
    path: Path
    header: bytes
    """The raw first bytes, length field included; the values follow at once."""
    tensors: tuple[TensorInfo, ...]
    """In the order of their bytes."""
    pickled: bool = False
    """Read from PyTorch's .bin: then the header and the offsets describe the safetensors file that would hold these
    values, while `path` holds other bytes, so that values are to be had from the checkpoint only."""


def read_header(path: Path) -> Shard:
    """Read the header of one safetensors file.

    Raises:
        CheckpointError: with everything that is wrong with the header or the length of the file.
    """
    shard, problems = inspect_header(path)
    refuse(str(path), problems)
    assert shard is not None
    return shard


def inspect_header(path: Path) -> tuple[Shard | None, list[str]]:
    """The shard as far as its header can be understood, and all problems, each naming the file and the tensor."""
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            first = stream.read(8)
            length = int.from_bytes(first, "little")
            fits = len(first) == 8 and length <= min(size - 8, LONGEST_HEADER)
            raw = stream.read(length if fits else 120)
    except OSError as error:
        return None, [f"{path.name}: cannot be read: {error.strerror or error}"]
    if not fits:
        return None, [f"{path.name}: {_not_safetensors(size, first, length, raw)}"]
    entries, problems = parse_json(raw)
    if not isinstance(entries, dict):
        problems = problems or [f"is a JSON {type(entries).__name__}, an object was expected"]
        return None, [f"{path.name}: the header {problem}" for problem in problems]
    tensors: list[TensorInfo] = []
    problems = [f"the header {problem}" for problem in problems]
    metadata = entries.pop("__metadata__", None) or {}
    for name, entry in entries.items():
        found = _read_entry(name, entry, path, 8 + length)
        if isinstance(found, TensorInfo):
            tensors.append(found)
        else:
            problems.append(f"tensor {name}: {found}")
    tensors.sort(key=lambda tensor: (tensor.start, tensor.stop))
    if not problems:  # otherwise each missing entry would show up as a hole once more
        problems = _check_layout(tensors, 8 + length, size)
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        problems.append("__metadata__ is not an object of strings")
    shard = Shard(path.name, path, first + raw, tuple(tensors))
    return shard, [f"{path.name}: {problem}" for problem in problems]


def build_header(
    tensors: Sequence[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """The first bytes of a safetensors file whose values follow in the given order without holes.

    Padded with spaces to a multiple of 8 bytes as the safetensors library does, so that the values are aligned.

    tensors: (name, dtype in the format's names, shape) of each.
    metadata: the file's `__metadata__`, left out if None.
    """
    entries: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    position = 0
    for name, dtype, shape in tensors:
        nbytes = size_in_bytes(dtype, shape)
        assert nbytes is not None, f"{name}: a {dtype} of shape {shape} does not fill whole bytes"
        entries[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [position, position + nbytes],
        }
        position += nbytes
    raw = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw


def size_in_bytes(dtype: str, shape: Sequence[int]) -> int | None:
    """Bytes that such a tensor takes; None for a dtype that is not known, or where they are no whole number."""
    if dtype not in BITS:
        return None
    bits = BITS[dtype]
    for size in shape:
        bits *= size
    return None if bits % 8 else bits // 8


def parse_json(raw: bytes) -> tuple[Any, list[str]]:
    """The JSON value (None if there is none) and what is wrong with it, keys that occur twice included."""
    twice: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            twice.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        return values

    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        return None, [f"is not JSON: {error}"]
    return value, [f"names {key} twice" for key in twice]


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def refuse(what: str, problems: Sequence[str]) -> None:
    """Raise a CheckpointError that lists all problems, if there are any."""
    if len(problems) == 1:
        raise CheckpointError(f"{what}: {problems[0]}")
    if problems:
        lines = "".join(f"\n  - {problem}" for problem in problems)
        raise CheckpointError(f"{what}: {len(problems)} problems{lines}")


def _not_safetensors(size: int, first: bytes, length: int, following: bytes) -> str:
    """Why a file whose length field does not fit is none."""
    if size == 0:
        return "the file is empty; copy or download it again"
    if (first + following).startswith(b"version https://git-lfs"):
        return "this is a git-lfs pointer, not the weights themselves; run `git lfs pull` in the folder"
    if size < 8:
        return f"the file has only {size} bytes, no safetensors file; copy or download it again"
    return (
        f"the first 8 bytes announce a header of {length} bytes, but {size - 8} bytes follow: "
        "the file is truncated or no safetensors file; copy or download it again"
    )


def _read_entry(name: str, entry: object, path: Path, base: int) -> TensorInfo | str:
    """One entry of the header, or what is wrong with it. Offsets in the header count from `base`."""
    if not isinstance(entry, dict):
        return "its header entry is not an object"
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str):
        return f"its dtype is {dtype!r}, a name was expected"
    if not _are_sizes(shape):
        return f"its shape is {shape!r}, a list of sizes was expected"
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        return f"its data_offsets are {offsets!r}, two rising positions were expected"
    start, stop = offsets
    expected = size_in_bytes(dtype, shape)
    if dtype in BITS and expected != stop - start:
        takes = "no whole number of" if expected is None else expected
        return f"{dtype} of shape {tuple(shape)} takes {takes} bytes, but its data_offsets span {stop - start}"
    return TensorInfo(name, dtype, tuple(shape), path, base + start, base + stop)


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)


def _check_layout(tensors: list[TensorInfo], base: int, size: int) -> list[str]:
    """Whether the tensors, sorted by their bytes, fill the file from `base` to `size` exactly."""
    problems = []
    position, previous = base, "the header"
    for tensor in tensors:
        if tensor.start > position:
            problems.append(
                f"{tensor.start - position} bytes between {previous} and tensor {tensor.name} belong to nothing"
            )
        elif tensor.start < position:
            problems.append(f"tensor {tensor.name} overlaps with {previous} by {position - tensor.start} bytes")
        position, previous = max(position, tensor.stop), f"tensor {tensor.name}"
    cut = [tensor.name for tensor in tensors if tensor.stop > size]
    if cut:
        problems.append(
            f"the file is truncated: {size} bytes, but its header describes {position}; "
            f"values are missing of {listed(cut)}; copy or download it again"
        )
    elif position < size:
        problems.append(f"{size - position} bytes after {previous} belong to nothing")
    return problems
