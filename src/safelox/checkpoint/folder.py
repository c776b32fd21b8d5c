"""A model's folder: which files are its weights, and which others belong to it.

The rule for the others: every file belongs to the model, in subfolders too, except
  - weights in any format, and their indices (WEIGHTS, INDICES);
  - folders of caches, of training states, and of the same model in another format (ASIDE).
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any

from safelox.checkpoint.header import listed, parse_json, refuse
from safelox.errors import CheckpointError

OTHER_WEIGHTS = (
    *("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack", "*.npz", "*.ot", "*.nemo"),
    *("*.gguf", "*.ggml", "*.onnx", "*.onnx_data", "*.tflite", "*.mlmodel", "*.engine"),
)
"""Weights in formats other than safetensors, by file name."""

OTHER_SAFETENSORS = (
    "consolidated*.safetensors",  # Mistral's own layout of the same weights
    "model.*.safetensors",  # a variant, such as model.fp16.safetensors
)
"""safetensors files that may stand beside the model's own without belonging to them."""

WEIGHTS = (*OTHER_WEIGHTS, "*.safetensors")
INDICES = ("*.safetensors.index.json", "*.safetensors.index.*.json", "*.bin.index.json", "*.h5.index.json")
ASIDE = (
    *(".git", ".cache", ".ipynb_checkpoints", "__pycache__"),
    *("checkpoint-[0-9]*", "global_step[0-9]*"),
    *("original", "onnx", "openvino", "coreml", "gguf", "metal"),
)
"""Folders that do not belong to the model, by their name."""

SAVE_HINT = "save the model with transformers' save_pretrained, which writes safetensors"
PICKLE_HINT = (
    "PyTorch's .bin files are pickles, which can run code when they are read: "
    f"{SAVE_HINT}, or allow them with --allow-pickle (allow_pickle=True), weights only"
)


@dataclass(frozen=True)
class Weights:
    """The files that a folder's weights consist of, before any of them is opened."""

    files: tuple[Path, ...]
    pickled: bool
    index: str = ""
    """File name of the index; empty for a single file."""
    weight_map: Mapping[str, str] | None = None
    """Tensor name -> file name, as the index says."""


def find_weights(folder: Path, allow_pickle: bool) -> tuple[Weights | None, list[str]]:
    """The weights of the folder, safetensors first, and what is wrong with how they are laid out."""
    names = sorted(os.listdir(folder))
    indices = [name for name in names if fnmatchcase(name, "*.safetensors.index.json")]
    if len(indices) > 1:
        return None, [f"more than one index ({listed(indices)}); keep the one that is meant"]
    if indices:
        weights, problems = _read_index(folder, indices[0], pickled=False)
    elif "model.safetensors" in names:
        weights, problems = Weights((folder / "model.safetensors",), pickled=False), []
    elif allow_pickle and "pytorch_model.bin.index.json" in names:
        return _read_index(folder, "pytorch_model.bin.index.json", pickled=True)
    elif allow_pickle and "pytorch_model.bin" in names:
        return Weights((folder / "pytorch_model.bin",), pickled=True), []
    else:
        return None, [why_no_weights(names)]
    if weights is not None:
        problems += _strays(names, weights)
    return weights, problems


def why_no_weights(names: list[str]) -> str:
    """What a folder without model weights holds instead, and the way out."""
    found = [name for name in names if any(fnmatchcase(name, pattern) for pattern in WEIGHTS)]
    if "adapter_config.json" in names:
        return "this is a PEFT adapter, not a model; give it together with its base, as BASE+ADAPTER"
    if not found:
        return "no weights: neither model.safetensors nor *.safetensors.index.json is there"
    if any(fnmatchcase(name, "pytorch_model*.bin") for name in found):
        return f"no safetensors, only {listed(found)}. {PICKLE_HINT}"
    if any(name.endswith(".safetensors") for name in found):
        return (
            f"neither model.safetensors nor an index is there, only {listed(found)}; "
            "if that is the whole model, name it model.safetensors; if shards, bring their index"
        )
    return f"no safetensors, only {listed(found)}; {SAVE_HINT}"


def check_index(weights: Weights, tensors: Mapping[str, set[str]]) -> list[str]:
    """Where the index and the shards disagree, and tensors that two shards hold.

    tensors: file name -> names of the tensors in it, for the shards whose header could be read.
    """
    problems = []
    homes: dict[str, str] = {}
    for file, names in tensors.items():
        twice = sorted(name for name in names if name in homes)
        problems += [f"tensor {name} is in both {homes[name]} and {file}" for name in twice]
        homes |= dict.fromkeys(names, file)
    if weights.weight_map is None:
        return problems
    for file in tensors:
        placed = {name for name, home in weights.weight_map.items() if home == file}
        if lacking := sorted(placed - tensors[file]):
            problems.append(f"{weights.index}: places {listed(lacking)} in {file}, which has no such tensor")
        if unnamed := sorted(tensors[file] - placed):
            problems.append(f"{file}: holds {listed(unnamed)}, which {weights.index} does not place there")
    return problems


def read_object(path: Path) -> tuple[dict[str, Any], list[str]]:
    """A JSON file that has to hold an object; empty if it does not, and what is wrong."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        return {}, [f"{path.name}: cannot be read: {error.strerror or error}"]
    value, problems = parse_json(raw)
    if not problems and not isinstance(value, dict):
        problems = [f"is a JSON {type(value).__name__}, an object was expected"]
    return value if isinstance(value, dict) else {}, [f"{path.name}: {problem}" for problem in problems]


def other_files(folder: Path) -> dict[str, Path]:
    """Every file that belongs to the model besides its weights: path within the folder ("/" between) -> file.

    Links are followed.

    Raises:
        CheckpointError: a link leads nowhere or in a circle, or something is neither file nor folder.
    """
    problems: list[str] = []
    try:
        status = folder.stat()
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read: {error.strerror or error}") from error
    walk = _walk(folder, ((status.st_dev, status.st_ino),), problems)
    files = {file.relative_to(folder).as_posix(): file for file in walk}
    refuse(str(folder), problems)
    return files


def _walk(folder: Path, above: tuple[tuple[int, int], ...], problems: list[str]) -> Iterator[Path]:
    """The files that belong to the model. `above`: device and inode of the folders on the way here."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        problems.append(f"{folder}: cannot be read: {error.strerror or error}")
        return
    for name in names:
        path = folder / name
        try:
            status = path.stat()
        except OSError as error:
            problems.append(f"{path}: cannot be read: {error.strerror or error}")
            continue
        identity = (status.st_dev, status.st_ino)
        if S_ISDIR(status.st_mode):
            if any(fnmatchcase(name, pattern) for pattern in ASIDE):
                continue
            if identity in above:
                problems.append(f"{path}: a link that leads back to a folder above it; remove it")
            else:
                yield from _walk(path, (*above, identity), problems)
        elif any(fnmatchcase(name, pattern) for pattern in (*WEIGHTS, *INDICES)):
            continue
        elif S_ISREG(status.st_mode):
            yield path
        else:
            problems.append(f"{path}: neither a file nor a folder")


def _read_index(folder: Path, name: str, pickled: bool) -> tuple[Weights | None, list[str]]:
    index, problems = read_object(folder / name)
    if problems:
        return None, problems
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        return None, [f"{name}: has no weight_map that says which file holds which tensor"]
    # Only plain names: a file elsewhere is not part of this folder, whatever an index from the network says.
    wrong = sorted({str(file) for file in weight_map.values() if not _is_file_name(file)})
    if wrong:
        return None, [f"{name}: {listed(wrong)} cannot be the name of a file in this folder"]
    files = sorted(set(weight_map.values()))
    missing = [file for file in files if not os.path.lexists(folder / file)]
    problems = [f"{name}: names {file}, which is not there; copy or download it again" for file in missing]
    present = tuple(folder / file for file in files if file not in missing)
    return Weights(present, pickled, name, weight_map), problems


def _is_file_name(file: object) -> bool:
    return isinstance(file, str) and file not in ("", ".", "..") and not set(file) & set("/\\\0")


def _strays(names: list[str], weights: Weights) -> list[str]:
    """safetensors files beside the weights that would be lost or, worse, be loaded instead of them."""
    used = {file.name for file in weights.files} | set((weights.weight_map or {}).values())
    strays = [
        name
        for name in names
        if name.endswith(".safetensors")
        and name not in used
        and not any(fnmatchcase(name, pattern) for pattern in OTHER_SAFETENSORS)
    ]
    if not strays:
        return []
    owner = weights.index or "model.safetensors"
    hint = "move them away, or bring the index that names them"
    if "adapter_model.safetensors" in strays:
        hint = "an adapter belongs in a folder of its own, given as BASE+ADAPTER"
    return [f"{listed(strays)}: not part of the weights that {owner} describes; {hint}"]
