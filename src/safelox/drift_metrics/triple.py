"""BASE, ALIGNED and TUNED, opened together: which matrices are measured, and where TUNED keeps them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from safelox.checkpoint import Checkpoint, open_checkpoint
from safelox.drift_metrics.report import Kind
from safelox.engine import Pair, open_pair
from safelox.errors import PairingError
from safelox.pairing import Carried, Matrix
from safelox.pairing.matrices import Link, by, cut
from safelox.pairing.naming import FLOATING, Anatomy, count, module, some
from safelox.pairing.screening import quantisation
from safelox.pairing.selection import Wish, select
from safelox.pairing.tying import Ends, find_ends

CONV1D_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
"""Model types whose layers are transformers' Conv1D: a linear layer that stores its weight transposed."""
CONV1D = ("c_attn", "q_attn", "c_proj", "c_fc")
"""Names of these layers."""


@dataclass(frozen=True)
class Triple:
    """Three models and the matrices to be measured in them."""

    models: Pair
    """BASE and ALIGNED, with the matrices that are measured."""
    tuned: Checkpoint
    tuned_names: Mapping[str, str]
    """Tensor of ALIGNED -> its counterpart in TUNED, of the same shape."""

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
    *,
    include: Sequence[str],
    exclude: Sequence[str],
    embeddings: bool,
    vocab: Literal["error", "common"],
    allow_pickle: bool,
) -> Iterator[Triple]:
    """Open three models and match them; every problem that the headers show is raised here.

    Measured is what `pair` selects, less the tables of tokens and positions. The output head is measured once, also
    where it is tied to the embedding; embeddings=False leaves it out.

    Raises:
        CheckpointError: a model cannot be read.
        PairingError: two of them do not belong together, or nothing is left to measure.
    """
    with (
        open_pair(
            base,
            aligned,
            include=include,
            exclude=exclude,
            embeddings=embeddings,
            vocab=vocab,
            allow_pickle=allow_pickle,
        ) as models,
        open_checkpoint(tuned, allow_pickle=allow_pickle) as opened,
    ):
        yield _match(models, opened, Wish(include, exclude, embeddings))


def _match(models: Pair, tuned: Checkpoint, wish: Wish) -> Triple:
    anatomy = Anatomy(models.aligned)
    ends = find_ends(models.aligned, anatomy)
    measured = _measured(models, anatomy, ends, wish)
    names = _tuned_names(tuned, measured, ends)
    problem = quantisation("TUNED", tuned)
    problems = [problem] if problem else _differences(models.aligned, tuned, names)
    if problems:
        lines = [f"ALIGNED {models.aligned.reference} and TUNED {tuned.reference} cannot be compared:"]
        raise PairingError("\n".join([*lines, *(f"- {problem}" for problem in problems)]))
    kept = {matrix.name for matrix in measured}
    carried = [item for item in models.pairing.carried if item.name not in kept]
    carried += [
        Carried(name, "an embedding table, or another copy of the head: not measured")
        for name in dict.fromkeys(matrix.name for matrix in models.pairing.matrices)
        if name not in kept
    ]
    pairing = replace(models.pairing, matrices=measured, carried=tuple(carried))
    return Triple(replace(models, pairing=pairing), tuned, names)


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


def _tuned_names(tuned: Checkpoint, measured: Sequence[Matrix], ends: Ends) -> dict[str, str]:
    """Under which name TUNED has each tensor: another one only where one side stores a tied head as the embedding."""
    names = {matrix.name: matrix.name for matrix in measured}
    theirs = find_ends(tuned, Anatomy(tuned))
    head = theirs.head or (theirs.embedding if theirs.tied else None)
    if head is not None:
        names |= {name: head for name in ends.names if name in names}
    return names


def _differences(aligned: Checkpoint, tuned: Checkpoint, names: Mapping[str, str]) -> list[str]:
    """Why tensors of ALIGNED cannot be compared with TUNED's."""
    missing, shapes, dtypes = [], [], []
    for name, theirs in names.items():
        found, expected = tuned.tensors.get(theirs), aligned.tensors[name]
        if found is None:
            missing.append(name)
        elif found.shape != expected.shape:
            shapes.append(f"{name} ({by(expected)} in ALIGNED, {by(found)} in TUNED)")
        elif found.dtype not in FLOATING:
            dtypes.append(f"{theirs} ({found.dtype})")
    problems = []
    if missing:
        problems.append(
            f"TUNED lacks {count(len(missing), 'tensor')} that ALIGNED has: {some(missing)}. Was TUNED fine-tuned from "
            f"ALIGNED and saved with the same class? If it is an adapter, give it as ALIGNED+ADAPTER"
        )
    if shapes:
        problems.append(
            f"the shapes of {count(len(shapes), 'tensor')} differ: {some(shapes)}. What is not to be measured can be "
            f"left out with --exclude, the output head with --no-embeddings"
        )
    if dtypes:
        problems.append(f"TUNED has no floating-point values in {count(len(dtypes), 'tensor')}: {some(dtypes)}")
    return problems
