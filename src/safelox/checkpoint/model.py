"""A model on disk or on the hub: headers first, tensors read lazily, a few rows at a time.

Only headers are read when a checkpoint is opened. The values stay in memory-mapped files, so that a model of any
size can be opened on any machine and its rows are read where they are needed.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from safelox.checkpoint.adapter import Adapter, LoraFactors, read_adapter
from safelox.checkpoint.folder import Weights, check_index, find_weights, other_files, read_object
from safelox.checkpoint.header import Shard, TensorInfo, inspect_header, refuse
from safelox.checkpoint.hub import Location, locate, split_reference
from safelox.checkpoint.pickled import read_pickled
from safelox.checkpoint.tying import says_tied
from safelox.checkpoint.values import Values
from safelox.errors import CheckpointError

TOKENIZER_FILES = frozenset(
    {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}
    | {"vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"}
    | {"chat_template.jinja", "chat_template.json", "generation_config.json"}
)
"""Files of an adapter's folder that say how to talk to the model, and so take the place of the base's."""


class Checkpoint:
    """An opened model, possibly with an adapter over it. `rows` may be called from several threads at once.

    A context manager; values that were read stay valid after it is closed.
    """

    def __init__(
        self,
        reference: str,
        location: Location,
        shards: tuple[Shard, ...],
        config: dict[str, Any],
        values: Values,
        adapter: Adapter | None = None,
    ) -> None:
        self.reference = reference
        """As it was given."""
        self.folder = location.folder
        """The base's files where there is an adapter."""
        self.commit = location.commit
        """Full commit hash, if the model came from the hub."""
        self.shards = shards
        """The weights files as they are stored, without the adapter, in the order of their names."""
        self.config = config
        """Content of config.json."""
        self.adapter = adapter
        self.stored: Mapping[str, TensorInfo] = {info.name: info for shard in shards for info in shard.tensors}
        """Name -> header of what the shards hold."""
        self.tensors: dict[str, TensorInfo] = {**self.stored, **(adapter.replaced if adapter else {})}
        """Name -> header of what `rows` reads, before any low-rank delta: the adapter's own file where it replaces
        a tensor as a whole, whose dtype may be another one."""
        self._values = values

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows start..stop of a tensor seen as a matrix (`TensorInfo.matrix_shape`).

        As stored, (stop - start, columns) in the stored dtype, and a view of the mapped file wherever possible, which
        must not be written to. Where an adapter has a low-rank delta for the tensor: the sum, in fp32, computed for
        these rows only.

        Raises:
            CheckpointError: torch has no such dtype, or the file has changed since it was opened.
        """
        info = self.tensors[name]
        replaced = self.adapter is not None and name in self.adapter.replaced
        values = self.adapter.values if self.adapter is not None and replaced else self._values
        part = values.rows(info, start, stop)
        lora = self.lora(name, start, stop)
        if lora is None:
            return part
        return torch.addmm(part.to(torch.float32), lora.b, lora.a, alpha=lora.scale)

    def stored_rows(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows start..stop as the shards hold them, whatever the adapter says; otherwise as `rows`."""
        return self._values.rows(self.stored[name], start, stop)

    def stored_bytes(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Bytes start..stop of a tensor as the shards hold it, as uint8, for any dtype of the format."""
        return self._values.bytes(self.stored[name], start, stop)

    def prefetch(self, name: str, start: int = 0, stop: int | None = None) -> None:
        """Tell the kernel that these rows will be read soon."""
        self._values.prefetch(self.stored[name], start, stop)

    def release(self, name: str, start: int = 0, stop: int | None = None) -> None:
        """Tell the kernel that these rows need not stay in memory; they may be read again at any time."""
        self._values.release(self.stored[name], start, stop)
        if self.adapter is not None and name in self.adapter.replaced:
            self.adapter.values.release(self.adapter.replaced[name], start, stop)

    def lora(self, name: str, start: int = 0, stop: int | None = None) -> LoraFactors | None:
        """The adapter's low-rank delta of rows start..stop of the matrix; None if it has none for this tensor.

        It comes on top of what `tensors` describes, which differs from `stored` where the adapter replaces a tensor.
        """
        return None if self.adapter is None else self.adapter.lora(name, start, stop)

    def base_identity(self) -> str:
        """Equal for two checkpoints that are opened on the very same weights files, with or without adapters.

        The files' identity on their disk, so links to the same file count as the same, copies do not.

        Raises:
            CheckpointError: a file is gone.
        """
        digest = hashlib.sha256()
        for shard in self.shards:
            try:
                status = shard.path.stat()
            except OSError as error:
                raise CheckpointError(f"{shard.path}: cannot be read: {error.strerror or error}") from error
            digest.update(f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def other_files(self) -> dict[str, Path]:
        """Every file that belongs to the model besides its weights: path within the folder ("/" between) -> file.

        `safelox.checkpoint.folder` states the rule. Tokenizer, chat template and generation settings of an adapter's
        folder take the place of the base's.

        Raises:
            CheckpointError: a file cannot be read, or a link leads nowhere or in a circle.
        """
        files = other_files(self.folder)
        if self.adapter is not None:
            over = other_files(self.adapter.folder)
            files |= {name: path for name, path in over.items() if name in TOKENIZER_FILES}
        return files

    def close(self) -> None:
        """Let go of the files. Values that are still in use keep theirs until they go."""
        self._values.close()
        if self.adapter is not None:
            self.adapter.values.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_checkpoint(reference: str | os.PathLike[str], *, allow_pickle: bool = False) -> Checkpoint:
    """Open a model: a local folder or org/name[@revision] on the hub, each possibly followed by +ADAPTER.

    A reference is local if such a path exists, and a hub id otherwise; an adapter is a PEFT LoRA folder or hub id.
    Only headers are read, except that PyTorch's .bin files have to be unpickled.

    Args:
        reference: what to open.
        allow_pickle: also read PyTorch's .bin files where there is no safetensors, tensors only.

    Raises:
        CheckpointError: with every problem that the headers show.
    """
    reference = os.fspath(reference)
    base_reference, adapter_reference = split_reference(reference)
    location = locate(base_reference, allow_pickle=allow_pickle)
    shards, config, values = _open_folder(base_reference, location.folder, allow_pickle)
    adapter = None
    if adapter_reference is not None:
        folder, commit = locate(adapter_reference, allow_pickle=allow_pickle)
        adapter = read_adapter(
            adapter_reference,
            folder,
            commit,
            base={info.name: info for shard in shards for info in shard.tensors},
            base_values=values,
            base_config=config,
            allow_pickle=allow_pickle,
        )
    return Checkpoint(reference, location, shards, config, values, adapter)


def _open_folder(reference: str, folder: Path, allow_pickle: bool) -> tuple[tuple[Shard, ...], dict[str, Any], Values]:
    try:
        if not folder.is_dir():
            folder.stat()  # says what is wrong with a link
            raise CheckpointError(f"{reference}: is a file, the folder of a model was expected")
        weights, problems = find_weights(folder, allow_pickle)
    except OSError as error:
        raise CheckpointError(f"{reference}: cannot be read: {error.strerror or error}") from error
    config, more = read_object(folder / "config.json")
    problems += more
    values = Values()
    shards: tuple[Shard, ...] = ()
    if weights is not None:
        shards, more = _open_shards(weights, config, values)
        problems += more
    refuse(reference, problems)
    return shards, config, values


def _open_shards(weights: Weights, config: dict[str, Any], values: Values) -> tuple[tuple[Shard, ...], list[str]]:
    """All shards whose header can be read, and what is wrong with them and with how they fit the index."""
    shards: dict[str, Shard] = {}
    names: dict[str, set[str]] = {}
    problems: list[str] = []
    for path in weights.files:
        if weights.pickled:
            shard, tensors, more = read_pickled(path, tied=says_tied(config) is not False)
            values.hold(path, tensors)
        else:
            shard, more = inspect_header(path)
        problems += more
        if shard is not None:
            shards[path.name] = shard
            names[path.name] = set(tensors) if weights.pickled else {info.name for info in shard.tensors}
    return tuple(shards.values()), problems + check_index(weights, names)
