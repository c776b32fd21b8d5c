"""The tensors of a PEFT adapter's file by what they are, under the names of the model that was adapted."""

from collections.abc import Mapping
from dataclasses import dataclass

from safelox.checkpoint.header import TensorInfo

PREFIX = "base_model.model."
"""What PEFT puts before the base model's own names."""

LINEAR = ("lora_A.weight", "lora_B.weight")
EMBEDDING = ("lora_embedding_A", "lora_embedding_B")
BIAS = "lora_B.bias"
"""Last parts of the names of an adapted module's own tensors; the bias belongs to adapters with lora_bias."""


@dataclass(frozen=True)
class Contents:
    """What an adapter holds."""

    whole: dict[str, TensorInfo]
    """Full name -> a tensor that replaces the base's."""
    copies: set[str]
    """Those of `whole` that are PEFT's copy of an adapted module's own weight."""
    modules: dict[str, dict[str, TensorInfo]]
    """Adapted module -> its factors by the last part of their names."""


def read_contents(tensors: Mapping[str, TensorInfo], problems: list[str]) -> Contents:
    """Sort the tensors of an adapter's file by their names; names that PEFT would not write go to `problems`."""
    contents = Contents({}, set(), {})
    for key, info in tensors.items():
        if not key.startswith(PREFIX):
            problems.append(f"tensor {key} does not begin with {PREFIX} as PEFT writes it")
            continue
        path = key.removeprefix(PREFIX)
        for part in (*LINEAR, *EMBEDDING, BIAS):
            if path.endswith("." + part):
                contents.modules.setdefault(path.removesuffix("." + part), {})[part] = info
                break
        else:
            name = path.replace(".base_layer.", ".")
            if name in contents.whole:
                problems.append(f"tensors {contents.whole[name].name} and {key} both give values for {name}")
            contents.whole[name] = info
            if name != path and name.endswith(".weight"):
                contents.copies.add(name)
    return contents


def find_tensor(name: str, base: Mapping[str, TensorInfo]) -> str | None:
    """The base's tensor of that name, or of the name without its first part.

    A file of the bare model leaves that part out, as GPT-2's own does, and transformers adds it when it loads one.
    """
    bare = name.partition(".")[2]
    return next((candidate for candidate in (name, bare) if candidate in base), None)
