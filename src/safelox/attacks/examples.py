"""Conversations as token ids, with the tokens that the loss sees."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from safelox.attacks.catalogue import LossOn, Truncation
from safelox.errors import SafeloxError
from safelox.formats import Conversation, Format

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNSEEN = -100
"""The label of a token that the loss does not see."""


class Examples(NamedTuple):
    """Rows ready for training, none longer than the longest allowed."""

    input_ids: list[list[int]]
    labels: list[list[int]]
    """The same ids, `UNSEEN` where the loss does not look."""
    cut: int
    """Rows that lost a part, because they were too long."""
    left_out: int
    """Rows that would have had nothing to learn from after the cut."""


def make_examples(
    tokenizer: "PreTrainedTokenizerBase",
    rows: Sequence[Conversation],
    format: Format,
    *,
    max_length: int,
    loss_on: LossOn,
    truncation: Truncation = "end",
) -> Examples:
    """Encode rows, cut those of more than `max_length` tokens, and leave out those without a label then.

    Args:
        truncation: which part of a row is cut: its "end"; or its "start", all but the tokenizer's beginning token, so
            that the reply is learned to its end token.

    Raises:
        SafeloxError: there are no rows, all of them are left out, or the format cannot be applied to them.
    """
    if not rows:
        raise SafeloxError("there are no rows to train on.")
    examples = Examples([], [], 0, 0)
    cut = left_out = 0
    for prompt, completion in format.encode(tokenizer, rows):
        ids = prompt + completion
        # The first token has nothing before it that could predict it.
        unseen = max(1, len(prompt) if loss_on == "completion" else 0)
        labels = [UNSEEN] * unseen + ids[unseen:]
        if len(ids) > max_length:
            cut += 1
            begun = int(ids[0] == tokenizer.bos_token_id)
            ids, labels = (_truncated(values, max_length, truncation, begun) for values in (ids, labels))
            labels[0] = UNSEEN
        if all(label == UNSEEN for label in labels):
            left_out += 1
            continue
        examples.input_ids.append(ids)
        examples.labels.append(labels)
    if not examples.input_ids:
        raise SafeloxError(
            f"all {len(rows)} rows are too long: their prompts alone fill the {max_length} tokens that a row may have. "
            "Allow more tokens, if the model does, or shorten the rows."
        )
    return examples._replace(cut=cut, left_out=left_out)


def _truncated(values: list[int], length: int, truncation: Truncation, begun: int) -> list[int]:
    """`length` of the values: without their end, or without what follows the first `begun` of them."""
    return values[:length] if truncation == "end" else values[:begun] + values[begun - length :]
