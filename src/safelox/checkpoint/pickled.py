"""PyTorch's .bin files, presented as the safetensors files that would hold the same tensors.

Only tensors are unpickled (`weights_only`), and the file is mapped, not loaded, unless it is in the format of
PyTorch before 1.6. Of several names for the very same memory (tied weights), the first in the file is kept, as a
model's own order puts the embedding before the head; the header's metadata says which names stand for which. Where
the configuration says that nothing is tied, every name keeps values of its own.
"""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from safelox.checkpoint.header import DTYPE_NAMES, Shard, TensorInfo, build_header, size_in_bytes


def read_pickled(path: Path, *, tied: bool) -> tuple[Shard | None, dict[str, Tensor], list[str]]:
    """The shard, its tensors by name, and what is wrong with the file.

    The tensors hold all names, also those that the shard leaves out because they are tied.
    """
    loaded, problem = _load(path)
    if problem:
        return None, {}, [f"{path.name}: {problem}"]
    if not isinstance(loaded, dict) or not loaded:
        return None, {}, [f"{path.name}: holds a {type(loaded).__name__}, a dictionary of tensors was expected"]
    problems = [f"{path.name}: {name} {why}" for name, value in loaded.items() if (why := _unfit(name, value))]
    if problems:
        return None, {}, problems
    tensors = {name: value.detach() for name, value in loaded.items()}
    first_of: dict[tuple[Any, ...], str] = {}
    aliases: dict[str, str] = {}
    for name, tensor in tensors.items():
        memory = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        first = first_of.setdefault(memory, name)
        if tied and first != name and tensor.numel():
            aliases[name] = first
    kept = {name: tensor for name, tensor in tensors.items() if name not in aliases}
    return _present(path, kept, aliases), tensors, []


def safetensors_name(name: str) -> str:
    """Name that transformers gives to the safetensors file for this .bin file."""
    return name.removeprefix("pytorch_").removesuffix(".bin") + ".safetensors"


def _load(path: Path) -> tuple[Any, str]:
    """What the file holds, or what is wrong with it."""
    try:
        mappable = zipfile.is_zipfile(path)
        return torch.load(path, map_location="cpu", mmap=mappable, weights_only=True), ""
    except OSError as error:
        return None, f"cannot be read: {error.strerror or error}"
    except pickle.UnpicklingError as error:
        # The outer error advises to read the file without protection, so only what caused it is passed on.
        reason = f" ({error.__context__})" if error.__context__ else ""
        return None, f"refused: it is damaged, or holds more than tensors, and reading it could run code{reason}"
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        return None, f"is damaged or no PyTorch file: {str(error).partition(chr(10))[0] or 'it ends early'}"


def _unfit(name: object, value: object) -> str:
    """Why this entry cannot be a tensor of a safetensors file; empty if it can."""
    if not isinstance(name, str):
        return "is no name of a tensor"
    if not isinstance(value, Tensor):
        return f"is a {type(value).__name__}, a tensor was expected"
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        return "is sparse, quantised or without values, a plain tensor was expected"
    if value.dtype not in DTYPE_NAMES:
        return f"has dtype {value.dtype}, which safetensors cannot hold"
    return ""


def _present(path: Path, tensors: dict[str, Tensor], aliases: dict[str, str]) -> Shard:
    entries = [(name, DTYPE_NAMES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()]
    header = build_header(entries, {"format": "pt"} | aliases)
    infos = []
    position = len(header)
    for name, dtype, shape in entries:
        stop = position + (size_in_bytes(dtype, shape) or 0)
        infos.append(TensorInfo(name, dtype, shape, path, position, stop))
        position = stop
    return Shard(safetensors_name(path.name), path, header, tuple(infos), pickled=True)
