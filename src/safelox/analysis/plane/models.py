"""ORIGIN, HARDENED, TUNED and HARDENED_TUNED, opened together and matched weight by weight."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from safelox.analysis.plane.record import ModelName
from safelox.checkpoint import Checkpoint, TensorInfo, open_checkpoint
from safelox.errors import PairingError
from safelox.pairing.matrices import by
from safelox.pairing.naming import BUFFERS, FLOATING, Anatomy, count, some
from safelox.pairing.screening import quantisation
from safelox.pairing.tables import read_tokenizer
from safelox.pairing.tying import Ends, find_ends
from safelox.pairing.vocabulary import match_rows

SIDES: Mapping[ModelName, str] = {
    "origin": "ORIGIN",
    "hardened": "HARDENED",
    "tuned": "TUNED",
    "hardened_tuned": "HARDENED_TUNED",
}
"""What the models are called in messages."""
STARTS: Mapping[ModelName, ModelName] = {"hardened": "origin", "tuned": "origin", "hardened_tuned": "hardened"}
"""Which model each of the others was made from."""
RESIZABLE: Sequence[ModelName] = ("tuned", "hardened_tuned")
"""Models whose tables of tokens may have other rows than ORIGIN's."""


@dataclass(frozen=True)
class Weight:
    """One tensor of all four models; of tied ones, which are one weight, it has one name only."""

    name: str
    """In ORIGIN's files."""
    shape: tuple[int, ...]
    matrix_shape: tuple[int, int]
    row_maps: Mapping[ModelName, Tensor] = field(default_factory=dict, compare=False)
    """Of models whose table of tokens was resized: int64, the row of it for each of ORIGIN's; -1 where it has none."""


@dataclass(frozen=True)
class FourModels:
    """The four models and all the weights that they have in common, which are all they have."""

    checkpoints: Mapping[ModelName, Checkpoint]
    weights: tuple[Weight, ...]
    notes: tuple[str, ...]

    def rows(self, name: ModelName, weight: Weight, start: int, stop: int) -> Tensor:
        """Rows of a weight in one of the models: (stop - start, columns), fp64.

        Rows that fine-tuning's tables lack are those of the model that it started from.
        """
        checkpoint, rows = self.checkpoints[name], weight.row_maps.get(name)
        if rows is None:
            return checkpoint.rows(weight.name, start, stop).double()
        wanted = rows[start:stop]
        found = checkpoint.rows(weight.name)[wanted.clamp(min=0)].double()
        return torch.where((wanted < 0)[:, None], self.rows(STARTS[name], weight, start, stop), found)

    def release(self, weight: Weight) -> None:
        """Let go of the mapped pages."""
        for checkpoint in self.checkpoints.values():
            checkpoint.release(weight.name)


@contextmanager
def open_four(references: Mapping[ModelName, str]) -> Iterator[FourModels]:
    """Open the models and match them; every problem that the headers show is raised here, in one error.

    Floating-point tensors count, embeddings and one-dimensional ones among them; buffers do not.

    Raises:
        CheckpointError: a model cannot be read.
        PairingError: the models do not have the same weights.
    """
    with ExitStack() as stack:
        opened = {name: stack.enter_context(open_checkpoint(reference)) for name, reference in references.items()}
        yield _matched(opened)


def _matched(opened: Mapping[ModelName, Checkpoint]) -> FourModels:
    problems = [found for name, checkpoint in opened.items() if (found := quantisation(SIDES[name], checkpoint))]
    if problems:
        _refuse(problems)  # packed tensors would differ in a thousand names
    origin = opened["origin"]
    anatomy = Anatomy(origin)
    ends = {name: find_ends(checkpoint, Anatomy(checkpoint)) for name, checkpoint in opened.items()}
    problems = [found for name in SIDES if (found := _tying_problem(ends["origin"], name, ends[name]))]
    names = _weight_names(origin, ends["origin"])
    for name in STARTS:
        problems += _name_problems(name, names, _weight_names(opened[name], ends[name]))
    shared = [name for name in names if all(name in checkpoint.tensors for checkpoint in opened.values())]
    resized = [
        (name, side)
        for name in shared
        for side in RESIZABLE
        if name in anatomy.token_tables and _differs_in_rows(origin.tensors[name], opened[side].tensors[name])
    ]
    row_maps, notes, more = _matched_rows(opened, resized)
    problems += [*more, *_shape_problems(opened, shared, resized)]
    if problems:
        _refuse(problems)
    weights = [
        Weight(name, origin.tensors[name].shape, origin.tensors[name].matrix_shape, row_maps.get(name, {}))
        for name in names
    ]
    return FourModels(opened, tuple(weights), tuple(notes))


def _refuse(problems: Sequence[str]) -> None:
    raise PairingError("\n".join(["the four models have no plane in common:", *(f"- {found}" for found in problems)]))


def _weight_names(checkpoint: Checkpoint, ends: Ends) -> list[str]:
    """Floating-point tensors less buffers, in the order of the files; a tied weight that is stored twice once."""
    second = ends.head if ends.shipped_twice else None
    return [
        name
        for name, tensor in checkpoint.tensors.items()
        if tensor.dtype in FLOATING and not BUFFERS.search(name) and name != second
    ]


def _tying_problem(origin: Ends, name: ModelName, ends: Ends) -> str | None:
    if ends.incomplete:
        return (
            f"{SIDES[name]} stores {ends} alone, of its embedding and its output head, though its config.json says "
            "that they are not tied; save it again, whole"
        )
    if origin.tied == ends.tied:
        return None
    one, two = ("ties", "has two") if origin.tied else ("has two", "ties")
    return f"ORIGIN {one} weights of its embedding and its output head, {SIDES[name]} {two}: save both alike"


def _name_problems(name: ModelName, ours: Sequence[str], theirs: Sequence[str]) -> Iterator[str]:
    side = SIDES[name]
    missing, extra = [n for n in ours if n not in theirs], [n for n in theirs if n not in ours]
    if missing:
        yield (
            f"{side} lacks {count(len(missing), 'weight')} that ORIGIN has: {some(missing)}. If it is an adapter, "
            "give it as MODEL+ADAPTER"
        )
    if extra:
        yield f"{side} has {count(len(extra), 'weight')} that ORIGIN lacks: {some(extra)}"


def _differs_in_rows(ours: TensorInfo, theirs: TensorInfo) -> bool:
    return ours.shape != theirs.shape and ours.shape[1:] == theirs.shape[1:]


def _matched_rows(
    opened: Mapping[ModelName, Checkpoint], resized: Sequence[tuple[str, ModelName]]
) -> tuple[dict[str, dict[ModelName, Tensor]], list[str], list[str]]:
    """Row maps of the tables that fine-tuning has resized, notes, and problems."""
    maps: dict[str, dict[ModelName, Tensor]] = {}
    notes, problems = [], []
    sides: set[ModelName] = {"origin", *(side for _, side in resized)} if resized else set()
    tokenizers = {side: read_tokenizer(SIDES[side], opened[side].other_files()) for side in sides}
    for table, side in resized:
        ours, theirs = (opened[name].tensors[table].shape[0] for name in ("origin", side))
        found = f"{table} has {ours} rows in ORIGIN and {theirs} in {SIDES[side]}"
        one, two = tokenizers["origin"].tokens, tokenizers[side].tokens
        if one is None or two is None:
            lacks = [tokenizers[name].lack for name in ("origin", side) if tokenizers[name].tokens is None]
            problems.append(f"{found}, and rows are never matched by their place: {'; '.join(lacks)}")
            continue
        rows = match_rows(two, one, theirs, ours)
        maps.setdefault(table, {})[side] = rows.rows
        notes.append(f"{found}: {rows.matched} were matched by token, and the others count as not tuned")
    return maps, notes, problems


def _shape_problems(
    opened: Mapping[ModelName, Checkpoint], names: Sequence[str], resized: Sequence[tuple[str, ModelName]]
) -> Iterator[str]:
    origin = opened["origin"]
    for side in STARTS:
        unlike = [
            f"{name} ({by(origin.tensors[name])} in ORIGIN, {by(opened[side].tensors[name])} in {SIDES[side]})"
            for name in names
            if opened[side].tensors[name].shape != origin.tensors[name].shape and (name, side) not in resized
        ]
        if unlike:
            yield f"the shapes of {count(len(unlike), 'weight')} differ: {some(unlike)}"
