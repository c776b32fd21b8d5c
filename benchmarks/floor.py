"""The least work that a certified hardening can do on this machine, without any of its algebra, step by step.

    python benchmarks/floor.py

For every matrix of the 134M-parameter pair, two at a time with one thread each: passes over the rows (subtract in fp32,
multiply by a block of 32 vectors and back), a pass that adds a rank-6 update and rounds, writing, and SHA-256 of what
was written. Two passes are the fewest after which a space and a bound of what lies outside of it can be known. No
start, no eigenvalues, no orthonormalisation, no bounds, no manifest: the result is worthless, only its time counts.
"""

import argparse
import hashlib
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import safe_open

from pairs import SHAPES, make_pair

WIDTH, RANK, BLOCK_BYTES = 32, 6, 2 << 20
STEPS = {
    "one pass": (1, False),
    "two passes": (2, False),
    "adding, rounding, writing, hashing": (0, True),
    "two passes and all of these": (2, True),
}
"""Passes over every matrix, and whether the result is written."""


def rows_of(matrix: torch.Tensor) -> range:
    return range(0, len(matrix), max(1, BLOCK_BYTES // (4 * matrix.shape[1])))


def one_pass(base: torch.Tensor, aligned: torch.Tensor) -> None:
    """D^T (D X) for a block X, with each block of rows used twice while it is in cache."""
    vectors = torch.randn(WIDTH, base.shape[1])
    images = torch.zeros_like(vectors)
    step = rows_of(base).step
    for start in rows_of(base):
        delta = aligned[start : start + step].float().sub_(base[start : start + step])
        images.addmm_((delta @ vectors.T).T, delta)


def add_and_round(aligned: torch.Tensor) -> list[torch.Tensor]:
    left, right = torch.randn(len(aligned), RANK), torch.randn(RANK, aligned.shape[1])
    step = rows_of(aligned).step
    return [
        torch.addmm(aligned[start : start + step].float(), left[start : start + step], right).bfloat16()
        for start in rows_of(aligned)
    ]


def run(base: Path, aligned: Path, out: Path, passes: int, *, finish: bool) -> float:
    """Wall seconds of that much of the work on all matrices."""
    with safe_open(base, "pt") as first, safe_open(aligned, "pt") as second, out.open("wb", buffering=0) as file:
        pairs = [(first.get_tensor(name), second.get_tensor(name)) for name in second.keys()]  # noqa: SIM118
        matrices = [pair for pair in pairs if pair[0].dim() == 2]

        def work(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
            for _ in range(passes):
                one_pass(*pair)
            if finish:
                for block in add_and_round(pair[1]):
                    data = block.view(torch.uint8).numpy().data
                    file.write(data)
                    hashlib.sha256(data)

        started = time.perf_counter()
        with ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(work, matrices))
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        base, aligned = make_pair(Path(name), SHAPES["134m"], "decaying")
        base_file, aligned_file = (next(folder.glob("*.safetensors")) for folder in (base, aligned))
        for step, (passes, finish) in STEPS.items():
            seconds = [
                run(base_file, aligned_file, Path(name) / "out", passes, finish=finish) for _ in range(arguments.rounds)
            ]
            print(f"{step:36} {statistics.median(seconds):.2f} s (n = {arguments.rounds})")


if __name__ == "__main__":
    main()
