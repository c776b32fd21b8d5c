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
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from safelox.checkpoint import Adapter, Checkpoint, TensorInfo
from safelox.checkpoint.contents import EMBEDDING, LINEAR, PREFIX
from safelox.checkpoint.matching import CONV1D, StoredFactors
from safelox.errors import UsageError
from safelox.pairing.naming import EXPERT_PARTS, Anatomy, count, module, some

BARE = {"gpt2": "transformer", "openai-gpt": "transformer", "bloom": "transformer", "opt": "model"}
"""model_type -> what transformers puts before the names of a file that holds the bare model, without its head."""

FEED_FORWARD = EXPERT_PARTS | {"mlp", "feed_forward", "ffn", "shared_mlp"}
"""Parts of names that belong to the feed-forward block of a layer."""

MAMBA = ("mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h")
"""model_types whose out_proj PEFT refuses to adapt."""

RENAMED_LANGUAGE_MODEL = "model.language_model."
"""What transformers 5 puts before the text part of every multimodal model, and some files have already."""

Kind = Literal["linear", "conv1d", "embedding"]

NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class LoraTarget:
    """A module of the running model, as PEFT adapts it."""

    module: str
    """Its full name."""
    kind: Kind

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
        UsageError: lists the tensors that no adapter can hold, with the reasons and the options that leave them out.
    """
    anatomy = Anatomy(aligned)
    prefix = _missing_prefix(anatomy)
    mixture = any(not EXPERT_PARTS.isdisjoint(name.split(".")) for name in anatomy.tensors)
    conv1d = CONV1D.get(str(anatomy.config.get("model_type")), ())
    targets, reasons = {}, {}
    for name in names:
        reason = _refusal(anatomy.tensors[name], anatomy, mixture)
        if reason is not None:
            reasons[name] = reason
        elif prefix is None and name not in anatomy.heads:
            reasons[name] = "in a file of the bare model: save the model with its head, which gives modules their names"
        else:
            path = name.removesuffix(".weight")
            bare = prefix and name not in anatomy.heads and not name.startswith(f"{prefix}.")
            targets[name] = LoraTarget(f"{prefix}.{path}" if bare else path, _kind(name, anatomy, conv1d))
    if reasons:
        raise UsageError(_refusal_text(reasons, len(names)))
    return targets


def targets_of(adapter: Adapter) -> dict[str, LoraTarget]:
    """The module that each low-rank delta of an adapter belongs to, as the adapter itself names it."""
    targets = {}
    for name, factors in adapter.factors.items():
        first = factors.left if factors.transposed else factors.right
        assert first is not None, f"{name} is a bias"
        embedding = first.name.endswith(EMBEDDING[0])
        path = first.name.removeprefix(PREFIX).removesuffix(EMBEDDING[0] if embedding else LINEAR[0]).removesuffix(".")
        kind: Kind = "conv1d" if factors.transposed else "linear"
        targets[name] = LoraTarget(path, "embedding" if embedding else kind)
    return targets


def stored_rank(factors: StoredFactors) -> int:
    """The rank of the factors that an adapter stores for one matrix."""
    return factors.right.shape[-1 if factors.transposed else 0]


def _kind(name: str, anatomy: Anatomy, conv1d: Collection[str]) -> Kind:
    if name in anatomy.tables and name not in anatomy.heads:
        return "embedding"
    return "conv1d" if module(name) in conv1d else "linear"


def _refusal(tensor: TensorInfo, anatomy: Anatomy, mixture: bool) -> str | None:
    """Why a tensor is not known to be the weight of a module that PEFT and vLLM adapt; None if it is.

    mixture: whether the model has experts.
    """
    name, parts = tensor.name, tensor.name.split(".")
    if len(tensor.shape) != 2 or anatomy.stacked_experts(tensor) is not None:
        return "several matrices in one tensor, where a LoRA has two factors for one layer"
    if parts[-1] != "weight":
        return "not the weight of a layer"
    extra = anatomy.extra(name)
    if extra is not None:
        return f"{extra}, whose modules may have other names"
    if mixture and not FEED_FORWARD.isdisjoint(parts):
        return "in a feed-forward block beside experts, which transformers 5 fuses and PEFT takes for one another"
    if anatomy.multimodal and not name.startswith(RENAMED_LANGUAGE_MODEL) and name != "lm_head.weight":
        return "in a multimodal model, whose modules have other names"
    if module(name) == "embed_positions":
        return "a table of positions that is read with an offset, which PEFT would leave out"
    if module(name) == "out_proj" and anatomy.config.get("model_type") in MAMBA:
        return "read past its layer by Mamba's kernels, so that PEFT refuses to adapt it"
    if module(name) == "embed_out":
        return "a module that versions of transformers name differently"
    return None


def _missing_prefix(anatomy: Anatomy) -> str | None:
    """What is to be put before names that lack it, "" for nothing; None if something is, but it is not known what."""
    model_type = str(anatomy.config.get("model_type"))
    at_root = any(name.count(".") == 1 for name in anatomy.embeddings)
    return BARE.get(model_type, None if at_root else "")


def _refusal_text(reasons: Mapping[str, str], selected: int) -> str:
    """What to tell of the tensors with these reasons, out of so many that are to be extrapolated."""
    lines = ["an adapter cannot hold everything that is to be extrapolated:"]
    for reason in dict.fromkeys(reasons.values()):
        names = [name for name, other in reasons.items() if other == reason]
        lines.append(f"- {count(len(names), 'tensor')} ({some(names, limit=2)}): {reason}")
    if len(reasons) == selected:
        lines.append("That is all of it: write a whole model, without --adapter.")
    else:
        # One glob for all layers and experts.
        patterns = dict.fromkeys(NUMBER.sub("*", name) for name in reasons)
        options = " ".join(f"--exclude '{pattern}'" for pattern in patterns)
        lines.append(f"Leave them as aligned with {options}, or write a whole model, without --adapter.")
    return "\n".join(lines)
