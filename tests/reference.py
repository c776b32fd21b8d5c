"""What hardening should give, computed plainly: full SVD in fp64 of every delta, all of the model in memory.

Also the pairs of tensors that this is tried on, and ways to look at a folder as a whole.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from tiny import write_checkpoint

Rank = int | Literal["full"]

INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16}
"""Integers as wide as a floating-point value of so many bytes."""


def rank_part(delta: Tensor, rank: Rank) -> Tensor:
    """U_k S_k V_k^T of an fp64 matrix; the matrix itself for "full" or where it has no more directions."""
    if rank == "full" or min(delta.shape) <= rank:
        return delta
    U, S, Vh = torch.linalg.svd(delta, full_matrices=False)
    part: Tensor = (U[:, :rank] * S[:rank]) @ Vh[:rank]
    return part


def extrapolated(base: Tensor, aligned: Tensor, rank: Rank, coef: float) -> Tensor:
    """W_aligned + coef * (rank-k part of W_aligned - W_base), in fp64."""
    return aligned.double() + coef * rank_part(aligned.double() - base.double(), rank)


def steps(one: Tensor, other: Tensor) -> Tensor:
    """How many values of their dtype lie between two tensors, entry by entry; -0.0 and 0.0 are one value."""
    return (_ordinal(one) - _ordinal(other)).abs()


def _ordinal(values: Tensor) -> Tensor:
    integers = INTEGERS[values.element_size()]
    bits = values.contiguous().view(integers).to(torch.int64)
    return torch.where(bits < 0, torch.iinfo(integers).min - bits, bits)


def spacing(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance, in fp64, of values of this size to the next ones of the dtype."""
    finfo = torch.finfo(dtype)
    exponent = torch.frexp(values.double().abs().clamp(min=finfo.tiny)).exponent - 1
    return finfo.eps * torch.exp2(exponent.double())


def decaying_pair(
    shape: tuple[int, int], *, generator: torch.Generator, ratio: float = 0.8, size: float = 0.05
) -> tuple[Tensor, Tensor]:
    """A base matrix and an aligned one, both in fp64.

    ratio: of each singular value of their difference to the one before it.
    size: ||delta|| / ||base||.
    """
    rows, columns = shape
    base = torch.randn(rows, columns, generator=generator, dtype=torch.float64) / columns**0.5
    directions = min(rows, columns)
    U, V = (
        torch.linalg.qr(torch.randn(length, directions, generator=generator, dtype=torch.float64)).Q
        for length in (rows, columns)
    )
    delta = (U * ratio ** torch.arange(directions, dtype=torch.float64)) @ V.T
    return base, base + delta * (size * base.norm() / delta.norm())


def write_pair(
    root: Path,
    base: Mapping[str, Tensor],
    aligned: Mapping[str, Tensor],
    *,
    base_shards: int = 2,
    aligned_shards: int = 3,
    **options: Any,
) -> tuple[str, str]:
    """Write both models below `root` and return their references. options: of `write_checkpoint`, for both."""
    options = {"config": {}} | options
    return (
        str(write_checkpoint(root / "base", base, shards=base_shards, **options)),
        str(write_checkpoint(root / "aligned", aligned, shards=aligned_shards, **options)),
    )


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model's safetensors files."""
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def contents(folder: Path, leave_out: Sequence[str] = ()) -> dict[str, bytes]:
    """Every file in a folder and below: its path in it -> its bytes."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name not in leave_out}


def outcome(out: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """All that a result should have in common with that of any other run on the same values.

    Every file's bytes but those of the model card, which tells the command, and of the manifest; of that, everything
    but the command, the time and where the sources were.
    """
    manifest = json.loads((out / "safelox.json").read_text())
    for key in ("command", "created", "base", "aligned"):
        del manifest[key]
    del manifest["files"]["README.md"]
    return contents(out, leave_out=("README.md", "safelox.json")), manifest


def fingerprint(*folders: str | Path) -> dict[str, tuple[str, int]]:
    """Hash and time of the last change of every file in these folders, to see later that nobody has touched them."""
    return {
        str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for folder in folders
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }
