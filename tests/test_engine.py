"""Judging a pair of models, values that are not finite, how much is done at once, and doing it side by side."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reference import contents, decaying_pair, read_tensors, write_pair
from safelox import harden
from safelox.engine import (
    SAMPLE_ROWS,
    Pair,
    check_kinship,
    memory_limit,
    memory_of,
    open_pair,
    run_side_by_side,
    worker_count,
)
from safelox.errors import CheckpointError, PairingError, UsageError
from safelox.hashing import hash_files
from safelox.machine import MemoryWatch, chosen_device, resident_memory
from safelox.methods import Lox
from safelox.pairing import Wish
from tiny import llama_tensors, lora_tensors, write_adapter, write_checkpoint

WEIGHT = "model.layers.0.mlp.up_proj.weight"


def judge(base: str, aligned: str) -> None:
    with open_pair(base, aligned, Wish(), allow_pickle=False) as models:
        check_kinship(models)


# Whether the two belong together


def test_equal_models_in_two_folders_are_refused_unless_forced(tmp_path: Path) -> None:
    base = llama_tensors()
    sources = write_pair(tmp_path, base, base)
    with pytest.raises(PairingError, match=r"does not differ from BASE .* below 1e-06 everywhere.* model\?.*--force"):
        harden(*sources, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    summary = harden(*sources, tmp_path / "out", force=True)
    assert {record.route for record in summary.manifest.matrices} == {"zero"}
    assert all(torch.equal(t, base[name]) for name, t in read_tensors(tmp_path / "out").items())


def test_one_different_row_of_one_matrix_is_enough(tmp_path: Path) -> None:
    base = llama_tensors(vocabulary=1000)
    aligned = dict(base)
    aligned["lm_head.weight"] = base["lm_head.weight"].clone()
    aligned["lm_head.weight"][3] += 0.1  # none of the rows in the middle, which are looked at first
    assert SAMPLE_ROWS < 900
    summary = harden(*write_pair(tmp_path, base, aligned), tmp_path / "out", rank=3, coef=2.0)
    routes = {record.name: record.route for record in summary.manifest.matrices}
    assert routes.pop("lm_head.weight") == "svd"
    assert set(routes.values()) == {"zero"}
    written = read_tensors(tmp_path / "out")["lm_head.weight"]
    assert torch.allclose(written[3], base["lm_head.weight"][3] + 0.3, atol=1e-6)
    assert torch.allclose(written, aligned["lm_head.weight"] + 2 * (aligned["lm_head.weight"] - base["lm_head.weight"]))


def test_strangers_are_refused_unless_forced(tmp_path: Path) -> None:
    sources = write_pair(tmp_path, llama_tensors(seed=0), llama_tensors(seed=1))
    with pytest.raises(PairingError, match=r"\|\|delta\|\| / \|\|W\|\| is 1\.[34]\d .*aligned from\?.*--force"):
        harden(*sources, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    harden(*sources, tmp_path / "out", force=True)
    assert (tmp_path / "out" / "safelox.json").exists()


def test_the_median_decides(tmp_path: Path) -> None:
    """A few matrices that were made anew, such as a resized head, do not make two models strangers."""
    base = llama_tensors()
    aligned = llama_tensors(near=base, seed=1)
    other = llama_tensors(seed=2)
    names = [name for name, tensor in base.items() if tensor.ndim == 2]
    judge(*write_pair(tmp_path / "few", base, aligned | {name: other[name] for name in names[: len(names) // 2 - 1]}))
    most = {name: other[name] for name in names[: len(names) // 2 + 2]}
    sources = write_pair(tmp_path / "most", base, aligned | most)
    with pytest.raises(PairingError, match="as large as the weights"):
        judge(*sources)


def test_matrices_of_zeros_are_judged_too(tmp_path: Path) -> None:
    """As a LoRA that was saved untrained, or a head that was initialised with zeros, has them."""
    base = llama_tensors(near=llama_tensors(), seed=1)
    aligned = dict(base)
    for name in ("lm_head.weight", WEIGHT):
        base[name] = aligned[name] = torch.zeros_like(base[name])
    with pytest.raises(PairingError, match="does not differ"):
        judge(*write_pair(tmp_path / "a", base, aligned))
    base["lm_head.weight"] = torch.ones_like(base["lm_head.weight"])
    judge(*write_pair(tmp_path / "b", base, aligned))


# Values that are not finite


SHAPES = {"svd": (100, 40), "krylov": (300, 150), "gram": (300, 280), "whole": (200, 3)}


def spoiled(side: str, route: str, value: float, row: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    ratio = 1.0 if route == "gram" else 0.8
    one, other = decaying_pair(SHAPES["svd" if route == "full" else route], generator=generator, ratio=ratio)
    small = decaying_pair((60, 50), generator=generator)
    base = {"a.weight": small[0].float(), "b.weight": one.float()}
    aligned = {"a.weight": small[1].float(), "b.weight": other.float()}
    for name, tensors in (("base", base), ("aligned", aligned)):
        if side in (name, "both"):
            tensors["b.weight"][row, 2] = value
    return base, aligned


@pytest.mark.parametrize("route", ["svd", "krylov", "gram", "whole", "full"])
@pytest.mark.parametrize(
    ("side", "value", "row", "force"),
    [
        ("base", float("nan"), 0, False),
        ("aligned", float("inf"), -1, False),
        ("aligned", float("nan"), 50, True),
        ("both", float("-inf"), -1, True),
    ],
)
def test_values_that_are_not_finite_are_named(
    tmp_path: Path, side: str, value: float, route: str, row: int, force: bool
) -> None:
    base, aligned = spoiled(side, route, value, row)
    sources = write_pair(tmp_path, base, aligned, base_shards=1, aligned_shards=2)
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match=r"tensor b\.weight: .*NaN or infinite.*--exclude"):
        harden(*sources, tmp_path / "out", rank="full" if route == "full" else 3, force=force)
    assert not (tmp_path / "out").exists()
    assert {name: content for name, content in contents(tmp_path).items() if "out.partial" not in name} == before
    harden(*sources, tmp_path / "out", rank=3, force=True, exclude=["b.*"])


@pytest.mark.parametrize("part", ["lora_A", "lora_B", "base"])
@pytest.mark.parametrize("rank", [1, 3, "full"])
def test_so_are_those_of_an_adapter_and_of_what_is_below_it(tmp_path: Path, part: str, rank: Any) -> None:
    base = llama_tensors(vocabulary=200)
    lora = lora_tensors({"lm_head.weight": base["lm_head.weight"]})
    if part == "base":
        base["lm_head.weight"][-1, 0] = float("nan")
    else:
        lora[f"base_model.model.lm_head.{part}.weight"][-1, 0] = float("nan")
    folder = write_checkpoint(tmp_path / "base", base)
    adapter = write_adapter(tmp_path / "adapter", lora)
    for force in (False, True):
        with pytest.raises(CheckpointError, match=r"tensor lm_head\.weight: .*NaN or infinite"):
            harden(str(folder), f"{folder}+{adapter}", tmp_path / "out", rank=rank, force=force)
    assert not (tmp_path / "out").exists()


def test_a_row_that_only_aligned_has_may_not_be_nan_either(tmp_path: Path) -> None:
    files = [{"tokenizer.json": '{"model": {"vocab": {' + words + "}}}"} for words in ('"a": 0', '"a": 0, "b": 1')]
    names = "model.embed_tokens.weight", "lm_head.weight"
    base = dict.fromkeys(names, torch.ones(1, 4))
    aligned = dict.fromkeys(names, torch.tensor([[1.1] * 4, [float("nan")] * 4]))
    first = write_checkpoint(tmp_path / "base", base, config={}, files=files[0])
    second = write_checkpoint(tmp_path / "aligned", aligned, config={}, files=files[1])
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        harden(str(first), str(second), tmp_path / "out", rank="full", vocab="common", force=True)


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e18, 1e30])
@pytest.mark.parametrize("rank", [3, "full"])
def test_finite_values_of_any_size_are_no_error(tmp_path: Path, scale: float, rank: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = {name: decaying_pair(shape, generator=generator) for name, shape in SHAPES.items() if name != "gram"}
    base, aligned = ({name: (scale * pair[i]).float() for name, pair in pairs.items()} for i in (0, 1))
    summary = harden(*write_pair(tmp_path, base, aligned), tmp_path / "out", rank=rank, coef=1.0)
    written = read_tensors(tmp_path / "out")
    for record in summary.manifest.matrices:
        name = record.name
        delta = aligned[name].double() - base[name].double()
        assert record.delta_norm == pytest.approx(float(delta.norm()), rel=1e-4)
        assert record.weight_norm == pytest.approx(float(aligned[name].double().norm()), rel=1e-4)
        change = (written[name].double() - aligned[name].double()).norm()
        share = 1.0 if record.rank is None else record.energy_kept
        assert float(change) == pytest.approx(float(delta.norm()) * share**0.5, rel=1e-3)


# How much at once


def opened(tmp_path: Path, shape: tuple[int, int] = (40, 24)) -> Any:
    base = {"a.weight": torch.zeros(shape), "b.weight": torch.zeros(8, 8), "norm.weight": torch.zeros(9999)}
    return open_pair(*write_pair(tmp_path, base, base, base_shards=1), Wish(), allow_pickle=False)


def test_workers_are_as_many_as_asked_for_and_as_fit(tmp_path: Path) -> None:
    with opened(tmp_path) as models:
        hungriest = max(map(memory_of, models.pairing.matrices))
        assert worker_count(models, 3, resident_memory()[0] + 2**30) == 3
        assert worker_count(models, None, None) >= 1
        room = resident_memory()[0] + 3 * hungriest + hungriest // 2
        assert worker_count(models, 8, room) in (2, 3)
        assert worker_count(models, 1, room) == 1
        with pytest.raises(UsageError, match=r"of 1 B is too little: a\.weight \(40 x 24\) needs [\d.]+ [MG]B\."):
            worker_count(models, 2, 1)
        for wrong in (0, -1):
            with pytest.raises(UsageError, match=f"workers must be at least 1, not {wrong}"):
                worker_count(models, wrong, None)


def test_the_promise_of_memory_grows_with_the_largest_tensor_only(tmp_path: Path) -> None:
    with opened(tmp_path) as models:
        assert memory_limit(models) == 10**9 + 2 * 4 * 40 * 24


def test_an_embedding_of_128k_rows_fits_in_2_gb() -> None:
    from safelox.pairing import Matrix

    matrix = Matrix("e", None, 0, 131072, 8192, "e", 0, None)
    assert memory_of(matrix) < 1.7e9


def test_a_rank_that_takes_every_matrix_whole_is_refused() -> None:
    Lox(8, 1.0).check_rank([(40, 9), (8, 8)])
    Lox("full", 1.0).check_rank([(8, 8)])
    with pytest.raises(UsageError, match=r"rank 9 is not below .* at most 9: .*smaller rank, or rank `full`"):
        Lox(9, 1.0).check_rank([(40, 9), (8, 8)])


@pytest.mark.parametrize("rank", [-3, 2.5, "six", True, None])
def test_ranks_that_are_none(rank: Any) -> None:
    with pytest.raises(UsageError, match="must be an integer from 1, or `full`"):
        Lox(rank, 1.0)


@pytest.mark.parametrize("coef", [float("nan"), float("inf"), float("-inf"), 1e39])
def test_coefficients_that_are_none(coef: float) -> None:
    with pytest.raises(UsageError, match="finite"):
        Lox(6, coef)


# Side by side


def test_everything_is_done_at_once_and_with_one_thread_each() -> None:
    barrier = threading.Barrier(3, timeout=20)
    seen: list[tuple[int, int]] = []

    def work(item: int) -> None:
        barrier.wait()
        seen.append((item, torch.get_num_threads()))

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run_side_by_side(range(6), work, 3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert sorted(seen) == [(i, 1) for i in range(6)]


def test_one_worker_works_in_order() -> None:
    seen: list[int] = []
    run_side_by_side([5, 1, 4], seen.append, 1)
    assert seen == [5, 1, 4]


def failing(seen: list[int], error: BaseException) -> Callable[[int], None]:
    def work(item: int) -> None:
        if item == 3:
            raise error
        time.sleep(0.005)
        seen.append(item)

    return work


@pytest.mark.parametrize("error", [CheckpointError("no"), KeyboardInterrupt(), ZeroDivisionError()])
def test_the_first_error_ends_it(error: BaseException) -> None:
    seen: list[int] = []
    with pytest.raises(type(error)):
        run_side_by_side(range(500), failing(seen, error), 2)
    assert len(seen) < 50
    assert threading.active_count() < 20
    done = len(seen)
    time.sleep(0.03)
    assert len(seen) == done, "somebody is still working"


# The machine


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "no device is called 'gpu'; try cpu, cuda"),
        ("", "no device is called ''"),
        ("cuda:x", "no device is called"),
        ("meta", "device meta is not one that results were checked on"),
    ],
)
def test_devices_that_there_are_not(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        chosen_device(name)


def test_cuda_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("cuda", "cuda:0"):
        with pytest.raises(UsageError, match="torch finds no CUDA GPU here; use --device cpu"):
            chosen_device(name)


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert chosen_device("cuda:1").index == 1
    with pytest.raises(UsageError, match=r"cuda:2 .* only 2 CUDA GPUs"):
        chosen_device("cuda:2")


def test_the_watch_sees_a_peak_that_is_over() -> None:
    before = resident_memory()[0]
    with MemoryWatch() as watch:
        block = bytearray(200_000_000)
        block[::4096] = b"x" * len(block[::4096])
        time.sleep(0.1)
        del block
    assert watch.peak_anonymous >= before + 190_000_000
    assert watch.peak_mapped > 0


def test_a_file_that_cannot_be_hashed_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone: cannot be read: No such file"):
        hash_files({"a": tmp_path / "gone"})
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match=r"folder: cannot be read: Is a directory"):
        hash_files({"a": tmp_path / "folder"})


def test_models_are_closed_when_the_work_is_over(tmp_path: Path) -> None:
    with opened(tmp_path) as models:
        assert isinstance(models, Pair)
        models.base.rows("a.weight")
    assert not any(str(tmp_path) in line for line in Path("/proc/self/maps").read_text().splitlines())
