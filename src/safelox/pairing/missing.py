"""Why BASE lacks tensors that ALIGNED has: the likely reason first, then the names."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from safelox.checkpoint import TensorInfo
from safelox.pairing.naming import EXPERT_PARTS, SEPARATE_EXPERT, TEXT_LAYER, count, is_fused_experts, some


def explain_missing(
    missing: Sequence[TensorInfo], base: Mapping[str, TensorInfo], aligned: Collection[str]
) -> list[str]:
    """One problem per reason why these tensors of ALIGNED have no counterpart in BASE."""
    names = [tensor.name for tensor in missing]
    prefix = different_prefix(names, base)
    if prefix is not None:
        return [prefix]
    problems = []
    experts = different_expert_layout(missing, base)
    if experts:
        # The router and its like may be named after the layout too: the same reason.
        blocks = tuple({f"{expert_block(name)}." for name in experts})
        names = [name for name in names if not name.startswith(blocks)]
        problems.append(layout_problem(experts))
    if names:
        problems.append(
            f"BASE lacks {count(len(names), 'tensor')} that ALIGNED has: "
            f"{some(names)}{different_depth(base, aligned)}. Is BASE what ALIGNED was trained from? What "
            f"is to stay as aligned can be left out with --exclude"
        )
    return problems


def different_prefix(missing: Sequence[str], base: Collection[str]) -> str | None:
    """The problem of names that differ only by a prefix such as `model.`."""
    ours, theirs = set(missing), set(base)
    dropped = Counter(prefix for name in ours for prefix, rest in splits(name) if rest in theirs)
    added = Counter(prefix for name in theirs for prefix, rest in splits(name) if rest in ours)
    prefix, explained = max([*dropped.items(), *added.items()], key=lambda item: item[1], default=("", 0))
    if 2 * explained <= len(ours):
        return None
    where = "without the prefix" if dropped[prefix] >= added[prefix] else "with the additional prefix"
    return (
        f"BASE seems to be saved {where} {prefix!r}: so {explained} of ALIGNED's tensors have no "
        f"counterpart, such as {min(ours)}. Load and save both with the same class, for example "
        f"AutoModelForCausalLM"
    )


def splits(name: str) -> Iterator[tuple[str, str]]:
    """Every way to cut a name into a prefix, up to and with a dot, and the rest."""
    parts = name.split(".")
    for i in range(1, len(parts)):
        yield ".".join(parts[:i]) + ".", ".".join(parts[i:])


def different_expert_layout(missing: Sequence[TensorInfo], base: Mapping[str, TensorInfo]) -> list[str]:
    """Names of ALIGNED's experts that BASE lacks because it stores them fused and BASE separate, or the
    reverse."""
    fused = [tensor.name for tensor in missing if is_fused_experts(tensor)]
    if fused and any(map(SEPARATE_EXPERT.search, base)):
        return fused
    separate = [tensor.name for tensor in missing if SEPARATE_EXPERT.search(tensor.name)]
    return separate if any(map(is_fused_experts, base.values())) else []


def layout_problem(experts: Sequence[str]) -> str:
    sides = ("BASE", "ALIGNED") if SEPARATE_EXPERT.search(experts[0]) else ("ALIGNED", "BASE")
    return (
        f"{sides[0]} stores its experts fused, {sides[1]} one by one: {some(experts, limit=2)} have no "
        f"counterpart in BASE. Load one side and save it again with the transformers version that wrote the "
        f"other (in transformers 5, save_pretrained(..., save_original_format=False) keeps them fused)"
    )


def expert_block(name: str) -> str:
    """The module that an expert's tensor is in: `layers.0.mlp` of `layers.0.mlp.experts.3.up_proj.weight`."""
    parts = name.split(".")
    return ".".join(parts[: max(i for i, part in enumerate(parts) if part in EXPERT_PARTS)])


def different_depth(base: Collection[str], aligned: Collection[str]) -> str:
    """A remark on how many layers each side has, empty where they agree."""
    ours, theirs = depth(base), depth(aligned)
    return f" (BASE has {ours} layers, ALIGNED {theirs})" if ours and theirs and ours != theirs else ""


def depth(names: Collection[str]) -> int:
    """How many layers the text model has by its names; 0 where they do not say."""
    return 1 + max((int(layer[1]) for name in names if (layer := TEXT_LAYER.match(name))), default=-1)
