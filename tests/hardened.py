"""Manifests, and a hardened model written the plain way: whole tensors, a full SVD, and no code of the library but
its manifest."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from safelox.manifest import (
    CarriedRecord,
    Environment,
    FileRecord,
    Manifest,
    MatrixRecord,
    MethodRecord,
    SourceRecord,
)
from tiny import llama_config, llama_tensors, lora_tensors, write_adapter, write_checkpoint


def matrix_record(name: str = "model.layers.0.mlp.up_proj.weight", **changes: Any) -> MatrixRecord:
    record = MatrixRecord(
        name=name,
        expert=None,
        rows=24,
        columns=16,
        route="krylov",
        rank=2,
        singular_values=(2.0, 1.0),
        delta_norm=2.5,
        weight_norm=50.0,
        energy_kept=0.8,
        energy_lost_bound=1e-6,
        update_error_bound=1e-5,
        failure_probability=1e-9,
        sweeps=3,
        entries=384,
        entries_changed=300,
    )
    return record.model_copy(update=changes)


def method_record(**changes: Any) -> MethodRecord:
    record = MethodRecord(
        name="lox",
        rank=2,
        coef=0.5,
        seed=0,
        include=(),
        exclude=(),
        embeddings=True,
        vocab="error",
        dtype=None,
        subspace=None,
    )
    return record.model_copy(update=changes)


def make_manifest(**changes: Any) -> Manifest:
    manifest = Manifest(
        format=1,
        safelox="0.1.0",
        created="2026-01-02T03:04:05Z",
        command="safelox harden org/base org/aligned out",
        kind="model",
        method=method_record(),
        base=SourceRecord(reference="org/base", commit="b" * 40, weights=None),
        aligned=SourceRecord(
            reference="org/aligned@v1",
            commit="a" * 40,
            weights={"model.safetensors": FileRecord(bytes=10, sha256="c" * 64)},
        ),
        matrices=(matrix_record(),),
        carried=(CarriedRecord(name="model.norm.weight", reason="one-dimensional"),),
        notes=(),
        files={},
        environment=Environment(device="cpu", instruction_set="AVX2", libraries={}, python="3.11.7", platform="Linux"),
    )
    return manifest.model_copy(update=changes)


def write_hardened(
    root: Path, *, rank: int = 2, coef: float = 0.5, dtype: torch.dtype = torch.bfloat16, tied: bool = False
) -> tuple[Path, Path, Path]:
    """Folders of a tiny base, its aligned version, and that one hardened, with a manifest."""
    base = llama_tensors(dtype=dtype, tied=tied)
    aligned = llama_tensors(near=base, seed=1, dtype=dtype, tied=tied)
    config = llama_config(dtype=dtype, tied=tied)
    base_folder = write_checkpoint(root / "base", base, shards=3, config=config)
    aligned_folder = write_checkpoint(root / "aligned", aligned, shards=2, config=config)
    hardened = {
        name: _extrapolated(base[name], tensor, rank, coef) if tensor.ndim == 2 else tensor
        for name, tensor in aligned.items()
    }
    out = write_checkpoint(root / "out", hardened, shards=2, config=config, files={"README.md": "# A model\n"})
    matrices = tuple(
        matrix_record(name, rows=tensor.shape[0], columns=tensor.shape[1], rank=rank, entries=tensor.numel())
        for name, tensor in aligned.items()
        if tensor.ndim == 2
    )
    make_manifest(
        method=method_record(rank=rank, coef=coef),
        base=_source(base_folder),
        aligned=_source(aligned_folder),
        matrices=matrices,
        carried=tuple(
            CarriedRecord(name=name, reason="one-dimensional") for name, tensor in aligned.items() if tensor.ndim == 1
        ),
        files={path.name: _file_record(path) for path in sorted(out.iterdir())},
    ).write(out)
    return base_folder, aligned_folder, out


def write_hardened_adapter(root: Path, *, rank: int = 2, coef: float = 0.5, over_lora: bool = False) -> Path:
    """A LoRA that hardens a tiny model, with a manifest; its sources are beside it.

    over_lora: ALIGNED is BASE with a LoRA of rank 3, and the result takes the place of that.
    """
    base = llama_tensors()
    base_folder = write_checkpoint(root / "base", base, shards=2)
    linear = {name: tensor for name, tensor in base.items() if "proj" in name}
    if over_lora:
        lora = lora_tensors(linear, rank=3)
        aligned_reference = f"{base_folder}+{write_adapter(root / 'lora', lora, rank=3, alpha=6)}"
        deltas = {name: 2.0 * _product(lora, name) for name in linear}
    else:
        aligned = llama_tensors(near=base, seed=1)
        aligned_reference = str(write_checkpoint(root / "aligned", aligned, shards=2))
        deltas = {name: aligned[name] - base[name] for name in linear}
    factors = {}
    for name, delta in deltas.items():
        U, S, Vh = torch.linalg.svd(delta, full_matrices=False)
        width = 3 if over_lora else rank
        scale = torch.where(torch.arange(width) < rank, coef, 0.0) + over_lora
        module = f"base_model.model.{name.removesuffix('.weight')}"
        factors[f"{module}.lora_A.weight"] = Vh[:width]
        factors[f"{module}.lora_B.weight"] = U[:, :width] * (S[:width] * scale)
    out = write_adapter(root / "out", factors, rank=3 if over_lora else rank, alpha=3 if over_lora else rank)
    make_manifest(
        kind="adapter",
        method=method_record(rank=rank, coef=coef, embeddings=False),
        base=_source(base_folder),
        aligned=SourceRecord(reference=aligned_reference, commit=None, weights=None),
        matrices=tuple(
            matrix_record(name, rows=tensor.shape[0], columns=tensor.shape[1], rank=rank)
            for name, tensor in linear.items()
        ),
        files={path.name: _file_record(path) for path in sorted(out.iterdir())},
    ).write(out)
    return out


def rewrite_tensor(folder: Path, name: str, change: Any) -> None:
    """Replace one tensor of a model by change(tensor), and the manifest's hashes by those of the new files."""
    for path in sorted(folder.glob("*.safetensors")):
        tensors = load_file(path)
        if name in tensors:
            tensors[name] = change(tensors[name])
            save_file(tensors, path, metadata={"format": "pt"})
            renew_hashes(folder)


def renew_hashes(folder: Path) -> None:
    """Make the manifest's hashes those of the files that are there."""
    manifest = Manifest.model_validate_json((folder / "safelox.json").read_bytes())
    files = {name: _file_record(folder / name) for name in manifest.files}
    manifest.model_copy(update={"files": files}).write(folder)


def _extrapolated(base: Tensor, aligned: Tensor, rank: int, coef: float) -> Tensor:
    U, S, Vh = torch.linalg.svd(aligned.double() - base.double(), full_matrices=False)
    part: Tensor = (U[:, :rank] * S[:rank]) @ Vh[:rank]
    return (aligned.double() + coef * part).to(aligned.dtype)


def _product(lora: dict[str, Tensor], name: str) -> Tensor:
    module = f"base_model.model.{name.removesuffix('.weight')}"
    return lora[f"{module}.lora_B.weight"] @ lora[f"{module}.lora_A.weight"]


def _source(folder: Path) -> SourceRecord:
    weights = {path.name: _file_record(path) for path in sorted(folder.glob("*.safetensors"))}
    return SourceRecord(reference=str(folder), commit=None, weights=weights)


def _file_record(path: Path) -> FileRecord:
    content = path.read_bytes()
    return FileRecord(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
