"""Where in a running model the LoRA of each matrix goes, and which tensors no adapter can hold.

PEFT and vLLM know modules of the model that transformers builds; a checkpoint knows tensors. For most language models
the one name follows from the other. The exceptions that are known are told from config.json and the names alone, since
transformers need not be installed here:

- transformers' Conv1D, as in GPT-2, stores its weight as (in, out): the table of `checkpoint.matching` lists them;
- files of the bare model lack the first part of every name: BARE lists the architectures that are shipped so;
- transformers 5 fuses experts when it loads them and renames parts of multimodal models. PEFT 0.21 follows some of
  that, and takes other layers of such models for the experts: whatever it could get wrong is refused.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from safelox.checkpoint import Adapter, Checkpoint, TensorInfo
from safelox.checkpoint.contents import EMBEDDING, LINEAR, PREFIX
from safelox.checkpoint.matching import CONV1D
from safelox.errors import UsageError
from safelox.pairing.naming import EXPERT_PARTS, Anatomy, count, module, some

BARE = {"gpt2": "transformer", "openai-gpt": "transformer", "bloom": "transformer", "opt": "model"}
"""model_type -> what transformers puts before the names of a file that holds the bare model, without its head."""

FEED_FORWARD = EXPERT_PARTS | {"mlp", "feed_forward", "ffn", "shared_mlp"}
"""Parts of names that belong to the feed-forward block of a layer."""

RENAMED_LANGUAGE_MODEL = "model.language_model."
"""What transformers 5 puts before the text part of every multimodal model, and some files have already."""

NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class LoraTarget:
    """A module of the running model, as PEFT adapts it."""

    module: str
    """Its full name."""
    kind: Literal["linear", "conv1d", "embedding"]

    @property
    def transposed(self) -> bool:
        """Whether its stored weight is the transpose of what PEFT's B @ A is added to."""
        return self.kind != "linear"

    @property
    def keys(self) -> tuple[str, str]:
        """Names of A, (r, in) or (r, tokens), and of B, (out, r) or (width, r)."""
        a, b = EMBEDDING if self.kind == "embedding" else LINEAR
        return f"{PREFIX}{self.module}.{a}", f"{PREFIX}{self.module}.{b}"


def find_targets(aligned: Checkpoint, names: Sequence[str]) -> dict[str, LoraTarget]:
    """The module that each of these tensors is the weight of.

    Raises:
        UsageError: lists the tensors that no adapter can hold, each with the reason, and the options that leave them out.
    """
    anatomy = Anatomy(aligned)
    reasons = {name: reason for name in names if (reason := _refusal(anatomy.tensors[name], anatomy)) is not None}
    if reasons:
        raise UsageError(_refusal_text(reasons))
    prefix = _missing_prefix(anatomy)
    conv1d = CONV1D.get(str(anatomy.config.get("model_type")), ())
    targets = {}
    for name in names:
        kind: Literal["linear", "conv1d", "embedding"] = "linear"
        if name in anatomy.tables and name not in anatomy.heads:
            kind = "embedding"
        elif module(name) in conv1d:
            kind = "conv1d"
        path = name.removesuffix(".weight")
        bare = prefix and name not in anatomy.heads and not name.startswith(f"{prefix}.")
        targets[name] = LoraTarget(f"{prefix}.{path}" if bare else path, kind)
    return targets


def targets_of(adapter: Adapter) -> dict[str, LoraTarget]:
    """The module that each low-rank delta of an adapter belongs to, as the adapter itself names it."""
    targets = {}
    for name, factors in adapter.factors.items():
        first = factors.left if factors.transposed else factors.right
        assert first is not None, f"{name} is a bias"
        embedding = first.name.endswith(EMBEDDING[0])
        path = first.name.removeprefix(PREFIX).removesuffix(EMBEDDING[0] if embedding else LINEAR[0]).removesuffix(".")
        kind: Literal["linear", "conv1d", "embedding"] = "conv1d" if factors.transposed else "linear"
        targets[name] = LoraTarget(path, "embedding" if embedding else kind)
    return targets


def _refusal(tensor: TensorInfo, anatomy: Anatomy) -> str | None:
    """Why a tensor cannot be the weight of a module that PEFT and vLLM adapt; None if it can."""
    name, parts = tensor.name, tensor.name.split(".")
    if len(tensor.shape) != 2 or anatomy.stacked_experts(tensor) is not None:
        return "several matrices in one tensor, where a LoRA has two factors for one layer"
    if parts[-1] != "weight":
        return "not the weight of a layer"
    extra = anatomy.extra(name)
    if extra is not None:
        return f"{extra}, for which the names of modules are not known"
    if _has_experts(anatomy.tensors) and not FEED_FORWARD.isdisjoint(parts):
        return "in a feed-forward block beside experts, which transformers 5 fuses and PEFT takes for one another"
    if anatomy.multimodal and not name.startswith(RENAMED_LANGUAGE_MODEL) and name not in anatomy.heads:
        return "in a multimodal model, where transformers renames it"
    if module(name) == "embed_positions":
        return "a table of positions that is read with an offset, which PEFT leaves out"
    if module(name) == "embed_out":
        return "named differently by the versions of transformers"
    if anatomy.embeddings and name not in anatomy.heads and _missing_prefix(anatomy) is None:
        return "in a file of the bare model, whose modules have longer names (save the model with its head to get them)"
    return None


def _has_experts(names: Iterable[str]) -> bool:
    return any(not EXPERT_PARTS.isdisjoint(name.split(".")) for name in names)


def _missing_prefix(anatomy: Anatomy) -> str | None:
    """What is to be put before names that lack it, "" for nothing; None if something is, but it is not known what."""
    model_type = str(anatomy.config.get("model_type"))
    at_root = any(name.count(".") == 1 for name in anatomy.embeddings)
    return BARE.get(model_type, None if at_root else "")


def _refusal_text(reasons: Mapping[str, str]) -> str:
    lines = ["an adapter cannot hold everything that is to be extrapolated:"]
    for reason in dict.fromkeys(reasons.values()):
        names = [name for name, other in reasons.items() if other == reason]
        lines.append(f"- {count(len(names), 'tensor')} ({some(names, limit=2)}): {reason}")
    options = " ".join(f"--exclude '{pattern}'" for pattern in patterns_of(reasons))
    lines.append(f"Leave them as aligned with {options}, or write a whole model, without --adapter.")
    return "\n".join(lines)


def patterns_of(names: Collection[str]) -> list[str]:
    """Globs for tensors, one for all layers and experts."""
    return list(dict.fromkeys(NUMBER.sub("*", name) for name in names))
