"""Whether two models can belong together at all, told before any tensor is compared with another."""

import re
from collections.abc import Mapping
from typing import Any

from safelox.checkpoint import Checkpoint
from safelox.pairing.naming import FLOATING, some, text_config
from safelox.pairing.tables import Tokenizer
from safelox.pairing.vocabulary import compare

ARCHITECTURE_KEYS = (
    "model_type",
    "hidden_size",
    "n_embd",
    "d_model",
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "intermediate_size",
    "num_attention_heads",
    "n_head",
    "n_heads",
    "num_key_value_heads",
    "head_dim",
    "num_local_experts",
    "num_experts",
    "n_routed_experts",
)
"""What has to be equal in both configs. The size of the vocabulary may differ."""

PACKED_SUFFIXES = {
    "qweight": "GPTQ or AWQ",
    "qzeros": "GPTQ or AWQ",
    "weight_packed": "compressed-tensors",
    "absmax": "bitsandbytes",
    "quant_map": "bitsandbytes",
    "SCB": "bitsandbytes",
    "weight_scale_inv": "FP8 with scales",
    "weight_scale": "FP8 with scales",
}
"""Last part of a name -> the quantisation that leaves such tensors."""

CHAT_TOKEN = re.compile(r"im_(start|end)|_of_turn|eot|header|user|assistant|system|chat|tool|inst\b", re.IGNORECASE)
"""An added token that marks the turns of a chat."""

WAYS_OUT = {
    "gptq": "what GPTQ rounded away is lost, so take the weights that were quantised",
    "awq": "what AWQ rounded away is lost, so take the weights that were quantised",
    "bitsandbytes": "take the weights that were quantised, or save what transformers' model.dequantize() gives",
    "fp8": "load it with transformers 5 and FineGrainedFP8Config(dequantize=True), and save it in bf16",
    "mxfp4": "load it with transformers 5 and Mxfp4Config(dequantize=True), and save it in bf16",
    "compressed": "load it with transformers 5 and CompressedTensorsConfig(dequantize=True), and save it in bf16",
}
OTHER_WAY_OUT = "take the weights that were quantised, or load it in full precision and save that"


def screen(base: Checkpoint, aligned: Checkpoint) -> list[str]:
    """Every reason not to compare these two tensor by tensor."""
    problems = (
        same_model(base, aligned),
        quantisation("BASE", base),
        quantisation("ALIGNED", aligned),
        different_architecture(base.config, aligned.config),
    )
    return [problem for problem in problems if problem]


def same_model(base: Checkpoint, aligned: Checkpoint) -> str | None:
    """The problem of one model given twice, or of an adapter on the wrong side."""
    if base.base_identity() != aligned.base_identity():
        return None
    if base.reference != aligned.reference and aligned.adapter is not None:
        return None
    if base.adapter is not None and aligned.adapter is None:
        return (
            f"BASE is ALIGNED with an adapter on top ({base.reference}), ALIGNED is the same model without it: "
            f"are BASE and ALIGNED swapped?"
        )
    return f"BASE and ALIGNED are the same model ({aligned.reference}): there is no difference to extrapolate"


def quantisation(side: str, checkpoint: Checkpoint) -> str | None:
    """The problem of a quantised model: by its config, its tensors' names, or their dtypes."""
    found = declared_quantisation(checkpoint.config) or visible_quantisation(checkpoint)
    if found is None:
        return None
    method, evidence = found
    way_out = next((way for key, way in WAYS_OUT.items() if key in method.lower()), OTHER_WAY_OUT)
    return (
        f"{side} is quantised ({method}: {evidence}), so its weights cannot be subtracted. "
        f"Dequantise it first: {way_out}"
    )


def declared_quantisation(config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Method and evidence of a quantisation that the config declares."""
    declared = config.get("quantization_config") or text_config(config).get("quantization_config")
    if not isinstance(declared, dict):
        return None
    return str(declared.get("quant_method") or "unnamed method"), "quantization_config in its config.json"


def visible_quantisation(checkpoint: Checkpoint) -> tuple[str, str] | None:
    """Method and evidence of a quantisation that names or dtypes of tensors show."""
    signs: dict[str, list[str]] = {}
    for name, tensor in checkpoint.tensors.items():
        last = name.rpartition(".")[2]
        if last in PACKED_SUFFIXES or ".quant_state" in name:
            method = PACKED_SUFFIXES.get(last, "bitsandbytes")
        elif tensor.dtype.startswith(("F8_", "F6_")):
            method = "FP8"
        elif tensor.dtype.startswith("F4") or (last.endswith("_blocks") and tensor.dtype == "U8"):
            method = "MXFP4"
        elif last == "weight" and len(tensor.shape) > 1 and tensor.dtype not in FLOATING:
            method = f"weights packed in {tensor.dtype}"
        else:
            continue
        signs.setdefault(method, []).append(name)
    if not signs:
        return None
    method = max(signs, key=lambda name: len(signs[name]))
    return method, some(signs[method], limit=2)


def different_architecture(base: Mapping[str, Any], aligned: Mapping[str, Any]) -> str | None:
    """The problem of configs that describe two different models."""
    differences = []
    for key in ARCHITECTURE_KEYS:
        for ours, theirs in ((base, aligned), (text_config(base), text_config(aligned))):
            one, other = ours.get(key), theirs.get(key)
            if one is not None and other is not None and one != other:
                line = f"{key} is {one} in BASE and {other} in ALIGNED"
                differences += [line] if line not in differences else []
    if not differences:
        return None
    listed = "; ".join(differences)
    return f"the configs describe different models: {listed}. Is BASE what ALIGNED was trained from?"


def swapped(base: Tokenizer, aligned: Tokenizer) -> list[str]:
    """The problem of BASE and ALIGNED in the wrong order, where their tokenizers make it clear.

    Alignment adds chat tokens and a chat template, it does not take them away. A side without a tokenizer proves
    nothing: it was saved without one.
    """
    if base.tokens is None or aligned.tokens is None:
        return []
    difference = compare(base.tokens, aligned.tokens)
    lost = [token for token in difference.only_base if token in base.tokens.added and CHAT_TOKEN.search(token)]
    evidence = []
    if lost and not difference.only_aligned:
        evidence.append(f"BASE has chat tokens that ALIGNED lacks ({some(lost)})")
    if base.chat_template and aligned.chat_template is False:
        evidence.append("BASE has a chat template, ALIGNED has none")
    if not evidence:
        return []
    return [
        f"are BASE and ALIGNED swapped? {', and '.join(evidence)}. If they are not, put the tokenizer files "
        f"that ALIGNED is used with into its folder"
    ]
