"""Builders of tiny checkpoints, shared by all tests.

`write_checkpoint` lays any tensors out as a model folder, cut into shards as asked; `llama_tensors` and
`llama_config` make a model that transformers loads; `lora_tensors` and `write_adapter` make a PEFT adapter for one;
`write_raw` writes files that are wrong on purpose.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor


def write_checkpoint(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    shards: int = 1,
    config: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
    cut: Mapping[str, int] | None = None,
    files: Mapping[str, str | bytes] | None = None,
) -> Path:
    """Write a model folder and return it.

    One shard gives `model.safetensors`; more give `model-00001-of-0000N.safetensors` and so on with
    `model.safetensors.index.json`. Tensors that share memory are written as copies of their own.

    shards: how many files; the tensors are dealt out in their order, in runs of nearly equal count.
    config: content of config.json; that of `llama_config()` unless given. An empty mapping is kept.
    metadata: the `__metadata__` of every shard; {"format": "pt"} unless given.
    cut: tensor name -> number of its shard, counted from 1 as in the file names; it has to name every tensor,
        and `shards` follows from it.
    files: further files of the folder, path relative to it -> content; folders on the way are made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if cut is None:
        cut = {name: 1 + i * shards // len(tensors) for i, name in enumerate(tensors)}
    shards = max(cut.values(), default=1)
    assert set(cut) == set(tensors), "cut has to name every tensor"
    assert set(cut.values()) >= set(range(1, shards + 1)), "every shard needs a tensor"
    metadata = {"format": "pt"} if metadata is None else metadata
    weight_map = {name: shard_name(cut[name], shards) for name in tensors}
    for number in range(1, shards + 1):
        part = {name: t.detach().clone().contiguous() for name, t in tensors.items() if cut[name] == number}
        save_file(part, folder / shard_name(number, shards), metadata=dict(metadata))
    if shards > 1:
        total = sum(t.numel() * t.element_size() for t in tensors.values())
        write_json(
            folder / "model.safetensors.index.json",
            {"metadata": {"total_size": total}, "weight_map": weight_map},
        )
    write_json(folder / "config.json", llama_config() if config is None else config)
    for name, content in (files or {}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def shard_name(number: int, of: int) -> str:
    """Name that transformers gives to a shard, counted from 1."""
    return "model.safetensors" if of == 1 else f"model-{number:05d}-of-{of:05d}.safetensors"


def write_json(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content, indent=2))
    return path


def write_raw(path: Path, header: Any, values: bytes = b"", *, length: int | None = None) -> Path:
    """Write a safetensors file without any check: `header` as JSON (or as the bytes given) and the values.

    length: what the length field says, where it is to be wrong.
    """
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + values)
    return path


def llama_config(
    *,
    hidden: int = 16,
    layers: int = 2,
    intermediate: int = 24,
    vocabulary: int = 32,
    heads: int = 4,
    kv_heads: int = 2,
    tied: bool = False,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """config.json of a tiny Llama, complete enough for AutoModelForCausalLM."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "intermediate_size": intermediate,
        "vocab_size": vocabulary,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 64,
        "tie_word_embeddings": tied,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def llama_tensors(
    *,
    hidden: int = 16,
    layers: int = 2,
    intermediate: int = 24,
    vocabulary: int = 32,
    heads: int = 4,
    kv_heads: int = 2,
    tied: bool = False,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    near: Mapping[str, Tensor] | None = None,
    step: float = 0.02,
) -> dict[str, Tensor]:
    """Random weights of a tiny Llama, under the names and in the shapes that transformers uses.

    tied: leave `lm_head.weight` out, as transformers does where it is tied to the embedding.
    near: weights of another call with the same shapes; the result is then these plus noise of standard
        deviation `step`, as an "aligned" model is its base plus a small delta. Norms (1-D) get the noise too.
    """
    kv = hidden // heads * kv_heads
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for i in range(layers):
        shapes |= {
            f"model.layers.{i}.input_layernorm.weight": (hidden,),
            f"model.layers.{i}.self_attn.q_proj.weight": (hidden, hidden),
            f"model.layers.{i}.self_attn.k_proj.weight": (kv, hidden),
            f"model.layers.{i}.self_attn.v_proj.weight": (kv, hidden),
            f"model.layers.{i}.self_attn.o_proj.weight": (hidden, hidden),
            f"model.layers.{i}.post_attention_layernorm.weight": (hidden,),
            f"model.layers.{i}.mlp.gate_proj.weight": (intermediate, hidden),
            f"model.layers.{i}.mlp.up_proj.weight": (intermediate, hidden),
            f"model.layers.{i}.mlp.down_proj.weight": (hidden, intermediate),
        }
    shapes["model.norm.weight"] = (hidden,)
    if not tied:
        shapes["lm_head.weight"] = (vocabulary, hidden)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if near is not None:
            value = near[name].to(torch.float32) + step * noise
        else:
            value = 1 + 0.1 * noise if len(shape) == 1 else noise / shape[-1] ** 0.5
        tensors[name] = value.to(dtype)
    return tensors


def lora_tensors(
    weights: Mapping[str, Tensor], *, rank: int = 2, size: float = 0.1, seed: int = 0
) -> dict[str, Tensor]:
    """Random LoRA factors of these linear weights, (out, in) under names that end in ".weight", by PEFT's names.

    size: standard deviation of the entries of A and B.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, weight in weights.items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        rows, columns = weight.shape
        tensors[f"{module}.lora_A.weight"] = size * torch.randn(rank, columns, generator=generator)
        tensors[f"{module}.lora_B.weight"] = size * torch.randn(rows, rank, generator=generator)
    return tensors


def write_adapter(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    rank: int = 2,
    alpha: float = 6,
    files: Mapping[str, str] | None = None,
    **options: Any,
) -> Path:
    """Write a PEFT LoRA folder and return it; the scale of its deltas is alpha / rank.

    options: further entries of adapter_config.json, or other values for those that are written anyway.
    files: further files of the folder, name -> content.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: t.detach().clone().contiguous() for name, t in tensors.items()}, folder / "adapter_model.safetensors"
    )
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": "all-linear"}
    write_json(folder / "adapter_config.json", config | options)
    for name, content in (files or {}).items():
        (folder / name).write_text(content)
    return folder
