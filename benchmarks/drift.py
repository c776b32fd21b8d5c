"""How fast `safelox drift` is beside a plain full-SVD script, how far their figures differ, and what memory it takes.

    python benchmarks/drift.py --shape 617m
    python benchmarks/drift.py --shape 134m --kind small

The models are made on the spot: a pair (`pairs.py`), and a third one that a fine-tuning of decaying spectrum made of
ALIGNED. Each candidate is a process of its own and runs once. Processor seconds are those of all threads: they
hardly depend on what else the machine does.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from pairs import BULK, DIRECTIONS, SHAPES, WEIGHT, Shape, make_pair

SHARE = 0.02
"""||tuning|| / ||W||."""


def make_tuned(aligned: Path, tuned: Path, seed: int = 1) -> Path:
    """Write what a fine-tuning made of ALIGNED: singular values 1/i over a Gaussian bulk, as those of the pair."""
    shutil.copytree(aligned, tuned)
    generator = torch.Generator().manual_seed(seed)
    for file in sorted(tuned.glob("*.safetensors")):
        tensors = load_file(file)
        for name, weight in tensors.items():
            if weight.dim() == 2:
                rows, columns = weight.shape
                count = min(DIRECTIONS, rows, columns)
                left = torch.randn(rows, count, generator=generator) / math.sqrt(rows) / torch.arange(1, count + 1)
                right = torch.randn(count, columns, generator=generator) / math.sqrt(columns)
                change = torch.randn(rows, columns, generator=generator).mul_(BULK / math.sqrt(rows * columns))
                change.addmm_(left, right).mul_(SHARE * WEIGHT * math.sqrt(rows * columns) / 1.3)
                tensors[name] = change.add_(weight).to(weight.dtype)
        file.unlink()  # it may be mapped
        save_file(tensors, file, {"format": "pt"})
    return tuned


def candidate(command: list[str]) -> tuple[dict[str, float], str]:
    """Wall and processor seconds and peak resident bytes of a whole process, and what it printed."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(command, stdout=printed)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{command} failed")
        wall = time.perf_counter() - started
        printed.seek(0)
        return {"wall": wall, "processor": usage.ru_utime + usage.ru_stime, "peak": usage.ru_maxrss * 1024.0}, (
            printed.read()
        )


def line(name: str, usage: dict[str, float], more: str) -> None:
    seconds = f"{usage['wall']:8.1f} s wall{usage['processor']:8.1f} s of processor"
    print(f"  {name:28}{seconds}{usage['peak'] / 1e9:7.2f} GB {more}", flush=True)


def run(folder: Path, shape: Shape, kind: str, options: list[str]) -> None:
    base, aligned = make_pair(folder / "pair", shape, kind)  # type: ignore[arg-type]
    models = [str(base), str(aligned), str(make_tuned(aligned, folder / "pair" / "tuned"))]
    parameters = sum(rows * columns for _, rows, columns in shape.matrices())
    cores = len(os.sched_getaffinity(0))
    print(
        f"{parameters / 1e6:.0f}M parameters, {kind} delta, rank 100, {cores} cores; whole processes, resident memory"
    )
    reports, usages = {}, {}
    for name, more in (("safelox drift", []), ("safelox drift --no-overlap", ["--no-overlap"])):
        command = [sys.executable, "-m", "safelox", "drift", *models, "-k", "100", "--json", "--quiet", *more, *options]
        usages[name], printed = candidate(command)
        reports[name] = json.loads(printed)
        line(name, usages[name], f"({reports[name]['peak_memory_bytes'] / 1e9:.2f} GB anonymous)")
    usage, printed = candidate([sys.executable, str(Path(__file__).with_name("plain_drift.py")), *models])
    plain = json.loads(printed)
    line("plain full SVD", usage, f"(products with U U^T: {plain['products']:.1f} s of processor)")
    for name, ours in usages.items():
        wall, processor = (usage[what] / ours[what] for what in ("wall", "processor"))
        print(f"  plain against {name}: {wall:.1f} times as long, {processor:.1f} times the processor time")
    found = {matrix["name"]: (matrix["r_align"], matrix["r_ft"]) for matrix in reports["safelox drift"]["matrices"]}
    assert found.keys() == plain["figures"].keys()
    worst = max(abs(a - b) for name in found for a, b in zip(found[name], plain["figures"][name], strict=True))
    print(f"  largest difference of a figure, the plain one in fp32: {worst:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="617m")
    parser.add_argument("--layers", type=int, help="fewer layers than the shape has, of the same matrices")
    parser.add_argument("--kind", choices=("decaying", "small", "flat"), default="decaying")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder by default")
    parser.add_argument("options", nargs="*", help="further options of safelox drift, after --")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        shape = SHAPES[arguments.shape]
        if arguments.layers:
            shape = replace(shape, layers=arguments.layers)
        run(Path(folder), shape, arguments.kind, arguments.options)


if __name__ == "__main__":
    main()
