"""What a tensor's name tells about its part in the model.

The names are those that transformers 4 and 5 write. A shape only ever confirms a name that is not clear by
itself: no part is guessed from a shape alone.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from safelox.checkpoint import Checkpoint, TensorInfo

FLOATING = ("BF16", "F16", "F32", "F64")
"""Dtypes of weights that can be extrapolated, by their names in the safetensors format."""

EXPERT_PARTS = {"experts", "shared_experts", "block_sparse_moe", "moe", "input_linear", "output_linear"}
"""Parts of a name that make a 3-D tensor a stack of experts. Nearly all models say `experts`; Granite and JetMoE say
`input_linear` and `output_linear`, Step says `moe.gate_proj`."""

SEPARATE_EXPERT = re.compile(r"(^|\.)experts\.\d+\.")
"""A weight of one expert, numbered in the name."""

STACKED_EXPERTS = re.compile(r"(^|\.)experts\.mlp\.(w1|v1|w2)$")
"""DBRX: 2-D, the experts one above the other."""

BUFFERS = re.compile(r"(^|\.)((attn|attention)\.(bias|masked_bias)|inv_freq|relative_position_index)$")
"""Masks and tables that old versions saved along with the weights."""

TOWERS = re.compile(r"(vision|visual|image|img|video|audio|speech|talker|token2wav|code2wav)(_|$)")
"""Beginning of a part that belongs to another modality than text, such as `vision_tower` or `visual`."""

TOWER_PARTS = {"multi_modal_projector", "mm_projector", "embed_vision", "embed_audio", "modality_projection"}
"""Whole parts of the same kind."""

PROJECTOR_PARTS = {"projector", "connector", "aligner", "resampler", "perceiver", "qformer", "merger", "mlp1", "vpm"}
"""The same, in words that a text model may use too: they count only in a model that is known to be multimodal."""

MODALITY_CONFIGS = ("vision_config", "audio_config", "speech_config", "mm_vision_tower")
"""Keys that only the config of a multimodal model has."""

TEXT_CONFIGS = ("text_config", "llm_config", "language_config")
"""Where the config of a multimodal model keeps what concerns its text model."""

PREDICTION_HEADS = re.compile(r"(mtp|nextn)(_|$)")
"""Beginning of a part that belongs to a multi-token prediction (MTP) head."""

TEXT_LAYER = re.compile(
    r"^(?:(?:model|language_model|transformer|text_model|backbone|gpt_neox)\.)*(?:layers|h|blocks)\.(\d+)\."
)
"""A layer of the text model, counted from 0."""

EMBEDDINGS = {"embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embed_in", "tokens_embed"}
EMBEDDINGS_PER_LAYER = {"embed_tokens_per_layer"}
POSITIONS = {"wpe", "position_embeddings", "embed_positions", "positions_embed", "token_type_embeddings"}
HEADS = {"lm_head", "embed_out"}
PERHAPS_EMBEDDING = re.compile(r"emb|^shared$")
PERHAPS_HEAD = re.compile(r"head|output|decoder|proj_out|logits")
"""Names that mean other things as well: they count where the rows are as many as the vocabulary."""


@dataclass(frozen=True)
class Exemption:
    """Why a tensor is not extrapolated by default, and whether the user may ask for it all the same."""

    reason: str
    selectable: bool


class Anatomy:
    """The parts of one model, told from the names of its tensors and from its config."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.tensors = {
            # Where an adapter replaces a tensor, its header has the name that the adapter's file gives it.
            name: replace(tensor, name=name)
            for name, tensor in checkpoint.tensors.items()
        }
        """In the order of the files."""
        self.config = checkpoint.config
        self.text_config = text_config(checkpoint.config)
        self.layers = first_number(self.text_config, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
        self.vocabulary_sizes = {
            size for config in (self.config, self.text_config) if isinstance(size := config.get("vocab_size"), int)
        }
        self.multimodal = any(key in self.config for key in MODALITY_CONFIGS) or any(
            belongs_to_tower(name) for name in self.tensors
        )
        plain = [t for t in self.tensors.values() if len(t.shape) == 2 and self.extra(t.name) is None]
        # The shortest path first: `shared` before `encoder.embed_tokens`, the main embedding before a copy in a layer.
        plain.sort(key=lambda t: (t.name.count("."), t.name))
        self.embeddings = tuple(t.name for t in plain if self._is_embedding(t))
        self.heads = tuple(t.name for t in plain if self._is_head(t))
        self.token_tables = frozenset(self.embeddings + self.heads) | {
            t.name for t in plain if module(t.name) in EMBEDDINGS_PER_LAYER
        }
        """Tensors with one row per token of the vocabulary."""
        self.tables = self.token_tables | {t.name for t in plain if module(t.name) in POSITIONS}
        """The former and the tables of positions and token types."""

    def exemption(self, tensor: TensorInfo) -> Exemption | None:
        """Why a tensor is carried by default, None for one that is extrapolated."""
        never = unselectable(tensor)
        if never is not None:
            return Exemption(never, selectable=False)
        extra = self.extra(tensor.name)
        if extra is not None:
            return Exemption(extra, selectable=True)
        if len(tensor.shape) > 2 and not is_fused_experts(tensor):
            return Exemption(f"not a matrix ({len(tensor.shape)} dimensions, such as a convolution)", selectable=True)
        return None

    def extra(self, name: str) -> str | None:
        """What a tensor belongs to other than the text model, None for the text model itself."""
        parts = name.split(".")
        if belongs_to_tower(name) or (self.multimodal and not PROJECTOR_PARTS.isdisjoint(parts)):
            return "part of a vision, audio or other tower, or of its projector"
        if any(PREDICTION_HEADS.match(part) for part in parts):
            return "multi-token prediction head"
        layer = TEXT_LAYER.match(name)
        if layer and self.layers is not None and int(layer[1]) >= self.layers:
            return f"layer {layer[1]} is beyond the model's {self.layers}: a multi-token prediction head"
        return None

    def stacked_experts(self, tensor: TensorInfo) -> int | None:
        """How many experts lie along a tensor's rows: None for an ordinary matrix, 0 where the config does not say."""
        if is_fused_experts(tensor):
            return tensor.shape[0]
        if not STACKED_EXPERTS.search(tensor.name) or len(tensor.shape) != 2:
            return None
        experts = first_number(self.config.get("ffn_config") or {}, "moe_num_experts")
        return experts if experts and tensor.shape[0] % experts == 0 else 0

    def _is_embedding(self, tensor: TensorInfo) -> bool:
        name = module(tensor.name)
        return name in EMBEDDINGS or (
            self._has_vocabulary(tensor) and bool(PERHAPS_EMBEDDING.search(name)) and name not in HEADS | POSITIONS
        )

    def _is_head(self, tensor: TensorInfo) -> bool:
        if self._is_embedding(tensor):
            return False
        name = module(tensor.name)
        return name in HEADS or (
            self._has_vocabulary(tensor)
            and (bool(PERHAPS_HEAD.search(name)) or not HEADS.isdisjoint(tensor.name.split(".")))
        )

    def _has_vocabulary(self, tensor: TensorInfo) -> bool:
        in_a_layer = any(part.isdecimal() for part in tensor.name.split("."))
        return tensor.shape[0] in self.vocabulary_sizes and not in_a_layer


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config that describes the text model: the config itself where it has no parts."""
    for key in TEXT_CONFIGS:
        if isinstance(config.get(key), dict):
            part: Mapping[str, Any] = config[key]
            return part
    return config


def first_number(config: Mapping[str, Any], *keys: str) -> int | None:
    """The first of these keys that holds a whole number."""
    return next((config[key] for key in keys if isinstance(config.get(key), int)), None)


def module(name: str) -> str:
    """Last part of a name that says what the tensor is: `lm_head` of `model.lm_head.weight`."""
    return name.removesuffix(".weight").rpartition(".")[2]


def place(name: str) -> tuple[int | None, str]:
    """The layer that a tensor is in, None outside all layers, and what it is there: `(3, "self_attn.q_proj")`.

    Experts of one layer are one place, however they are stored.
    """
    parts = name.removesuffix(".weight").split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdecimal()]
    if not numbers:
        return None, module(name)
    return int(parts[numbers[0]]), ".".join(part for part in parts[numbers[0] + 1 :] if not part.isdecimal())


def belongs_to_tower(name: str) -> bool:
    return any(TOWERS.match(part) or part in TOWER_PARTS for part in name.split("."))


def is_fused_experts(tensor: TensorInfo) -> bool:
    """Whether a 3-D tensor holds one matrix per expert along its first dimension."""
    return len(tensor.shape) == 3 and not EXPERT_PARTS.isdisjoint(tensor.name.split("."))


def unselectable(tensor: TensorInfo) -> str | None:
    """Why a tensor can never be extrapolated, None for one that can."""
    if tensor.dtype not in FLOATING:
        return f"not a floating-point weight ({tensor.dtype})"
    if BUFFERS.search(tensor.name) and len(tensor.shape) != 1:
        return "a buffer, not a weight"
    if len(tensor.shape) < 2:
        return "one-dimensional: kept as aligned, as in the paper"
    if 0 in tensor.shape:
        return "empty"
    parts = tensor.name.split(".")
    if len(tensor.shape) == 2 and parts[-1].endswith("bias") and not EXPERT_PARTS.isdisjoint(parts):
        return "biases of experts, one-dimensional each: kept as aligned, as in the paper"
    return None


def some(names: Iterable[str], limit: int = 4) -> str:
    """The first few names in order, and how many more there are."""
    ordered = sorted(
        names, key=lambda name: [(len(part), part) if part.isdecimal() else (0, part) for part in name.split(".")]
    )
    shown = ", ".join(ordered[:limit])
    return f"{shown} and {len(ordered) - limit} more" if len(ordered) > limit else shown


def count(number: int, noun: str) -> str:
    """A number with its noun: `1 tensor`, `2 tensors`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
