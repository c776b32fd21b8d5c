"""What is written is what was planned, from any threads in any order, and nothing is touched that should not be."""

import fcntl
import hashlib
import json
import os
import random
import shutil
import tempfile
import threading
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safelox import manifest
from safelox.errors import TargetError
from safelox.writer import MANIFEST_NAME, FileHash, FilePlan, Target, disk
from safelox.writer import outfile as outfile_module
from safelox.writer import target as target_module
from safelox.writer.journal import Journal
from safelox.writer.outfile import Coverage
from writing import EXTRA, PLANS, WORK, assert_result, assert_whole, expected, items, write_items, write_result

if TYPE_CHECKING:
    from typing_extensions import Buffer


@pytest.fixture(autouse=True)
def _fast_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_module, "_ROUND_SECONDS", 0.001)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def open_target(out: Path, fingerprint: str = "a", overwrite: bool = False) -> Target:
    return Target(out, PLANS, fingerprint=fingerprint, overwrite=overwrite)


def write_result_into(target: Target) -> None:
    write_items(target, PLANS, WORK)
    target.finish()


def wait_until_durable(target: Target, count: int) -> None:
    """Give the committer a moment to write down that many items."""
    journal = target.folder / ".safelox-journal"
    deadline = time.monotonic() + 10
    while journal.read_bytes().count(b"\n") < 1 + count:
        assert time.monotonic() < deadline, "the items were never journaled"
        time.sleep(0.002)


def leave_unfinished(out: Path, count: int = 5, fingerprint: str = "a") -> dict[str, dict[str, object]]:
    """Write some items and stop there; their records."""
    with open_target(out, fingerprint) as target:
        write_items(target, PLANS, dict(list(WORK.items())[:count]), threads=1)
    assert target.resumable
    return target.records


# Coverage


@given(st.data())
def test_coverage_is_that_of_a_set_of_bytes(data: st.DataObject) -> None:
    size = data.draw(st.integers(0, 40))
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, size), max_size=12))), size]
    stretches = list(pairwise(cuts))
    coverage, written = Coverage(size), set[int]()
    for start, stop in data.draw(st.permutations(stretches)):
        coverage.add(start, stop)
        written |= set(range(start, stop))
        assert coverage.prefix == next(byte for byte in range(size + 1) if byte not in written)
        touched = data.draw(st.integers(0, size))
        if touched in written:
            with pytest.raises(AssertionError, match="written already"):
                coverage.add(touched, touched + 1)
    assert coverage.prefix == size


@given(st.integers(0, 30), st.integers(1, 10), st.integers(0, 30), st.integers(1, 10))
def test_two_stretches_are_refused_exactly_when_they_overlap(a: int, n: int, b: int, m: int) -> None:
    coverage = Coverage(40)
    coverage.add(a, a + n)
    if set(range(a, a + n)) & set(range(b, b + m)):
        with pytest.raises(AssertionError, match="written already"):
            coverage.add(b, b + m)
    else:
        coverage.add(b, b + m)


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 11), (5, 4)])
def test_bytes_outside_of_the_file_are_refused(start: int, stop: int) -> None:
    with pytest.raises(AssertionError, match="not in a file of 10 bytes"):
        Coverage(10).add(start, stop)


# Writing


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32), threads=st.integers(1, 8), count=st.integers(1, 40), stopped=st.integers(0, 40))
def test_bytes_do_not_depend_on_order_threads_or_interruption(
    seed: int, threads: int, count: int, stopped: int
) -> None:
    work = items(PLANS, count, seed)
    order = random.Random(seed).sample(list(work), count)
    with tempfile.TemporaryDirectory() as folder:
        with open_target(Path(folder) / "out", str(seed)) as target:
            write_items(target, PLANS, {name: work[name] for name in order[:stopped]}, threads)
        with open_target(Path(folder) / "out", str(seed)) as target:
            assert target.done == set(order[:stopped])
            write_items(target, PLANS, work, threads)
            hashes = target.hashes()
            target.finish()
        assert_whole(Path(folder) / "out")
        for plan in PLANS:
            assert hashes[plan.name] == (plan.size, hashlib.sha256(expected(plan)).hexdigest())


def test_result_has_true_hashes_of_all_files_and_nothing_else(out: Path) -> None:
    write_result(out)
    assert_result(out)
    assert set(json.loads((out / MANIFEST_NAME).read_text())) == {plan.name for plan in PLANS} | {EXTRA[0]}
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_nothing_has_the_final_name_before_the_end(out: Path) -> None:
    with open_target(out) as target:
        write_items(target, PLANS, WORK)

        def last(hashes: dict[str, FileHash]) -> None:
            assert len(hashes) == len(PLANS)
            assert not out.exists()
            target.put("README.md", "last words")

        target.finish(last)
        assert (out / "README.md").read_text() == "last words"
        assert not target.resumable
    assert_whole(out, ("README.md",))


@pytest.mark.parametrize(
    "data",
    [
        b"abcdef",
        bytearray(b"abcdef"),
        memoryview(b"abcdef"),
        np.frombuffer(b"abcdef", np.uint8).reshape(2, 3),
        np.frombuffer(b"abcdef", np.int16),
    ],
    ids=lambda data: type(data).__name__,
)
def test_any_contiguous_buffer_can_be_written(out: Path, data: "Buffer") -> None:
    with Target(out, [FilePlan("f", b"<>", 8)], fingerprint="a") as target:
        target.write(0, 2, np.zeros((0, 3)))
        target.write(0, 2, data)
        target.complete("all", {}, [(0, 2, 8)])
        target.finish()
    assert (out / "f").read_bytes() == b"<>abcdef"


def test_copies_and_texts_may_lie_in_subfolders(out: Path, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"\0vocabulary")
    (tmp_path / "link").symlink_to("blob")  # as in the cache of the hub
    with Target(out, [], fingerprint="a") as target:
        target.copy(tmp_path / "link", "a/b/vocab.bin")
        target.put("c/d.txt", "für")
        target.put("e.bin", b"\xff")
        hashes = target.hashes()
        target.finish()
    assert (out / "a/b/vocab.bin").read_bytes() == b"\0vocabulary"
    assert not (out / "a/b/vocab.bin").is_symlink()
    assert (out / "c/d.txt").read_bytes() == "für".encode()
    assert hashes == {
        "a/b/vocab.bin": (11, hashlib.sha256(b"\0vocabulary").hexdigest()),
        "c/d.txt": (4, hashlib.sha256("für".encode()).hexdigest()),
        "e.bin": (1, hashlib.sha256(b"\xff").hexdigest()),
    }


def test_a_file_that_cannot_be_copied_is_named(out: Path, tmp_path: Path) -> None:
    with open_target(out) as target, pytest.raises(TargetError, match=r"missing\.json cannot be copied.*No such file"):
        target.copy(tmp_path / "missing.json", "config.json")


def test_hashing_overlaps_with_writing(out: Path) -> None:
    with open_target(out) as target:
        size = PLANS[0].size
        target.write(0, len(PLANS[0].header), expected(PLANS[0])[len(PLANS[0].header) :])
        target.complete("first file", {}, [(0, len(PLANS[0].header), size)])
        deadline = time.monotonic() + 10
        while target._files[0].hashed < size:
            assert time.monotonic() < deadline, "the first file was never hashed, though it is whole"
            time.sleep(0.001)


def test_manifest_and_writer_agree_on_the_name_of_the_manifest() -> None:
    assert MANIFEST_NAME == manifest.MANIFEST_NAME


# Mistakes of the caller never become a finished folder


def test_a_gap_is_found_at_the_end(out: Path) -> None:
    with open_target(out) as target:
        write_items(target, PLANS, dict(list(WORK.items())[:-1]))
        with pytest.raises(AssertionError, match="was never written"):
            target.finish()
    assert not out.exists()


def test_an_overlap_an_item_twice_and_bytes_beyond_the_end_are_found_at_once(out: Path) -> None:
    with open_target(out) as target:
        target.complete("a", {}, [(0, 100, 200)])
        with pytest.raises(AssertionError, match="written already"):
            target.complete("b", {}, [(0, 199, 201)])
        with pytest.raises(AssertionError, match="written already"):
            target.complete("header", {}, [(0, 0, 3)])
        with pytest.raises(AssertionError, match="twice"):
            target.complete("a", {}, [(0, 300, 301)])
        with pytest.raises(AssertionError, match="beyond its end"):
            target.write(0, PLANS[0].size - 1, b"ab")
        with pytest.raises(TypeError, match="not JSON serializable"):
            target.complete("c", {"x": object()}, [(0, 300, 301)])


def test_a_closed_target_takes_nothing(out: Path) -> None:
    with open_target(out) as target:
        pass
    with pytest.raises(AssertionError, match="closed"):
        target.write(0, 20, b"a")
    with pytest.raises(AssertionError, match="closed"):
        target.finish()
    target.abort()


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "", "."])
def test_names_that_lead_outside_are_refused(out: Path, name: str) -> None:
    with pytest.raises(TargetError, match="no name of a file inside"):
        Target(out, [FilePlan(name, b"", 1)], fingerprint="a")
    assert not list(out.parent.iterdir())
    with open_target(out) as target, pytest.raises(TargetError, match="no name of a file inside"):
        target.put(name, "x")


def test_names_that_are_taken_are_refused(out: Path) -> None:
    with open_target(out) as target:
        with pytest.raises(AssertionError, match="is a weights file"):
            target.put(PLANS[1].name, "x")
        with pytest.raises(AssertionError, match="journal's name"):
            target.put(".safelox-journal", "x")
    with pytest.raises(AssertionError, match="have one name"):
        Target(out, [PLANS[0], PLANS[0]], fingerprint="a")


# Resuming


@pytest.mark.parametrize("reason", [KeyboardInterrupt, RuntimeError, None])
def test_leaving_early_keeps_what_is_done(out: Path, reason: type[BaseException] | None) -> None:
    def leave() -> None:
        with open_target(out) as target:
            write_items(target, PLANS, dict(list(WORK.items())[:7]))
            if reason is not None:
                raise reason

    if reason is None:
        leave()
    else:
        with pytest.raises(reason):
            leave()
    assert not out.exists()
    with open_target(out) as target:
        assert target.done == set(list(WORK)[:7])
        assert target.resumable


def test_records_come_back_as_they_were(out: Path) -> None:
    point = namedtuple("point", "x y")
    given: dict[str, object] = {"values": (0.1, 1e-300, float("inf")), "point": point(1, 2), "none": None, "ü": "\n"}
    with open_target(out) as target:
        target.complete("a", given, [(0, 100, 200)])
        before = target.records["a"]
        assert target.done == frozenset()
    with open_target(out) as target:
        assert target.records == {"a": before}
    assert before == {"values": [0.1, 1e-300, float("inf")], "point": [1, 2], "none": None, "ü": "\n"}


def test_leaving_with_nothing_done_leaves_nothing(out: Path) -> None:
    with open_target(out / "deep" / "er") as target:
        target.put("config.json", "{}")
        target.write(0, 20, b"of an item that is not complete")
    assert not target.resumable
    assert not list((out / "deep").iterdir())


@pytest.mark.parametrize("change", ["fingerprint", "header", "size", "name"])
def test_other_work_is_thrown_away(out: Path, change: str) -> None:
    leave_unfinished(out)
    first = {
        "header": FilePlan(PLANS[0].name, b"other header", PLANS[0].size),
        "size": FilePlan(PLANS[0].name, PLANS[0].header, PLANS[0].size + 1),
        "name": FilePlan("model-0.safetensors", PLANS[0].header, PLANS[0].size),
    }.get(change, PLANS[0])
    plans = [first, *PLANS[1:]]
    with Target(out, plans, fingerprint="b" if change == "fingerprint" else "a") as target:
        assert target.done == frozenset()
        assert target.records == {}
        assert not target.resumable
        write_items(target, plans, items(plans, 3))
        target.finish()
    assert {path.name for path in out.rglob("*") if path.is_file()} == {Path(plan.name).name for plan in plans}
    assert (out / first.name).read_bytes() == expected(first)


@pytest.mark.parametrize("harm", ["missing", "short"])
def test_a_damaged_partial_folder_is_started_anew(out: Path, harm: str) -> None:
    leave_unfinished(out)
    victim = out.parent / "out.partial" / PLANS[1].name
    if harm == "missing":
        victim.unlink()
    else:
        os.truncate(victim, 100)
    with open_target(out) as target:
        assert target.done == frozenset()
        write_items(target, PLANS, WORK)
        target.finish()
    assert_whole(out)


@pytest.mark.parametrize("cut", ["torn line", "no line end", "zeros", "nothing", "first line torn"])
def test_a_torn_journal_loses_only_what_is_torn(out: Path, cut: str) -> None:
    leave_unfinished(out, 5)
    journal = out.parent / "out.partial" / ".safelox-journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    kept = {"torn line": 4, "no line end": 4, "zeros": 3, "nothing": 0, "first line torn": 0}[cut]
    journal.write_bytes(
        {
            "torn line": b"".join(lines[:5]) + lines[5][:10],
            "no line end": b"".join(lines)[:-1],
            "zeros": b"".join(lines[:4]) + b"\0" * 50 + b"\n" + lines[5],
            "nothing": b"",
            "first line torn": lines[0][:-1],
        }[cut]
    )
    with open_target(out) as target:
        assert target.done == set(list(WORK)[:kept])
        # What is cut off must not come to life again behind lines that are added now.
        assert journal.read_bytes() == b"".join(lines[: 1 + kept])
    write_result(out)
    assert_result(out)


def test_a_journal_that_cannot_be_read_costs_nothing(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_unfinished(out, 5)

    def broken(_self: Journal, _identity: str) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "read", broken)
        refused(out, "Input/output error")
    with open_target(out) as target:
        assert target.done == set(list(WORK)[:5])


def test_strange_files_in_the_partial_folder_do_not_reach_the_result(out: Path) -> None:
    leave_unfinished(out)
    partial = out.parent / "out.partial"
    (partial / "old_tokenizer.json").write_text("of the run before")
    (partial / "parts" / "old").mkdir()
    (partial / "parts" / "old" / "x").write_text("x")
    write_result(out)
    assert_result(out)


def test_an_item_is_journaled_only_after_its_files_are_synced(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    append, fdatasync = Journal.append, outfile_module._fdatasync

    def noted_append(self: Journal, lines: list[str]) -> None:
        events.extend(["append"] * len(lines))
        append(self, lines)

    def noted_sync(descriptor: int) -> None:
        fdatasync(descriptor)
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to tell which file was synced")
    with open_target(out) as target:
        monkeypatch.setattr(Journal, "append", noted_append)
        monkeypatch.setattr(outfile_module, "_fdatasync", noted_sync)
        target.complete("a", {}, [(0, 100, 200), (1, 100, 200)])
        wait_until_durable(target, 1)
        target.complete("b", {}, [(1, 200, 300)])
        wait_until_durable(target, 2)
    assert events == ["model-1.safetensors", "model-2.safetensors", "append", "model-2.safetensors", "append"]


def test_all_is_synced_before_the_name_is_given(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Path | str] = []
    sync, rename = disk.sync, Path.rename

    def noted_sync(path: Path) -> None:
        events.append(path)
        sync(path)

    def noted_rename(self: Path, target: Path) -> Path:
        events.append("rename")
        return rename(self, target)

    with open_target(out) as target:
        write_items(target, PLANS, WORK)
        target.put("config/tokenizer.json", "{}")
        monkeypatch.setattr(disk, "sync", noted_sync)
        monkeypatch.setattr(Path, "rename", noted_rename)
        target.finish(lambda _hashes: target.put("last", "words"))
    names = [*(plan.name for plan in PLANS), "parts", "config", "config/tokenizer.json", "last", ""]
    assert {target.folder / name for name in names} <= set(events[: events.index("rename")])
    assert events[events.index("rename") + 1] == out.parent


def test_a_file_is_not_closed_under_a_writing_thread(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writing, go_on = threading.Event(), threading.Event()
    target = open_target(out)

    def slow_write(descriptor: int, offset: int, data: memoryview) -> None:
        writing.set()
        assert go_on.wait(10)
        os.pwrite(descriptor, data, offset)

    monkeypatch.setattr(outfile_module, "write_all", slow_write)
    with ThreadPoolExecutor(2) as pool:
        write = pool.submit(target.write, 0, 100, b"late")
        assert writing.wait(10)
        abort = pool.submit(target.abort)
        time.sleep(0.02)
        assert not abort.done()
        go_on.set()
        write.result(10)
        abort.result(10)


# Failures on the way


def test_a_failing_sync_surfaces_at_the_next_call(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    def write_on(target: Target) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            target.write(0, 300, b"more")

    monkeypatch.setattr(outfile_module, "_fdatasync", broken)
    with open_target(out) as target:
        target.complete("a", {}, [(0, 100, 200)])
        message = r"model-1\.safetensors: cannot be written: Input/output error"
        with pytest.raises(TargetError, match=message):
            write_on(target)
        with pytest.raises(TargetError, match=message):
            target.complete("b", {}, [(0, 300, 304)])
        with pytest.raises(TargetError, match=message):
            target.finish()
    assert not target.resumable
    assert not list(out.parent.iterdir())


@pytest.mark.parametrize("victim", ["_commit", "_hash"])
def test_no_mistake_in_a_thread_of_ours_hangs_the_run(out: Path, victim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Target, victim, lambda _self: 1 / 0)
    with open_target(out) as target, pytest.raises(ZeroDivisionError):
        write_result_into(target)
    assert not out.exists()


def test_a_file_that_somebody_cuts_short_is_found(out: Path) -> None:
    with open_target(out) as target:
        os.truncate(target.folder / PLANS[0].name, 50)
        for file, plan in enumerate(PLANS):
            target.complete(plan.name, {}, [(file, len(plan.header), plan.size)])
        with pytest.raises(TargetError, match=r"model-1\.safetensors: cannot be read back: somebody has cut it"):
            target.finish()
    assert not out.exists()


def test_an_exception_in_the_last_step_never_finalises(out: Path) -> None:
    def last(hashes: dict[str, FileHash]) -> None:
        raise ValueError(f"{len(hashes)} hashes are not enough")

    with open_target(out) as target:
        write_items(target, PLANS, WORK)
        with pytest.raises(ValueError, match="not enough"):
            target.finish(last)
    assert not out.exists()
    assert target.resumable
    write_result(out)
    assert_result(out)


def test_a_rename_that_fails_puts_the_old_result_back(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_result(out)
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == "out.partial":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    with open_target(out, "b", overwrite=True) as target:
        write_items(target, PLANS, WORK)
        monkeypatch.setattr(Path, "rename", failing)
        with pytest.raises(TargetError, match="Input/output error"):
            target.finish()
    assert_result(out)
    assert target.resumable


# Where a result may not be written


def refused(out: Path, message: str, **options: object) -> None:
    """A target is refused with that message, and nothing on the disk is changed by it."""
    top = next(path for path in out.parents if path.exists())
    before = sorted(top.rglob("*"))
    with pytest.raises(TargetError, match=message):
        Target(out, PLANS, fingerprint="a", **options)  # type: ignore[arg-type]
    assert sorted(top.rglob("*")) == before


def test_a_folder_with_something_in_it_is_refused(out: Path) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    refused(out, r"not empty.*--overwrite")
    refused(out, rf"without {MANIFEST_NAME}.*spares it", overwrite=True)
    assert (out / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_refused(out: Path, overwrite: bool) -> None:
    out.write_text("a file")
    refused(out, "this is a file", overwrite=overwrite)
    refused(out / "below", "cannot be reached: Not a directory", overwrite=overwrite)


def test_an_empty_folder_and_missing_parents_are_fine(out: Path) -> None:
    out.mkdir()
    write_result(out)
    assert_result(out)
    write_result(out.parent / "some" / "way" / "down")
    assert_result(out.parent / "some" / "way" / "down")


def test_a_link_to_a_place_is_that_place(out: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    out.symlink_to(tmp_path / "disk" / "model")
    write_result(out)
    assert out.is_symlink()
    assert_result(tmp_path / "disk" / "model")
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["model"]


@pytest.mark.parametrize("where", ["model", "model/out", "model/deep/out", ".", "link", "link/out", "model/../link"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_source_is_never_touched(tmp_path: Path, where: str, overwrite: bool) -> None:
    model = tmp_path / "home" / "model"
    model.mkdir(parents=True)
    (model / MANIFEST_NAME).write_text("hardened once already")
    (model.parent / "link").symlink_to("model")
    refused(model.parent / where, "must stay as it is", overwrite=overwrite, sources=[model])
    refused(model.parent / where, "must stay as it is", overwrite=overwrite, sources=[model.parent / "link"])


@pytest.mark.parametrize("suffix", [".partial", ".safelox-old"])
def test_a_source_with_a_name_that_we_need_is_never_touched(out: Path, suffix: str) -> None:
    source = out.parent / f"out{suffix}"
    source.mkdir()
    (source / ".safelox-journal").write_text("")
    refused(out, "must stay as it is", sources=[source / "."])


def test_a_source_beside_is_fine(out: Path) -> None:
    (out.parent / "out-base").mkdir()
    with Target(out, [], fingerprint="a", sources=[out.parent / "out-base"]) as target:
        target.finish()
    assert out.is_dir()


@pytest.mark.parametrize("where", ["a", "a/out"])
def test_a_loop_of_links_is_refused(tmp_path: Path, where: str) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    refused(tmp_path / where, "loop|circles")
    refused(tmp_path / "out", "loop|circles", sources=[tmp_path / where])


@pytest.mark.parametrize("kind", ["folder", "file", "link", "dangling"])
def test_a_partial_folder_that_is_not_ours_is_refused(out: Path, kind: str) -> None:
    partial, elsewhere = out.parent / "out.partial", out.parent / "elsewhere"
    if kind == "folder":
        partial.mkdir()
        (partial / "mine").touch()
    elif kind == "file":
        partial.touch()
    else:
        if kind == "link":
            elsewhere.mkdir()
        partial.symlink_to(elsewhere)
    refused(out, "something else is there")


def test_a_mounted_disk_is_refused(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == out)
    refused(out, "a disk is mounted here")


def test_too_little_space_is_told_in_numbers(out: Path) -> None:
    with pytest.raises(TargetError, match=r"1152922 TB are needed and [\d.]+ [kMGT]B are free"):
        Target(out / "deep", [FilePlan("f", b"", 2**60)], fingerprint="a")
    assert not list(out.parent.iterdir())


def test_what_a_partial_folder_holds_is_not_needed_again(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = FilePlan("f", b"", 1_000_000)
    with Target(out, [plan], fingerprint="a") as target:
        target.write(0, 0, bytes(700_000))
        target.complete("a", {}, [(0, 0, 700_000)])
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(310_000))
    with Target(out, [plan], fingerprint="a") as target:
        assert target.done == {"a"}
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(250_000))
    with pytest.raises(TargetError, match=r"2[89]\d kB are needed and 250 kB are free"):
        Target(out, [plan], fingerprint="a")


def test_a_folder_without_permission_is_refused(out: Path) -> None:
    out.parent.chmod(0o500)
    if os.access(out.parent, os.W_OK):
        pytest.skip("this user, root most likely, may write everywhere")
    try:
        refused(out / "deep", "may not write here")
    finally:
        out.parent.chmod(0o700)


def test_a_folder_that_cannot_be_made_is_named(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mkdir(self: Path, *_args: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    refused(out, r"out: cannot be written: Permission denied\. Choose a folder that you may write to\.")


# Overwriting


def test_our_own_result_can_be_replaced_and_stays_until_then(out: Path) -> None:
    write_result(out)
    (out / "notes.txt").write_text("of the old one")
    refused(out, "already there, and not empty")
    with open_target(out, "b", overwrite=True) as target:
        write_items(target, PLANS, WORK)
        target.hashes()
        assert_whole(out, (*EXTRA, "notes.txt"))
        target.finish()
    assert_whole(out)
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_failed_overwrite_leaves_the_old_result(out: Path) -> None:
    write_result(out)

    def last(hashes: dict[str, FileHash]) -> None:
        raise KeyboardInterrupt(f"in the middle of {hashes}")

    with open_target(out, "b", overwrite=True) as target:
        write_items(target, PLANS, WORK)
        with pytest.raises(KeyboardInterrupt):
            target.finish(last)
    assert_result(out)


def test_something_that_appears_meanwhile_is_spared(out: Path) -> None:
    with open_target(out) as target:
        write_items(target, PLANS, WORK)
        out.mkdir()
        (out / "mine").write_text("precious")
        with pytest.raises(TargetError, match="not empty"):
            target.finish()
    assert (out / "mine").read_text() == "precious"
    assert target.resumable


def test_an_old_result_that_cannot_be_deleted_is_named(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rmtree(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    write_result(out)
    with open_target(out, "b", overwrite=True) as target:
        write_items(target, PLANS, WORK)
        monkeypatch.setattr(shutil, "rmtree", rmtree)
        with pytest.raises(TargetError, match=r"out\.safelox-old: .*out is new and whole, but .*Permission denied"):
            target.finish()
    assert_whole(out)
    assert not target.resumable


# Two runs at once


def test_a_second_run_is_refused_and_harms_nothing(out: Path) -> None:
    with open_target(out) as target:
        write_items(target, PLANS, dict(list(WORK.items())[:6]))
        for fingerprint in "ab":
            refused(out, "another run is writing the same result")
            with pytest.raises(TargetError, match="another run"):
                open_target(out, fingerprint)
        write_items(target, PLANS, dict(list(WORK.items())[6:]))
        target.finish()
    assert_whole(out)


def test_a_run_that_comes_while_another_finishes_is_refused(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_target(out)
    write_items(first, PLANS, WORK)
    flock = fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        first.finish()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(TargetError, match="another run"):
        open_target(out)
    assert_whole(out)
    assert [path.name for path in out.parent.iterdir()] == ["out"]
