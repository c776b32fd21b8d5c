"""Which tensor of the base each tensor of a LoRA adapter changes, and how its factors lie on the stored matrix.

What matches nothing, does not fit, or has a meaning that no delta of one stored tensor can have is a problem.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from safelox.checkpoint.adapter_config import MERGE_HINT, AdapterConfig
from safelox.checkpoint.contents import BIAS, EMBEDDING, LINEAR, find_tensor, read_contents
from safelox.checkpoint.header import TensorInfo, listed
from safelox.checkpoint.tying import settle_tied
from safelox.checkpoint.values import Values, equal_values

CONV1D = {
    "gpt2": ("c_attn", "q_attn", "c_proj", "c_fc"),
    "openai-gpt": ("c_attn", "c_proj", "c_fc"),
    "imagegpt": ("c_attn", "q_attn", "c_proj", "c_fc"),
    "decision_transformer": ("c_attn", "q_attn", "c_proj", "c_fc"),
}
"""model_type -> modules that are transformers' Conv1D, whose weight is stored as (in, out)."""


@dataclass(frozen=True)
class StoredFactors:
    """Where the factors of one stored matrix are: its delta is scale * left @ right."""

    left: TensorInfo | None
    """None stands for a single one, as for a bias, which is a matrix of one row."""
    right: TensorInfo
    transposed: bool
    """The transposes of left and right are stored."""
    scale: float


@dataclass
class Matching:
    """The outcome: names of the base -> what the adapter says about them."""

    replaced: dict[str, TensorInfo] = field(default_factory=dict)
    factors: dict[str, StoredFactors] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def match_adapter(
    config: AdapterConfig,
    tensors: Mapping[str, TensorInfo],
    values: Values,
    *,
    base: Mapping[str, TensorInfo],
    base_values: Values,
    base_config: Mapping[str, Any],
) -> Matching:
    """Match the adapter's tensors to those of its base.

    From the headers, except that values are compared where an adapter stores something twice.
    """
    matching = Matching()
    contents = read_contents(tensors, matching.problems)
    matching.problems += settle_tied(contents, values, base, base_config)
    for name, info in contents.whole.items():
        target = find_tensor(name, base)
        if target is None:
            matching.problems.append(f"tensor {info.name} matches no tensor of the base")
        elif problem := _unlike(info, base[target]) or _taken(target, matching.replaced):
            matching.problems.append(f"tensor {info.name}: {problem}")
        elif name not in contents.copies or not equal_values(info, values, base[target], base_values):
            matching.replaced[target] = info
    orientation = _Orientation(config, contents.modules, base, str(base_config.get("model_type")))
    for module, parts in contents.modules.items():
        _match_module(module, parts, config, base, orientation, matching)
    matching.problems += _unsaved(config, base, matching.replaced)
    return matching


def _unlike(info: TensorInfo, target: TensorInfo) -> str:
    """Why a tensor cannot replace the base's; empty if it can."""
    if info.shape != target.shape:
        grown = " (the adapter was trained with another vocabulary)" if info.shape[1:] == target.shape[1:] else ""
        return f"shape {info.shape}, but {target.name} of the base has {target.shape}{grown}; {MERGE_HINT}"
    if not _is_float(info) or not _is_float(target):
        return f"dtype {info.dtype} instead of the base's {target.dtype}; both have to be floating point"
    return ""


def _taken(target: str, settled: Mapping[str, object]) -> str:
    """Whether two names of the adapter stand for the same tensor of the base, which only names made by hand do."""
    return f"another name of the adapter stands for {target} of the base as well" if target in settled else ""


def _is_float(info: TensorInfo) -> bool:
    return info.dtype in ("F64", "F32", "F16", "BF16")


def _match_module(
    module: str,
    parts: Mapping[str, TensorInfo],
    config: AdapterConfig,
    base: Mapping[str, TensorInfo],
    orientation: "_Orientation",
    matching: Matching,
) -> None:
    """Add the factors of one adapted module, or say why they cannot be a delta of its stored weight."""
    target = find_tensor(f"{module}.weight", base)
    if target is None:
        names = listed(sorted(info.name for info in parts.values()))
        matching.problems.append(f"{names}: the base has no tensor {module}.weight")
        return
    kinds = EMBEDDING if set(EMBEDDING) & set(parts) else LINEAR
    missing, unused = set(kinds) - set(parts), set(parts) - {*kinds, BIAS}
    if missing or unused:
        what = f"{listed(sorted(missing))} is missing" if missing else f"cannot have {listed(sorted(unused))} too"
        matching.problems.append(f"module {module}: {what}")
        return
    a, b = parts[kinds[0]], parts[kinds[1]]
    transposed, problem = orientation.of(module, a, b, base[target])
    rank, scale = config.rank_of(module), config.scale_of(module)
    if not problem and a.shape[0] != rank:
        problem = f"its factors have rank {a.shape[0]}, but adapter_config.json says {rank}"
    if not all(_is_float(info) for info in (a, b, base[target])):
        problem = f"dtypes {a.dtype}, {b.dtype} over {base[target].dtype} are not all floating point; {MERGE_HINT}"
    if problem := problem or _taken(target, matching.factors):
        matching.problems.append(f"module {module}: {problem}")
        return
    left, right = (a, b) if transposed else (b, a)
    matching.factors[target] = StoredFactors(left, right, transposed, scale)
    if BIAS in parts:
        _match_bias(module, parts[BIAS], scale, base, matching)


def _match_bias(
    module: str, info: TensorInfo, scale: float, base: Mapping[str, TensorInfo], matching: Matching
) -> None:
    target = find_tensor(f"{module}.bias", base)
    if target is None:
        matching.problems.append(f"tensor {info.name}: the base has no tensor {module}.bias to add it to")
    elif problem := _unlike(info, base[target]):
        matching.problems.append(f"tensor {info.name}: {problem}")
    else:
        matching.factors[target] = StoredFactors(None, info, False, scale)


class _Orientation:
    """Whether a module's stored weight is (in, out), as transformers' Conv1D stores it, or (out, in).

    A matrix that is not square shows it by its shape, since its factors fit only one way round. For a square one,
    the architecture says it where it is known; else PEFT's flag, unless another module contradicts it.
    """

    def __init__(
        self,
        config: AdapterConfig,
        modules: Mapping[str, Mapping[str, TensorInfo]],
        base: Mapping[str, TensorInfo],
        model_type: str,
    ) -> None:
        self.flag = config.fan_in_fan_out
        self.conv1d = CONV1D.get(model_type)
        self.seen: set[bool] = set()
        for module, parts in modules.items():
            target = find_tensor(f"{module}.weight", base)
            if target is not None and set(LINEAR) <= set(parts):
                fits = _fitting(parts[LINEAR[0]], parts[LINEAR[1]], base[target].shape)
                self.seen |= fits if len(fits) == 1 else set()

    def of(self, module: str, a: TensorInfo, b: TensorInfo, weight: TensorInfo) -> tuple[bool, str]:
        """Whether the delta is the transpose of b @ a, or what keeps it from being either."""
        fits = _fitting(a, b, weight.shape)
        if a.name.endswith(EMBEDDING[0]):
            fits &= {True}  # PEFT stores (rank, tokens) and (width, rank) for a weight of (tokens, width)
        if not fits:
            return False, (
                f"factors of shape {a.shape} and {b.shape} do not fit a base weight of shape {weight.shape}; "
                f"is this the adapter's base? If it adapts a convolution, {MERGE_HINT}"
            )
        if len(fits) == 1:
            return fits.pop(), ""
        if self.conv1d is not None:
            return module.rpartition(".")[2] in self.conv1d, ""
        if self.seen - {self.flag}:
            return False, (
                f"its square weight may be stored as (in, out) or as (out, in): fan_in_fan_out is {self.flag}, but "
                f"other modules of this adapter are the other way round; {MERGE_HINT}"
            )
        return self.flag, ""


def _fitting(a: TensorInfo, b: TensorInfo, weight: tuple[int, ...]) -> set[bool]:
    """For which values of "transposed" b @ a has the shape of the weight."""
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
        return set()
    product = (b.shape[0], a.shape[1])
    return {transposed for transposed in (False, True) if weight == (product[::-1] if transposed else product)}


def _unsaved(config: AdapterConfig, base: Mapping[str, TensorInfo], replaced: Mapping[str, TensorInfo]) -> list[str]:
    """modules_to_save of which the adapter's file holds nothing."""
    # PEFT takes every module whose name ends so; the tensors may lie deeper.
    return [
        f"modules_to_save names {module}, which the base has, but the file has no values for it; save it again"
        for module in config.modules_to_save
        if any(f"{module}." in name for name in base) and not any(f"{module}." in name for name in replaced)
    ]
