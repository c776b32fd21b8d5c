"""A small result that is written slowly, for the tests of the writer; as a program, it is there to be killed.

python writing.py write OUT SECONDS    write it, SECONDS for each item; one line of JSON when it is open
python writing.py die ROOT             write it over and over, killed before each step on the file system in turn
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from safelox.errors import TargetError
from safelox.writer import MANIFEST_NAME, FileHash, FilePlan, Target
from safelox.writer import outfile as outfile_module
from safelox.writer import target as target_module

Span = tuple[int, int, int]

PLANS = [
    FilePlan("model-1.safetensors", b"first header", 40_012),
    FilePlan("parts/model-2.safetensors", b"second", 25_006),
    FilePlan("model-3.safetensors", b"only a header", 13),
]


def expected(plan: FilePlan) -> bytes:
    """All bytes of a planned file."""
    return plan.header + random.Random(plan.name).randbytes(plan.size - len(plan.header))


def items(plans: list[FilePlan], count: int, seed: int = 0) -> dict[str, list[Span]]:
    """Cut the files into `count` items of one or two spans each; id -> spans."""
    rng = random.Random(seed)
    result: dict[str, list[Span]] = {f"item {i}": [] for i in range(count)}
    for file, plan in enumerate(plans):
        cuts = [len(plan.header), *(rng.randint(len(plan.header), plan.size) for _ in range(count - 1)), plan.size]
        cuts.sort()
        for name, start, stop in zip(rng.sample(list(result), count), cuts[:-1], cuts[1:], strict=True):
            result[name].append((file, start, stop))
    return result


WORK = items(PLANS, 30)


def write_items(
    target: Target, plans: list[FilePlan], work: dict[str, list[Span]], threads: int = 2, seconds: float = 0
) -> None:
    """Write what is not done yet, in the order of `work`, with a record that says which process did it."""
    contents = [expected(plan) for plan in plans]

    def write(name: str) -> None:
        time.sleep(seconds)
        for file, start, stop in work[name]:
            middle = (start + stop) // 2
            target.write(file, middle, contents[file][middle:stop])
            target.write(file, start, contents[file][start:middle])
        target.complete(name, {"process": os.getpid(), "energy": 0.1}, work[name])

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(write, [name for name in work if name not in target.done]):
            pass


def assert_whole(folder: Path, extra: tuple[str, ...] = ()) -> None:
    """The folder holds the planned bytes, the files named `extra`, and nothing else."""
    for plan in PLANS:
        assert (folder / plan.name).read_bytes() == expected(plan), plan.name
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {plan.name for plan in PLANS} | set(extra)


def write_result(out: Path, *, seconds: float = 0, overwrite: bool = False, tell: bool = False) -> None:
    """The whole story: weights, a copied file, and a manifest that holds the hashes."""
    with Target(out, PLANS, fingerprint="a", overwrite=overwrite) as target:
        if tell:
            print(json.dumps({name: target.records[name] for name in target.done}), flush=True)
        target.put("config/tokenizer.json", "{}")
        write_items(target, PLANS, WORK, seconds=seconds)

        def manifest(hashes: dict[str, FileHash]) -> None:
            target.put(MANIFEST_NAME, json.dumps({name: entry.sha256 for name, entry in hashes.items()}))

        target.finish(manifest)


EXTRA = ("config/tokenizer.json", MANIFEST_NAME)


def assert_result(out: Path) -> None:
    """What `write_result` leaves, with hashes that are true."""
    assert_whole(out, EXTRA)
    for name, sha256 in json.loads((out / MANIFEST_NAME).read_text()).items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == sha256, name


def _in_child(work: Callable[[], None]) -> int:
    """Run it in a forked process; the signal that ended it, or 0."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:  # a child must never go on with what its parent was doing
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def _kill_at(step: int, root: Path) -> None:
    """Have this process killed just before it touches the file system below `root` for the step-th time."""
    steps = 0
    watched = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal steps
        if event in watched and (event == "os.truncate" or str(arguments[0]).startswith(str(root))):
            steps += 1
            if steps == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def die_at_every_step(root: Path, overwrite: bool) -> int:
    """Kill a run before each of its steps, run again, and look at the result each time; the number of kills."""
    out, step = root / "out", 0
    while True:
        step += 1
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        if overwrite:
            out.mkdir()
            (out / MANIFEST_NAME).write_text("the old one")

        def killed(step: int = step) -> None:
            _kill_at(step, root)
            write_result(out, overwrite=overwrite)

        ended = _in_child(killed) == 0
        old = out.exists() and (out / MANIFEST_NAME).read_text() == "the old one"
        if ended:
            assert_result(out)
            return step - 1
        if out.exists() and not old:
            (out / ".safelox-journal").unlink(missing_ok=True)  # the one thing that may not be cleared away yet
            assert_result(out)
        if not overwrite and out.exists():
            continue
        _in_child(lambda: write_result(out, overwrite=overwrite))
        assert_result(out)
        assert [path.name for path in root.iterdir()] == ["out"], f"left after step {step}"


if __name__ == "__main__":
    # Commits follow each other closely, so that there is something to resume.
    target_module._ROUND_SECONDS = 0.01
    if sys.argv[1] == "write":
        try:
            write_result(Path(sys.argv[2]), seconds=float(sys.argv[3]), tell=True)
        except TargetError as error:
            sys.exit(str(error))
    else:
        for module, name in ((os, "fsync"), (outfile_module, "_fdatasync")):
            setattr(module, name, lambda _descriptor: None)  # a kill loses nothing that a sync would save
        for overwrite in (False, True):
            print(die_at_every_step(Path(sys.argv[2]), overwrite))
