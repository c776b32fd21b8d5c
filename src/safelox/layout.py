"""Where each tensor of the hardened model goes: ALIGNED's own files again, the same but for the values."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safelox.checkpoint import DTYPES, Checkpoint, Shard, build_header
from safelox.checkpoint.header import size_in_bytes
from safelox.errors import UsageError
from safelox.writer import FilePlan

REQUESTED_DTYPES = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
"""What `--dtype` calls them, and the safetensors format."""


@dataclass(frozen=True)
class Place:
    """Where one tensor is written, and in which dtype."""

    file: int
    start: int
    """First byte, from the beginning of the file."""
    stop: int
    dtype: str
    """Name in the safetensors format."""


@dataclass(frozen=True)
class Layout:
    """The weights files of the result."""

    files: tuple[FilePlan, ...]
    places: Mapping[str, Place]
    index: tuple[str, bytes] | None
    """Name and content of the index; None for a model in one file."""

    @property
    def size_bytes(self) -> int:
        return sum(file.size for file in self.files)


def check_dtype(dtype: str | None) -> None:
    """Raise UsageError unless the result can be asked for in this dtype."""
    if dtype is not None and dtype not in REQUESTED_DTYPES:
        raise UsageError(f"dtype {dtype!r}: expected one of {', '.join(REQUESTED_DTYPES)}.")


def plan_layout(aligned: Checkpoint, dtype: str | None) -> Layout:
    """ALIGNED's files with ALIGNED's very headers, unless another dtype is asked for.

    Args:
        dtype: "bf16", "fp16" or "fp32" for all floating tensors, or None to keep each as it is stored.
    """
    files: list[FilePlan] = []
    places: dict[str, Place] = {}
    for number, shard in enumerate(aligned.shards):
        wanted = [(t.name, _output_dtype(t.dtype, dtype), t.shape) for t in shard.tensors]
        same = wanted == [(t.name, t.dtype, t.shape) for t in shard.tensors]
        header = shard.header if same else build_header(wanted, _metadata(shard))
        position = len(header)
        for (name, kind, shape), stored in zip(wanted, shard.tensors, strict=True):
            size = stored.nbytes if same else size_in_bytes(kind, shape)
            assert size is not None, f"{name}: a {kind} of shape {shape} does not fill whole bytes"
            places[name] = Place(number, position, position + size, kind)
            position += size
        files.append(FilePlan(shard.name, header, position))
    return Layout(tuple(files), places, _index(aligned, files, places))


def _output_dtype(stored: str, requested: str | None) -> str:
    floating = stored in DTYPES and DTYPES[stored].is_floating_point and DTYPES[stored].itemsize > 1
    return REQUESTED_DTYPES[requested] if requested and floating else stored


def _metadata(shard: Shard) -> dict[str, str] | None:
    entries: dict[str, Any] = json.loads(shard.header[8:])
    return entries.get("__metadata__")


def _index(aligned: Checkpoint, files: list[FilePlan], places: Mapping[str, Place]) -> tuple[str, bytes] | None:
    existing = sorted(aligned.folder.glob("*.safetensors.index.json"))
    if not existing and len(files) == 1:
        return None
    name = existing[0].name if existing else "model.safetensors.index.json"
    content = existing[0].read_bytes() if existing else b"{}"
    index: dict[str, Any] = json.loads(content)
    weight_map = {tensor: files[place.file].name for tensor, place in places.items()}
    if (
        existing
        and index.get("weight_map") == weight_map
        and all(file.header == shard.header for file, shard in zip(files, aligned.shards, strict=True))
    ):
        return name, content
    index["metadata"] = index.get("metadata", {}) | {
        "total_size": sum(place.stop - place.start for place in places.values())
    }
    index["weight_map"] = weight_map
    return name, json.dumps(index, indent=2, sort_keys=True).encode() + b"\n"
