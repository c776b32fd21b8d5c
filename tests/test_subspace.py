"""The subspace file: what is in it, for which models it is taken, and what is left where it cannot be written."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from reference import contents, decaying_pair, rank_part, read_tensors, steps, write_pair
from safelox import CheckpointError, PairingError, TargetError, UsageError, decompose, harden, verify
from safelox.cli import main
from safelox.delta import DeltaRows
from safelox.engine import Pair, decompose_matrix, open_pair
from safelox.methods import Lox
from safelox.pairing import Matrix, Wish
from safelox.progress import NULL
from safelox.subspace import Subspace
from safelox.subspace.description import KEY, read_description
from safelox.summary import DecomposeSummary
from tiny import llama_config, llama_tensors, lora_tensors, write_adapter, write_checkpoint, write_raw

SHAPES = {"square": (160, 192), "tall": (400, 136), "wide": (136, 500), "small": (40, 24), "row": (1, 30)}
RANK = 12
CPU = torch.device("cpu")


def name_of(shape: str) -> str:
    return f"model.layers.0.{shape}.weight"


@dataclass(frozen=True)
class World:
    """A pair of models, and its subspace file."""

    root: Path
    base: str
    aligned: str
    file: Path
    summary: DecomposeSummary


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world")
    generator = torch.Generator().manual_seed(0)
    pairs = {name_of(shape): decaying_pair(size, generator=generator) for shape, size in SHAPES.items()}
    pairs["model.norm.weight"] = (torch.ones(8), torch.ones(8) * 1.5)
    base, aligned = ({name: pair[side].bfloat16() for name, pair in pairs.items()} for side in (0, 1))
    sides = write_pair(root, base, aligned)
    file = root / "subspace.safetensors"
    return World(root, *sides, file, decompose(*sides, file, rank=RANK))


@contextmanager
def opened_pair(world: World) -> Iterator[Pair]:
    with open_pair(world.base, world.aligned, Wish(), allow_pickle=False) as models:
        yield models


def deltas(world: World) -> dict[str, Tensor]:
    base, aligned = read_tensors(Path(world.base)), read_tensors(Path(world.aligned))
    return {name: aligned[name].double() - base[name].double() for name in base}


def delta_of(models: Pair, matrix: Matrix) -> DeltaRows:
    return DeltaRows(models.base, models.aligned, matrix, CPU)


def altered(world: World, root: Path, change: Callable[[dict[str, Tensor]], object], *, shards: int = 3) -> str:
    """ALIGNED, written anew below `root` after a change of its tensors."""
    tensors = read_tensors(Path(world.aligned))
    change(tensors)
    return str(write_checkpoint(root / "altered", tensors, shards=shards, config={}))


# What is in the file


def test_anyone_can_read_the_file(world: World) -> None:
    tensors = load_file(world.file)
    assert len(tensors) == 3 * len(SHAPES)
    for shape, (rows, columns) in SHAPES.items():
        kept = min(RANK, rows, columns)
        name = name_of(shape)
        left, right, spectrum = (tensors[f"{name}.{part}"] for part in ("left", "right", "spectrum"))
        assert (left.shape, left.dtype) == ((rows, kept), torch.float32)
        assert (right.shape, right.dtype) == ((kept, columns), torch.float32)
        assert (spectrum.shape, spectrum.dtype) == ((3, kept), torch.float64)
        torch.testing.assert_close(right @ right.T, torch.eye(kept), atol=1e-5, rtol=0)
        delta = deltas(world)[name]
        torch.testing.assert_close(spectrum[0], torch.linalg.svdvals(delta)[:kept], rtol=1e-4, atol=1e-6)
        for k in (1, kept // 2, kept):
            best = rank_part(delta, k)
            error = float((left[:, :k].double() @ right[:k].double() - best).norm() / best.norm()) if k else 0.0
            assert error < 1e-4


def test_the_file_says_what_was_decomposed_and_how(world: World) -> None:
    with safe_open(world.file, "pt") as stream:
        said = json.loads(stream.metadata()[KEY])
    assert said["format"] == 1
    assert said["options"]["rank"] == RANK
    assert said["base"]["reference"] == world.base
    assert set(said["aligned"]["weights"]) == {path.name for path in Path(world.aligned).glob("*.safetensors")}
    assert [matrix["name"] for matrix in said["matrices"]] == [matrix.name for matrix in world.summary.matrices]
    whole = deltas(world)
    for matrix in said["matrices"]:
        assert matrix["outcome"]["delta_norm"] == pytest.approx(float(whole[matrix["name"]].norm()), rel=1e-7)


def test_the_summary_tells_the_spectra(world: World) -> None:
    summary = world.summary
    assert (summary.rank, summary.file, summary.command) == (RANK, str(world.file), None)
    assert [carried.name for carried in summary.carried] == ["model.norm.weight"]
    assert summary.bytes_written == world.file.stat().st_size
    for matrix in summary.matrices:
        delta = deltas(world)[matrix.name]
        values = torch.linalg.svdvals(delta)
        assert matrix.singular_values == pytest.approx(values[: len(matrix.singular_values)].tolist(), rel=1e-4)
        captured = float(values[: len(matrix.singular_values)].square().sum() / values.square().sum())
        assert matrix.energy_kept == pytest.approx(captured, abs=1e-4)
        assert matrix.weight_norm == pytest.approx(
            float(read_tensors(Path(world.aligned))[matrix.name].double().norm())
        )


@pytest.mark.parametrize(("workers", "threads"), [(1, 1), (2, 2), (8, 1)])
def test_neither_workers_nor_threads_change_a_byte(world: World, tmp_path: Path, workers: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        decompose(world.base, world.aligned, tmp_path / "again", rank=RANK, workers=workers, command="another")
    finally:
        torch.set_num_threads(before)
    assert (tmp_path / "again").read_bytes() == world.file.read_bytes()


# Hardening by it


@pytest.mark.parametrize("rank", [1, 3, 7, RANK])
def test_directions_agree_with_a_direct_decomposition_within_both_bounds(world: World, rank: int) -> None:
    with opened_pair(world) as models, Subspace.open(world.file, models, Lox(rank, 1.25)) as subspace:
        for matrix in models.pairing.matrices:
            if min(matrix.rows, matrix.columns) <= rank:
                continue
            stored, route = subspace.decompose(delta_of(models, matrix), rank)
            direct, _ = decompose_matrix(models, 0, delta_of(models, matrix), rank)
            assert (route, stored.rank) == ("subspace", rank)
            bounds = [result.certificate.update_error_bound for result in (stored, direct)]
            assert None not in bounds  # each singular value is a fifth below the one before
            difference = float((stored.dense() - direct.dense()).norm() / direct.dense().norm())
            assert difference <= sum(bound for bound in bounds if bound is not None) + 1e-6
            best = rank_part(deltas(world)[matrix.name], rank)
            assert float((stored.dense() - best).norm() / best.norm()) <= (bounds[0] or 0.0) + 1e-6
            assert stored.certificate.captured == pytest.approx(direct.certificate.captured, rel=1e-6)


@pytest.mark.parametrize(("rank", "coef"), [(1, 1.25), (6, 1.25), (RANK, 0.5), (6, 0.0)])
def test_a_hardened_model_is_that_of_a_direct_run(world: World, tmp_path: Path, rank: int, coef: float) -> None:
    def run(out: str, **options: Any) -> dict[str, Tensor]:
        summary = harden(world.base, world.aligned, tmp_path / out, rank=rank, coef=coef, **options)
        routes = {record.route for record in summary.manifest.matrices}
        assert ("subspace" in routes) == bool(options)
        return read_tensors(tmp_path / out)

    first, second = (run(out, subspace=world.file) for out in ("first", "second"))
    direct, aligned = run("direct"), read_tensors(Path(world.aligned))
    for name, value in direct.items():
        apart = steps(first[name], value)
        assert int(apart.max()) <= 1
        assert float((apart > 0).double().mean()) < 0.01
        assert torch.equal(first[name].view(torch.int16), second[name].view(torch.int16)) if value.ndim == 2 else True
        if coef == 0:
            assert torch.equal(first[name].view(torch.int16), aligned[name].view(torch.int16)) or value.ndim < 2
    weights = [contents(tmp_path / out, leave_out=("README.md", "safelox.json")) for out in ("first", "second")]
    assert weights[0] == weights[1]
    report = verify(tmp_path / "first", recompute=3)
    assert report.ok, report


def test_the_manifest_names_the_file(world: World, tmp_path: Path) -> None:
    summary = harden(world.base, world.aligned, tmp_path / "out", rank=3, subspace=world.file)
    record = summary.manifest.method.subspace
    assert record is not None
    assert record.bytes == world.file.stat().st_size


def test_an_adapter_is_decomposed_through_its_factors(tmp_path: Path) -> None:
    weights = llama_tensors()
    base = write_checkpoint(tmp_path / "base", weights)
    linear = {name: tensor for name, tensor in weights.items() if "proj" in name}
    aligned = f"{base}+{write_adapter(tmp_path / 'lora', lora_tensors(linear, rank=3), rank=3)}"
    summary = decompose(str(base), aligned, tmp_path / "file", rank=8)
    assert {(matrix.route, len(matrix.singular_values)) for matrix in summary.matrices} == {("factors", 3)}
    direct = harden(str(base), aligned, tmp_path / "direct", rank=2)
    by_file = harden(str(base), aligned, tmp_path / "by_file", rank=2, subspace=tmp_path / "file")
    for one, other in zip(direct.manifest.matrices, by_file.manifest.matrices, strict=True):
        assert other.singular_values == pytest.approx(one.singular_values, rel=1e-12)
        assert (other.energy_lost_bound, other.update_error_bound) == (one.energy_lost_bound, one.update_error_bound)
    other_scale = f"{base}+{write_adapter(tmp_path / 'louder', lora_tensors(linear, rank=3), rank=3, alpha=12)}"
    with pytest.raises(PairingError, match="ALIGNED - BASE is another one"):
        harden(str(base), other_scale, tmp_path / "no", rank=2, subspace=tmp_path / "file")


def test_experts_are_kept_apart(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    pairs = [decaying_pair((40, 24), generator=generator) for _ in range(3)]
    base, aligned = ({name: torch.stack([pair[side] for pair in pairs]).float()} for side in (0, 1))
    sides = write_pair(tmp_path, base, aligned, base_shards=1, aligned_shards=1)
    summary = decompose(*sides, tmp_path / "file", rank=5)
    assert [(matrix.name, matrix.expert) for matrix in summary.matrices] == [(name, 0), (name, 1), (name, 2)]
    direct = harden(*sides, tmp_path / "direct", rank=4)
    by_file = harden(*sides, tmp_path / "by_file", rank=4, subspace=tmp_path / "file")
    for one, other in zip(direct.manifest.matrices, by_file.manifest.matrices, strict=True):
        assert other.singular_values == pytest.approx(one.singular_values)
    torch.testing.assert_close(*(read_tensors(tmp_path / out)[name] for out in ("by_file", "direct")))


def test_rows_of_a_grown_vocabulary(tmp_path: Path) -> None:
    base, old = decaying_pair((50, 24), generator=torch.Generator().manual_seed(0))
    name = "model.embed_tokens.weight"

    def write(folder: str, values: Tensor, words: list[str]) -> str:
        tokenizer = {"model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}}}
        config = llama_config(vocabulary=len(words), hidden=24, tied=True)
        files = {"tokenizer.json": json.dumps(tokenizer)}
        return str(write_checkpoint(tmp_path / folder, {name: values.float()}, config=config, files=files))

    words = [f"word{i}" for i in range(50)]
    grown = torch.cat([torch.ones(1, 24), old])
    sides = write("base", base, words), write("aligned", grown, ["new", *words])
    decompose(*sides, tmp_path / "file", rank=5, vocab="common")
    harden(*sides, tmp_path / "direct", rank=4, vocab="common")
    harden(*sides, tmp_path / "by_file", rank=4, vocab="common", subspace=tmp_path / "file")
    by_file, direct = (read_tensors(tmp_path / out)[name] for out in ("by_file", "direct"))
    torch.testing.assert_close(by_file, direct)
    assert torch.equal(by_file[0], torch.ones(24))

    shuffled = write("shuffled", grown, ["new", *reversed(words)])
    with pytest.raises(PairingError, match="the vocabularies are paired otherwise"):
        harden(sides[0], shuffled, tmp_path / "out", rank=4, vocab="common", subspace=tmp_path / "file")


# For which models it is taken


def test_copies_and_other_shards_are_the_same_models(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.base, tmp_path / "copy")
    resharded = altered(world, tmp_path, lambda _: None, shards=1)
    harden(world.base, world.aligned, tmp_path / "here", rank=3, subspace=world.file)
    for hash_sources in (True, False):
        out = tmp_path / f"there {hash_sources}"
        harden(str(tmp_path / "copy"), resharded, out, rank=3, subspace=world.file, hash_sources=hash_sources)
        assert {name: value.tolist() for name, value in read_tensors(out).items()} == {
            name: value.tolist() for name, value in read_tensors(tmp_path / "here").items()
        }


def test_hashes_of_the_sources_spare_reading_base_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safelox.subspace.opened.same_norm", lambda *_, **__: False)
    harden(world.base, world.aligned, tmp_path / "hashed", rank=3, subspace=world.file)
    with pytest.raises(PairingError, match="has changed since"):
        harden(world.base, world.aligned, tmp_path / "out", rank=3, subspace=world.file, hash_sources=False)
    decompose(world.base, world.aligned, tmp_path / "unhashed", rank=3, hash_sources=False)
    with pytest.raises(PairingError, match="has changed since"):
        harden(world.base, world.aligned, tmp_path / "out", rank=3, subspace=tmp_path / "unhashed")


def test_base_and_aligned_swapped_are_another_pair(world: World, tmp_path: Path) -> None:
    with pytest.raises(PairingError, match=r"ALIGNED - BASE is another one in .*square"):
        harden(world.aligned, world.base, tmp_path / "out", rank=3, subspace=world.file)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("hash_sources", [True, False])
def test_a_single_other_value_is_found(world: World, tmp_path: Path, hash_sources: bool) -> None:
    """In a row that is not looked at before the work."""

    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name_of("square")][1, 5] *= 1.01

    aligned = altered(world, tmp_path, change)
    with pytest.raises(PairingError, match=r"delta of model.layers.0.square.weight has changed since"):
        harden(world.base, aligned, tmp_path / "out", rank=3, subspace=world.file, hash_sources=hash_sources)
    assert not (tmp_path / "out").exists()


def test_all_differences_are_named_together(world: World, tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name_of("tall")] += 0.01
        tensors[name_of("new")] = torch.ones(20, 20)

    tensors = read_tensors(Path(world.base)) | {name_of("new"): torch.zeros(20, 20), name_of("wide"): torch.zeros(9, 9)}
    base = str(write_checkpoint(tmp_path / "base", tensors, config={}))

    def change_both(tensors: dict[str, Tensor]) -> None:
        change(tensors)
        tensors[name_of("wide")] = torch.ones(9, 9)

    aligned = altered(world, tmp_path, change_both)
    with pytest.raises(PairingError) as caught:
        harden(base, aligned, tmp_path / "out", rank=3, subspace=world.file)
    message = str(caught.value)
    assert f"was decomposed from {world.base} and {world.aligned}" in message
    assert "does not hold model.layers.0.new.weight" in message
    assert "model.layers.0.wide.weight (136 x 500 in the file, 9 x 9 now)" in message
    assert "ALIGNED - BASE is another one in model.layers.0.tall.weight" in message


def test_what_is_selected_has_to_be_in_the_file(world: World, tmp_path: Path) -> None:
    decompose(world.base, world.aligned, tmp_path / "part", rank=4, exclude=["*tall*"])
    with pytest.raises(PairingError, match=r"does not hold model.layers.0.tall.weight: .*--exclude"):
        harden(world.base, world.aligned, tmp_path / "out", rank=3, subspace=tmp_path / "part")
    harden(
        world.base, world.aligned, tmp_path / "out", rank=3, subspace=tmp_path / "part", exclude=["*tall*", "*wide*"]
    )


@pytest.mark.parametrize(
    ("rank", "said"), [(RANK + 1, f"rank {RANK + 1} was asked for, but .* holds {RANK}"), ("full", "rank `full`")]
)
def test_more_directions_than_the_file_holds(world: World, tmp_path: Path, rank: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        harden(world.base, world.aligned, tmp_path / "out", rank=rank, subspace=world.file)


# Damaged files


def damaged(world: World, path: Path, change: Callable[[bytearray], Any]) -> Path:
    content = bytearray(world.file.read_bytes())
    path.write_bytes(change(content) or content)
    return path


@pytest.mark.parametrize("part", ["left", "right", "spectrum"])
def test_a_flipped_bit_is_found(world: World, tmp_path: Path, part: str) -> None:
    _, tensors = read_description(world.file)
    position = tensors[f"{name_of('wide')}.{part}"].start + 11

    def flip(content: bytearray) -> None:
        content[position] ^= 1

    file = damaged(world, tmp_path / "file", flip)
    with pytest.raises(CheckpointError, match=r"directions of model.layers.0.wide.weight are damaged"):
        harden(world.base, world.aligned, tmp_path / "out", rank=3, subspace=file)
    assert not (tmp_path / "out").exists()


def rewritten(world: World, path: Path, old: bytes, new: bytes) -> Path:
    """The file with a piece of its metadata replaced by one of the same length."""
    assert len(old) == len(new)
    content = world.file.read_bytes()
    assert content.count(old) >= 1
    path.write_bytes(content.replace(old, new, 1))
    return path


def test_files_that_are_no_subspace(world: World, tmp_path: Path) -> None:
    truncated = damaged(world, tmp_path / "truncated", lambda content: content[:-5])
    weights = next(Path(world.base).glob("*.safetensors"))
    cases = {
        tmp_path / "nowhere": "No such file",
        tmp_path: "Is a directory",
        write_raw(tmp_path / "text", b"hello", length=5): "is not JSON",
        weights: "no safety subspace",
        truncated: "truncated",
        rewritten(world, tmp_path / "future", rb"{\"format\":1", rb"{\"format\":9"): "of format 9",
        rewritten(world, tmp_path / "route", rb"\"route\":\"svd\"", rb"\"route\":\"xyz\""): "damaged: matrices.*route",
        rewritten(world, tmp_path / "shape", rb"\"rows\":160", rb"\"rows\":161"): "other tensors than it describes",
        rewritten(world, tmp_path / "json", rb"{\"format\":1", rb"{\"format\" 1"): "damaged",
    }
    for file, said in cases.items():
        with pytest.raises(CheckpointError, match=f"(?s){said}"):
            harden(world.base, world.aligned, tmp_path / "out", rank=3, subspace=file)
    assert not (tmp_path / "out").exists()


# Where it cannot be written


@pytest.fixture
def work_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("the work has begun")

    monkeypatch.setattr("safelox.subspace.decomposition.decompose_matrix", forbidden)


@pytest.mark.usefixtures("work_is_forbidden")
def test_places_where_no_file_may_be_written(world: World, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "ours").write_bytes(world.file.read_bytes())
    (tmp_path / "new.partial").write_text("precious")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    cases: list[tuple[Path, bool, str]] = [
        (tmp_path / "nowhere" / "file", False, "no such folder"),
        (tmp_path / "mine" / "file", False, "cannot be reached|no such folder"),
        (tmp_path / "folder", True, "not a file"),
        (Path("/"), True, "contains the source"),
        (tmp_path / "mine", False, "already there"),
        (tmp_path / "mine", True, "no subspace file, so --overwrite spares it"),
        (tmp_path / "ours", False, "already there"),
        (tmp_path / "new", False, "something else is there"),
        (tmp_path / "loop", False, "loop|circles"),
        (Path(world.base) / "file", False, "lies in"),
        (Path(world.aligned) / "below" / "file", False, "lies in|no such folder"),
    ]
    before = contents(tmp_path), contents(world.root)
    for file, overwrite, said in cases:
        with pytest.raises(TargetError, match=said):
            decompose(world.base, world.aligned, file, overwrite=overwrite)
    assert (contents(tmp_path), contents(world.root)) == before


@pytest.mark.usefixtures("work_is_forbidden")
def test_a_folder_that_is_not_ours_to_write(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(TargetError, match="may not write here"):
        decompose(world.base, world.aligned, tmp_path / "file")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("work_is_forbidden")
def test_a_full_disk_is_seen_before_the_work(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=20_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(TargetError, match=r"not enough space on the disk: .* needed and 20.0 kB are free"):
        decompose(world.base, world.aligned, tmp_path / "file")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("work_is_forbidden")
def test_two_runs_at_once(world: World, tmp_path: Path) -> None:
    with (tmp_path / "file.partial").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(TargetError, match="another run is writing"):
            decompose(world.base, world.aligned, tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file.partial"]


def test_the_rank_is_at_least_one(world: World, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="integer from 1, not 0"):
        decompose(world.base, world.aligned, tmp_path / "file", rank=0)


def test_a_subspace_file_is_replaced_only_on_request_and_at_once(world: World, tmp_path: Path) -> None:
    file = tmp_path / "file"
    decompose(world.base, world.aligned, file, rank=2)
    seen = []

    class Watch:
        """Looks at the file while the new one is written."""

        @contextmanager
        def task(self, description: str, total: float | None, unit: str = "") -> Any:
            with NULL.task(description, total, unit) as task:
                seen.append(read_description(file)[0].options.rank)
                yield task

        def message(self, text: str) -> None: ...

    decompose(world.base, world.aligned, file, rank=3, overwrite=True, progress=Watch())
    assert set(seen) == {2}
    assert read_description(file)[0].options.rank == 3
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failure_leaves_nothing(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(tensors: dict[str, Tensor]) -> None:
        tensors[name_of("tall")][0, 0] = float("nan")

    aligned = altered(world, tmp_path / "models", break_down)
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match=r"tall.weight: a value of BASE or ALIGNED is NaN"):
        decompose(world.base, aligned, tmp_path / "out" / "file", force=True)
    monkeypatch.setattr("safelox.subspace.decomposition.padded_header", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        decompose(world.base, world.aligned, tmp_path / "out" / "file", rank=2)
    assert not list((tmp_path / "out").iterdir())


KILLED = """
import os, signal, sys
from contextlib import contextmanager
from safelox import decompose

class Killer:
    left = 3
    @contextmanager
    def task(self, description, total, unit=""):
        self.deadly = description == "decompose"
        yield self
    def advance(self, amount=1, note=None):
        Killer.left -= self.deadly
        if Killer.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

decompose(*sys.argv[1:4], rank=12, workers=1, progress=Killer())
"""


def test_a_killed_run_leaves_nothing_under_the_name(world: World, tmp_path: Path) -> None:
    file = tmp_path / "file"
    arguments = [sys.executable, "-c", KILLED, world.base, world.aligned, str(file)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file.partial"]
    with pytest.raises(CheckpointError):
        read_description(tmp_path / "file.partial")
    decompose(world.base, world.aligned, file, rank=RANK)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert file.read_bytes() == world.file.read_bytes()


# From the command line


def test_the_commands(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = str(tmp_path / "file"), str(tmp_path / "out")
    assert main(["decompose", world.base, world.aligned, file, "--rank", "4", "--json", "--quiet"]) == 0
    summary = DecomposeSummary.model_validate_json(capsys.readouterr().out)
    assert summary.command == f"safelox decompose {world.base} {world.aligned} {file} --rank 4 --json --quiet"
    assert [len(matrix.singular_values) for matrix in summary.matrices if "row" not in matrix.name] == [4] * 4
    assert main(["harden", world.base, world.aligned, out, "--rank", "3", "--subspace", file, "--json", "--quiet"]) == 0
    assert '"route": "subspace"' in capsys.readouterr().out
    assert main(["decompose", world.base, world.aligned, file]) == 1
    assert "already there" in capsys.readouterr().err
