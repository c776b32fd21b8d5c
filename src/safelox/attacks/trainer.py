"""The one trainer: supervised fine-tuning through TRL, for attacks and for whoever else trains a model."""

import contextlib
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from safelox.attacks.arguments import count_steps, trainer_arguments
from safelox.attacks.catalogue import Training
from safelox.attacks.checkpoints import Checkpoints, discard_torn, prune, resumable, saving, step_of
from safelox.attacks.distribution import Processes, confirm, told_by_main
from safelox.attacks.examples import Examples, make_examples
from safelox.attacks.interruption import Interruption
from safelox.attacks.isolation import Settings, isolated, unpatched
from safelox.attacks.log import LOG_NAME, StepLog
from safelox.errors import PrerequisiteError, UsageError
from safelox.formats import Conversation, find_format
from safelox.language_models import LanguageModel
from safelox.machine import chosen_device, out_of_memory
from safelox.manifest import Record
from safelox.progress import NULL, Progress, no_foreign_bars

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import SFTConfig

    from safelox.attacks.sft import OneTrainer


class FineTuning(Record):
    """What came of a training."""

    rows: int
    """Trained on; those left out are not counted."""
    longest: int
    """Tokens that a row could have: as many as the training allows, and no more than the model has positions."""
    rows_cut: int
    """Rows longer than allowed, that lost a part."""
    rows_left_out: int
    """Rows of which the cut left nothing to learn."""
    losses: tuple[float, ...]
    """Mean cross entropy of the tokens that the loss sees, in nats, before each step; those before a resumption too."""
    resumed_from: int | None = None
    """The step after which an interrupted training was gone on with."""

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


def require_reporting(services: Sequence[str]) -> None:
    """
    Raises:
        PrerequisiteError: transformers cannot report to one of them here.
    """
    if not services:
        return
    from transformers.integrations import get_available_reporting_integrations

    able = get_available_reporting_integrations()
    for service in services:
        if service not in able:
            raise PrerequisiteError(
                f"nothing here can report to {service!r}: install its package, or leave it out. "
                f"Possible here: {', '.join(sorted(able)) or 'none'}."
            )


def fine_tune(
    model: "PreTrainedModel | PeftModel",
    tokenizer: "PreTrainedTokenizerBase",
    rows: Sequence[Conversation],
    training: Training,
    *,
    format: str = "chat",
    seed: int = 0,
    description: str = "train",
    device: str = "cpu",
    checkpoints: Checkpoints | None = None,
    save_to: Path | None = None,
    report_to: Sequence[str] = (),
    processes: Processes = Processes(),  # noqa: B008 (immutable)
    progress: Progress = NULL,
) -> FineTuning:
    """Train the weights of `model` that want a gradient in place, in their own dtype; it comes back in evaluation mode.

    The rows are shuffled anew for every epoch. On the CPU one thread is used, so that on one machine the result is
    a function of the arguments, whether it was interrupted and resumed or not. The global random numbers stay as they
    were. After an error the weights are somewhere on the way.

    Args:
        rows: conversations that end in the assistant's reply; cut to `training.max_length` tokens and to the
            positions that the model has.
        format: name of the prompt format.
        device: "cpu" or "cuda".
        checkpoints: where they are saved to and gone on from. With it the folder also gets log.jsonl, and the first
            Ctrl-C finishes the step and saves a checkpoint.
        save_to: folder that gets the trained model, or its adapter, with the tokenizer; None to write nothing. Where
            several processes share a model, this is the only way to get it whole.
        report_to: services that transformers is to report to, such as "tensorboard".
        processes: of which this is one; each has to be called with the same arguments.

    Raises:
        PrerequisiteError: TRL is not installed, a service cannot be reported to, or the processes did not come
            together in the way that they were to.
        UsageError: there is no such format or device, or a step's rows cannot be dealt out to the processes.
        TargetError: a checkpoint, the log or the result cannot be written.
        SafeloxError: there is nothing to train on, the format cannot be applied to the rows, or the loss is no longer
            a finite number.
        KeyboardInterrupt: after Ctrl-C.
    """
    require_trl()
    require_reporting(report_to)
    _check_device(device)
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    length = min(training.max_length, positions or training.max_length)
    examples = make_examples(
        tokenizer,
        rows,
        find_format(format),
        max_length=length,
        loss_on=training.loss_on,
        truncation=training.truncation,
    )
    total = count_steps(training, len(examples.input_ids), processes)
    with contextlib.ExitStack() as around:
        for context in (isolated(), no_foreign_bars(), no_foreign_bars("datasets")):
            around.enter_context(context)
        settings = around.enter_context(unpatched(model))
        if checkpoints is None:
            scratch = Path(around.enter_context(tempfile.TemporaryDirectory(prefix="safelox-train-")))
        else:
            scratch = checkpoints.folder
        arguments = trainer_arguments(training, scratch, seed, device, model.dtype, checkpoints, report_to, processes)
        trainer = _trainer(LanguageModel(model, tokenizer), examples, arguments, settings, checkpoints)
        confirm(trainer.accelerator, processes, mixed="bf16" if arguments.bf16 else "no")
        start = _start(checkpoints, processes)
        resumed_from = None if start is None else step_of(start)  # before a newer checkpoint takes its place
        run_trainer(trainer, description, total, start, checkpoints, processes, progress)
        if save_to is not None:
            with saving(save_to, "the result"):
                trainer.save_model(str(save_to))
            trainer.accelerator.wait_for_everyone()
    model.eval()
    return FineTuning(
        rows=len(examples.input_ids),
        longest=length,
        rows_cut=examples.cut,
        rows_left_out=examples.left_out,
        losses=tuple(float(logs["loss"]) for logs in trainer.state.log_history if "loss" in logs),
        resumed_from=resumed_from,
    )


def run_trainer(
    trainer: "OneTrainer",
    description: str,
    total: int,
    start: Path | None,
    checkpoints: Checkpoints | None,
    processes: Processes,
    progress: Progress,
) -> None:
    """
    Raises:
        KeyboardInterrupt: after Ctrl-C, when a checkpoint is saved.
    """
    from safelox.attacks.sft import Watcher

    done = 0 if start is None else step_of(start)
    log = StepLog(checkpoints.folder / LOG_NAME, done) if checkpoints is not None and processes.main else None
    with contextlib.ExitStack() as around:
        text = f"{description}, on from step {done}" if done else description
        task = around.enter_context(progress.task(text, total - done, "steps"))
        interruption = Interruption()
        if checkpoints is not None:
            around.enter_context(interruption)
        watcher = Watcher(description, trainer, progress, task, log, interruption)
        trainer.add_callback(watcher)
        try:
            trainer.train(resume_from_checkpoint=None if start is None else str(start))
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise PrerequisiteError(
                f"{description}: not enough memory. Half the batch size with twice the accumulation is the same "
                f"training with less; so is LoRA, with other results, or more GPUs. ({error})"
            ) from error
    if watcher.interrupted:
        raise KeyboardInterrupt


def _start(checkpoints: Checkpoints | None, processes: Processes) -> Path | None:
    """The checkpoint to go on from, the same for all processes."""
    if checkpoints is None or not checkpoints.resume:
        return None
    if processes.main:
        discard_torn(checkpoints.folder)
        prune(checkpoints)  # fewer may be wanted than before, for instance after the disk was full
    found: Path | None = told_by_main(resumable(checkpoints.folder) if processes.main else None)
    return found


def _check_device(device: str) -> None:
    found = chosen_device(device)
    if found.index:
        raise UsageError(f"device {device}: training uses the first GPU; set CUDA_VISIBLE_DEVICES to choose another.")


def _trainer(
    loaded: LanguageModel,
    examples: Examples,
    arguments: "SFTConfig",
    settings: Settings,
    checkpoints: Checkpoints | None,
) -> "OneTrainer":
    from safelox.attacks.sft import OneTrainer

    return OneTrainer(loaded, examples, arguments, settings, checkpoints)
