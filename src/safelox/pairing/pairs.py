"""Which matrices of ALIGNED are extrapolated, and against which rows of BASE: decided before any work."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from safelox.checkpoint import Checkpoint, TensorInfo
from safelox.errors import PairingError
from safelox.pairing.matrices import Link, Matrix, cut, shape_problems
from safelox.pairing.missing import explain_missing
from safelox.pairing.naming import Anatomy, count, some
from safelox.pairing.screening import screen, swapped
from safelox.pairing.selection import Carried, Wish, select, wish_problems
from safelox.pairing.tables import Table, match_tables, read_tokenizer
from safelox.pairing.tying import counterpart, find_ends, tying_notes, tying_problems


@dataclass(frozen=True)
class Pairing:
    """The whole plan for one pair of models."""

    matrices: tuple[Matrix, ...]
    """What is extrapolated, in the order of ALIGNED's files and bytes."""
    carried: tuple[Carried, ...]
    """What is kept byte for byte, in the same order."""
    notes: tuple[str, ...]
    """What the user should know."""
    tied: tuple[str, ...] = ()
    """ALIGNED's tensors that serve as input embedding and as head: two names where one weight is stored twice."""


def pair(base: Checkpoint, aligned: Checkpoint, wish: Wish) -> Pairing:
    """Decide what is extrapolated against what, from the headers of both models.

    By default that is what the paper's code does: every two-dimensional floating-point weight of the language model,
    embeddings and head included, experts one by one. One-dimensional tensors are always carried; vision and audio
    parts, multi-token prediction heads and convolutions are carried unless `include` names them.

    Raises PairingError with every problem that was found. Values are read only to tell whether an embedding and a head
    that are both stored are equal.
    """
    anatomy, base_anatomy = Anatomy(aligned), Anatomy(base)
    unfit = screen(base, aligned)
    if unfit:
        # Comparing two such models tensor by tensor would bury the reason under a thousand names.
        fail(base, aligned, unfit + wish_problems(anatomy, wish))
    base_ends, aligned_ends = find_ends(base, base_anatomy), find_ends(aligned, anatomy)
    selection = select(anatomy, wish)
    changed, unchanged = part_by_adapter(base, aligned, selection.chosen)
    names = {tensor.name: counterpart(tensor.name, base_ends, aligned_ends) for tensor in changed}
    links = [Link(t, base_anatomy.tensors[names[t.name]]) for t in changed if names[t.name] in base.tensors]
    tables = [
        Table(link.aligned.name, link.aligned.shape[0], link.base.shape[0])
        for link in links
        if link.aligned.name in anatomy.token_tables and link.base.shape[1:] == link.aligned.shape[1:]
    ]
    sides = read_tokenizer("BASE", base.other_files()), read_tokenizer("ALIGNED", aligned.other_files())
    rows = match_tables(tables, *sides, wish.vocab)
    # A head that BASE should have and has not is told by tying_problems.
    told = aligned_ends.names if base_ends.incomplete else ()
    missing = [t for t in changed if names[t.name] not in base.tensors and t.name not in told]
    problems = [
        *wish_problems(anatomy, wish),
        *swapped(*sides),
        *tying_problems(base_ends, aligned_ends, names),
        *explain_missing(missing, base_anatomy.tensors, anatomy.tensors),
        *shape_problems(links, anatomy),
        *rows.problems,
    ]
    if not problems and not changed:
        problems.append(nothing_selected(selection.carried + unchanged))
    if problems:
        fail(base, aligned, problems)
    order = {name: i for i, name in enumerate(aligned.tensors)}
    return Pairing(
        matrices=tuple(
            matrix
            for link in links
            for matrix in cut(link, anatomy.stacked_experts(link.aligned), rows.row_map(link.aligned.name))
        ),
        carried=tuple(sorted(selection.carried + unchanged, key=lambda item: order[item.name])),
        notes=(
            *tying_notes(base_ends, aligned_ends),
            *rows.notes,
            *link_notes(links, base, aligned, anatomy),
        ),
        tied=aligned_ends.names if aligned_ends.tied else (),
    )


def fail(base: Checkpoint, aligned: Checkpoint, problems: Sequence[str]) -> NoReturn:
    lines = [f"BASE {base.reference} and ALIGNED {aligned.reference} cannot be paired:"]
    lines += [f"- {problem}" for problem in problems]
    raise PairingError("\n".join(lines))


def part_by_adapter(
    base: Checkpoint, aligned: Checkpoint, chosen: Sequence[TensorInfo]
) -> tuple[tuple[TensorInfo, ...], tuple[Carried, ...]]:
    """Where ALIGNED is BASE with an adapter on top: the tensors that the adapter changes, and the others."""
    if aligned.adapter is None or base.base_identity() != aligned.base_identity():
        return tuple(chosen), ()
    touched = {
        name for side in (base, aligned) if side.adapter for name in (*side.adapter.factors, *side.adapter.replaced)
    }
    return (
        tuple(tensor for tensor in chosen if tensor.name in touched),
        tuple(Carried(tensor.name, "not changed by the adapter") for tensor in chosen if tensor.name not in touched),
    )


def nothing_selected(carried: Sequence[Carried]) -> str:
    """The problem of a plan without a single matrix."""
    reasons = Counter(item.reason for item in carried)
    listed = "; ".join(f"{count(number, 'tensor')}: {reason}" for reason, number in reasons.most_common())
    return f"nothing is left to extrapolate ({listed or 'ALIGNED holds no tensors'})"


def link_notes(links: Sequence[Link], base: Checkpoint, aligned: Checkpoint, anatomy: Anatomy) -> list[str]:
    """What the user should know about the tensors that are compared."""
    notes = []
    stacks = [experts for link in links if (experts := anatomy.stacked_experts(link.aligned)) is not None]
    if stacks:
        notes.append(f"{count(len(stacks), 'tensor')} of fused experts: taken expert by expert, {sum(stacks)} matrices")
    thick = [t for link in links if len((t := link.aligned).shape) > 2 and anatomy.stacked_experts(t) is None]
    if thick:
        shapes = (f"{t.name} as {t.matrix_shape[0]} x {t.matrix_shape[1]}" for t in thick)
        notes.append(
            f"{count(len(thick), 'tensor')} of more than two dimensions, each taken as one matrix: {some(shapes)}"
        )
    mixed = Counter((link.base.dtype, link.aligned.dtype) for link in links if link.base.dtype != link.aligned.dtype)
    for (ours, theirs), number in sorted(mixed.items()):
        notes.append(f"{count(number, 'tensor')} stored as {ours} in BASE and as {theirs} in ALIGNED")
    ignored = base.tensors.keys() - aligned.tensors.keys() - {link.base.name for link in links}
    if ignored:
        notes.append(f"{count(len(ignored), 'tensor')} of BASE that ALIGNED lacks, ignored: {some(ignored)}")
    return notes
