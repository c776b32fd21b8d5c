"""Adapters over a model whose output head is its token embedding: one tensor for two modules.

At run time PEFT adapts the two apart from each other, so a change of one of them, or two different changes, cannot
be a change of the one tensor. Only an adapter that changes both alike can, as PEFT's ensure_weight_tying makes it.
"""

from collections.abc import Mapping
from typing import Any

import torch

from safelox.checkpoint.contents import EMBEDDING, LINEAR, Contents, find_tensor
from safelox.checkpoint.header import TensorInfo, listed
from safelox.checkpoint.values import Values, equal_values

HEADS = ("lm_head", "embed_out")
EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings", "shared")
"""Last parts of the names that transformers gives to output heads and token embeddings."""


def says_tied(config: Mapping[str, Any]) -> bool | None:
    """What config.json says about head and embedding being one tensor; None if it leaves that to the architecture."""
    text = config.get("text_config")
    for entries in (config, text if isinstance(text, dict) else {}):
        if isinstance(entries.get("tie_word_embeddings"), bool):
            return bool(entries["tie_word_embeddings"])
    return None


def settle_tied(
    contents: Contents, values: Values, base: Mapping[str, TensorInfo], base_config: Mapping[str, Any]
) -> list[str]:
    """Where the base's head is its embedding: why the adapter cannot change it, or, if it can, drop the second copy."""
    if not _is_tied(base, base_config):
        return []
    heads = _touched(contents, HEADS)
    embeddings = _touched(contents, EMBEDDINGS)
    if not heads and not embeddings:
        return []
    both = len(heads) == len(embeddings) == 1
    alike = both and _alike(contents, heads[0], embeddings[0], values)
    for head in heads:
        if find_tensor(f"{head}.weight", base) is None:
            contents.whole.pop(f"{head}.weight", None)
            contents.modules.pop(head, None)
    if alike:
        return []
    return [
        f"changes {listed(heads + embeddings)}, but output head and token embedding of the base are one tensor, "
        "and the adapter does not change both alike; untie them in the base, or drop them from the adapter"
    ]


def _is_tied(base: Mapping[str, TensorInfo], base_config: Mapping[str, Any]) -> bool:
    said = says_tied(base_config)
    if said is not None:
        return said
    with_head = base_config.get("architectures") or ["ForCausalLM"]
    stored = any(name.removesuffix(".weight").rpartition(".")[2] in HEADS for name in base)
    return not stored and any(name.endswith(("LM", "LMHeadModel", "Generation")) for name in with_head)


def _touched(contents: Contents, leaves: tuple[str, ...]) -> list[str]:
    whole = (name.removesuffix(".weight") for name in contents.whole if name.endswith(".weight"))
    return sorted({module for module in (*whole, *contents.modules) if module.rpartition(".")[2] in leaves})


def _alike(contents: Contents, head: str, embedding: str, values: Values) -> bool:
    """Whether the adapter changes the head as it changes the embedding; the head's factors are the transposes."""
    ends = (contents.whole.get(f"{head}.weight"), contents.whole.get(f"{embedding}.weight"))
    if (ends[0] is None) != (ends[1] is None):
        return False
    if ends[0] is not None and ends[1] is not None and not equal_values(ends[0], values, ends[1], values):
        return False
    head_parts, embedding_parts = contents.modules.get(head, {}), contents.modules.get(embedding, {})
    if not head_parts and not embedding_parts:
        return True
    if set(head_parts) != set(LINEAR) or set(embedding_parts) != set(EMBEDDING):
        return False
    return all(
        torch.equal(values.rows(head_parts[linear]), values.rows(embedding_parts[other]).T)
        for linear, other in zip(LINEAR, reversed(EMBEDDING), strict=True)
    )
