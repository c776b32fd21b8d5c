"""Whether a model's input embedding and its output head are one weight, and which of BASE's tensors they pair with.

The decision is that of transformers 5 when it loads a model: where the config says tied and one of the two is
stored, it serves as both; where both are stored, they are tied only if their values are equal.
"""

from collections.abc import Collection
from dataclasses import dataclass

import torch

from safelox.checkpoint import Checkpoint
from safelox.pairing.naming import Anatomy, text_config

ROWS_AT_ONCE = 4096

LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""Endings of the architectures that need a head."""


@dataclass(frozen=True)
class Ends:
    """Where tokens enter and leave a model."""

    embedding: str | None
    """The input embedding's tensor, None where none is stored."""
    head: str | None
    """The output head's tensor, None where none is stored."""
    tied: bool
    """Whether one weight serves as both."""
    incomplete: bool = False
    """Whether one of the two is missing, since the config says that they are not tied."""
    contradictory: bool = False
    """Whether the config says tied, though two different weights are stored."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in (self.embedding, self.head) if name is not None)

    @property
    def shipped_twice(self) -> bool:
        """Whether both are stored though they are one weight."""
        return self.tied and len(self.names) == 2

    def __str__(self) -> str:
        return " and ".join(self.names)


def find_ends(checkpoint: Checkpoint, anatomy: Anatomy) -> Ends:
    """The input embedding and the head of a model, and whether they are tied.

    Values are read only where both are stored and the config does not say that they are untied.
    """
    embedding = anatomy.embeddings[0] if anatomy.embeddings else None
    head = anatomy.heads[0] if anatomy.heads else None
    stored = (embedding is not None) + (head is not None)
    if says_tied(checkpoint) is False:
        return Ends(embedding, head, tied=False, incomplete=stored == 1 and is_language_model(checkpoint))
    if embedding is not None and head is not None:
        tied = same_values(checkpoint, embedding, head)
        return Ends(embedding, head, tied, contradictory=not tied and says_tied(checkpoint) is True)
    return Ends(embedding, head, tied=stored == 1)


def is_language_model(checkpoint: Checkpoint) -> bool:
    """Whether a model needs a head; one whose config does not name its class is taken to."""
    architectures = checkpoint.config.get("architectures") or LANGUAGE_MODELS
    return any(str(name).endswith(LANGUAGE_MODELS) for name in architectures)


def says_tied(checkpoint: Checkpoint) -> bool | None:
    """What the config says about tying; None where it is silent."""
    for config in (checkpoint.config, text_config(checkpoint.config)):
        if isinstance(config.get("tie_word_embeddings"), bool):
            return bool(config["tie_word_embeddings"])
    return None


def same_values(checkpoint: Checkpoint, first: str, second: str) -> bool:
    """Whether two matrices are equal; reads no further than their first difference."""
    one, other = checkpoint.tensors[first], checkpoint.tensors[second]
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    rows = one.matrix_shape[0]
    for start in range(0, rows, ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, rows)
        equal = torch.equal(checkpoint.rows(first, start, stop), checkpoint.rows(second, start, stop))
        for name in (first, second):
            checkpoint.release(name, start, stop)
        if not equal:
            return False
    return True


def counterpart(name: str, base: Ends, aligned: Ends) -> str:
    """BASE's tensor that a tensor of ALIGNED is compared with: another name only where BASE's weight is tied."""
    return base.names[0] if base.tied and name in aligned.names else name


def tying_problems(base: Ends, aligned: Ends, chosen: Collection[str]) -> list[str]:
    """What is wrong with the input embeddings and heads.

    chosen: names of ALIGNED's tensors that are to be extrapolated.
    """
    concerned = [name for name in aligned.names if name in chosen]
    if not concerned:
        return []
    problems = [problem for problem in (missing_end("BASE", base), missing_end("ALIGNED", aligned)) if problem]
    if aligned.tied and not base.tied and len(base.names) == 2:
        problems.append(
            f"ALIGNED ties its input embedding and its head ({aligned}), while BASE has two different "
            f"weights ({base}): one weight has no single difference from two. Save ALIGNED with both and "
            f"with tie_word_embeddings: false in its config.json, or leave them out with --no-embeddings"
        )
    if aligned.shipped_twice and len(concerned) == 1:
        problems.append(
            f"ALIGNED ships one tied weight under two names ({aligned}), but only {concerned[0]} is to be "
            f"extrapolated: select both or neither, or they are no longer tied"
        )
    return problems


def missing_end(side: str, ends: Ends) -> str | None:
    """The problem of a model that needs a head of its own and has none, or no embedding."""
    if not ends.incomplete:
        return None
    absent = "output head (such as lm_head.weight)" if ends.head is None else "input embedding"
    return (
        f"{side} stores {ends} but no {absent}, though its config.json says tie_word_embeddings: false. If "
        f"the two are really tied, set it to true; otherwise save the model again, whole"
    )


def tying_notes(base: Ends, aligned: Ends) -> list[str]:
    """What the user should know about tied weights."""
    notes = [
        f"{side}'s config.json says tie_word_embeddings: true, but {ends} differ: "
        f"taken as two weights, as transformers 5 loads them"
        for side, ends in (("BASE", base), ("ALIGNED", aligned))
        if ends.contradictory
    ]
    if aligned.shipped_twice:
        notes.append(
            f"ALIGNED ships one tied weight under two names ({aligned}): both get the same values and stay tied"
        )
    elif aligned.tied:
        notes.append(f"{aligned} serves as input embedding and as head (tied weights): it is extrapolated once")
    elif base.tied and len(aligned.names) == 2:
        notes.append(f"BASE ties its input embedding and its head: {aligned} are compared with {base.names[0]}")
    return notes
