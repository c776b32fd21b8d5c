"""How many processes train together and in which way: what was asked for, and whether it came to that."""

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from safelox.errors import PrerequisiteError, UsageError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from safelox.attacks.catalogue import Training

Kind = Literal["none", "ddp", "fsdp", "deepspeed"]
"""One process; each with the whole model; the model cut up by PyTorch, or by DeepSpeed."""

_LAUNCH = {
    "none": "start it without a launcher",
    "ddp": "start it by `torchrun --nproc-per-node N -m safelox attack ...`",
    "fsdp": "start it by `accelerate launch --config_file configs/fsdp.yaml -m safelox attack ...`",
    "deepspeed": "start it by `accelerate launch --config_file configs/deepspeed.yaml -m safelox attack ...`",
}


class Processes(NamedTuple):
    """The processes of a training; they start alike and differ in their rank."""

    kind: Kind = "none"
    number: int = 1
    rank: int = 0

    @property
    def main(self) -> bool:
        """Whether this one writes and speaks."""
        return self.rank == 0

    @property
    def sharded(self) -> bool:
        """Whether no process has the whole model."""
        return self.kind in ("fsdp", "deepspeed")


def find_processes(asked: Kind | None, device: str) -> Processes:
    """What the variables say that torchrun and `accelerate launch` set.

    Args:
        asked: the kind that it has to be; None for whatever it is.
        device: "cpu" or "cuda".

    Raises:
        UsageError: it is another kind than was asked for, or one that needs GPUs is to run without.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    kind: Kind = "ddp" if count > 1 else "none"
    if _is_set("ACCELERATE_USE_FSDP"):
        kind = "fsdp"
    if _is_set("ACCELERATE_USE_DEEPSPEED"):
        kind = "deepspeed"
    if asked is not None and asked != kind:
        raise UsageError(
            f"distributed training {asked} was asked for, but by the variables of its launcher this is {kind} with "
            f"{count} {'process' if count == 1 else 'processes'}: {_LAUNCH[asked]}."
        )
    if kind in ("fsdp", "deepspeed") and device == "cpu":
        raise UsageError(f"{kind} was asked for, but the device is the CPU, where it would quietly be ddp: use GPUs.")
    return Processes(kind, count, int(os.environ.get("RANK", "0")))


def confirm(accelerator: "Accelerator", processes: Processes, *, mixed: str) -> None:
    """
    Args:
        mixed: the mixed precision that there has to be, by accelerate's name of it.

    Raises:
        PrerequisiteError: accelerate made something else of the training than it was to be.
    """
    name = accelerator.distributed_type.value
    kind = "ddp" if name.startswith("MULTI_") else {"NO": "none"}.get(name, name.lower())
    if (kind, accelerator.num_processes) != (processes.kind, processes.number):
        raise PrerequisiteError(
            f"this training was to be {processes.kind} with {processes.number} processes, but accelerate made it "
            f"{kind} with {accelerator.num_processes}: {_LAUNCH[processes.kind]}."
        )
    if accelerator.mixed_precision != mixed:
        raise PrerequisiteError(
            f"the launcher set the mixed precision {accelerator.mixed_precision}, but this training is to have "
            f"{mixed}, since its dtype is an option of its own: launch it with --mixed_precision {mixed}."
        )


def share(training: "Training", processes: int) -> tuple[int, int]:
    """Rows in a forward pass of one process, and such passes in an optimizer step, so that all processes together
    take the rows that one process alone would.

    Raises:
        UsageError: the rows of a step cannot be dealt out evenly.
    """
    rows = training.batch_size * training.accumulation
    if rows % processes:
        raise UsageError(
            f"{rows} rows in an optimizer step cannot be dealt out to {processes} processes; take another number of "
            "processes, or other values of batch size and accumulation."
        )
    each = rows // processes
    batch = next(size for size in range(min(training.batch_size, each), 0, -1) if each % size == 0)
    return batch, each // batch


@contextlib.contextmanager
def group_ended() -> Iterator[None]:
    """At the end, take down the group of processes that the block has formed; else they abort when they leave.

    After an error it stays: the others may be waiting in it, and only the launcher can end them.
    """
    import torch.distributed

    def end() -> None:
        if not formed_before and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    formed_before = torch.distributed.is_initialized()
    try:
        yield
    except KeyboardInterrupt:
        end()
        raise
    end()


def told_by_main(value: Any) -> Any:
    """What the main process has there; the others wait for it. Anything that can be pickled."""
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


def any_process(flag: bool, accelerator: "Accelerator") -> bool:
    """Whether the flag is set in at least one of the processes; all of them have to ask."""
    if accelerator.num_processes == 1:
        return flag
    import torch

    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), "sum").item())


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("1", "true", "yes")
