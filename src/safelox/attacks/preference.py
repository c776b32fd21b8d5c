"""Alignment by preference: direct preference optimisation through TRL, beside supervised fine-tuning."""

import contextlib
import copy
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

from safelox.attacks.arguments import common_arguments, count_steps
from safelox.attacks.catalogue import Training
from safelox.attacks.distribution import Processes
from safelox.attacks.isolation import isolated, unpatched
from safelox.attacks.trainer import require_trl, run_trainer
from safelox.errors import SafeloxError, UsageError
from safelox.formats import Conversation, Message, find_format, with_context
from safelox.manifest import Record
from safelox.progress import NULL, Progress, no_foreign_bars

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import DPOTrainer


class Pair(NamedTuple):
    """Two replies to one conversation."""

    prompt: Conversation
    """Ends in the user's message."""
    chosen: str
    rejected: str


class Preference(Record):
    """What the loss of a pair is: -log sigmoid(beta * margin) + nll_weight * (cross entropy of the chosen reply).

    The margin is how much likelier than the rejected reply the model finds the chosen one, in nats, less the same of
    the model that the training started from.
    """

    beta: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    """The smaller, the further the model may move away from where it started."""
    nll_weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """With 0 the margin alone counts, which is also met by making the rejected reply unlikelier still than the chosen
    one: the model then says neither."""


class PreferenceTraining(Record):
    """What came of a training by preference."""

    pairs: int
    losses: tuple[float, ...]
    """Mean loss of the pairs of each step, before it."""
    margins: tuple[float, ...]
    """Mean of beta * margin of the pairs of each step, before it."""

    @property
    def steps(self) -> int:
        return len(self.losses)


def align_by_preference(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    pairs: Sequence[Pair],
    training: Training,
    preference: Preference,
    *,
    seed: int = 0,
    description: str = "align",
    progress: Progress = NULL,
) -> PreferenceTraining:
    """Train `model` in place, on the CPU, to prefer the chosen replies; it comes back in evaluation mode.

    Conversations are written by the tokenizer's chat template, and nothing is cut. A copy of the model as it is when
    this is called stays in memory. One thread is used, so that on one machine the result is a function of the
    arguments; the global random numbers stay as they were. After an error the weights are somewhere on the way.

    Raises:
        PrerequisiteError: TRL is not installed, or there is not enough memory.
        UsageError: the hyperparameters ask for a loss on every token.
        CheckpointError: the tokenizer has no chat template, or it cannot be applied to the pairs.
        SafeloxError: there are no pairs, one has more tokens than allowed, or the loss is no longer a finite number.
    """
    require_trl()
    if training.loss_on != "completion":
        raise UsageError("alignment by preference compares replies: its loss cannot be on every token.")
    positions = getattr(model.config, "max_position_embeddings", None)
    _check_pairs(tokenizer, pairs, min(training.max_length, positions or training.max_length))
    with contextlib.ExitStack() as around:
        for context in (isolated(), no_foreign_bars(), no_foreign_bars("datasets"), unpatched(model), _quiet()):
            around.enter_context(context)
        folder = Path(around.enter_context(tempfile.TemporaryDirectory(prefix="safelox-align-")))
        trainer = _trainer(model, tokenizer, pairs, training, preference, folder, seed)
        alone = Processes()
        run_trainer(trainer, description, count_steps(training, len(pairs), alone), None, None, alone, progress)
    model.eval()
    steps = [logs for logs in trainer.state.log_history if "loss" in logs]
    return PreferenceTraining(
        pairs=len(pairs),
        losses=tuple(float(logs["loss"]) for logs in steps),
        margins=tuple(float(logs["rewards/margins"]) for logs in steps),
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' word on a name of its own that TRL still uses."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def _check_pairs(tokenizer: "PreTrainedTokenizerBase", pairs: Sequence[Pair], longest: int) -> None:
    """A pair is refused rather than cut, since replies without their ends would be others than those preferred."""
    if not pairs:
        raise SafeloxError("there are no pairs to align with.")
    for reply in ("chosen", "rejected"):
        conversations = [[*pair.prompt, Message(role="assistant", content=getattr(pair, reply))] for pair in pairs]
        for number, (prompt, completion) in enumerate(find_format("chat").encode(tokenizer, conversations), 1):
            if len(prompt) + len(completion) > longest:
                raise SafeloxError(
                    f"pair {number}: with its {reply} reply it has {len(prompt) + len(completion)} tokens, and "
                    f"{longest} are allowed. Shorten or leave out the pair, or allow more, if the model does."
                )


def _trainer(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    pairs: Sequence[Pair],
    training: Training,
    preference: Preference,
    folder: Path,
    seed: int,
) -> "DPOTrainer":
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import DPOConfig, DPOTrainer

    arguments = DPOConfig(
        **common_arguments(training, folder, seed),
        beta=preference.beta,
        loss_type=["sigmoid", "sft"],
        loss_weights=[1.0, preference.nll_weight],
    )
    trainer = DPOTrainer(
        model=model,
        # Without it TRL would load the reference anew from the path that the model once came from.
        ref_model=copy.deepcopy(model),
        args=arguments,
        train_dataset=Dataset.from_list([_row(pair) for pair in pairs]),
        processing_class=copy.deepcopy(tokenizer),  # TRL may change its padding
    )
    trainer.processing_class = None  # else its special tokens would replace those of the model's configuration
    trainer.remove_callback(PrinterCallback)
    return trainer


def _row(pair: Pair) -> dict[str, Any]:
    """The columns that TRL reads."""
    return {
        "prompt": [{"role": message["role"], "content": with_context(message)} for message in pair.prompt],
        "chosen": [{"role": "assistant", "content": pair.chosen}],
        "rejected": [{"role": "assistant", "content": pair.rejected}],
    }
