"""PyTorch's .bin files: refused by default, read as tensors only when allowed, presented as safetensors."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as load_bytes
from torch import Tensor

from safelox.checkpoint import Checkpoint, open_checkpoint
from safelox.errors import CheckpointError
from tiny import llama_config, llama_tensors, write_checkpoint, write_json


def write_pickled(
    folder: Path, *parts: dict[str, Any], config: dict[str, Any] | None = None, legacy: bool = False
) -> Path:
    """A model folder of one .bin file per part, with an index if there are several."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", llama_config() if config is None else config)
    weight_map: dict[str, str] = {}
    for number, part in enumerate(parts, start=1):
        name = "pytorch_model.bin" if len(parts) == 1 else f"pytorch_model-{number:05d}-of-{len(parts):05d}.bin"
        torch.save(part, folder / name, _use_new_zipfile_serialization=not legacy)
        weight_map |= dict.fromkeys(part, name)
    if len(parts) > 1:
        write_json(folder / "pytorch_model.bin.index.json", {"weight_map": weight_map})
    return folder


def opened(folder: Path) -> Checkpoint:
    return open_checkpoint(str(folder), allow_pickle=True)


def as_safetensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """What a writer gets that copies headers and values."""
    tensors: dict[str, Tensor] = {}
    for shard in checkpoint.shards:
        values = b"".join(checkpoint.stored_bytes(t.name).numpy().tobytes() for t in shard.tensors)
        assert len(shard.header) % 8 == 0
        assert shard.tensors[0].start == len(shard.header)
        tensors |= load_bytes(shard.header + values)
    return tensors


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        opened(folder)
    return str(caught.value)


@pytest.mark.parametrize("legacy", [False, True])
def test_values_names_and_headers_are_those_of_safetensors(tmp_path: Path, legacy: bool) -> None:
    tensors = llama_tensors(dtype=torch.bfloat16)
    first = dict(list(tensors.items())[:9])
    second = {name: tensor for name, tensor in tensors.items() if name not in first}
    checkpoint = opened(write_pickled(tmp_path, first, second, legacy=legacy))
    assert [shard.name for shard in checkpoint.shards] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    assert all(shard.pickled for shard in checkpoint.shards)
    written = as_safetensors(checkpoint)
    assert written.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(written[name], tensor)
        assert torch.equal(checkpoint.rows(name).view(tensor.shape), tensor)
    assert torch.equal(checkpoint.rows("lm_head.weight", 3, 5), tensors["lm_head.weight"][3:5])
    assert torch.equal(
        checkpoint.stored_bytes("lm_head.weight", 33, 71), tensors["lm_head.weight"].view(-1).view(torch.uint8)[33:71]
    )
    checkpoint.release("lm_head.weight")
    assert not set(checkpoint.other_files()) - {"config.json"}


def test_without_leave_nothing_is_unpickled(tmp_path: Path) -> None:
    folder = write_pickled(tmp_path, {"a": torch.ones(2)})
    with pytest.raises(CheckpointError, match=r"can run code when they are read.*--allow-pickle"):
        open_checkpoint(str(folder))


def test_safetensors_are_preferred(tmp_path: Path) -> None:
    folder = write_pickled(tmp_path, {"a": torch.zeros(2)})
    write_checkpoint(folder, {"a": torch.ones(2)})
    assert opened(folder).rows("a").tolist() == [[1.0, 1.0]]


class Malicious:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, legacy: bool) -> None:
    trace = tmp_path / "trace"
    folder = write_pickled(tmp_path / "model", {"a": torch.ones(2), "b": Malicious(trace)}, legacy=legacy)
    text = refusal(folder)
    assert (
        "pytorch_model.bin: refused: it is damaged, or holds more than tensors, and reading it could run code" in text
    )
    assert ".system" in text
    assert "trusted" not in text  # PyTorch's advice to read it all the same
    assert not trace.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_tied_weights_are_kept_once(tmp_path: Path, legacy: bool) -> None:
    weight = torch.randn(4, 3)
    tensors = {"embed.weight": weight, "other": weight[:2], "lm_head.weight": weight}
    checkpoint = opened(write_pickled(tmp_path, tensors, config={}, legacy=legacy))
    assert list(checkpoint.tensors) == ["embed.weight", "other"]
    metadata = json.loads(checkpoint.shards[0].header[8:])["__metadata__"]
    assert metadata == {"format": "pt", "lm_head.weight": "embed.weight"}
    assert torch.equal(as_safetensors(checkpoint)["other"], weight[:2])


def test_equal_memory_is_kept_twice_where_the_configuration_says_untied(tmp_path: Path) -> None:
    weight = torch.randn(4, 3)
    folder = write_pickled(
        tmp_path, {"embed.weight": weight, "lm_head.weight": weight}, config={"tie_word_embeddings": False}
    )
    assert set(as_safetensors(opened(folder))) == {"embed.weight", "lm_head.weight"}


def test_an_index_may_name_tied_weights(tmp_path: Path) -> None:
    weight = torch.randn(4, 3)
    parts = ({"embed": weight, "head": weight}, {"x": torch.ones(1)})
    checkpoint = opened(write_pickled(tmp_path, *parts, config=llama_config(tied=True)))
    assert list(checkpoint.tensors) == ["embed", "x"]


def test_strided_and_odd_tensors_are_laid_out_plainly(tmp_path: Path) -> None:
    whole = torch.arange(24.0)
    tensors = {
        "transposed": whole.view(4, 6).T,
        "stepped": whole[::2],
        "permuted": whole.view(2, 3, 4).permute(2, 0, 1),
        "expanded": torch.ones(1, 3).expand(4, 3),
        "scalar": torch.tensor(3),
        "empty": torch.empty(0, 2),
        "flags": torch.tensor([True, False]),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    checkpoint = opened(write_pickled(tmp_path, tensors))
    written = as_safetensors(checkpoint)
    for name, tensor in tensors.items():
        assert torch.equal(written[name], tensor.detach()), name
        assert torch.equal(checkpoint.rows(name).view(tensor.shape), tensor.detach()), name
    assert torch.equal(checkpoint.rows("transposed", 1, 3), tensors["transposed"][1:3])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([torch.ones(1)], "holds a list, a dictionary of tensors was expected"),
        ({}, "holds a dict, a dictionary of tensors was expected"),
        ({"model": {"a": torch.ones(1)}}, "model is a dict, a tensor was expected"),
        ({"epoch": 3, "a": torch.ones(1)}, "epoch is a int, a tensor was expected"),
        ({3: torch.ones(1)}, "3 is no name of a tensor"),
        ({"a": torch.ones(2, 2).to_sparse()}, "a is sparse, quantised or without values"),
        ({"a": torch.ones(2, dtype=torch.complex128)}, "a has dtype torch.complex128, which safetensors cannot hold"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
def test_what_is_no_plain_tensor_is_refused(tmp_path: Path, content: Any, expected: str) -> None:
    folder = tmp_path
    write_json(folder / "config.json", {})
    torch.save(content, folder / "pytorch_model.bin")
    assert f"pytorch_model.bin: {expected}" in refusal(folder)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    for damage in (b"", b"\x80\x02}q\x00", b"not a pickle", b"PK\x03\x04 not a zip"):
        folder = write_pickled(tmp_path, {"a": torch.ones(2)})
        (folder / "pytorch_model.bin").write_bytes(damage)
        assert "pytorch_model.bin: " in refusal(folder)
    folder = write_pickled(tmp_path, {"a": torch.ones(200, 200)})
    os.truncate(folder / "pytorch_model.bin", 90_000)
    assert "pytorch_model.bin: " in refusal(folder)
    (folder / "pytorch_model.bin").unlink()
    (folder / "pytorch_model.bin").mkdir()
    assert "pytorch_model.bin: cannot be read: Is a directory" in refusal(folder)


def test_the_index_is_checked_as_well(tmp_path: Path) -> None:
    folder = write_pickled(tmp_path, {"a": torch.ones(2)}, {"b": torch.ones(2)})
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    assert "pytorch_model.bin.index.json: names pytorch_model-00002-of-00002.bin, which is not there" in refusal(folder)
