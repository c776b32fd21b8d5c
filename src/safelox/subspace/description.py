"""What a subspace file says of itself, and where each of its tensors lies."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from safelox.checkpoint import TensorInfo, build_header, read_header
from safelox.checkpoint.header import LONGEST_HEADER, parse_json, size_in_bytes
from safelox.errors import CheckpointError
from safelox.manifest import Environment, Record, SourceRecord
from safelox.pairing.matrices import numbered

FORMAT = 1
KEY = "safelox_subspace"
"""The entry of the file's metadata that holds its description."""
WIDEST_NUMBER = -sys.float_info.min
"""A number that takes as many characters as any."""
SPECTRUM_ROWS = 3


class Options(Record):
    rank: int
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    embeddings: bool
    vocab: Literal["error", "common"]
    seed: int


class Outcome(Record):
    """What is known about one matrix once it is decomposed."""

    route: Literal["krylov", "gram", "svd", "factors"]
    energy: float
    """||D||_F^2, as the decomposition measured it."""
    captured: float
    lost_bound: float
    update_error_bound: float | None
    """These three are those of all k directions."""
    failure_probability: float
    sweeps: int
    delta_norm: float
    """Frobenius norm of the delta, summed in fp64."""
    weight_norm: float
    sample: tuple[float, ...]
    """See `content.sample`."""
    sha256: str
    """Of the bytes of spectrum, left and right."""


class Entry(Record):
    """One matrix."""

    name: str
    expert: int | None
    rows: int
    columns: int
    base_name: str
    row_map: str | None
    """SHA-256 of the rows of BASE that ALIGNED's are compared with, where their order differs."""
    kept: int
    """Number of directions, k: the rank asked for, or as many as the matrix has."""
    outcome: Outcome

    @property
    def label(self) -> str:
        return numbered(self.name, self.expert)


class Description(Record):
    format: int
    safelox: str
    options: Options
    environment: Environment
    base: SourceRecord
    aligned: SourceRecord
    matrices: tuple[Entry, ...]


def widest_outcome(samples: int) -> Outcome:
    """The outcome that takes the most room in a description."""
    return Outcome(
        route="factors",
        energy=WIDEST_NUMBER,
        captured=WIDEST_NUMBER,
        lost_bound=WIDEST_NUMBER,
        update_error_bound=WIDEST_NUMBER,
        failure_probability=WIDEST_NUMBER,
        sweeps=999_999,
        delta_norm=WIDEST_NUMBER,
        weight_norm=WIDEST_NUMBER,
        sample=(WIDEST_NUMBER,) * samples,
        sha256="0" * 64,
    )


@dataclass(frozen=True)
class Layout:
    """Where everything lies, known before the work: the header has room for every possible outcome."""

    header_size: int
    starts: Mapping[str, int]
    """Name of a tensor -> its first byte, from the beginning of the file."""
    size: int


def tensors_of(entries: Sequence[Entry]) -> list[tuple[str, str, tuple[int, ...]]]:
    """(name, dtype, shape) of all tensors in the order of their bytes; spectra first, so that all are aligned."""
    tensors: list[tuple[str, str, tuple[int, ...]]] = []
    tensors += [(f"{entry.label}.spectrum", "F64", (SPECTRUM_ROWS, entry.kept)) for entry in entries]
    for entry in entries:
        tensors.append((f"{entry.label}.left", "F32", (entry.rows, entry.kept)))
        tensors.append((f"{entry.label}.right", "F32", (entry.kept, entry.columns)))
    return tensors


def payload_bytes(entries: Sequence[Entry]) -> int:
    """Bytes of all tensors."""
    return sum(size_in_bytes(dtype, shape) or 0 for _, dtype, shape in tensors_of(entries))


def plan_layout(description: Description) -> Layout:
    """The layout of the file, from a description whose outcomes are the widest."""
    header_size = len(_header(description))
    starts, position = {}, header_size
    for name, dtype, shape in tensors_of(description.matrices):
        starts[name] = position
        position += size_in_bytes(dtype, shape) or 0
    return Layout(header_size, starts, position)


def padded_header(description: Description, size: int) -> bytes:
    """The file's first bytes, filled up with spaces as the format allows."""
    header = _header(description)
    assert len(header) <= size, "the outcomes need more room than was left for them"
    return (size - 8).to_bytes(8, "little") + header[8:].ljust(size - 8)


def unfinished_header() -> bytes:
    """What a file begins with that is still being written: enough to know it by, too little to read it."""
    return build_header([], {KEY: "unfinished"})


def _header(description: Description) -> bytes:
    return build_header(tensors_of(description.matrices), {KEY: description.model_dump_json()})


def is_subspace(path: Path) -> bool:
    """Whether a file is a subspace file, be it damaged or unfinished."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header, _ = parse_json(stream.read(length) if length <= LONGEST_HEADER else b"")
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    return isinstance(metadata, dict) and KEY in metadata


def read_description(path: Path) -> tuple[Description, dict[str, TensorInfo]]:
    """What a subspace file says, and its tensors by name.

    Raises:
        CheckpointError: it is none, it is damaged, or it is one of another version.
    """
    shard = read_header(path)
    text = (json.loads(shard.header[8:]).get("__metadata__") or {}).get(KEY)
    if text is None:
        raise CheckpointError(
            f"{path}: a safetensors file, but no safety subspace. Give the file that `safelox decompose` wrote."
        )
    content, problems = parse_json(text.encode())
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT and not problems:
        raise CheckpointError(
            f"{path}: a subspace file of format {found}, while this version of safelox reads format {FORMAT}. "
            "Decompose again."
        )
    try:
        description = Description.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "its description"
        raise CheckpointError(
            f"{path}: the subspace file is damaged: {where}: {first['msg']}. Decompose again."
        ) from error
    described = sorted(tensors_of(description.matrices))
    if described != sorted((tensor.name, tensor.dtype, tensor.shape) for tensor in shard.tensors):
        raise CheckpointError(f"{path}: the subspace file is damaged: it holds other tensors than it describes.")
    return description, {tensor.name: tensor for tensor in shard.tensors}
