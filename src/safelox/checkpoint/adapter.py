"""A PEFT LoRA adapter over a model, read as exact low-rank deltas of the model's stored matrices.

An adapter folder holds, per adapted module, two thin factors A (rank, in) and B (out, rank) under PEFT's own names,
and possibly whole tensors: `modules_to_save`, trained biases, embeddings. Each is matched to the tensor of the
base that it changes; what matches nothing is an error, so nothing is silently dropped.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from safelox.checkpoint.adapter_config import read_adapter_config
from safelox.checkpoint.folder import PICKLE_HINT
from safelox.checkpoint.header import TensorInfo, inspect_header, refuse
from safelox.checkpoint.matching import StoredFactors, match_adapter
from safelox.checkpoint.pickled import read_pickled
from safelox.checkpoint.values import Values


@dataclass(frozen=True)
class LoraFactors:
    """The delta of one stored tensor, seen as a matrix (rows, columns): scale * b @ a."""

    a: Tensor
    """(rank, columns), fp32."""
    b: Tensor
    """(rows, rank), fp32; only the rows that were asked for."""
    scale: float


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter, matched to the tensors of its base."""

    reference: str
    folder: Path
    commit: str | None
    """Of the hub, if the adapter came from there."""
    file: Path
    """Its weights."""
    replaced: Mapping[str, TensorInfo]
    """Tensors of the base that the adapter replaces as a whole -> where their values are."""
    factors: Mapping[str, StoredFactors] = field(repr=False)
    """Tensors of the base that get a low-rank delta, in addition to being replaced if they are that too."""
    values: Values = field(repr=False)

    def lora(self, name: str, start: int = 0, stop: int | None = None) -> LoraFactors | None:
        """The delta of rows start..stop of the stored tensor of this name; None if the adapter has none."""
        if name not in self.factors:
            return None
        factors = self.factors[name]
        right = self.values.rows(factors.right)
        if factors.left is None:
            left = torch.ones(1, 1)[start:stop]
        elif factors.transposed:
            left, right = self.values.rows(factors.left)[:, start:stop].T, right.T
        else:
            left = self.values.rows(factors.left, start, stop)
        a, b = (matrix.to(torch.float32).contiguous() for matrix in (right, left))
        return LoraFactors(a=a, b=b, scale=factors.scale)


def read_adapter(
    reference: str,
    folder: Path,
    commit: str | None,
    *,
    base: Mapping[str, TensorInfo],
    base_values: Values,
    base_config: Mapping[str, Any],
    allow_pickle: bool,
) -> Adapter:
    """Read an adapter folder and match it to the tensors of its base.

    Only headers are read, except that values are compared where the adapter stores something twice.

    Raises:
        CheckpointError: with everything that is wrong with the adapter, or that keeps it from being a low-rank
            delta of this base.
    """
    values = Values()
    config, problems = read_adapter_config(folder / "adapter_config.json")
    file, tensors, more = _read_tensors(folder, values, allow_pickle)
    refuse(reference, problems + more)
    assert config is not None
    matching = match_adapter(config, tensors, values, base=base, base_values=base_values, base_config=base_config)
    refuse(reference, matching.problems)
    return Adapter(reference, folder, commit, file, matching.replaced, matching.factors, values)


def _read_tensors(folder: Path, values: Values, allow_pickle: bool) -> tuple[Path, dict[str, TensorInfo], list[str]]:
    """The adapter's file, its tensors by PEFT's names, and what is wrong with it."""
    file, pickled = folder / "adapter_model.safetensors", folder / "adapter_model.bin"
    if not file.exists() and pickled.exists() and not allow_pickle:
        return pickled, {}, [f"no adapter_model.safetensors, only adapter_model.bin. {PICKLE_HINT}"]
    if not file.exists() and pickled.exists():
        shard, tensors, problems = read_pickled(pickled, tied=False)
        values.hold(pickled, tensors)
    else:
        shard, problems = inspect_header(file)
    return (
        shard.path if shard else file,
        {info.name: info for info in shard.tensors} if shard else {},
        problems,
    )
