"""What `harden` promises of the values and of the folder that it writes, against a plain fp64 reference."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from reference import (
    Rank,
    contents,
    decaying_pair,
    extrapolated,
    outcome,
    rank_part,
    read_tensors,
    spacing,
    steps,
    write_pair,
)
from safelox import harden, plan_harden
from safelox.errors import CheckpointError, UsageError
from safelox.manifest import read_manifest
from safelox.units import parse_bytes
from safelox.verification import verify
from tiny import llama_config, write_checkpoint, write_json, write_raw

COEF = 1.25
BF16, F16, F32, F64 = torch.bfloat16, torch.float16, torch.float32, torch.float64

SHAPES = {
    "square": (160, 192),
    "tall": (400, 136),
    "wide": (136, 700),
    "two_blocks": (1100, 500),
    "small": (40, 24),
    "row": (1, 30),
    "column": (30, 1),
    "no_larger_than_the_rank": (5, 200),
}
"""The first four are decomposed iteratively, and the fourth is read in two blocks."""


def matrices(shapes: Mapping[str, tuple[int, int]], base: torch.dtype, aligned: torch.dtype, **options: Any) -> Any:
    """Tensors of base and aligned by name, for `write_pair`. options: of `decaying_pair`."""
    generator = torch.Generator().manual_seed(0)
    pairs = {
        f"model.layers.0.{name}.weight": decaying_pair(shape, generator=generator, **options)
        for name, shape in shapes.items()
    }
    return {n: pair[0].to(base) for n, pair in pairs.items()}, {n: pair[1].to(aligned) for n, pair in pairs.items()}


# The values


def cases(*dtypes: str) -> pytest.MarkDecorator:
    """Dtypes of base and aligned with ranks: all ranks with the first dtypes, two with the others."""
    names = {"bf16": BF16, "f16": F16, "f32": F32, "f64": F64}
    return pytest.mark.parametrize(
        ("dtypes", "rank"),
        [
            pytest.param(tuple(names[word] for word in pair.split()), rank, id=f"{pair} {rank}")
            for i, pair in enumerate(dtypes)
            for rank in ((1, 3, 6, "full") if i == 0 else (6, "full"))
        ],
    )


@cases("bf16 bf16", "f16 f16", "f32 bf16", "bf16 f16", "f64 bf16")
def test_written_values_are_the_nearest_ones(
    tmp_path: Path, dtypes: tuple[torch.dtype, torch.dtype], rank: Rank
) -> None:
    base, aligned = matrices(SHAPES, *dtypes)
    summary = harden(*write_pair(tmp_path, base, aligned), tmp_path / "out", rank=rank, coef=COEF)
    routes = {record.name: record.route for record in summary.manifest.matrices}
    written = read_tensors(tmp_path / "out")
    assert written.keys() == aligned.keys()
    for name, values in written.items():
        assert values.dtype == dtypes[1]
        exact = extrapolated(base[name], aligned[name], rank, COEF)
        away = steps(values, exact.to(dtypes[1]))
        assert (away > 0).double().mean() <= 0.01, name
        # A sum that cancels out nearly has steps far smaller than those of what was added.
        step = spacing(torch.maximum(aligned[name].double().abs(), exact.abs()), dtypes[1])
        assert ((values.double() - exact).abs() <= step).all(), name
        assert (away > 1).double().mean() <= 1e-4, name
        whole = "full" if rank == "full" else "whole" if min(values.shape) <= rank else None
        expected = whole or ("krylov" if min(values.shape) > 128 else "svd")
        assert routes[name] == expected, name


@cases("f32 f32", "bf16 f32", "f64 f64", "f64 f32")
def test_updates_are_close_to_the_exact_ones(
    tmp_path: Path, dtypes: tuple[torch.dtype, torch.dtype], rank: Rank
) -> None:
    base, aligned = matrices(SHAPES, *dtypes)
    harden(*write_pair(tmp_path, base, aligned), tmp_path / "out", rank=rank, coef=COEF)
    for name, values in read_tensors(tmp_path / "out").items():
        exact = COEF * rank_part(aligned[name].double() - base[name].double(), rank)
        update = values.double() - aligned[name].double()
        exactly = rank == "full" or min(values.shape) <= 128
        assert (update - exact).norm() <= (2e-6 if exactly else 1e-3) * exact.norm(), name


def test_double_precision_is_not_lost(tmp_path: Path) -> None:
    """The delta is rounded to fp32, the weights are not: what is far below an fp32 step of them survives."""
    base, aligned = matrices({"tall": (400, 136)}, F64, F64, size=1e-9)
    harden(*write_pair(tmp_path, base, aligned), tmp_path / "out", coef=COEF, force=True)
    for name, values in read_tensors(tmp_path / "out").items():
        exact = COEF * rank_part(aligned[name] - base[name], 6)
        assert ((values - aligned[name]) - exact).norm() <= 1e-3 * exact.norm()


@pytest.mark.parametrize("shape", [(200, 150), (150, 400)])
def test_a_flat_spectrum_costs_no_energy(tmp_path: Path, shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    base = {"a.weight": torch.randn(shape, generator=generator)}
    aligned = {"a.weight": base["a.weight"] + 0.1 * torch.randn(shape, generator=generator)}
    summary = harden(*write_pair(tmp_path, base, aligned, base_shards=1, aligned_shards=1), tmp_path / "out", coef=1.0)
    delta = aligned["a.weight"].double() - base["a.weight"].double()
    update = read_tensors(tmp_path / "out")["a.weight"].double() - aligned["a.weight"].double()
    best = rank_part(delta, 6).square().sum()
    lost = (delta - update).square().sum() - (delta.square().sum() - best)
    assert lost <= 1e-4 * delta.square().sum()
    assert lost <= 1e-3 * best
    (record,) = summary.manifest.matrices
    assert record.energy_kept == pytest.approx(float(best / delta.square().sum()), rel=2e-3)


def test_the_change_has_the_rank_and_the_leading_directions_are_scaled(tmp_path: Path) -> None:
    base, aligned = matrices({"square": (160, 192), "small": (40, 24)}, F32, F32)
    harden(*write_pair(tmp_path, base, aligned, aligned_shards=2), tmp_path / "out", rank=3, coef=COEF)
    for name, values in read_tensors(tmp_path / "out").items():
        change = torch.linalg.svdvals(values.double() - aligned[name].double())
        assert change[2] > 1e-2
        rounding = torch.finfo(F32).eps * values.abs().max() * sum(values.shape) ** 0.5
        assert change[3] <= rounding, "the change has more than 3 directions"
        before = torch.linalg.svdvals(aligned[name].double() - base[name].double())
        after = torch.linalg.svdvals(values.double() - base[name].double())
        assert torch.allclose(after[:3], before[:3] * (1 + COEF), rtol=1e-4)
        # The others stay as long as they were, and lie beyond the first three, which have become longer.
        assert torch.allclose(after[3:], before[3:], rtol=1e-3, atol=float(rounding))


def test_the_record_tells_what_was_done(tmp_path: Path) -> None:
    base, aligned = matrices({"square": (160, 192), "small": (40, 24), "row": (1, 30)}, BF16, BF16)
    base["model.layers.0.same.weight"] = aligned["model.layers.0.same.weight"] = torch.ones(20, 20, dtype=BF16)
    aligned["model.norm.weight"] = base["model.norm.weight"] = torch.ones(20, dtype=BF16)
    summary = harden(*write_pair(tmp_path, base, aligned), tmp_path / "out", coef=COEF, command="what was typed")
    assert read_manifest(tmp_path / "out").model_dump_json() == summary.manifest.model_dump_json()
    assert summary.manifest.command == "what was typed"
    assert [record.name for record in summary.manifest.carried] == ["model.norm.weight"]
    records = {record.name.split(".")[-2]: record for record in summary.manifest.matrices}
    written = read_tensors(tmp_path / "out")
    assert {name: record.route for name, record in records.items()} == {
        "square": "krylov",
        "small": "svd",
        "row": "whole",
        "same": "zero",
    }
    for record in records.values():
        delta = aligned[record.name].double() - base[record.name].double()
        assert record.delta_norm == pytest.approx(float(delta.norm()), rel=1e-4)
        assert record.weight_norm == pytest.approx(float(aligned[record.name].double().norm()), rel=1e-4)
        assert record.entries == delta.numel()
        assert record.entries_changed == int((written[record.name] != aligned[record.name]).sum())
        if record.route in ("krylov", "svd"):
            values = torch.linalg.svdvals(delta)
            assert torch.allclose(torch.tensor(record.singular_values, dtype=F64), values[:6], rtol=1e-4)
            assert record.energy_kept == pytest.approx(float((values[:6] ** 2).sum() / (values**2).sum()), rel=1e-3)
            found = written[record.name].double() - aligned[record.name].double()
            assert record.update_error_bound is not None
            assert record.update_error_bound <= 5e-4
            assert found.norm() == pytest.approx(COEF * float(rank_part(delta, 6).norm()), rel=0.01)
    assert summary.bytes_written == sum(f.stat().st_size for f in (tmp_path / "out").glob("*.safetensors"))
    assert summary.resumed_items == 0
    assert set(summary.seconds) == {"startup", "plan", "hash_sources", "work", "finish"}
    assert verify(tmp_path / "out").ok


# The folder


ODD = {
    "model.embed_tokens.weight": torch.tensor([[0.0, -0.0, 1e-40, -1e-45], [1.0, 3e38, -2.0, 0.5]]),
    "model.layers.0.a.weight": torch.tensor([[-0.0, 6e-8], [65504.0, -1.0], [0.25, 1.0]], dtype=F16),
    "model.layers.0.b.weight": torch.full((3, 5), -0.0, dtype=BF16),
    "model.layers.0.attn.bias": torch.tril(torch.ones(1, 1, 4, 4, dtype=torch.uint8)),
    "model.layers.0.counts": torch.arange(6).reshape(2, 3),
    "model.layers.0.mask": torch.tensor([True, False, True]),
    "model.layers.0.complex": torch.tensor([1 + 2j, -0.0j], dtype=torch.complex64),
    "model.layers.0.norm.weight": torch.tensor([float("nan"), -0.0, float("inf")], dtype=BF16),
    "model.conv.weight": torch.randn(2, 3, 4, 5),
    "model.scale": torch.tensor(2.5, dtype=F64),
    "model.empty.weight": torch.zeros(0, 7),
    "mtp.layers.0.weight": torch.randn(4, 4),
    "vision_tower.patch.weight": torch.randn(4, 4),
}
"""One of everything that a checkpoint may hold; only the first three are extrapolated."""

FILES: dict[str, str | bytes] = {
    "tokenizer.json": '{"model": {"vocab": {"a": 0, "b": 1}}}',
    "chat_template.jinja": "{{ messages }}\r\n",
    "generation_config.json": "{}",
    "README.md": "---\nlicense: mit\n---\n# The aligned model\n",
    "images/logo.png": b"\x89PNG\r\n\x00",
    "deep/er/notes.txt": "",
    ".gitattributes": "*.safetensors filter=lfs\n",
}


def odd_pair(root: Path) -> tuple[str, str]:
    base = {
        name: tensor + (0.5 * tensor.clamp(-1, 1) if tensor.is_floating_point() else 0) for name, tensor in ODD.items()
    }
    base["model.layers.0.b.weight"] = torch.ones(3, 5, dtype=BF16)
    config = llama_config(tied=True)
    write_checkpoint(root / "base", base, shards=1, config=config)
    metadata = {"format": "pt", "made by": "someone — 某人"}
    aligned = write_checkpoint(root / "aligned", ODD, shards=4, config=config, metadata=metadata, files=FILES)
    return str(root / "base"), str(aligned)


@pytest.mark.parametrize("rank", [1, "full"])
def test_coefficient_0_gives_the_same_bytes(tmp_path: Path, rank: Rank) -> None:
    base, aligned = odd_pair(tmp_path)
    summary = harden(base, aligned, tmp_path / "out", rank=rank, coef=0.0, force=True)
    expected = contents(Path(aligned))
    found = contents(tmp_path / "out", leave_out=("safelox.json",))
    assert found.pop("README.md").startswith(b"---\n")
    del expected["README.md"]
    assert found == expected
    assert {record.name for record in summary.manifest.matrices} == set(list(ODD)[:3])
    assert all(record.entries_changed == 0 for record in summary.manifest.matrices)


def test_everything_but_the_extrapolated_values_is_as_aligned(tmp_path: Path) -> None:
    base, aligned = odd_pair(tmp_path)
    index = Path(aligned, "model.safetensors.index.json")
    index.write_bytes(index.read_bytes().replace(b"\n", b"\r\n"))
    before = contents(Path(aligned))
    harden(base, aligned, tmp_path / "out", rank=1, coef=0.5, force=True)
    after = contents(tmp_path / "out")
    assert after.keys() == before.keys() | {"safelox.json"}
    assert contents(Path(aligned)) == before
    for name, content in before.items():
        if name.endswith(".safetensors"):
            start = 8 + int.from_bytes(content[:8], "little")
            assert after[name][:start] == content[:start], f"{name}: another header"
            assert len(after[name]) == len(content)
        elif name != "README.md":
            assert after[name] == content, name
    assert after["README.md"].startswith(b"---\n")
    assert b"# The aligned model\n" in after["README.md"]
    changed = []
    with_nan = {"model.layers.0.norm.weight"}
    for path in sorted(Path(aligned).glob("*.safetensors")):
        with safe_open(path, "pt") as old, safe_open(tmp_path / "out" / path.name, "pt") as new:
            assert old.keys() == new.keys()
            for name in old.keys():  # noqa: SIM118 - not a dictionary
                one, other = old.get_tensor(name), new.get_tensor(name)
                assert (one.dtype, one.shape) == (other.dtype, other.shape)
                if name not in with_nan and not torch.equal(one, other):
                    changed.append(name)
    assert sorted(changed) == list(ODD)[:3]


def test_a_nan_in_a_kept_tensor_is_kept_and_found_by_verify(tmp_path: Path) -> None:
    base, aligned = odd_pair(tmp_path)
    harden(base, aligned, tmp_path / "out", rank=1, coef=0.5, force=True)
    failed = [check for check in verify(tmp_path / "out").checks if check.ok is False]
    assert [check.name for check in failed] == ["finite"]
    assert "model.layers.0.norm.weight: 2 values are NaN or infinite" in failed[0].detail


def test_a_model_in_one_file_and_one_with_an_index_for_it(tmp_path: Path) -> None:
    base, aligned = matrices({"small": (40, 24)}, F32, F32)
    sources = write_pair(tmp_path, base, aligned, base_shards=1, aligned_shards=1)
    harden(*sources, tmp_path / "one")
    assert {path.name for path in (tmp_path / "one").iterdir()} == {
        "model.safetensors",
        "config.json",
        "README.md",
        "safelox.json",
    }
    weight_map = dict.fromkeys(aligned, "model.safetensors")
    write_json(Path(sources[1], "model.safetensors.index.json"), {"metadata": {}, "weight_map": weight_map})
    harden(*sources, tmp_path / "two")
    assert (tmp_path / "two" / "model.safetensors.index.json").read_text() == Path(
        sources[1], "model.safetensors.index.json"
    ).read_text()
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == (
        tmp_path / "two" / "model.safetensors"
    ).read_bytes()


def test_files_behind_links_are_copied(tmp_path: Path) -> None:
    """As the hub's cache stores them."""
    base, aligned = matrices({"small": (40, 24)}, F32, F32)
    sources = write_pair(tmp_path, base, aligned, files={"tokenizer.json": '{"model": {"vocab": {}}}'})
    blobs, snapshot = tmp_path / "blobs", Path(sources[1])
    blobs.mkdir()
    for path in list(snapshot.iterdir()):
        path.rename(blobs / path.name)
        path.symlink_to(blobs / path.name)
    harden(*sources, tmp_path / "out")
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
    assert (tmp_path / "out" / "tokenizer.json").read_text() == '{"model": {"vocab": {}}}'
    assert verify(tmp_path / "out").ok


def test_a_hardened_model_can_be_hardened_again(tmp_path: Path) -> None:
    base, aligned = matrices({"small": (40, 24)}, F32, F32)
    sources = write_pair(tmp_path, base, aligned)
    harden(*sources, tmp_path / "once", rank=3, coef=0.5)
    summary = harden(sources[0], str(tmp_path / "once"), tmp_path / "twice", rank=3, coef=0.5)
    assert read_manifest(tmp_path / "twice").aligned.reference == str(tmp_path / "once")
    assert summary.manifest.method.coef == 0.5
    (name,) = aligned
    values = read_tensors(tmp_path / "twice")[name].double()
    exact = base[name].double() + rank_part(aligned[name].double() - base[name].double(), 3) * 1.5**2
    exact += aligned[name].double() - base[name].double() - rank_part(aligned[name].double() - base[name].double(), 3)
    assert torch.allclose(values, exact, rtol=1e-5, atol=1e-6)


# The same bytes, however it is computed


SAME = {
    "model.embed_tokens.weight": (1400, 400),
    "model.layers.0.square.weight": (300, 300),
    "model.layers.0.tall.weight": (700, 200),
    "model.layers.0.wide.weight": (160, 500),
    "model.layers.0.small.weight": (40, 24),
    "model.layers.0.flat.weight": (320, 300),
}


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor], Any]:
    """A pair in several shards that takes every route, the tensors of its base, and what comes of it."""
    root = tmp_path_factory.mktemp("same")
    generator = torch.Generator().manual_seed(3)
    base: dict[str, Tensor] = {}
    aligned: dict[str, Tensor] = {"model.norm.weight": torch.ones(400, dtype=BF16)}
    for name, shape in SAME.items():
        ratio = 1.0 if "flat" in name else 0.9
        one, other = decaying_pair(shape, generator=generator, ratio=ratio)
        base[name], aligned[name] = one.to(BF16), other.to(BF16)
    base["model.norm.weight"] = aligned["model.norm.weight"]
    write_pair(root, base, aligned)
    summary = harden(str(root / "base"), str(root / "aligned"), root / "out", workers=1, max_memory=4 * 10**9)
    assert {record.route for record in summary.manifest.matrices} == {"krylov", "gram", "svd"}
    return root, base, outcome(root / "out")


@pytest.mark.parametrize("workers", [2, 8])
def test_workers_change_no_byte(same: Any, tmp_path: Path, workers: int) -> None:
    root, _, expected = same
    plan = plan_harden(str(root / "base"), str(root / "aligned"), workers=workers, max_memory=8 * 10**9)
    assert plan.workers == workers
    harden(str(root / "base"), str(root / "aligned"), tmp_path / "out", workers=workers, max_memory=8 * 10**9)
    assert outcome(tmp_path / "out") == expected


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_byte(same: Any, tmp_path: Path, threads: int) -> None:
    root, _, expected = same
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        harden(str(root / "base"), str(root / "aligned"), tmp_path / "out", workers=2)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert outcome(tmp_path / "out") == expected


def test_a_process_with_other_threads_changes_no_byte(same: Any, tmp_path: Path) -> None:
    root, _, expected = same
    out = tmp_path / "out"
    command = [sys.executable, "-m", "safelox", "harden", "--quiet"]
    command += [str(folder) for folder in (root / "base", root / "aligned", out)]
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3"}, check=True)
    assert outcome(out) == expected


def test_memory_limits_change_no_byte(same: Any, tmp_path: Path) -> None:
    root, _, expected = same
    sources = str(root / "base"), str(root / "aligned")
    with pytest.raises(UsageError, match="too little") as refused:
        harden(*sources, tmp_path / "out", max_memory=10**6)
    needed = parse_bytes(str(refused.value).rpartition("needs ")[2].removesuffix("."))
    least = needed + 20_000_000
    assert plan_harden(*sources, max_memory=least, workers=8).workers < 8
    harden(*sources, tmp_path / "out", max_memory=least)
    assert outcome(tmp_path / "out") == expected


@pytest.mark.parametrize("layout", ["one file", "other cuts", "one shard each", "unaligned"])
def test_the_layout_of_the_base_changes_no_byte(same: Any, tmp_path: Path, layout: str) -> None:
    root, base, expected = same
    folder = tmp_path / "base"
    names = list(base)
    if layout == "one file":
        write_checkpoint(folder, base, config={})
    elif layout == "other cuts":
        write_checkpoint(folder, base, config={}, cut={name: 1 + i % 4 for i, name in enumerate(reversed(names))})
    elif layout == "one shard each":
        write_checkpoint(folder, base, config={}, shards=len(base))
    else:
        write_unaligned(folder, base)
    harden(str(folder), str(root / "aligned"), tmp_path / "out")
    assert outcome(tmp_path / "out") == expected


def write_unaligned(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """A model in one file, whose values all begin at an odd byte."""
    header, position = {}, 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [position, position + size]}
        position += size
    raw = json.dumps(header)
    raw += " " * (1 - len(raw) % 2)
    values = b"".join(tensor.view(torch.uint8).numpy().tobytes() for tensor in tensors.values())
    write_raw(folder / "model.safetensors", raw.encode(), values)
    write_json(folder / "config.json", {})


def test_the_seed_matters_only_below_the_tolerance(same: Any, tmp_path: Path) -> None:
    root, _, expected = same
    harden(str(root / "base"), str(root / "aligned"), tmp_path / "out", seed=1)
    files, manifest = outcome(tmp_path / "out")
    assert manifest["method"]["seed"] == 1
    assert files != expected[0]
    for name, values in read_tensors(tmp_path / "out").items():
        assert (steps(values, read_tensors(root / "out")[name]) > 0).double().mean() < 0.02, name


# The dtype


@pytest.mark.parametrize(("word", "dtype"), [("bf16", BF16), ("fp16", F16), ("fp32", F32)])
@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_the_dtype_can_be_chosen(tmp_path: Path, word: Any, dtype: torch.dtype, key: str) -> None:
    base, aligned = matrices({"square": (160, 192), "small": (40, 24)}, BF16, BF16)
    extra = {"model.norm.weight": torch.rand(24, dtype=BF16), "model.steps": torch.arange(3)}
    config = {"model_type": "x", key: "bfloat16", "text_config": {key: "bfloat16"}, "other": {"dtype_of_cats": "x"}}
    sources = write_pair(tmp_path, base | extra, aligned | extra, aligned_shards=2, config=config)
    harden(*sources, tmp_path / "out", dtype=word, coef=COEF)
    written = read_tensors(tmp_path / "out")
    assert torch.equal(written["model.steps"], extra["model.steps"])
    assert torch.equal(written["model.norm.weight"], extra["model.norm.weight"].to(dtype))
    for name in aligned:
        assert written[name].dtype == dtype
        exact = extrapolated(base[name], aligned[name], 6, COEF)
        if dtype != F32:
            assert (steps(written[name], exact.to(dtype)) > 0).double().mean() < 0.01
        assert (written[name].double() - exact).norm() < 1e-2 * exact.norm()
    name = str(dtype).removeprefix("torch.")
    expected = config | {key: name, "text_config": {key: name}}
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == expected
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in written.values())
    assert index["weight_map"].keys() == written.keys()
    assert verify(tmp_path / "out").ok


def test_coefficient_0_in_another_dtype_is_a_conversion(tmp_path: Path) -> None:
    base, aligned = matrices({"square": (160, 192), "small": (40, 24)}, BF16, F32)
    harden(*write_pair(tmp_path, base, aligned, aligned_shards=2), tmp_path / "out", dtype="bf16", coef=0)
    for name, values in read_tensors(tmp_path / "out").items():
        assert torch.equal(values, aligned[name].to(BF16))


@pytest.mark.parametrize("where", ["model.layers.0.small.weight", "model.norm.weight"])
def test_values_too_large_for_fp16_are_an_error(tmp_path: Path, where: str) -> None:
    base, aligned = matrices({"small": (40, 24)}, BF16, BF16)
    base["model.norm.weight"] = aligned["model.norm.weight"] = torch.rand(24, dtype=BF16)
    for tensors in (base, aligned):
        tensors[where] = tensors[where].clone()
        tensors[where].view(-1)[7] = 70000
    sources = write_pair(tmp_path, base, aligned)
    with pytest.raises(CheckpointError, match=f"tensor {where}: .* beyond 65504, the largest of float16.*--dtype bf16"):
        harden(*sources, tmp_path / "out", dtype="fp16", force=True)
    assert not (tmp_path / "out").exists()


def test_results_too_large_for_the_stored_dtype_are_an_error(tmp_path: Path) -> None:
    base, aligned = matrices({"small": (40, 24)}, F16, F16)
    sources = write_pair(tmp_path, base, aligned, base_shards=1, aligned_shards=1)
    with pytest.raises(CheckpointError, match="beyond 65504"):
        harden(*sources, tmp_path / "out", coef=1e8)
    for tensors in base, aligned:
        tensors.update({name: (1000 * tensor).to(BF16) for name, tensor in tensors.items()})
    sources = write_pair(tmp_path / "bf16", base, aligned, base_shards=1, aligned_shards=1)
    for rank in (3, "full"):
        with pytest.raises(CheckpointError, match=r"beyond 3\.38953e\+38, the largest of bf.* Use a smaller --coef"):
            harden(*sources, tmp_path / "out", coef=3e38, rank=rank)
    assert not (tmp_path / "out").exists()
