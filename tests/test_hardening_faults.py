"""Runs of `harden` that fail, are killed or interrupted, fill the disk, or meet another one: no harm, and on again."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hardening_runs import items_done, wait_until
from reference import contents, fingerprint, outcome, write_pair
from safelox import harden
from safelox.checkpoint import Checkpoint
from safelox.cli import main
from safelox.errors import CheckpointError, SafeloxError, TargetError
from safelox.output import Item, ModelOutput
from safelox.verification import verify
from safelox.writer import MANIFEST_NAME, Target
from safelox.writer import target as target_module
from test_writer_faults import tmpfs
from tiny import llama_config, llama_tensors

PROGRAM = [sys.executable, str(Path(__file__).with_name("hardening_runs.py"))]
FILES = {"tokenizer_config.json": "{}", "sub/folder/notes.txt": "x" * 5000, "README.md": "# Aligned\n"}


class Sources:
    """A pair on disk, what comes of it undisturbed, and whether it has been left alone."""

    def __init__(self, root: Path) -> None:
        base = llama_tensors(vocabulary=2000)
        aligned = llama_tensors(vocabulary=2000, near=base, seed=1)
        config = llama_config(vocabulary=2000)
        self.base, self.aligned = write_pair(root, base, aligned, config=config, files=FILES)
        self.items = len(aligned)
        harden(self.base, self.aligned, root / "undisturbed", rank=3)
        self.expected = outcome(root / "undisturbed")
        self.before = fingerprint(self.base, self.aligned)

    def harden(self, out: Path, **options: Any) -> Any:
        return harden(self.base, self.aligned, out, **{"rank": 3} | options)

    def assert_as_undisturbed(self, out: Path) -> None:
        assert outcome(out) == self.expected
        assert not out.with_name(f"{out.name}.partial").exists()
        assert fingerprint(self.base, self.aligned) == self.before

    def assert_no_harm(self, out: Path) -> None:
        assert not out.exists()
        assert fingerprint(self.base, self.aligned) == self.before


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return Sources(tmp_path_factory.mktemp("sources"))


Write = Callable[[ModelOutput, Item, Target], None]


def at_item(number: int, action: Callable[[], None]) -> Write:
    """A `ModelOutput.write` that calls the action before the item of that number, counted from 0."""
    write, count = ModelOutput.write, iter(range(10**6))

    def wrapped(self: ModelOutput, item: Item, target: Target) -> None:
        if next(count) == number:
            action()
        write(self, item, target)

    return wrapped


def fail() -> None:
    raise RuntimeError("planned")


# Failures in the middle


@pytest.mark.parametrize("number", [0, 1, 7, 20])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_run_that_failed_goes_on_where_it_was(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, workers: int
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(ModelOutput, "write", at_item(number, fail))
        with pytest.raises(RuntimeError, match="planned"):
            sources.harden(out, workers=workers)
    sources.assert_no_harm(out)
    assert (tmp_path / "out.partial").exists() or number < 3
    summary = sources.harden(out, workers=3 - workers % 2)
    assert number - workers <= summary.resumed_items < sources.items  # the other workers may have gone on meanwhile
    sources.assert_as_undisturbed(out)
    assert verify(out).ok


@pytest.mark.parametrize("error", [CheckpointError("tensor x: a value is NaN."), OSError(errno.EIO, "Broken", "file")])
def test_a_failure_in_the_middle_says_where_the_work_is(
    sources: Sources,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    def break_off() -> None:
        raise error

    command = ["harden", sources.base, sources.aligned, str(tmp_path / "out"), "--rank", "3", "--json", "--quiet"]
    with monkeypatch.context() as patch:
        patch.setattr(ModelOutput, "write", at_item(7, break_off))
        assert main([*command, "--workers", "1"]) == 1
    printed = capsys.readouterr()
    end = f". What is done so far is kept in {tmp_path / 'out.partial'}: run the same again to go on from there."
    assert printed.err == f"error: {str(error).removesuffix('.')}{end}\n"
    assert json.loads(printed.out)["error"]["message"] == printed.err.removeprefix("error: ").rstrip()
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["resumed_items"] >= 7
    sources.assert_as_undisturbed(tmp_path / "out")


def test_a_failure_before_anything_is_done_promises_nothing(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(*_: Any) -> None:
        raise CheckpointError("tensor x: a value is NaN.")

    monkeypatch.setattr(ModelOutput, "write", break_off)
    with pytest.raises(CheckpointError) as raised:
        sources.harden(tmp_path / "out", workers=1)
    assert not hasattr(raised.value, "__notes__")
    assert not (tmp_path / "out.partial").exists()


def test_a_run_that_failed_at_the_very_end_goes_on(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_to_finish(*_: Any) -> None:
        fail()

    for method in ("add_other_files",):
        monkeypatch.setattr(ModelOutput, method, fail_to_finish)
        with pytest.raises(RuntimeError, match="planned"):
            sources.harden(tmp_path / "out")
        monkeypatch.undo()
    monkeypatch.setattr("safelox.hardening.write_card", fail_to_finish)
    with pytest.raises(RuntimeError, match="planned"):
        sources.harden(tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr("safelox.manifest.Manifest.write", fail_to_finish)
    with pytest.raises(RuntimeError, match="planned"):
        sources.harden(tmp_path / "out")
    sources.assert_no_harm(tmp_path / "out")
    monkeypatch.undo()
    assert sources.harden(tmp_path / "out").resumed_items == sources.items
    sources.assert_as_undisturbed(tmp_path / "out")


@pytest.mark.parametrize(
    "options", [{"rank": 2}, {"coef": 0.5}, {"seed": 1}, {"embeddings": False}, {"dtype": "bf16"}], ids=str
)
def test_unfinished_work_of_other_arguments_is_thrown_away(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ModelOutput, "write", at_item(15, fail))
        with pytest.raises(RuntimeError):
            sources.harden(tmp_path / "out", **options)
    assert (tmp_path / "out.partial").exists()
    assert sources.harden(tmp_path / "out").resumed_items == 0
    sources.assert_as_undisturbed(tmp_path / "out")


def test_unfinished_work_on_other_sources_is_thrown_away(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("base", "aligned"):
        shutil.copytree(getattr(sources, name), tmp_path / name)
    copies = str(tmp_path / "base"), str(tmp_path / "aligned")
    for name in ("base", "aligned"):
        with monkeypatch.context() as patch:
            patch.setattr(ModelOutput, "write", at_item(15, fail))
            with pytest.raises(RuntimeError):
                harden(*copies, tmp_path / "out", rank=3)
        for path in (tmp_path / name).glob("*.safetensors"):
            os.utime(path, ns=(1, 1))  # as if it had been written again
        assert harden(*copies, tmp_path / "out", rank=3).resumed_items == 0
        assert outcome(tmp_path / "out") == sources.expected
        shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("damage", ["journal torn", "journal gone", "file cut short", "file gone", "stranger"])
def test_damaged_unfinished_work_does_no_harm(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    with monkeypatch.context() as patch:
        patch.setattr(ModelOutput, "write", at_item(15, fail))
        with pytest.raises(RuntimeError):
            sources.harden(out)
    done = items_done(out)
    assert done >= 10
    journal = partial / ".safelox-journal"
    weights = sorted(partial.glob("*.safetensors"))[0]
    if damage == "journal torn":
        journal.write_bytes(journal.read_bytes()[:-7])
    elif damage == "journal gone":
        journal.unlink()
    elif damage == "file cut short":
        os.truncate(weights, weights.stat().st_size - 1)
    elif damage == "file gone":
        weights.unlink()
    else:
        (partial / "model-00009-of-00009.safetensors").write_bytes(b"x")
    if damage == "journal gone":
        with pytest.raises(TargetError, match=r"out\.partial: .*something else is there\. Move that or choose another"):
            sources.harden(out)
        shutil.rmtree(partial)
    summary = sources.harden(out)
    expected = {"journal torn": done - 1, "stranger": done}
    assert summary.resumed_items == expected.get(damage, 0)
    sources.assert_as_undisturbed(out)


def test_a_matrix_without_a_delta_survives_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record holds a NaN, which JSON does not know."""
    base = llama_tensors(layers=1)
    aligned = llama_tensors(layers=1, near=base, seed=1)
    aligned["model.embed_tokens.weight"] = base["model.embed_tokens.weight"]
    pair = write_pair(tmp_path, base, aligned, config=llama_config(layers=1))
    harden(*pair, tmp_path / "undisturbed", rank=3)
    with monkeypatch.context() as patch:
        patch.setattr(ModelOutput, "write", at_item(11, fail))
        with pytest.raises(RuntimeError):
            harden(*pair, tmp_path / "out", rank=3, workers=1)
    assert harden(*pair, tmp_path / "out", rank=3).resumed_items >= 11
    assert json.dumps(outcome(tmp_path / "out")[1]) == json.dumps(outcome(tmp_path / "undisturbed")[1])


# Signals


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 12))])
def test_kill_at_random_moments_then_again(sources: Sources, tmp_path: Path, seed: int) -> None:
    out = tmp_path / "out"
    command = [*PROGRAM, "kill", str(seed), sources.base, sources.aligned, str(out)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    *killed, last = json.loads(ran.stdout)
    assert len(killed) >= 3
    assert all(run["killed"] for run in killed), ran.stderr
    assert last["killed"] or last["code"] == 0, ran.stderr
    done = [run["done"] for run in killed]
    assert done == sorted(done), "work was lost"
    assert len(set(done)) >= 3, "no run went on with another's work"
    (out / ".safelox-journal").unlink(missing_ok=True)  # the one thing that may not be cleared away yet
    sources.assert_as_undisturbed(out)


def test_an_interrupt_and_two_at_once(sources: Sources, tmp_path: Path) -> None:
    """While one run is at work another is refused; when it is interrupted, it says how to go on."""
    out = tmp_path / "out"
    command = [*PROGRAM, "slow", "0.5", "harden", sources.base, sources.aligned, str(out), "--rank", "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        try:
            assert run.stdout is not None
            for _ in range(3):
                assert run.stdout.readline() == "written\n"
            with pytest.raises(TargetError, match=r"out\.partial: another run is writing the same result"):
                sources.harden(out)
            assert not out.exists()
            run.send_signal(signal.SIGINT)
            _, errors = run.communicate(timeout=60)
        finally:
            run.kill()
    assert run.returncode == 130
    assert "interrupted. What is done so far is kept: run the same command again to go on from there." in errors
    assert "Traceback" not in errors
    sources.assert_no_harm(out)
    summary = sources.harden(out)
    assert 3 <= summary.resumed_items < sources.items
    sources.assert_as_undisturbed(out)


# The target


def full(folder: Path) -> Path:
    """Fill the disk to the last block with a file."""
    filler = folder / "filler"
    status = os.statvfs(folder)
    filler.write_bytes(bytes(status.f_bavail * status.f_bsize))
    return filler


def test_a_disk_that_is_too_small_is_told_before_anything_is_made(sources: Sources, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "100k") as disk:
        with pytest.raises(TargetError, match=r"not enough space on the disk: 27\d kB are needed and 102 kB"):
            sources.harden(disk / "deep" / "out")
        assert not list(disk.iterdir())


@pytest.mark.parametrize("when", ["weights", "other files", "model card", "manifest", "dtype"])
def test_a_disk_that_fills_up(sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    monkeypatch.setattr(target_module, "_ROUND_SECONDS", 0.001)
    options: dict[str, Any] = {"dtype": "fp32"} if when == "dtype" else {}
    with tmpfs(tmp_path / "disk", "1m") as disk:
        out = disk / "out"
        original: Any = {
            "weights": ModelOutput.write,
            "other files": Checkpoint.other_files,
            "model card": ModelOutput.add_other_files,
            "manifest": harden.__globals__["write_card"],
            "dtype": harden.__globals__["Target"].put,
        }[when]

        def then_full(*arguments: Any) -> Any:
            result = original(*arguments)
            if (disk / "out.partial").exists() and not (disk / "filler").exists():
                wait_until(lambda: items_done(out) >= (1 if when == "weights" else sources.items))
                full(disk)
            return result

        place = {
            "weights": "safelox.output.ModelOutput.write",
            "other files": "safelox.checkpoint.Checkpoint.other_files",
            "model card": "safelox.output.ModelOutput.add_other_files",
            "manifest": "safelox.hardening.write_card",
            "dtype": "safelox.writer.Target.put",
        }[when]
        with monkeypatch.context() as patch:
            patch.setattr(place, then_full)
            with pytest.raises(TargetError, match=r"out\.partial.* No space left on device\. Free some space"):
                sources.harden(out, workers=1, **options)
        sources.assert_no_harm(out)
        (disk / "filler").unlink()
        summary = sources.harden(out, **options)
        assert summary.resumed_items == sources.items or (when == "weights" and summary.resumed_items > 0)
        if not options:
            sources.assert_as_undisturbed(out)
        shutil.copytree(out, tmp_path / "copy")
    assert verify(tmp_path / "copy").ok


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to(sources: Sources, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(TargetError, match="you may not write here"):
        sources.harden(tmp_path / "out")
    sources.assert_no_harm(tmp_path / "out")


def test_a_disk_that_is_read_only(sources: Sources, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "1m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(TargetError, match="may not write here, or the disk is read-only"):
            sources.harden(disk / "out")
        sources.assert_no_harm(disk / "out")


def test_sources_are_never_written_to(tmp_path: Path) -> None:
    sources = Sources(tmp_path / "pair")
    base, aligned = Path(sources.base), Path(sources.aligned)
    (tmp_path / "link").symlink_to(aligned)
    for out in (base, aligned, aligned / "out", base / "sub" / "out", tmp_path / "pair", tmp_path / "link"):
        before = fingerprint(tmp_path)
        with pytest.raises(TargetError):
            sources.harden(out, overwrite=True)
        assert fingerprint(tmp_path) == before
        assert not (out / MANIFEST_NAME).exists()
    aligned.rename(tmp_path / "out.partial")
    with pytest.raises(TargetError):
        harden(sources.base, str(tmp_path / "out.partial"), tmp_path / "out", rank=3)
    assert fingerprint(tmp_path / "out.partial").keys()


def test_a_result_is_replaced_only_when_asked_and_only_when_the_new_one_is_whole(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    sources.harden(out, coef=0.5)
    first = contents(out)
    with pytest.raises(TargetError, match=r"already there, and not empty.*--overwrite"):
        sources.harden(out)
    with monkeypatch.context() as patch:
        patch.setattr(ModelOutput, "write", at_item(10, fail))
        with pytest.raises(RuntimeError):
            sources.harden(out, overwrite=True)
    assert contents(out) == first
    sources.harden(out, overwrite=True)
    sources.assert_as_undisturbed(out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(TargetError, match="spares it"):
        sources.harden(tmp_path / "mine", overwrite=True)
    assert contents(tmp_path / "mine") == {"thesis.tex": b"years of work"}


def test_an_empty_folder_is_a_good_target(sources: Sources, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    sources.harden(tmp_path / "out")
    sources.assert_as_undisturbed(tmp_path / "out")


def test_other_errors_of_the_system_are_explained(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pwrite", broken)
    with pytest.raises(SafeloxError, match=r"out.*: cannot be written: Input/output error"):
        sources.harden(tmp_path / "out")
    sources.assert_no_harm(tmp_path / "out")
