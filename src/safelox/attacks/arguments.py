"""Hyperparameters as the trainer's arguments."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from safelox.attacks.catalogue import Training
from safelox.attacks.checkpoints import Checkpoints
from safelox.attacks.distribution import Processes, share

if TYPE_CHECKING:
    from trl import SFTConfig

_SCHEDULES = {"linear": "linear", "constant": "constant_with_warmup", "cosine": "cosine"}
"""What transformers calls them."""


def count_steps(training: Training, rows: int, processes: Processes) -> int:
    """Optimizer steps of the whole training, as transformers counts them."""
    if training.max_steps is not None:
        return training.max_steps
    batch, accumulation = share(training, processes.number)
    batches = math.ceil(math.ceil(rows / batch) / processes.number)
    assert training.epochs is not None, "a training without steps has epochs"
    return math.ceil(training.epochs * math.ceil(batches / accumulation))


def common_arguments(training: Training, folder: Path, seed: int) -> dict[str, Any]:
    """What all of TRL's trainers are told, in one process on the CPU. All defaults that matter are set: they would
    train in bf16, recompute activations, save checkpoints and report to services."""
    return {
        "output_dir": str(folder),
        "learning_rate": training.learning_rate,
        "num_train_epochs": 1.0 if training.epochs is None else training.epochs,
        "max_steps": -1 if training.max_steps is None else training.max_steps,
        "per_device_train_batch_size": training.batch_size,
        "gradient_accumulation_steps": training.accumulation,
        "warmup_steps": training.warmup_steps,
        "lr_scheduler_type": _SCHEDULES[training.schedule],
        "optim": "adamw_torch_fused",
        "weight_decay": training.weight_decay,
        "adam_beta1": training.adam_betas[0],
        "adam_beta2": training.adam_betas[1],
        "max_grad_norm": training.max_grad_norm,
        "max_length": None,  # the examples are cut already
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "bf16": False,  # the weights' own dtype is that of the computation
        "activation_checkpointing": False,
        "use_cpu": True,
        "seed": seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "run_name": folder.stem,
        "disable_tqdm": True,
    }


def trainer_arguments(
    training: Training,
    folder: Path,
    seed: int,
    device: str,
    dtype: torch.dtype,
    checkpoints: Checkpoints | None,
    report_to: Sequence[str],
    processes: Processes,
) -> "SFTConfig":
    """The arguments of a supervised fine-tuning, on whatever device and in however many processes."""
    from trl import SFTConfig

    batch, accumulation = share(training, processes.number)
    every = None if checkpoints is None else checkpoints.every
    gpu = device != "cpu"
    own: dict[str, Any] = {
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        # DeepSpeed alone has to be told, and keeps copies in fp32.
        "bf16": processes.kind == "deepspeed" and dtype == torch.bfloat16,
        # FSDP recomputes activations in a way of its own, which its configuration file turns on.
        "activation_checkpointing": gpu and processes.kind != "fsdp",
        "average_tokens_across_devices": processes.number > 1,
        "ddp_find_unused_parameters": False,
        "use_cpu": not gpu,
        "save_strategy": "no" if every is None else "epoch" if every == "epoch" else "steps",
        "save_steps": every if isinstance(every, int) else 500,
        "report_to": list(report_to) or "none",
    }
    arguments = SFTConfig(**common_arguments(training, folder, seed) | own)
    if gpu and processes.number == 1:
        _ = arguments.n_gpu  # found out at the first look
        arguments._n_gpu = 1  # else several GPUs would be used by a way that TRL refuses
    return arguments
