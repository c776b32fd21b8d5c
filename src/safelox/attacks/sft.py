"""TRL's trainer with checkpoints that are whole models, and what watches it. Imports TRL, so it is imported late."""

import math
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from safelox.attacks.checkpoints import Checkpoints, publish, saving
from safelox.attacks.distribution import any_process
from safelox.attacks.examples import Examples
from safelox.attacks.interruption import Interruption
from safelox.attacks.isolation import Settings
from safelox.attacks.log import StepLog
from safelox.errors import CheckpointError, SafeloxError
from safelox.language_models import LanguageModel

if TYPE_CHECKING:
    from safelox.progress import Progress, Task


class OneTrainer(SFTTrainer):  # type: ignore[misc]  # TRL is untyped here
    """Saves models as they were loaded, and names checkpoints by their epoch or step when they are whole."""

    def __init__(
        self,
        loaded: LanguageModel,
        examples: Examples,
        arguments: SFTConfig,
        settings: Settings,
        checkpoints: Checkpoints | None,
    ) -> None:
        self._model_settings = settings
        self._checkpoints = checkpoints
        self._saved_tokenizer = tokenizer = loaded.tokenizer
        # The labels hide the padding, so any id will do where a tokenizer has no token for it; and with a collator of
        # ours TRL leaves the tokenizer as it is.
        padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        super().__init__(
            model=loaded.model,
            args=arguments,
            train_dataset=Dataset.from_dict({"input_ids": examples.input_ids, "labels": examples.labels}),
            data_collator=DataCollatorForLanguageModeling(pad_token_id=padding),
            processing_class=tokenizer,
        )
        self.processing_class = None  # else its special tokens would replace those of the model's configuration
        self.remove_callback(PrinterCallback)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None: what a checkpoint is stands in the record of the attack."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not self.args.should_save:
            return
        assert output_dir is not None, "every caller says where"
        model = self.accelerator.unwrap_model(self.model)
        adapter = {"save_embedding_layers": False} if hasattr(model, "peft_config") else {}
        with self._model_settings.restored():
            model.save_pretrained(output_dir, state_dict=state_dict, **adapter)
        self._saved_tokenizer.save_pretrained(output_dir)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        assert self._checkpoints is not None, "without a place for them no checkpoint is asked for"
        with saving(self._checkpoints.folder):
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                written = self._checkpoints.folder / f"checkpoint-{self.state.global_step}"
                publish(written, self._checkpoint_name(), self._checkpoints)
        self.accelerator.wait_for_everyone()

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        tied = set(self.accelerator.unwrap_model(self.model).all_tied_weights_keys)
        wrong = (set(load_result.missing_keys) - tied) | set(load_result.unexpected_keys)
        if wrong:
            raise CheckpointError(f"the checkpoint does not have the model's weights: {', '.join(sorted(wrong)[:5])}.")

    def _checkpoint_name(self) -> str:
        epoch = self.state.epoch
        assert self._checkpoints is not None
        if self._checkpoints.every == "epoch" and math.isclose(epoch, round(epoch), abs_tol=1e-9):
            return f"epoch-{round(epoch)}"
        return f"step-{self.state.global_step}"


class Watcher(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Tells how the training goes, writes its log, stops it at values that are not finite and after Ctrl-C."""

    def __init__(
        self,
        description: str,
        trainer: OneTrainer,
        progress: "Progress",
        task: "Task",
        log: StepLog | None,
        interruption: Interruption,
    ) -> None:
        self._description = description
        self._trainer = trainer
        self._progress = progress
        self._task = task
        self._log = log
        self._interruption = interruption
        self.interrupted = False

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **others: Any) -> None:  # noqa: ARG002
        """One step was made."""
        if "loss" not in logs:  # the summary at the end
            return
        loss = float(logs["loss"])
        _check_finite(f"{self._description}: the loss of step {state.global_step}", loss)
        if self._log is not None:
            self._log.add(state.global_step, logs)
        norm = logs.get("grad_norm")  # None where DeepSpeed does not tell
        if norm is not None:
            _check_finite(f"{self._description}: the gradient's norm in step {state.global_step}", float(norm))
        self._task.advance(1, f"loss {loss:.3f}")

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:  # noqa: ARG002
        """Save and stop if Ctrl-C was heard, by whichever process."""
        if any_process(self._interruption.asked, self._trainer.accelerator):
            self.interrupted = control.should_save = control.should_training_stop = True
            self._progress.message(f"{self._description}: interrupted; saving step {state.global_step} first")


def _check_finite(what: str, value: float) -> None:
    if not math.isfinite(value):
        raise SafeloxError(
            f"{what} is {value}. Lower the learning rate; if it is so from the first step on, check the model for "
            "weights that are not finite."
        )
