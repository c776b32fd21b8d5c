"""`--rank auto`: a rank from the spectra alone."""

import math
import statistics
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import safelox
from safelox.cli import main
from safelox.errors import PairingError, UsageError
from safelox.hardening import harden, plan_harden
from safelox.manifest import read_manifest
from safelox.spectra import auto as auto_module
from safelox.spectra.auto import auto_rank
from safelox.verification import verify
from tiny import llama_config, llama_tensors, write_checkpoint

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    root = tmp_path_factory.mktemp("pair")
    base = llama_tensors()
    aligned = llama_tensors(near=base, seed=1, step=0.1)
    aligned["lm_head.weight"] = base["lm_head.weight"]  # a delta of zero does not count
    for name, tensors in (("base", base), ("aligned", aligned)):
        write_checkpoint(root / name, tensors, config=llama_config())
    return str(root / "base"), str(root / "aligned")


def median_stable_rank(base: str, aligned: str) -> float:
    """By full SVDs."""
    ours, theirs = (load_file(Path(folder) / WEIGHTS) for folder in (base, aligned))
    found = []
    for name, weight in theirs.items():
        if weight.ndim == 2:
            values = torch.linalg.svdvals(weight.double() - ours[name].double())
            if float(values[0]) > 0:
                found.append(float(values.square().sum() / values[0].square()))
    return statistics.median(found)


def test_the_rank_is_the_median_stable_rank_rounded_up(pair: tuple[str, str], tmp_path: Path) -> None:
    expected = median_stable_rank(*pair)
    harden(*pair, tmp_path / "auto", rank="auto", coef=0.5)
    method = read_manifest(tmp_path / "auto").method
    assert method.auto_rank is not None
    assert method.auto_rank.value == pytest.approx(expected, rel=1e-5)
    assert method.rank == method.auto_rank.rank == math.ceil(expected)
    assert "stable rank" in method.auto_rank.rule
    harden(*pair, tmp_path / "given", rank=math.ceil(expected), coef=0.5)
    assert (tmp_path / "auto" / WEIGHTS).read_bytes() == (tmp_path / "given" / WEIGHTS).read_bytes()
    assert read_manifest(tmp_path / "given").method.auto_rank is None
    assert verify(tmp_path / "auto", recompute=2).ok


def test_a_subspace_file_gives_the_same_rank(
    pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "subspace.safetensors"
    safelox.decompose(*pair, file, rank=12)
    harden(*pair, tmp_path / "auto", rank="auto")
    monkeypatch.setattr(auto_module, "decompose_matrix", None)
    harden(*pair, tmp_path / "file", rank="auto", subspace=file)
    one, other = (read_manifest(tmp_path / name).method.auto_rank for name in ("auto", "file"))
    assert one is not None
    assert other is not None
    assert one.rank == other.rank
    assert one.value == pytest.approx(other.value, rel=1e-6)
    safelox.decompose(*pair, file, rank=1, overwrite=True)
    with pytest.raises(UsageError, match=rf"rank {one.rank} was asked for, but .* holds 1 direction"):
        harden(*pair, tmp_path / "small", rank="auto", subspace=file)


def test_only_selected_matrices_count(pair: tuple[str, str], tmp_path: Path) -> None:
    file = tmp_path / "subspace.safetensors"
    safelox.decompose(*pair, file, rank=12)
    wish = {"include": ["*down_proj*"]}
    harden(*pair, tmp_path / "auto", rank="auto", **wish)  # type: ignore[arg-type]
    harden(*pair, tmp_path / "file", rank="auto", subspace=file, **wish)  # type: ignore[arg-type]
    one, other = (read_manifest(tmp_path / name).method.auto_rank for name in ("auto", "file"))
    assert one is not None
    assert other is not None
    assert one.value == pytest.approx(other.value, rel=1e-6)
    assert one.value != pytest.approx(median_stable_rank(*pair), rel=1e-3)


def test_rounding_does_not_add_a_direction() -> None:
    assert auto_rank([1.0000001, 1.0, math.nan]).rank == 1
    assert auto_rank([2.5, 2.6, 9.0]).rank == 3
    assert auto_rank([3.0, 4.0]).rank == 4
    assert auto_rank([math.nan]).rank == 1


def test_the_plan_says_what_it_cannot_know(pair: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["harden", *pair, "out", "--rank", "auto", "--dry-run"]) == 0
    assert "rank auto is found when the weights are read" in capsys.readouterr().out
    assert plan_harden(*pair, rank="auto").disk_bytes == plan_harden(*pair, rank=3).disk_bytes
    with pytest.raises(UsageError, match="without the dry run"):
        plan_harden(*pair, rank="auto", adapter=True)


def test_the_summary_shows_the_rank_and_where_it_is_from(
    pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["harden", *pair, str(tmp_path / "out"), "-k", "auto", "--adapter"]) == 0
    assert "(auto: median stable rank" in capsys.readouterr().out
    assert verify(tmp_path / "out").ok


def test_models_that_do_not_belong_together_are_refused_before_the_pass(
    pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path / "other", llama_tensors(seed=9), config=llama_config())
    monkeypatch.setattr(auto_module, "decompose_matrix", None)
    with pytest.raises(PairingError, match="about as large as the weights"):
        harden(str(tmp_path / "other"), pair[1], tmp_path / "out", rank="auto")
    with pytest.raises(UsageError, match="negative"):
        harden(*pair, tmp_path / "out", rank="auto", coef=-1.0)
    assert not (tmp_path / "out").exists()
