"""What a job writes: the protocol that the main job drives, and its first member, a whole hardened model."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from safelox.checkpoint import DTYPES
from safelox.delta import DeltaRows
from safelox.engine import Decompose, Pair
from safelox.extrapolation import extrapolate, too_large
from safelox.layout import plan_layout
from safelox.lowrank import block_bounds
from safelox.methods import Lox
from safelox.pairing import Matrix
from safelox.writer import FilePlan, Target

COPY_BYTES = 8 << 20


@dataclass(frozen=True)
class Item:
    """One unit of work: a matrix to extrapolate, or a tensor to carry."""

    label: str
    tensor: str
    matrix: Matrix | None
    parameters: int


def matrix_item(matrix: Matrix) -> Item:
    return Item(matrix.label, matrix.name, matrix, matrix.rows * matrix.columns)


class Output(Protocol):
    """A kind of result: which files it has, and how each item is written into them."""

    @property
    def kind(self) -> Literal["model", "adapter"]: ...

    @property
    def models(self) -> Pair:
        """The pair, with the plan as this kind of result can carry it out."""

    @property
    def files(self) -> Sequence[FilePlan]:
        """The weights files."""

    @property
    def items(self) -> Sequence[Item]:
        """The units of work, in the order of their bytes."""

    def write(self, item: Item, target: Target) -> None:
        """Write one item and complete it, a matrix with the dump of its MatrixRecord. Called from several threads."""

    def add_other_files(self, target: Target) -> None:
        """Put everything in place that is neither weights nor model card nor manifest."""


class ModelOutput:
    """ALIGNED's folder again, with the hardened weights."""

    kind: Literal["model", "adapter"] = "model"

    def __init__(
        self, models: Pair, method: Lox, decompose: Decompose, device: torch.device, dtype: str | None = None
    ) -> None:
        self.models = models
        self.method = method
        self.decompose = decompose
        self.device = device
        self.dtype = dtype
        self.layout = plan_layout(models.aligned, dtype)
        self.files = self.layout.files
        sizes = {name: math.prod(info.shape) for name, info in models.aligned.tensors.items()}
        items = [matrix_item(matrix) for matrix in models.pairing.matrices]
        items += [Item(carried.name, carried.name, None, sizes[carried.name]) for carried in models.pairing.carried]
        self.items = sorted(items, key=self._position)

    def write(self, item: Item, target: Target) -> None:
        if item.matrix is None:
            self._carry(item.tensor, target)
        else:
            self._harden(item.matrix, target)

    def add_other_files(self, target: Target) -> None:
        for name, path in self.models.aligned.other_files().items():
            target.copy(path, name)
        if self.layout.index is not None:
            target.put(*self.layout.index)
        if self.dtype is not None:
            _set_dtype(target.folder / "config.json", self.dtype)

    def _harden(self, matrix: Matrix, target: Target) -> None:
        place = self.layout.places[matrix.name]
        dtype = DTYPES[place.dtype]
        row_bytes = matrix.columns * dtype.itemsize
        first = place.start + matrix.start * row_bytes

        def write(row: int, rows: torch.Tensor) -> None:
            target.write(place.file, first + row * row_bytes, as_bytes(rows))

        delta = DeltaRows(self.models.base, self.models.aligned, matrix, self.device)
        record = extrapolate(delta, self.method, self.decompose, dtype, write)
        delta.release()
        spans = [(place.file, first, first + matrix.rows * row_bytes)]
        target.complete(matrix.label, record.model_dump(mode="json"), spans)

    def _carry(self, name: str, target: Target) -> None:
        """Write a tensor as it is in ALIGNED."""
        aligned, place = self.models.aligned, self.layout.places[name]
        stored = aligned.stored[name]
        if aligned.tensors[name] == stored and aligned.lora(name) is None and place.dtype == stored.dtype:
            for start in range(0, stored.nbytes, COPY_BYTES):
                piece = aligned.stored_bytes(name, start, min(start + COPY_BYTES, stored.nbytes))
                target.write(place.file, place.start + start, as_bytes(piece))
        else:
            dtype = DTYPES[place.dtype]
            rows, columns = aligned.tensors[name].matrix_shape
            for start, stop in block_bounds(rows, columns):
                piece = _converted(aligned.rows(name, start, stop), dtype, name)
                target.write(place.file, place.start + start * columns * dtype.itemsize, as_bytes(piece))
        aligned.release(name)
        target.complete(name, {}, [(place.file, place.start, place.stop)] if place.stop > place.start else [])

    def _position(self, item: Item) -> tuple[int, int, int]:
        place = self.layout.places[item.tensor]
        return place.file, place.start, item.matrix.start if item.matrix else 0


def as_bytes(values: torch.Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, without a copy."""
    flat: memoryview = values.reshape(-1).view(torch.uint8).numpy().data
    return flat


def _converted(values: torch.Tensor, dtype: torch.dtype, label: str) -> torch.Tensor:
    """Values in another dtype; NaN and infinity stay what they are.

    Raises:
        CheckpointError: a finite value is too large for the dtype.
    """
    converted = values.to(dtype)
    if not bool((converted.isfinite() | ~values.isfinite()).all()):
        raise too_large(label, dtype)
    return converted


def _set_dtype(config: Path, dtype: str) -> None:
    """Make config.json say the dtype that the weights now have, in its parts (such as text_config) too."""
    name = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[dtype]
    content: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
    for part in (content, *(value for value in content.values() if isinstance(value, dict))):
        part.update({key: name for key in ("dtype", "torch_dtype") if key in part})
    config.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
