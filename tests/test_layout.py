"""Where each tensor of the result goes: ALIGNED's files again, the same but for the values."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from safelox.checkpoint import open_checkpoint
from safelox.errors import UsageError
from safelox.layout import Layout, check_dtype, plan_layout
from tiny import llama_config, llama_tensors, lora_tensors, shard_name, write_adapter, write_checkpoint, write_json

INDEX = "model.safetensors.index.json"
MIXED = {
    "a.weight": torch.zeros(3, 5, dtype=torch.bfloat16),
    "b.weight": torch.zeros(2, 2, dtype=torch.float64),
    "c.bias": torch.zeros(7, dtype=torch.float16),
    "d.mask": torch.zeros(3, dtype=torch.bool),
    "e.scale": torch.tensor(1.0),
    "f.counts": torch.zeros(2, 3, dtype=torch.int16),
    "g.small": torch.zeros(4, dtype=torch.float8_e4m3fn),
    "h.complex": torch.zeros(2, dtype=torch.complex64),
    "i.empty": torch.zeros(0, 3),
}


def assert_writable(layout: Layout, folder: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Files that are laid out so, with every tensor's bytes in its place, are what safetensors reads; the tensors."""
    folder.mkdir()
    read: dict[str, Tensor] = {}
    for number, plan in enumerate(layout.files):
        content = bytearray(plan.header + bytes(plan.size - len(plan.header)))
        covered = len(plan.header)
        places = sorted((p for p in layout.places.items() if p[1].file == number), key=lambda p: p[1].start)
        for name, place in places:
            assert place.start == covered, f"{name}: a gap or an overlap"
            covered = place.stop
            assert place.stop - place.start == tensors[name].numel() * tensors[name].element_size()
            content[place.start : place.stop] = tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes()
        assert covered == plan.size
        (folder / plan.name).write_bytes(content)
        with safe_open(folder / plan.name, "pt") as file:
            read |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    assert layout.size_bytes == sum(path.stat().st_size for path in folder.iterdir())
    return read


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_the_headers_and_the_index_are_aligneds(tmp_path: Path, shards: int) -> None:
    metadata = {"format": "pt", "note": "ü"}
    folder = write_checkpoint(tmp_path / "model", MIXED, shards=shards, config={}, metadata=metadata)
    if shards > 1:
        index = folder / INDEX
        index.write_bytes(index.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    layout = plan_layout(open_checkpoint(str(folder)), None)
    assert [file.name for file in layout.files] == [shard_name(i + 1, shards) for i in range(shards)]
    for file in layout.files:
        content = (folder / file.name).read_bytes()
        assert content.startswith(file.header)
        assert len(file.header) == 8 + int.from_bytes(content[:8], "little")
        assert file.size == len(content)
    assert layout.index == (None if shards == 1 else (INDEX, (folder / INDEX).read_bytes()))
    again = assert_writable(layout, tmp_path / "again", MIXED)
    assert again.keys() == MIXED.keys()


@pytest.mark.parametrize("word", ["bf16", "fp16", "fp32"])
def test_another_dtype_for_all_floating_tensors(tmp_path: Path, word: str) -> None:
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[word]
    metadata = {"format": "pt", "note": "ü"}
    folder = write_checkpoint(tmp_path / "model", MIXED, shards=3, config={}, metadata=metadata)
    write_json(folder / INDEX, json.loads((folder / INDEX).read_text()) | {"of": "someone"})
    content = json.loads((folder / INDEX).read_text())
    content["metadata"]["total_parameters"] = 46
    write_json(folder / INDEX, content)
    layout = plan_layout(open_checkpoint(str(folder)), word)
    kept = {"d.mask", "f.counts", "g.small", "h.complex"}
    expected = {name: t if name in kept else t.to(dtype) for name, t in MIXED.items()}
    again = assert_writable(layout, tmp_path / "again", expected)
    assert {name: (t.dtype, t.shape) for name, t in again.items()} == {
        name: (t.dtype, t.shape) for name, t in expected.items()
    }
    for path in (tmp_path / "again").iterdir():
        with safe_open(path, "pt") as file:
            assert file.metadata() == metadata
    assert layout.index is not None
    index = json.loads(layout.index[1])
    assert index["of"] == "someone"
    assert index["metadata"] == {
        "total_size": sum(t.numel() * t.element_size() for t in expected.values()),
        "total_parameters": 46,
    }
    assert index["weight_map"] == content["weight_map"]


def test_the_dtype_that_it_has_already_changes_nothing(tmp_path: Path) -> None:
    tensors = llama_tensors(dtype=torch.bfloat16)
    folder = write_checkpoint(tmp_path / "model", tensors, shards=2)
    checkpoint = open_checkpoint(str(folder))
    assert plan_layout(checkpoint, "bf16") == plan_layout(checkpoint, None)


def test_an_index_under_another_name_and_one_for_a_single_file(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "one", MIXED, config={})
    weight_map = dict.fromkeys(MIXED, "model.safetensors")
    write_json(folder / "my.safetensors.index.json", {"weight_map": weight_map})
    for dtype in (None, "fp32"):
        layout = plan_layout(open_checkpoint(str(folder)), dtype)
        assert [file.name for file in layout.files] == ["model.safetensors"]
        assert layout.index is not None
        assert layout.index[0] == "my.safetensors.index.json"
        assert json.loads(layout.index[1])["weight_map"] == weight_map


def test_an_adapter_of_another_dtype_changes_nothing(tmp_path: Path) -> None:
    base = llama_tensors(dtype=torch.bfloat16)
    saved = {"base_model.model.lm_head.weight": torch.ones(32, 16)}
    lora = lora_tensors({name: tensor for name, tensor in base.items() if "q_proj" in name})
    folder = write_checkpoint(tmp_path / "base", base, shards=2)
    adapter = write_adapter(tmp_path / "adapter", lora | saved, modules_to_save=["lm_head"])
    layout = plan_layout(open_checkpoint(f"{folder}+{adapter}"), None)
    assert layout == plan_layout(open_checkpoint(str(folder)), None)
    assert layout.places["lm_head.weight"].dtype == "BF16"


def test_pytorch_files_become_safetensors(tmp_path: Path) -> None:
    tensors = llama_tensors()
    folder = tmp_path / "model"
    folder.mkdir()
    names = list(tensors)
    parts = {"pytorch_model-00001-of-00002.bin": names[:5], "pytorch_model-00002-of-00002.bin": names[5:]}
    for file, part in parts.items():
        torch.save({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    write_json(folder / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": weight_map})
    write_json(folder / "config.json", llama_config())
    layout = plan_layout(open_checkpoint(str(folder), allow_pickle=True), None)
    assert [file.name for file in layout.files] == [shard_name(i, 2) for i in (1, 2)]
    again = assert_writable(layout, tmp_path / "again", tensors)
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())
    assert layout.index is not None
    assert layout.index[0] == INDEX
    assert json.loads(layout.index[1])["weight_map"] == {n: shard_name(1 + (n in names[5:]), 2) for n in names}


@pytest.mark.parametrize("word", ["int8", "bfloat16", "", "FP16"])
def test_a_dtype_that_cannot_be_asked_for(word: str) -> None:
    with pytest.raises(UsageError, match=f"dtype {word!r}: expected one of bf16, fp16, fp32"):
        check_dtype(word)
    check_dtype(None)
    check_dtype("bf16")
