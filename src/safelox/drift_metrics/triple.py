"""BASE, ALIGNED, TUNED and perhaps HARDENED, opened together: which matrices are measured, and where they are."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from safelox.checkpoint import open_checkpoint
from safelox.drift_metrics.counterpart import Counterpart, find_counterpart, without_lost_rows
from safelox.drift_metrics.report import Kind
from safelox.engine import Pair, open_pair
from safelox.errors import PairingError
from safelox.methods import Lox
from safelox.pairing import Carried, Matrix, Wish
from safelox.pairing.matrices import Link, cut
from safelox.pairing.naming import Anatomy, module
from safelox.pairing.selection import select
from safelox.pairing.tying import Ends, find_ends
from safelox.subspace import Subspace

CONV1D_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
"""Model types whose layers are transformers' Conv1D: a linear layer that stores its weight transposed."""
CONV1D = ("c_attn", "q_attn", "c_proj", "c_fc")
"""Names of these layers."""


@dataclass(frozen=True)
class Triple:
    """The models and the matrices to be measured in them."""

    models: Pair
    """BASE and ALIGNED, with the matrices that are measured."""
    tuned: Counterpart
    hardened: Counterpart | None
    subspace: Subspace | None
    in_file: frozenset[str]
    """Labels of the matrices whose directions `subspace` holds."""

    @property
    def counterparts(self) -> tuple[Counterpart, ...]:
        return (self.tuned,) if self.hardened is None else (self.tuned, self.hardened)

    def kind(self, matrix: Matrix) -> Kind:
        """What a matrix is in the model."""
        aligned = self.models.aligned
        if matrix.expert is not None:
            return "experts"
        if len(aligned.tensors[matrix.name].shape) > 2:
            return "other"
        conv1d = aligned.config.get("model_type") in CONV1D_MODELS and module(matrix.name) in CONV1D
        return "conv1d" if conv1d else "linear"


@contextmanager
def open_triple(
    base: str,
    aligned: str,
    tuned: str,
    hardened: str | None,
    wish: Wish,
    *,
    subspace: Path | None,
    rank: int,
    allow_pickle: bool,
) -> Iterator[Triple]:
    """Open the models and match them; every problem that the headers show is raised here.

    Measured is what `pair` selects, less the tables of tokens and positions. The output head is measured once, also
    where it is tied to the embedding; embeddings=False leaves it out.

    Raises:
        CheckpointError: a model or the subspace file cannot be read.
        PairingError: two of the models, or they and the file, do not belong together, or nothing is left to measure.
        UsageError: the file holds fewer directions than the rank.
    """
    with ExitStack() as stack:
        models = stack.enter_context(open_pair(base, aligned, wish, allow_pickle=allow_pickle))
        anatomy = Anatomy(models.aligned)
        ends = find_ends(models.aligned, anatomy)
        measured = _measured(models, anatomy, ends, wish)
        matched = []
        for side, reference in (("TUNED", tuned), ("HARDENED", hardened)):
            if reference is not None:
                opened = stack.enter_context(open_checkpoint(reference, allow_pickle=allow_pickle))
                matched.append(find_counterpart(side, opened, models.aligned, measured, ends))
        _refuse_problems(models.aligned.reference, matched)
        whole, counterparts = without_lost_rows(measured, matched)
        stored = _in_file(models, measured, whole)
        file = None
        if subspace is not None:
            in_file = replace(models, pairing=replace(models.pairing, matrices=stored))
            file = stack.enter_context(Subspace.open(subspace, in_file, Lox(rank=rank, coef=0.0)))
        yield Triple(
            models=_with_matrices(models, whole, counterparts),
            tuned=counterparts[0],
            hardened=counterparts[1] if len(counterparts) > 1 else None,
            subspace=file,
            in_file=frozenset(matrix.label for matrix in stored),
        )


def _refuse_problems(aligned: str, counterparts: list[Counterpart]) -> None:
    lines = []
    for counterpart in counterparts:
        if counterpart.problems:
            reference = counterpart.checkpoint.reference
            lines.append(f"ALIGNED {aligned} and {counterpart.side} {reference} cannot be compared:")
            lines += [f"- {problem}" for problem in counterpart.problems]
    if lines:
        raise PairingError("\n".join(lines))


def _in_file(models: Pair, measured: tuple[Matrix, ...], whole: tuple[Matrix, ...]) -> tuple[Matrix, ...]:
    """The matrices whose delta is the one that `decompose` sees: paired, and of all rows."""
    paired = {matrix.label for matrix in models.pairing.matrices}
    return tuple(
        before
        for before, after in zip(measured, whole, strict=True)
        if before.label in paired and before.row_map is after.row_map
    )


def _with_matrices(models: Pair, matrices: tuple[Matrix, ...], counterparts: tuple[Counterpart, ...]) -> Pair:
    kept = {matrix.name for matrix in matrices}
    carried = [item for item in models.pairing.carried if item.name not in kept]
    carried += [
        Carried(name, "an embedding table, or another copy of the head: not measured")
        for name in dict.fromkeys(matrix.name for matrix in models.pairing.matrices)
        if name not in kept
    ]
    notes = models.pairing.notes + tuple(note for counterpart in counterparts for note in counterpart.notes)
    return replace(models, pairing=replace(models.pairing, matrices=matrices, carried=tuple(carried), notes=notes))


def _measured(models: Pair, anatomy: Anatomy, ends: Ends, wish: Wish) -> tuple[Matrix, ...]:
    """What is paired and no table, in the order of ALIGNED's files.

    Where ALIGNED is BASE with an adapter, the pairing leaves out what the adapter does not change: these are deltas
    like others, though zero ones, and TUNED may differ there.
    """
    paired = {matrix.name for matrix in models.pairing.matrices}
    unchanged = [tensor for tensor in select(anatomy, wish).chosen if tensor.name not in paired]
    matrices = list(models.pairing.matrices)
    for tensor in unchanged:
        matrices += cut(Link(tensor, models.base.tensors[tensor.name]), anatomy.stacked_experts(tensor), None)
    head = ends.embedding if ends.tied and ends.head is None else ends.head
    order = {name: i for i, name in enumerate(models.aligned.tensors)}
    measured = [m for m in matrices if m.name == head or m.name not in anatomy.tables]
    if not measured:
        raise PairingError(
            "nothing is left to measure: embedding tables are not, and no other tensor of "
            f"{models.aligned.reference} was selected. Select more with --include or leave out less with --exclude"
        )
    return tuple(sorted(measured, key=lambda matrix: (order[matrix.name], matrix.start)))
