"""How much memory `harden` takes: what the plan says, no more than is allowed, and no more for more tensors."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from reference import write_pair

MEGABYTE = 1_000_000
PROGRAM = """
import json, sys
from safelox import engine, harden, plan_harden
from safelox.lowrank import exact
base, aligned, out, options = *sys.argv[1:4], json.loads(sys.argv[4])
exact.LARGE = engine.LARGE = options.pop("large", exact.LARGE)
planned = plan_harden(base, aligned, **options).peak_memory_bytes
summary = harden(base, aligned, out, hash_sources=False, **options)
routes = sorted({record.route for record in summary.manifest.matrices})
print(json.dumps({"planned": planned, "peak": summary.peak_memory_bytes, "routes": routes}))
"""


def write_matrices(root: Path, shapes: Mapping[str, tuple[int, int]], *, flat: bool = False) -> tuple[str, str]:
    generator = torch.Generator().manual_seed(0)
    base, aligned = {}, {}
    for name, (rows, columns) in shapes.items():
        weight = torch.randn(rows, columns, generator=generator)
        if flat:
            delta = 0.1 * torch.randn(rows, columns, generator=generator)
        else:
            left = torch.randn(rows, 40, generator=generator) * 0.7 ** torch.arange(40)
            delta = 0.05 * left @ torch.randn(40, columns, generator=generator)
        base[f"{name}.weight"], aligned[f"{name}.weight"] = weight.bfloat16(), (weight + delta).bfloat16()
    return write_pair(root, base, aligned, base_shards=1, aligned_shards=1)


def measure(sources: tuple[str, str], out: Path, **options: Any) -> Any:
    """Planned and peak memory of a run in a process of its own."""
    command = [sys.executable, "-c", PROGRAM, *sources, str(out), json.dumps({"workers": 1} | options)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_memory_does_not_grow_with_the_number_of_tensors(tmp_path: Path) -> None:
    one = write_matrices(tmp_path / "one", {"a": (1500, 1500)})
    many = write_matrices(tmp_path / "many", dict.fromkeys("abcdefgh", (1500, 1500)))
    few, more = measure(one, tmp_path / "out1"), measure(many, tmp_path / "out8")
    assert more["peak"] < few["peak"] + 15 * MEGABYTE, "a matrix of fp32 has 9 MB, and 8 of them 72 MB"
    assert more["peak"] < more["planned"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "flat", "route"),
    [
        ((8192, 8192), False, "krylov"),
        ((4096, 4096), True, "gram"),
        ((2048, 12000), True, "gram"),
        ((12000, 2048), True, "gram"),
        ((128, 150_000), False, "svd"),
        ((150_000, 128), False, "svd"),
    ],
    ids=str,
)
def test_the_plan_holds_and_so_does_the_limit(tmp_path: Path, shape: tuple[int, int], flat: bool, route: str) -> None:
    sources = write_matrices(tmp_path, {"a": shape}, flat=flat)
    seen = measure(sources, tmp_path / "out")
    assert seen["routes"] == [route]
    assert seen["peak"] <= seen["planned"]
    assert seen["planned"] < 1000 * MEGABYTE + 2 * 4 * shape[0] * shape[1]
    limited = measure(sources, tmp_path / "limited", max_memory=seen["planned"] + 10 * MEGABYTE)
    assert limited["peak"] <= seen["planned"] + 10 * MEGABYTE


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(4096, 4096), (3072, 9000), (9000, 3072)], ids=str)
def test_a_large_gram_matrix_takes_half_of_what_a_small_one_does(tmp_path: Path, shape: tuple[int, int]) -> None:
    sources = write_matrices(tmp_path, {"a": shape}, flat=True)
    small, large = measure(sources, tmp_path / "small"), measure(sources, tmp_path / "large", large=3000)
    assert large["routes"] == ["gram"]
    assert large["planned"] < small["planned"] - 7 * min(shape) ** 2
    assert large["peak"] <= large["planned"]


@pytest.mark.slow
def test_a_matrix_of_400_mb(tmp_path: Path) -> None:
    sources = write_matrices(tmp_path, {"a": (16384, 12800)})
    seen = measure(sources, tmp_path / "out", workers=2)
    assert seen["routes"] == ["krylov"]
    assert seen["peak"] < 400 * MEGABYTE, "less than the matrix as it is stored"
