"""adapter_config.json of a PEFT adapter: what kind it is, and the rank and scale of each module.

Only plain low-rank adapters can be read as exact deltas. Everything else is refused by name, and so is any option
that this module does not know, since it may mean something for the weights.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from safelox.checkpoint.folder import read_object

MERGE_HINT = "merge it into its base with PEFT (merge_and_unload, save_pretrained) and give the merged folder"

UNSUPPORTED: dict[str, str] = {
    "use_dora": "DoRA rescales the columns of the merged weight, so its delta is not low-rank",
    "target_parameters": "its factors are stacked over the experts, and their order in the file is not recorded",
    "trainable_token_indices": "it replaces single rows of the embedding, which is no low-rank delta",
    "layer_replication": "it has more layers than its base",
    "alora_invocation_tokens": "an activated LoRA holds only after certain tokens, so no weights describe it",
    "use_qalora": "QA-LoRA pools its input in groups, so its factors do not have the shape of the weight",
    "use_bdlora": "BD-LoRA stores its factors in blocks",
    "arrow_config": "Arrow chooses among adapters at run time, so no weights describe it",
    "kasa_config": "KaSA changes the base weights when it is loaded",
    "monteclora_config": "MonteCLoRA samples its factors",
    "megatron_config": "it belongs to Megatron's own layers",
}
"""Options that make an adapter more than a low-rank delta, and why."""

PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
"""Values of init_lora_weights that leave the base weights alone (PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA do not)."""

KNOWN = frozenset(
    {"peft_type", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "peft_version"}
    | {"inference_mode", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "init_lora_weights"}
    | {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"}
    | {"fan_in_fan_out", "bias", "lora_bias", "lora_dropout", "ensure_weight_tying", "megatron_core"}
    | {"loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size", "runtime_config"}
    | {"velora_config"}  # changes the backward pass only
)
"""Options that are read here, or that say nothing about what the weights mean."""

T = TypeVar("T")


@dataclass(frozen=True)
class AdapterConfig:
    """What is needed of adapter_config.json."""

    rank: int
    alpha: float
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rank_stabilised: bool = False
    """rsLoRA: the scale is alpha / sqrt(rank) instead of alpha / rank."""
    fan_in_fan_out: bool = False
    """The stored weights are (in, out). As PEFT's flag is that of whichever module came last, it is
    no more than a hint."""
    modules_to_save: tuple[str, ...] = ()

    def rank_of(self, module: str) -> int:
        return _matching(self.rank_pattern, module, self.rank)

    def scale_of(self, module: str) -> float:
        alpha, rank = _matching(self.alpha_pattern, module, self.alpha), self.rank_of(module)
        return alpha / math.sqrt(rank) if self.rank_stabilised else alpha / rank


def read_adapter_config(path: Path) -> tuple[AdapterConfig | None, list[str]]:
    """The configuration, or why the adapter cannot be read."""
    entries, problems = read_object(path)
    if problems:
        return None, problems
    problems = _refusals(entries) or _malformed(entries)
    if problems:
        return None, [f"{path.name}: {problem}" for problem in problems]
    return AdapterConfig(
        rank=entries["r"],
        alpha=entries["lora_alpha"],
        rank_pattern=entries.get("rank_pattern") or {},
        alpha_pattern=entries.get("alpha_pattern") or {},
        rank_stabilised=bool(entries.get("use_rslora")),
        fan_in_fan_out=bool(entries.get("fan_in_fan_out")),
        modules_to_save=tuple(entries.get("modules_to_save") or ()),
    ), []


def _matching(pattern: Mapping[str, T], module: str, otherwise: T) -> T:
    """The value of the first key that matches the end of the module's path, at a dot.

    The keys are regular expressions. Same rule as get_pattern_key of peft/utils/other.py, PEFT 0.21.2.
    """
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return otherwise


def _refusals(entries: Mapping[str, Any]) -> list[str]:
    kind = entries.get("peft_type")
    if kind != "LORA":
        return [f"peft_type is {kind!r}; only LORA can be read as a low-rank delta; {MERGE_HINT}"]
    problems = [f"{name} is set: {why}; {MERGE_HINT}" for name, why in UNSUPPORTED.items() if entries.get(name)]
    start = entries.get("init_lora_weights", True)
    if start not in PLAIN_STARTS:
        problems.append(
            f"init_lora_weights is {start!r}: the adapter is relative to a base that was changed at the start; save "
            "it with path_initial_model_for_weight_conversion, which makes it a plain LoRA, and give that"
        )
    unknown = sorted(name for name, value in entries.items() if value and name not in KNOWN | set(UNSUPPORTED))
    problems += [f"{name} is {entries[name]!r}: an unknown option; {MERGE_HINT}" for name in unknown]
    return problems


def _malformed(entries: Mapping[str, Any]) -> list[str]:
    problems: list[str] = []
    ranks = {"r": entries.get("r")} | _pattern(entries, "rank_pattern", problems)
    alphas = {"lora_alpha": entries.get("lora_alpha")} | _pattern(entries, "alpha_pattern", problems)
    problems += [
        f"{name} is {rank!r}, a whole number from 1 was expected"
        for name, rank in ranks.items()
        if type(rank) is not int or rank < 1
    ]
    for name, alpha in alphas.items():
        if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
            problems.append(f"{name} is {alpha!r}, a number was expected")
    modules = entries.get("modules_to_save") or []
    if not isinstance(modules, list) or not all(isinstance(module, str) for module in modules):
        problems.append(f"modules_to_save is {modules!r}, a list of names was expected")
    return problems


def _pattern(entries: Mapping[str, Any], name: str, problems: list[str]) -> dict[str, Any]:
    """The entries of a pattern under readable names, with bad regular expressions reported."""
    pattern = entries.get(name) or {}
    if not isinstance(pattern, dict):
        problems.append(f"{name} is {pattern!r}, an object was expected")
        return {}
    for key in pattern:
        try:
            re.compile(key)
        except re.error as error:
            problems.append(f"{name}: {key!r} is no regular expression: {error}")
    return {f"{name}[{key!r}]": value for key, value in pattern.items()}
