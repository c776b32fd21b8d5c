"""Opening model folders: what is read, and that every kind of damage is named with its file and tensor."""

import json
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from safelox.checkpoint import DTYPES, build_header, open_checkpoint, read_header
from safelox.errors import CheckpointError
from tiny import llama_tensors, write_checkpoint, write_json, write_raw

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
PAIR = {"a": torch.arange(6.0).view(2, 3), "b": torch.arange(4.0)}


def message(folder: Path | str, **options: bool) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(str(folder), **options)
    return str(caught.value)


def one_file(folder: Path, header: Any, values: bytes = b"", length: int | None = None) -> Path:
    write_json(folder / "config.json", {})
    write_raw(folder / "model.safetensors", header, values, length=length)
    return folder


# --- reading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 3])
def test_all_values_are_read_as_they_were_written(tmp_path: Path, shards: int) -> None:
    tensors = llama_tensors(dtype=torch.bfloat16)
    with open_checkpoint(str(write_checkpoint(tmp_path, tensors, shards=shards))) as checkpoint:
        assert len(checkpoint.shards) == shards
        assert checkpoint.tensors.keys() == tensors.keys()
        assert checkpoint.config["model_type"] == "llama"
        assert checkpoint.commit is None
        for name, tensor in tensors.items():
            assert torch.equal(checkpoint.rows(name).view(tensor.shape), tensor)
            assert torch.equal(checkpoint.stored_bytes(name), tensor.view(-1).view(torch.uint8))


def test_rows_are_a_view_of_the_file(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(write_checkpoint(tmp_path, {"a": torch.arange(40.0).view(10, 2, 2)})))
    part = checkpoint.rows("a", 3, 7)
    assert part.tolist() == [[6.0, 7.0], [8.0, 9.0], [10.0, 11.0], [12.0, 13.0]]
    assert part.data_ptr() - checkpoint.rows("a").data_ptr() == 3 * 2 * 4
    assert checkpoint.stored_bytes("a", 4, 8).view(torch.float32).tolist() == [1.0]
    checkpoint.close()
    assert part[0, 0] == 6.0  # a view outlives the checkpoint


def test_scalars_vectors_and_empty_tensors_have_a_matrix_shape(tmp_path: Path) -> None:
    tensors = {
        "scalar": torch.tensor(2.5),
        "vector": torch.arange(3.0),
        "none": torch.zeros(0, 4),
        "flat": torch.zeros(4, 0),
    }
    checkpoint = open_checkpoint(str(write_checkpoint(tmp_path, tensors)))
    assert checkpoint.rows("scalar").tolist() == [[2.5]]
    assert checkpoint.rows("vector").tolist() == [[0.0, 1.0, 2.0]]
    assert checkpoint.rows("none").shape == (0, 4)
    assert checkpoint.rows("flat").shape == (4, 0)
    for name in tensors:
        checkpoint.release(name)
        assert checkpoint.stored_bytes(name).numel() == tensors[name].numel() * 4


def test_values_that_are_not_aligned_are_copied(tmp_path: Path) -> None:
    values = torch.tensor([1.5, -2.0])
    header = json.dumps(
        {"odd": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "a": F32 | {"data_offsets": [1, 9]}}
    )
    raw = header.encode() + b" " * (-len(header) % 8)
    checkpoint = open_checkpoint(str(one_file(tmp_path, raw, b"\x07" + values.numpy().tobytes())))
    assert checkpoint.rows("a").tolist() == [[1.5, -2.0]]
    assert checkpoint.rows("a").data_ptr() % 4 == 0
    assert checkpoint.rows("odd").tolist() == [[7]]


def test_threads_may_read_at_once(tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.full((50, 8), float(i)) for i in range(24)}
    checkpoint = open_checkpoint(str(write_checkpoint(tmp_path, tensors, shards=8)))
    wrong: list[str] = []

    def read(offset: int) -> None:
        for i in range(24):
            name = f"t{(i + offset) % 24}"
            for start in range(0, 50, 10):
                if not torch.equal(checkpoint.rows(name, start, start + 10), tensors[name][start : start + 10]):
                    wrong.append(name)
                checkpoint.release(name, start, start + 10)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def mapped_kilobytes(file: Path) -> int:
    """Resident pages of this process's mappings of a file."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    starts = [i for i, line in enumerate(lines) if line.endswith(str(file))]
    return sum(int(next(x for x in lines[i:] if x.startswith("Rss:")).split()[1]) for i in starts)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's /proc")
def test_released_rows_leave_memory(tmp_path: Path) -> None:
    tensor = torch.ones(4096, 512)
    checkpoint = open_checkpoint(str(write_checkpoint(tmp_path, {"a": tensor})))
    file = checkpoint.shards[0].path
    assert checkpoint.rows("a").sum() == tensor.numel()
    assert mapped_kilobytes(file) > 7000
    for start in range(0, 4096, 100):  # in parts that do not end at pages
        checkpoint.release("a", start, min(start + 100, 4096))
    assert mapped_kilobytes(file) < 100
    assert checkpoint.rows("a").sum() == tensor.numel()


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="needs POSIX")
def test_a_file_larger_than_memory_can_be_mapped(tmp_path: Path) -> None:
    size = 4 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    header = build_header([("a", "U8", (size // 16, 16))])
    write_json(tmp_path / "config.json", {})
    (tmp_path / "model.safetensors").write_bytes(header)
    os.truncate(tmp_path / "model.safetensors", len(header) + size)  # a hole, which takes no room on the disk
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.rows("a", size // 16 - 1).tolist() == [[0] * 16]


def test_a_dtype_that_torch_lacks_is_an_error_only_when_it_is_read(tmp_path: Path) -> None:
    header = {
        "packed": {"dtype": "F4", "shape": [3, 2], "data_offsets": [0, 3]},
        "future": {"dtype": "F128", "shape": [1], "data_offsets": [3, 19]},
    }
    checkpoint = open_checkpoint(str(one_file(tmp_path, header, bytes(range(19)))))
    assert checkpoint.stored_bytes("packed").tolist() == [0, 1, 2]
    assert checkpoint.stored_bytes("future", 14).tolist() == [17, 18]
    for name in header:
        with pytest.raises(CheckpointError, match=f"model.safetensors: tensor {name} has dtype F"):
            checkpoint.rows(name)


def test_a_file_that_shrinks_while_it_is_open_is_an_error(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(write_checkpoint(tmp_path, PAIR)))
    file = checkpoint.shards[0].path
    os.truncate(file, file.stat().st_size - 4)
    last = checkpoint.shards[0].tensors[-1].name
    with pytest.raises(CheckpointError, match=f"has become shorter since its header was read; tensor {last}"):
        checkpoint.rows(last)


def test_an_index_of_any_name_is_followed(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, PAIR, shards=2)
    for i in (1, 2):
        (folder / f"model-0000{i}-of-00002.safetensors").rename(folder / f"part{i}.safetensors")
    (folder / "model.safetensors.index.json").unlink()
    write_json(
        folder / "my.safetensors.index.json", {"weight_map": {"a": "part1.safetensors", "b": "part2.safetensors"}}
    )
    assert [shard.name for shard in open_checkpoint(str(folder)).shards] == ["part1.safetensors", "part2.safetensors"]


def test_links_are_followed(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "real", PAIR)
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert open_checkpoint(str(link)).base_identity() == open_checkpoint(str(folder)).base_identity()
    copy = write_checkpoint(tmp_path / "copy", PAIR)
    assert open_checkpoint(str(copy)).base_identity() != open_checkpoint(str(folder)).base_identity()


# --- headers against the safetensors library -----------------------------------------------------------------------

SAVED = sorted(set(DTYPES) - {"F8_E8M0"})  # safetensors.torch does not write that one


@st.composite
def some_tensors(draw: st.DrawFn) -> dict[str, Tensor]:
    names = draw(
        st.lists(
            st.text(min_size=1, max_size=8).filter(lambda n: n != "__metadata__"), min_size=1, max_size=5, unique=True
        )
    )
    tensors = {}
    for name in names:
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        dtype = DTYPES[draw(st.sampled_from(SAVED))]
        count = torch.Size(shape).numel() * dtype.itemsize
        raw = torch.tensor(list(draw(st.binary(min_size=count, max_size=count))), dtype=torch.uint8)
        if dtype == torch.bool:
            raw = raw % 2
        tensors[name] = raw.view(dtype).view(shape) if count else torch.empty(shape, dtype=dtype)
    return tensors


@given(some_tensors(), st.none() | st.fixed_dictionaries({"format": st.text(max_size=9)}))
@settings(max_examples=60, deadline=None)
def test_what_safetensors_writes_is_read_the_same_and_headers_are_built_the_same(
    tensors: dict[str, Tensor], metadata: dict[str, str] | None
) -> None:
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "model.safetensors"
        save_file(tensors, file, metadata=metadata)
        write_json(Path(name) / "config.json", {})
        expected = load_file(file)
        shard = read_header(file)
        with open_checkpoint(name) as checkpoint:
            assert checkpoint.tensors.keys() == expected.keys()
            for key, tensor in expected.items():
                assert checkpoint.tensors[key].shape == tuple(tensor.shape)
                read = checkpoint.rows(key)
                assert read.dtype == tensor.dtype
                assert (
                    read.contiguous().view(-1).view(torch.uint8).tolist()
                    == tensor.reshape(-1).view(torch.uint8).tolist()
                )
        assert build_header([(t.name, t.dtype, t.shape) for t in shard.tensors], metadata) == shard.header


def test_a_built_header_is_aligned_and_is_read_back_by_safetensors(tmp_path: Path) -> None:
    header = build_header([("x", "BF16", (2, 2)), ("é", "F32", (1,))], {"format": "pt", "note": "ü"})
    assert len(header) % 8 == 0
    file = tmp_path / "model.safetensors"
    file.write_bytes(header + torch.ones(4, dtype=torch.bfloat16).view(torch.uint8).numpy().tobytes() + bytes(4))
    loaded = load_file(file)
    assert torch.equal(loaded["x"], torch.ones(2, 2, dtype=torch.bfloat16))
    assert loaded["é"].tolist() == [0.0]


# --- damaged headers -----------------------------------------------------------------------------------------------

DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty file": (lambda f: (f / "model.safetensors").write_bytes(b""), "the file is empty"),
    "a few bytes": (lambda f: (f / "model.safetensors").write_bytes(b"abc"), "only 3 bytes"),
    "header longer than the file": (
        lambda f: write_raw(f / "model.safetensors", {"a": F32}, bytes(8), length=10**6),
        "announce a header of 1000000 bytes",
    ),
    "header length far too small": (
        lambda f: write_raw(f / "model.safetensors", {"a": F32}, bytes(8), length=10),
        "the header is not JSON",
    ),
    "git-lfs pointer": (
        lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "git-lfs pointer",
    ),
    "not JSON": (lambda f: write_raw(f / "model.safetensors", b"{'a'}", bytes(8)), "the header is not JSON"),
    "not UTF-8": (lambda f: write_raw(f / "model.safetensors", b'{"\xff":1}'), "the header is not JSON"),
    "deeply nested": (lambda f: write_raw(f / "model.safetensors", b"[" * 100_000), "the header is not JSON"),
    "a JSON list": (lambda f: write_raw(f / "model.safetensors", []), "the header is a JSON list"),
    "tensor named twice": (
        lambda f: write_raw(
            f / "model.safetensors", f'{{"a": {json.dumps(F32)}, "a": {json.dumps(F32)}}}'.encode(), bytes(8)
        ),
        "the header names a twice",
    ),
    "entry no object": (lambda f: write_raw(f / "model.safetensors", {"a": 3}), "tensor a: its header entry"),
    "no dtype": (
        lambda f: write_raw(f / "model.safetensors", {"a": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
        "tensor a: its dtype is None",
    ),
    "negative size": (
        lambda f: write_raw(f / "model.safetensors", {"a": F32 | {"shape": [-2]}}, bytes(8)),
        r"tensor a: its shape is \[-2\]",
    ),
    "offsets backwards": (
        lambda f: write_raw(f / "model.safetensors", {"a": F32 | {"data_offsets": [8, 0]}}, bytes(8)),
        r"tensor a: its data_offsets are \[8, 0\]",
    ),
    "wrong number of bytes": (
        lambda f: write_raw(f / "model.safetensors", {"a": F32 | {"shape": [3]}}, bytes(8)),
        r"tensor a: F32 of shape \(3,\) takes 12 bytes, but its data_offsets span 8",
    ),
    "half a byte": (
        lambda f: write_raw(
            f / "model.safetensors", {"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 2]}}, bytes(2)
        ),
        "tensor a: F4 of shape .* takes no whole number of bytes",
    ),
    "truncated": (
        lambda f: write_raw(f / "model.safetensors", {"a": F32, "b": F32 | {"data_offsets": [8, 16]}}, bytes(12)),
        "the file is truncated: .* values are missing of b",
    ),
    "bytes left over": (
        lambda f: write_raw(f / "model.safetensors", {"a": F32}, bytes(12)),
        "4 bytes after tensor a belong to nothing",
    ),
    "a hole": (
        lambda f: write_raw(f / "model.safetensors", {"a": F32, "b": F32 | {"data_offsets": [12, 20]}}, bytes(20)),
        "4 bytes between tensor a and tensor b belong to nothing",
    ),
    "a hole at the front": (
        lambda f: write_raw(f / "model.safetensors", {"a": F32 | {"data_offsets": [4, 12]}}, bytes(12)),
        "4 bytes between the header and tensor a",
    ),
    "overlap": (
        lambda f: write_raw(f / "model.safetensors", {"a": F32, "b": F32 | {"data_offsets": [4, 12]}}, bytes(12)),
        "tensor b overlaps with tensor a by 4 bytes",
    ),
    "metadata": (
        lambda f: write_raw(f / "model.safetensors", {"__metadata__": {"n": 1}, "a": F32}, bytes(8)),
        "__metadata__ is not an object of strings",
    ),
    "a folder in its place": (lambda f: (f / "model.safetensors").mkdir(), "model.safetensors: cannot be read"),
    "a link to itself": (
        lambda f: (f / "model.safetensors").symlink_to(f / "model.safetensors"),
        "model.safetensors: cannot be read: Too many levels of symbolic links",
    ),
    "a link to nothing": (
        lambda f: (f / "model.safetensors").symlink_to(f / "gone"),
        "model.safetensors: cannot be read: No such file",
    ),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    make, expected = DAMAGED[damage]
    write_json(tmp_path / "config.json", {})
    make(tmp_path)
    with pytest.raises(CheckpointError, match=expected) as caught:
        open_checkpoint(str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert "model.safetensors: " in str(caught.value)


def test_read_header_refuses_by_itself(tmp_path: Path) -> None:
    file = write_raw(tmp_path / "x.safetensors", {"a": F32}, bytes(4))
    with pytest.raises(CheckpointError, match="truncated"):
        read_header(file)


# --- damaged folders -----------------------------------------------------------------------------------------------


def edit_index(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index)
    write_json(path, index)
    return folder


def sharded(folder: Path) -> Path:
    return write_checkpoint(folder, PAIR, shards=2)


def single(folder: Path) -> Path:
    return write_checkpoint(folder, PAIR)


SECOND = "model-00002-of-00002.safetensors"

BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "shard missing": (
        lambda f: (sharded(f) / SECOND).unlink(),
        f"model.safetensors.index.json: names {SECOND}, which is not there",
    ),
    "tensor missing in its shard": (
        lambda f: edit_index(sharded(f), lambda i: i["weight_map"].update(c=SECOND)),
        f"model.safetensors.index.json: places c in {SECOND}, which has no such tensor",
    ),
    "tensor missing in the index": (
        lambda f: edit_index(sharded(f), lambda i: i["weight_map"].update(c=i["weight_map"].pop("b"))),
        f"{SECOND}: holds b, which model.safetensors.index.json does not place there",
    ),
    "tensor in two shards": (
        lambda f: save_file(PAIR, sharded(f) / SECOND),
        f"tensor a is in both model-00001-of-00002.safetensors and {SECOND}",
    ),
    "index not JSON": (
        lambda f: (sharded(f) / "model.safetensors.index.json").write_text("{"),
        "model.safetensors.index.json: is not JSON",
    ),
    "index names a tensor twice": (
        lambda f: (sharded(f) / "model.safetensors.index.json").write_text('{"weight_map": {"a": "x", "a": "y"}}'),
        "model.safetensors.index.json: names a twice",
    ),
    "index without a map": (
        lambda f: write_json(sharded(f) / "model.safetensors.index.json", {"weight_map": {}}),
        "model.safetensors.index.json: has no weight_map",
    ),
    "index leads out of the folder": (
        lambda f: edit_index(sharded(f), lambda i: i["weight_map"].update(b="../b.safetensors")),
        r"model.safetensors.index.json: ../b.safetensors cannot be the name of a file in this folder",
    ),
    "two indices": (
        lambda f: write_json(sharded(f) / "other.safetensors.index.json", {}),
        "more than one index",
    ),
    "whole file beside shards": (
        lambda f: save_file(PAIR, sharded(f) / "model.safetensors"),
        "model.safetensors: not part of the weights that model.safetensors.index.json describes",
    ),
    "shards without an index": (
        lambda f: (sharded(f) / "model.safetensors.index.json").unlink(),
        "neither model.safetensors nor an index is there, only model-00001-of-00002.safetensors",
    ),
    "stray shards": (
        lambda f: save_file(PAIR, single(f) / "model-00001-of-00003.safetensors"),
        "model-00001-of-00003.safetensors: not part of the weights that model.safetensors describes",
    ),
    "an adapter beside the weights": (
        lambda f: save_file(PAIR, single(f) / "adapter_model.safetensors"),
        r"given as BASE\+ADAPTER",
    ),
    "no configuration": (
        lambda f: (single(f) / "config.json").unlink(),
        "config.json: cannot be read: No such file",
    ),
    "configuration not JSON": (lambda f: (single(f) / "config.json").write_text("{,}"), "config.json: is not JSON"),
    "configuration a list": (lambda f: write_json(single(f) / "config.json", []), "config.json: is a JSON list"),
    "nothing": (lambda f: write_json(f / "config.json", {}), "no weights: neither model.safetensors nor"),
    "only an adapter": (
        lambda f: (write_json(f / "adapter_config.json", {}), save_file(PAIR, f / "adapter_model.safetensors")),
        r"a PEFT adapter, not a model; give it together with its base, as BASE\+ADAPTER",
    ),
    "only gguf": (lambda f: (f / "llama.Q4.gguf").write_bytes(b"GGUF"), "no safetensors, only llama.Q4.gguf"),
    "only the original": (
        lambda f: (f / "consolidated.00.pth").write_bytes(b""),
        "no safetensors, only consolidated.00.pth; save the model with transformers",
    ),
    "only .bin": (
        lambda f: (f / "pytorch_model.bin").write_bytes(b""),
        "no safetensors, only pytorch_model.bin. .* --allow-pickle",
    ),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_a_broken_folder_is_refused(tmp_path: Path, damage: str) -> None:
    make, expected = BROKEN[damage]
    make(tmp_path)
    with pytest.raises(CheckpointError, match=expected) as caught:
        open_checkpoint(str(tmp_path))
    assert str(caught.value).startswith(f"{tmp_path}: ")


def test_all_problems_come_in_one_error(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, llama_tensors(), shards=4)
    os.truncate(folder / "model-00001-of-00004.safetensors", 3000)
    (folder / "model-00002-of-00004.safetensors").unlink()
    (folder / "model-00003-of-00004.safetensors").write_bytes(b"")
    (folder / "config.json").unlink()
    text = message(folder)
    assert text.startswith(f"{folder}: 4 problems")
    assert all(f"model-0000{i}-of-00004.safetensors" in text for i in (1, 2, 3))
    assert "config.json" in text


def test_a_reference_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model"
    file.write_text("x")
    assert "is a file, the folder of a model was expected" in message(file)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert "cannot be read: Too many levels of symbolic links" in message(loop)
    both = message(tmp_path / "gone")
    assert "no such folder" in both
    assert "org/name" in both


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX users")
def test_a_file_without_permission_is_refused() -> None:
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        folder = write_checkpoint(Path(name) / "model", PAIR)
        (folder / "model.safetensors").chmod(0)
        is_root = os.geteuid() == 0
        if is_root:  # who may read everything
            os.seteuid(65534)
        try:
            text = message(folder)
        finally:
            if is_root:
                os.seteuid(0)
    assert "model.safetensors: cannot be read: Permission denied" in text


# --- the other files -----------------------------------------------------------------------------------------------


def test_other_files_are_all_but_weights_and_caches(tmp_path: Path) -> None:
    kept = [
        "README.md",
        "LICENSE",
        "tokenizer.json",
        "chat_template.jinja",
        "modeling_x.py",
        "sub/deep/a.txt",
        ".gitattributes",
    ]
    left = [
        *("pytorch_model.bin", "training_args.bin", "optimizer.pt", "m.gguf", "m.onnx", "consolidated.00.pth"),
        *("pytorch_model.bin.index.json", "model.fp16.safetensors", "consolidated.safetensors", "sub/x.safetensors"),
        *(".git/config", ".cache/huggingface/x", "original/params.json", "checkpoint-500/trainer_state.json"),
    ]
    folder = write_checkpoint(tmp_path, PAIR, files=dict.fromkeys(kept + left, "x"))
    files = open_checkpoint(str(folder)).other_files()
    assert sorted(files) == sorted([*kept, "config.json"])
    assert files["sub/deep/a.txt"] == folder / "sub" / "deep" / "a.txt"


def test_links_among_the_other_files(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", PAIR)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "note.txt").write_text("x")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    checkpoint = open_checkpoint(str(folder))
    assert "linked/note.txt" in checkpoint.other_files()
    (folder / "linked" / "up").symlink_to(folder)
    (folder / "dangling.txt").symlink_to(folder / "gone")
    os.mkfifo(folder / "pipe")
    with pytest.raises(CheckpointError) as caught:
        checkpoint.other_files()
    text = str(caught.value)
    assert "linked/up: a link that leads back to a folder above it" in text
    assert "dangling.txt: cannot be read" in text
    assert "pipe: neither a file nor a folder" in text
