"""A model on disk or on the hub: headers first, lazy reads, a few rows at a time.

model.py           Checkpoint and open_checkpoint
header.py          a safetensors header and everything that can be wrong with it
values.py          rows of tensors from mapped files, for several threads
folder.py          which files of a folder are its weights, and which others belong to the model
pickled.py         PyTorch's .bin files, presented as safetensors
hub.py             references, and models on the Hugging Face hub
adapter.py         a PEFT LoRA adapter as exact low-rank deltas
adapter_config.py  which adapters can be read so, their ranks and scales
matching.py        which tensor of the base each tensor of an adapter changes
"""

from safelox.checkpoint.adapter import Adapter, LoraFactors
from safelox.checkpoint.header import DTYPES, Shard, TensorInfo, build_header, read_header
from safelox.checkpoint.model import Checkpoint, open_checkpoint

__all__ = [
    "DTYPES",
    "Adapter",
    "Checkpoint",
    "LoraFactors",
    "Shard",
    "TensorInfo",
    "build_header",
    "open_checkpoint",
    "read_header",
]
