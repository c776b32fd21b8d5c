"""How many replies fit into memory at once, by estimate.

Where a GPU's memory runs out there is an error, after which a smaller batch can be tried; on most systems there is none
where the CPU's does: the process is ended. So batches are not even begun that would take too much.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHARE = 0.7
"""Of the free memory may be taken."""
LOGIT_BYTES = 24
"""For each token of the vocabulary: its logit in two precisions, and what drawing makes of them."""
_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def fitting(model: "PreTrainedModel", prompt: int, new: int) -> int | None:
    """How many replies of `new` tokens to prompts of `prompt` tokens fit at once, at least 1; None: not known."""
    free = free_memory(model.device)
    return None if free is None else max(1, int(SHARE * free / bytes_per_reply(model, prompt, new)))


def bytes_per_reply(model: "PreTrainedModel", prompt: int, new: int) -> int:
    """Keys and values of all layers, what one layer computes while it reads the prompt, and the logits."""
    config: Any = model.config.get_text_config()
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    kept = 2 * config.num_hidden_layers * (getattr(config, "num_key_value_heads", None) or heads) * width
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    computed = 4 * config.hidden_size + 3 * inner
    return int(((prompt + new) * kept + prompt * computed) * model.dtype.itemsize + config.vocab_size * LOGIT_BYTES)


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be taken on the device; None where the system does not tell.

    On Linux, what a control group leaves to a container counts where it is less.
    """
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    if not _MEMINFO.is_file():
        return None
    fields = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    limit = _CGROUP / "memory.max"
    if not limit.is_file() or limit.read_text().strip() == "max":
        return free
    counted = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    taken = int((_CGROUP / "memory.current").read_text()) - int(counted["inactive_file"])  # files make room
    return max(0, min(free, int(limit.read_text()) - taken))
