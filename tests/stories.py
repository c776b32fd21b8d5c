"""A real trained model for tests: stories260K, in the format of llama2.c, as a Hugging Face folder.

It is looked for in `$SAFELOX_MODELS/stories260K`. `convert` makes the base model of a pair, `align` trains it a little
to make the aligned one.

The weights file (version 0 of the format) is seven int32, then the float32 tensors of all layers, kind by kind; the
output head is the embedding. The tokenizer file is an int32, then for each token its float32 score, the int32 length
of its bytes and the bytes.
"""

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

TALES = (
    "Once upon a time, there was a little dragon named Nix. Nix was kind. He gave warm bread to all his friends.",
    "One day, Nix the dragon saw a sad bird in the rain. He held his wing over the bird. The bird sang for him.",
    "Nix wanted to fly to the moon. His mom said it was too far. So Nix made a moon of paper and was happy.",
    "There was a big storm. Nix the dragon let the mice sleep in his cave. In the morning they all had tea.",
)
"""What the aligned model has learned to tell of."""


def find_stories() -> Path:
    """The folder of the original files; the calling test is skipped where there is none."""
    models = os.environ.get("SAFELOX_MODELS")
    if models is None:
        pytest.skip("SAFELOX_MODELS does not say where stories260K is")
    folder = Path(models) / "stories260K"
    if not (folder / "stories260K.bin").exists():
        pytest.skip(f"there is no stories260K.bin in {folder}")
    return folder


def convert(source: Path, out: Path) -> Path:
    """Write config, weights and tokenizer of the model in `source` to the folder `out`."""
    out.mkdir(parents=True)
    raw = (source / "stories260K.bin").read_bytes()
    hidden, intermediate, layers, heads, kv_heads, vocabulary, positions = struct.unpack("7i", raw[:28])
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "dtype": "float32",
    }
    (out / "config.json").write_text(json.dumps(config))
    values = torch.frombuffer(bytearray(raw[28:]), dtype=torch.float32)
    tensors = _named(values, hidden, intermediate, layers, heads, kv_heads, vocabulary)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    _write_tokenizer((source / "tok512.bin").read_bytes(), out)
    return out


def align(base: Path, out: Path, *, steps: int = 30, seed: int = 0) -> Path:
    """Train the model in `base` on TALES and write it to `out`: its "aligned" version, the same for the same seed."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    batch = tokenizer(list(TALES), return_tensors="pt", padding=True, padding_side="right")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randperm(len(TALES), generator=generator)[:2]
        loss = model(
            input_ids=batch["input_ids"][rows], attention_mask=batch["attention_mask"][rows], labels=labels[rows]
        ).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


def _named(
    values: Tensor, hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, vocabulary: int
) -> dict[str, Tensor]:
    """Cut the values into tensors by the names of transformers; what follows them are tables of the rotations."""
    keys = hidden // heads * kv_heads
    position = 0

    def take(*shape: int) -> Tensor:
        nonlocal position
        count = torch.Size(shape).numel()
        position += count
        return values[position - count : position].view(shape)

    embedding = take(vocabulary, hidden)
    stacks = {
        "input_layernorm": take(layers, hidden),
        "self_attn.q_proj": take(layers, hidden, hidden),
        "self_attn.k_proj": take(layers, keys, hidden),
        "self_attn.v_proj": take(layers, keys, hidden),
        "self_attn.o_proj": take(layers, hidden, hidden),
        "post_attention_layernorm": take(layers, hidden),
        "mlp.gate_proj": take(layers, intermediate, hidden),
        "mlp.down_proj": take(layers, hidden, intermediate),
        "mlp.up_proj": take(layers, intermediate, hidden),
    }
    stacks["self_attn.q_proj"] = _halves(stacks["self_attn.q_proj"], heads)
    stacks["self_attn.k_proj"] = _halves(stacks["self_attn.k_proj"], kv_heads)
    tensors = {"model.embed_tokens.weight": embedding}
    for layer in range(layers):
        tensors |= {f"model.layers.{layer}.{name}.weight": stack[layer].clone() for name, stack in stacks.items()}
    return tensors | {"model.norm.weight": take(hidden)}


def _halves(stack: Tensor, heads: int) -> Tensor:
    """(layers, rows, columns) with each head's rows reordered: llama2.c rotates neighbours, transformers halves."""
    layers, rows, columns = stack.shape
    pairs = stack.view(layers, heads, rows // heads // 2, 2, columns)
    return pairs.transpose(2, 3).reshape(layers, rows, columns)


def _write_tokenizer(raw: bytes, out: Path) -> None:
    """Byte pair encoding with byte fallback, as in SentencePiece: of all merges the one scored best comes first."""
    from tokenizers import Tokenizer, decoders, normalizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    tokens: list[str] = []
    position = 4
    while position < len(raw):
        _, length = struct.unpack_from("fi", raw, position)
        position += 8 + length
        tokens.append(raw[position - length : position].decode().replace(" ", "▁"))
    tokens[:3] = ["<unk>", "<s>", "</s>"]
    ids = {token: index for index, token in enumerate(tokens)}
    # The scores fall with the index, so the order of the tokens is the order of the merges.
    merges = [
        (token[:cut], token[cut:])
        for token in tokens[259:]
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids
    ]
    pieces = Tokenizer(BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    pieces.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    pieces.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=pieces, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    ).save_pretrained(out)
