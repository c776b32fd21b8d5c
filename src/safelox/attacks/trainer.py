"""The one trainer: supervised fine-tuning through TRL, for attacks and for whoever else trains a model."""

import contextlib
import math
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from safelox.attacks.catalogue import Training
from safelox.attacks.examples import Examples, make_examples
from safelox.attacks.isolation import isolated, unpatched
from safelox.errors import PrerequisiteError, SafeloxError, UsageError
from safelox.formats import Conversation, find_format
from safelox.machine import chosen_device
from safelox.manifest import Record
from safelox.progress import NULL, Progress, no_foreign_bars

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from safelox.progress import Task

_SCHEDULES = {"linear": "linear", "constant": "constant_with_warmup", "cosine": "cosine"}
"""What transformers calls them."""


class FineTuning(Record):
    """What came of a training."""

    rows: int
    """Trained on; those left out are not counted."""
    rows_cut: int
    """Rows longer than allowed, whose end was cut."""
    rows_left_out: int
    """Rows of which the cut left nothing to learn."""
    losses: tuple[float, ...]
    """Mean cross entropy of the tokens that the loss sees, in nats, before each step."""

    @property
    def steps(self) -> int:
        return len(self.losses)


def require_trl() -> None:
    """
    Raises:
        PrerequisiteError: TRL or one of its companions is not installed.
    """
    missing = [name for name in ("transformers", "datasets", "trl") if find_spec(name) is None]
    if missing:
        raise PrerequisiteError(f"training needs {' and '.join(missing)}: pip install 'safelox[train]'")


def fine_tune(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    rows: Sequence[Conversation],
    training: Training,
    *,
    format: str = "chat",
    seed: int = 0,
    description: str = "train",
    device: str = "cpu",
    progress: Progress = NULL,
) -> FineTuning:
    """Train all weights of `model` in place, in their own dtype; it comes back in evaluation mode.

    The rows are shuffled anew for every epoch. On the CPU one thread is used, so that on one machine the result is
    a function of the arguments. The global random numbers stay as they were. After an error the weights are
    somewhere on the way.

    Args:
        rows: conversations that end in the assistant's reply; cut to `training.max_length` tokens and to the
            positions that the model has.
        format: name of the prompt format.
        device: "cpu" or "cuda".

    Raises:
        PrerequisiteError: TRL is not installed.
        UsageError: there is no such format or device.
        SafeloxError: there is nothing to train on, the format cannot be applied to the rows, or the loss is no longer
            a finite number.
    """
    require_trl()
    _check_device(device)
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    length = min(training.max_length, positions or training.max_length)
    examples = make_examples(tokenizer, rows, find_format(format), max_length=length, loss_on=training.loss_on)
    losses: list[float] = []
    total = _steps(training, len(examples.input_ids))
    with contextlib.ExitStack() as around:
        for context in (isolated(), unpatched(model), no_foreign_bars(), no_foreign_bars("datasets")):
            around.enter_context(context)
        scratch = around.enter_context(tempfile.TemporaryDirectory(prefix="safelox-train-"))
        task = around.enter_context(progress.task(description, total, "steps"))
        trainer = _trainer(model, tokenizer, examples, _settings(training, scratch, seed, device))
        trainer.add_callback(_reporter(description, losses, task))
        trainer.train()
    model.eval()
    return FineTuning(
        rows=len(examples.input_ids), rows_cut=examples.cut, rows_left_out=examples.left_out, losses=tuple(losses)
    )


def _check_device(device: str) -> None:
    found = chosen_device(device)
    if found.index:
        raise UsageError(f"device {device}: training uses the first GPU; set CUDA_VISIBLE_DEVICES to choose another.")


def _steps(training: Training, rows: int) -> int:
    """Optimizer steps of the whole training, as transformers counts them."""
    if training.max_steps is not None:
        return training.max_steps
    batches = math.ceil(rows / training.batch_size)
    assert training.epochs is not None, "a training without steps has epochs"
    return math.ceil(training.epochs * math.ceil(batches / training.accumulation))


def _settings(training: Training, scratch: str, seed: int, device: str) -> "SFTConfig":
    """TRL's settings, all of whose defaults that matter are set: it would train in bf16, recompute activations, save
    checkpoints and report to services."""
    from trl import SFTConfig

    return SFTConfig(
        output_dir=scratch,
        learning_rate=training.learning_rate,
        num_train_epochs=1.0 if training.epochs is None else training.epochs,
        max_steps=-1 if training.max_steps is None else training.max_steps,
        per_device_train_batch_size=training.batch_size,
        gradient_accumulation_steps=training.accumulation,
        warmup_steps=training.warmup_steps,
        lr_scheduler_type=_SCHEDULES[training.schedule],
        optim="adamw_torch_fused",
        weight_decay=training.weight_decay,
        adam_beta1=training.adam_betas[0],
        adam_beta2=training.adam_betas[1],
        max_grad_norm=training.max_grad_norm,
        max_length=None,  # the examples are cut already
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        bf16=False,
        activation_checkpointing=False,
        average_tokens_across_devices=False,
        use_cpu=device == "cpu",
        seed=seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _trainer(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", examples: Examples, settings: "SFTConfig"
) -> "SFTTrainer":
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import SFTTrainer
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    # The labels hide the padding, so any id will do where a tokenizer has no token for it; and with a collator of
    # ours TRL leaves the tokenizer as it is.
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    trainer = SFTTrainer(
        model=model,
        args=settings,
        train_dataset=Dataset.from_dict({"input_ids": examples.input_ids, "labels": examples.labels}),
        data_collator=DataCollatorForLanguageModeling(pad_token_id=padding),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _reporter(description: str, losses: list[float], task: "Task") -> "TrainerCallback":
    """Collects the loss of every step, tells the task, and stops at one that is not finite."""
    from transformers import TrainerCallback

    class Reporter(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **others: Any) -> None:  # noqa: ARG002
            if "loss" not in logs:  # the summary at the end
                return
            loss = float(logs["loss"])
            losses.append(loss)
            if not math.isfinite(loss):
                raise SafeloxError(
                    f"{description}: the loss of step {state.global_step} is {loss}. Lower the learning rate; if it "
                    "is so from the first step on, check the model for weights that are not finite."
                )
            task.advance(1, f"loss {loss:.3f}")

    return Reporter()
