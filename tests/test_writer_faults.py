"""Runs that are killed, disks that are full or read-only, and two processes that want the same folder."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from safelox.errors import TargetError
from safelox.writer import Target
from writing import PLANS, WORK, assert_result, assert_whole, write_items, write_result

PROGRAM = [sys.executable, str(Path(__file__).with_name("writing.py"))]


def start(out: Path, seconds: float) -> "subprocess.Popen[str]":
    return subprocess.Popen([*PROGRAM, "write", str(out), str(seconds)], stdout=subprocess.PIPE, text=True)


def first_line(process: "subprocess.Popen[str]") -> dict[str, dict[str, object]]:
    """Wait until the process has opened its target; the records that it found."""
    assert process.stdout is not None
    return dict(json.loads(process.stdout.readline()))


def kill(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_kill_at_random_moments_then_resume(tmp_path: Path) -> None:
    out = tmp_path / "out"
    known: dict[str, dict[str, object]] = {}
    runs = 0
    while not out.exists() and runs < 10:
        process = start(out, 0.04)
        if runs % 3:  # the others are killed as early as while they are opening the folder
            found = first_line(process)
            assert found.items() >= known.items(), "an item or its record was lost"
            known = found
        time.sleep(random.Random(runs).uniform(0, 0.12))
        kill(process)
        runs += 1
    if not out.exists():
        process = start(out, 0)
        found = first_line(process)
        assert found.items() >= known.items(), "an item or its record was lost"
        assert process.wait() == 0
        kill(process)
    assert len({record["process"] for record in known.values()}) > 1, "no run went on with another's work"
    assert_result(out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_kill_before_every_step_on_the_file_system(tmp_path: Path) -> None:
    ran = subprocess.run([*PROGRAM, "die", str(tmp_path / "root")], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    fresh, overwriting = map(int, ran.stdout.split())
    assert fresh > 20
    assert overwriting > fresh


def test_one_of_two_processes_is_refused_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(out, 0.05)
    first_line(process)
    with pytest.raises(TargetError, match=r"out\.partial: another run is writing the same result"):
        Target(out, PLANS, fingerprint="a")
    second = subprocess.run(
        [*PROGRAM, "write", str(out), "0"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, check=False
    )
    assert second.returncode == 1
    assert "another run is writing the same result" in second.stderr
    kill(process)
    write_result(out)
    assert_result(out)


@contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[Path]:
    """A small disk of its own, where the system lets us have one."""
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs here: {mounted.stderr.splitlines()[0]}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_disk_that_fills_up_stops_cleanly_and_resumes(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "256k") as disk:
        out = disk / "out"
        filler = disk / "filler"
        with Target(out, PLANS, fingerprint="a") as target:
            write_items(target, PLANS, dict(list(WORK.items())[:4]))
            filler.write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize))
            with pytest.raises(TargetError, match=r"model-\d\.safetensors: cannot be written: No space left"):
                write_items(target, PLANS, dict(list(WORK.items())[4:]))
        assert not out.exists()
        assert target.resumable
        filler.unlink()
        with Target(out, PLANS, fingerprint="a") as target:
            assert target.done >= set(list(WORK)[:4])
            write_items(target, PLANS, WORK)
            target.finish()
        assert_whole(out)


def test_disk_that_is_too_small_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "48k") as disk:
        with pytest.raises(
            TargetError, match=r"not enough space on the disk: 65\.0 kB are needed and 49\.2 kB are free"
        ):
            Target(disk / "deep" / "out", PLANS, fingerprint="a")
        assert not list(disk.iterdir())


def test_copying_onto_a_full_disk_is_told(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(bytes(300_000))
    with tmpfs(tmp_path / "disk", "256k") as disk:
        with (
            pytest.raises(TargetError, match=r"tokenizer\.json cannot be copied here: No space left on device"),
            Target(disk / "out", PLANS, fingerprint="a") as target,
        ):
            target.copy(tmp_path / "tokenizer.json", "tokenizer.json")
        assert not list(disk.iterdir())


def test_read_only_disk_is_refused(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "256k") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(TargetError, match="may not write here, or the disk is read-only"):
            Target(disk / "out", PLANS, fingerprint="a")


def test_mounted_disk_is_refused_as_the_result_itself(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "256k") as disk, pytest.raises(TargetError, match="a disk is mounted here"):
        Target(disk, PLANS, fingerprint="a")
