"""Makes Llama-shaped pairs of base and aligned weights on the spot, of any size, tensor by tensor.

    python benchmarks/pairs.py FOLDER --shape 617m --kind decaying

Kinds of delta (none is exactly low-rank, as none is in real models):
    decaying  singular values 1/i on 256 directions over a Gaussian bulk; ||delta|| = 0.03 ||W||
    small     the same at ||delta|| = 0.001 ||W||, where rounding to bf16 leaves a floor of noise
    flat      Gaussian noise alone; ||delta|| = 0.03 ||W||
"""

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file

Kind = Literal["decaying", "small", "flat"]
DIRECTIONS = 256
BULK = 0.3
"""Norm of the Gaussian bulk, where the leading singular value is 1."""
WEIGHT = 0.02
"""Standard deviation of the weights."""
PIECE_ROWS = 8192
SHARD_BYTES = 2_000_000_000


@dataclass(frozen=True)
class Shape:
    hidden: int
    layers: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int = 32000

    def matrices(self) -> Iterator[tuple[str, int, int]]:
        """(name, rows, columns) of every weight matrix."""
        kv = self.hidden * self.kv_heads // self.heads
        yield "lm_head.weight", self.vocabulary, self.hidden
        yield "model.embed_tokens.weight", self.vocabulary, self.hidden
        for layer in range(self.layers):
            stem = f"model.layers.{layer}"
            yield f"{stem}.mlp.down_proj.weight", self.hidden, self.intermediate
            yield f"{stem}.mlp.gate_proj.weight", self.intermediate, self.hidden
            yield f"{stem}.mlp.up_proj.weight", self.intermediate, self.hidden
            yield f"{stem}.self_attn.k_proj.weight", kv, self.hidden
            yield f"{stem}.self_attn.o_proj.weight", self.hidden, self.hidden
            yield f"{stem}.self_attn.q_proj.weight", self.hidden, self.hidden
            yield f"{stem}.self_attn.v_proj.weight", kv, self.hidden

    def norms(self) -> Iterator[str]:
        yield "model.norm.weight"
        for layer in range(self.layers):
            yield f"model.layers.{layer}.input_layernorm.weight"
            yield f"model.layers.{layer}.post_attention_layernorm.weight"

    def config(self) -> dict[str, object]:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "dtype": "bfloat16",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": False,
        }


SHAPES = {
    "tiny": Shape(256, 2, 704, 4, 2, 1000),
    "134m": Shape(768, 12, 2048, 12, 12),
    "617m": Shape(2048, 8, 8192, 32, 8),
    "7b": Shape(4096, 32, 11008, 32, 32),
}


def matrices_of_pair(
    rows: int, columns: int, kind: Kind, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Base and aligned weights of one matrix, (rows, columns), bf16; made in pieces, so that a large one fits."""
    base = torch.empty(rows, columns, dtype=torch.bfloat16)
    aligned = torch.empty_like(base)
    count = min(DIRECTIONS, rows, columns)
    # Gaussian columns of length about 1 are nearly orthogonal: all that matters here is how the spectrum falls.
    falling = 1 / torch.arange(1, count + 1)
    right = torch.randn(count, columns, generator=generator) / math.sqrt(columns)
    share = 0.001 if kind == "small" else 0.03
    norm = 1.0 if kind == "flat" else math.sqrt(float(falling.square().sum()) + BULK**2)
    scale = share * WEIGHT * math.sqrt(rows * columns) / norm
    bulk_norm = 1.0 if kind == "flat" else BULK
    for start in range(0, rows, PIECE_ROWS):
        stop = min(start + PIECE_ROWS, rows)
        base[start:stop] = torch.randn(stop - start, columns, generator=generator).mul_(WEIGHT)
        delta = torch.randn(stop - start, columns, generator=generator).mul_(bulk_norm / math.sqrt(rows * columns))
        if kind != "flat":
            left = torch.randn(stop - start, count, generator=generator) / math.sqrt(rows)
            delta.addmm_(left * falling, right)
        aligned[start:stop] = delta.mul_(scale).add_(base[start:stop])
    return base, aligned


def make_pair(folder: Path, shape: Shape, kind: Kind, seed: int = 0) -> tuple[Path, Path]:
    """Write FOLDER/base and FOLDER/aligned, bf16; return both."""
    generator = torch.Generator().manual_seed(seed)
    sides = folder / "base", folder / "aligned"
    shards: list[dict[str, torch.Tensor]] = [{}, {}]
    weight_maps: list[dict[str, str]] = [{}, {}]
    held, number = 0, 1

    def flush() -> None:
        nonlocal held, number
        for side, tensors, weight_map in zip(sides, shards, weight_maps, strict=True):
            side.mkdir(parents=True, exist_ok=True)
            name = f"model-{number:05d}.safetensors"
            save_file(tensors, side / name, {"format": "pt"})
            weight_map.update(dict.fromkeys(tensors, name))
            tensors.clear()
        held, number = 0, number + 1

    for name, rows, columns in shape.matrices():
        shards[0][name], shards[1][name] = matrices_of_pair(rows, columns, kind, generator)
        held += 2 * rows * columns
        if held > SHARD_BYTES:
            flush()
    for name in shape.norms():
        for tensors in shards:
            tensors[name] = torch.ones(shape.hidden, dtype=torch.bfloat16)
    flush()
    for side, weight_map in zip(sides, weight_maps, strict=True):
        (side / "config.json").write_text(json.dumps(shape.config(), indent=2))
        if number == 2:
            (side / "model-00001.safetensors").rename(side / "model.safetensors")
        else:
            index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
            (side / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return sides


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="134m")
    parser.add_argument("--kind", choices=("decaying", "small", "flat"), default="decaying")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    base, aligned = make_pair(arguments.folder, SHAPES[arguments.shape], arguments.kind, arguments.seed)
    print(f"{base}\n{aligned}")


if __name__ == "__main__":
    main()
