"""Where HARDENED or TUNED keeps what is measured of ALIGNED: under which names, and in which rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from safelox.checkpoint import Checkpoint
from safelox.pairing import Matrix
from safelox.pairing.matrices import by
from safelox.pairing.naming import FLOATING, Anatomy, count, some
from safelox.pairing.screening import quantisation
from safelox.pairing.tables import read_tokenizer
from safelox.pairing.tying import Ends, find_ends
from safelox.pairing.vocabulary import match_rows


@dataclass(frozen=True)
class Counterpart:
    """A model that came from ALIGNED, matched with it tensor by tensor."""

    side: str
    """HARDENED or TUNED."""
    checkpoint: Checkpoint
    names: Mapping[str, str]
    """Tensor of ALIGNED -> its counterpart, of the same shape but for the rows of a resized output head."""
    row_maps: Mapping[str, torch.Tensor]
    """Tensor of ALIGNED, where its counterpart is resized -> int64, the row of it for each row of ALIGNED's tensor; -1
    for a row that it has not."""
    notes: tuple[str, ...]
    problems: tuple[str, ...]
    """Why the two cannot be compared, in words; none if they can."""


def find_counterpart(
    side: str, checkpoint: Checkpoint, aligned: Checkpoint, measured: Sequence[Matrix], ends: Ends
) -> Counterpart:
    """Look for the tensors of some matrices of ALIGNED in a model that came from it.

    Args:
        side: what the model is called in messages.
        ends: of ALIGNED.
    """
    problem = quantisation(side, checkpoint)
    if problem:
        return Counterpart(side, checkpoint, {}, {}, (), (problem,))
    anatomy = Anatomy(aligned)
    names = _names(checkpoint, measured, ends)
    resized = [
        name
        for name, theirs in names.items()
        if name in anatomy.token_tables
        and theirs in checkpoint.tensors
        and checkpoint.tensors[theirs].dtype in FLOATING
        and checkpoint.tensors[theirs].shape[0] != aligned.tensors[name].shape[0]
        and checkpoint.tensors[theirs].shape[1:] == aligned.tensors[name].shape[1:]
    ]
    row_maps, notes, problems = _matched_rows(side, checkpoint, aligned, {name: names[name] for name in resized})
    problems += _differences(side, checkpoint, aligned, {n: t for n, t in names.items() if n not in resized})
    return Counterpart(side, checkpoint, names, row_maps, tuple(notes), tuple(problems))


def without_lost_rows(
    measured: Sequence[Matrix], counterparts: Sequence[Counterpart]
) -> tuple[tuple[Matrix, ...], tuple[Counterpart, ...]]:
    """The matrices less the rows that one of the models lacks: such rows count for no delta, in no model."""
    matrices, maps = [], [dict(counterpart.row_maps) for counterpart in counterparts]
    for matrix in measured:
        present = [rows[matrix.name] for rows in maps if matrix.name in rows]
        if not present:
            matrices.append(matrix)
            continue
        own = matrix.row_map
        if own is None:
            own = torch.arange(matrix.base_start, matrix.base_start + matrix.rows)
        lost = torch.stack([rows < 0 for rows in (own, *present)]).any(dim=0)
        if bool((lost != (own < 0)).any()):
            matrix = replace(matrix, row_map=own.masked_fill(lost, -1))
        matrices.append(matrix)
        for rows in maps:
            if matrix.name in rows:
                rows[matrix.name] = rows[matrix.name].masked_fill(lost, -1)
    cut = [replace(counterpart, row_maps=rows) for counterpart, rows in zip(counterparts, maps, strict=True)]
    return tuple(matrices), tuple(cut)


def _names(checkpoint: Checkpoint, measured: Sequence[Matrix], ends: Ends) -> dict[str, str]:
    """Under which name a model has each tensor: another one only where one side stores a tied head as the embedding."""
    names = {matrix.name: matrix.name for matrix in measured}
    theirs = find_ends(checkpoint, Anatomy(checkpoint))
    head = theirs.head or (theirs.embedding if theirs.tied else None)
    if head is not None:
        names |= {name: head for name in ends.names if name in names}
    return names


def _matched_rows(
    side: str, checkpoint: Checkpoint, aligned: Checkpoint, resized: Mapping[str, str]
) -> tuple[dict[str, torch.Tensor], list[str], list[str]]:
    """Row maps of resized tables, by token; notes; and problems."""
    maps: dict[str, torch.Tensor] = {}
    notes: list[str] = []
    problems: list[str] = []
    if not resized:
        return maps, notes, problems
    ours = read_tokenizer("ALIGNED", aligned.other_files())
    theirs = read_tokenizer(side, checkpoint.other_files())
    for name, other_name in resized.items():
        sizes = aligned.tensors[name].shape[0], checkpoint.tensors[other_name].shape[0]
        found = f"{name} has {sizes[0]} rows in ALIGNED and {sizes[1]} in {side}"
        if ours.tokens is None or theirs.tokens is None:
            why = "; ".join(tokenizer.lack for tokenizer in (ours, theirs) if tokenizer.tokens is None)
            problems.append(
                f"{found}, and rows are never matched by their place: {why}. Put the tokenizer's files into the "
                "model's folder, or leave the output head out with --no-embeddings"
            )
            continue
        rows = match_rows(theirs.tokens, ours.tokens, sizes[1], sizes[0])
        if not rows.matched:
            problems.append(f"{found}, and the two have no token in common: leave it out with --no-embeddings")
            continue
        maps[name] = rows.rows
        notes.append(f"{found}: {rows.matched} were matched by token, and the others count for nothing")
    return maps, notes, problems


def _differences(side: str, checkpoint: Checkpoint, aligned: Checkpoint, names: Mapping[str, str]) -> list[str]:
    """Why tensors of ALIGNED cannot be compared with a model's."""
    missing, shapes, dtypes = [], [], []
    for name, theirs in names.items():
        found, expected = checkpoint.tensors.get(theirs), aligned.tensors[name]
        if found is None:
            missing.append(name)
        elif found.shape != expected.shape:
            shapes.append(f"{name} ({by(expected)} in ALIGNED, {by(found)} in {side})")
        elif found.dtype not in FLOATING:
            dtypes.append(f"{theirs} ({found.dtype})")
    problems = []
    if missing:
        problems.append(
            f"{side} lacks {count(len(missing), 'tensor')} that ALIGNED has: {some(missing)}. Did {side} come from "
            f"ALIGNED, and was it saved with the same class? If it is an adapter, give it as ALIGNED+ADAPTER"
        )
    if shapes:
        problems.append(
            f"the shapes of {count(len(shapes), 'tensor')} differ: {some(shapes)}. What is not to be measured can be "
            f"left out with --exclude, the output head with --no-embeddings"
        )
    if dtypes:
        problems.append(f"{side} has no floating-point values in {count(len(dtypes), 'tensor')}: {some(dtypes)}")
    return problems
