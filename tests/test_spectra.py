"""Spectra of a subspace file: figures, their bounds, tables and pictures."""

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.main import get_command

import safelox
from safelox.cli import main
from safelox.cli.app import app
from safelox.cli.render_spectrum import render_spectrum
from safelox.errors import CheckpointError, PrerequisiteError, TargetError, UsageError
from safelox.spectra import MatrixSpectrum, SpectrumReport, draw_spectrum
from safelox.spectra.report import entropy_rank_bounds
from tiny import llama_config, llama_tensors, lora_tensors, write_adapter, write_checkpoint

PROJECTION = "model.layers.0.self_attn.q_proj.weight"


def entropy_rank(values: Tensor) -> float:
    shares = values.double().square()
    shares = shares[shares > 0] / shares.sum()
    return float(torch.exp(-(shares * shares.log()).sum()))


def decomposed(root: Path, rank: int, **changes: Tensor) -> tuple[Path, dict[str, Tensor]]:
    """A subspace file, and the deltas that it is of."""
    base = llama_tensors()
    aligned = llama_tensors(near=base, seed=1) | changes
    folders = [str(write_checkpoint(root / name, tensors)) for name, tensors in (("base", base), ("aligned", aligned))]
    file = root / "subspace.safetensors"
    safelox.decompose(folders[0], folders[1], file, rank=rank)
    return file, {name: aligned[name] - base[name] for name in base if base[name].ndim == 2}


def by_label(report: SpectrumReport) -> dict[str, MatrixSpectrum]:
    return {matrix.label: matrix for matrix in report.matrices}


def test_every_figure_equals_that_of_a_full_svd(tmp_path: Path) -> None:
    file, deltas = decomposed(tmp_path, 64)
    report = safelox.spectrum(file)
    found = by_label(report)
    assert set(found) == set(deltas)
    for name, delta in deltas.items():
        values = torch.linalg.svdvals(delta.double())
        energy = values.square().cumsum(0) / values.square().sum()
        matrix = found[name]
        assert matrix.singular_values == pytest.approx(values.tolist(), rel=1e-5)
        assert matrix.energy == pytest.approx(energy.tolist(), rel=1e-5)
        assert matrix.energy_at(3) == matrix.energy[2]
        assert matrix.energy_at(64) == pytest.approx(1)
        assert matrix.stable_rank == pytest.approx(float(1 / energy[0]), rel=1e-5)
        assert matrix.entropy_rank_low == matrix.entropy_rank_high == pytest.approx(entropy_rank(values), rel=1e-5)
    assert (report.rank, report.ranks) == (64, (1, 6, 16, 64))
    assert found[PROJECTION].layer == 0
    assert found[PROJECTION].module == "self_attn.q_proj"


@pytest.mark.parametrize("rank", [1, 3, 8, 15])
def test_a_file_of_fewer_directions_bounds_the_entropy_rank(tmp_path: Path, rank: int) -> None:
    file, deltas = decomposed(tmp_path, rank)
    for name, matrix in by_label(safelox.spectrum(file)).items():
        values = torch.linalg.svdvals(deltas[name].double())
        assert len(matrix.singular_values) == min(rank, *deltas[name].shape)
        assert matrix.entropy_rank_low * (1 - 1e-6) <= entropy_rank(values) <= matrix.entropy_rank_high * (1 + 1e-6)
        assert matrix.stable_rank == pytest.approx(float(values.square().sum() / values[0] ** 2), rel=1e-5)


def test_the_bounds_are_reached() -> None:
    """Of 4, 1 and three unknown ones that hold 2 in all: 1 and 1 spread least, 2/3 each spreads most."""
    low, high = entropy_rank_bounds([4.0, 1.0], 7.0, 5)
    assert low == pytest.approx(entropy_rank(torch.tensor([4.0, 1, 1, 1]).sqrt()))
    assert high == pytest.approx(entropy_rank(torch.tensor([4.0, 1, 2 / 3, 2 / 3, 2 / 3]).sqrt()))
    assert entropy_rank_bounds([1.0, 1.0], 4.0, 4) == pytest.approx((4, 4))
    assert entropy_rank_bounds([3.0], 3.0, 9) == (1, 1)
    # What rounding leaves over, or takes away, is no spectrum.
    assert entropy_rank_bounds([2.0, 2.0], 4 - 1e-12, 9) == pytest.approx((2, 2))
    assert entropy_rank_bounds([2.0, 2.0], 4 + 1e-12, 2) == (2, 2)
    low, high = entropy_rank_bounds([1.0, 0.0], 1 + 1e-14, 4)
    assert low <= high < 1 + 1e-9


def test_a_lora_delta_is_known_whole(tmp_path: Path) -> None:
    base = llama_tensors()
    folder = str(write_checkpoint(tmp_path / "base", base))
    adapter = write_adapter(tmp_path / "adapter", lora_tensors({PROJECTION: base[PROJECTION]}))
    file = tmp_path / "subspace.safetensors"
    safelox.decompose(folder, f"{folder}+{adapter}", file, rank=8)
    (matrix,) = safelox.spectrum(file).matrices
    assert len(matrix.singular_values) == 2
    assert matrix.energy_at(8) == pytest.approx(1)
    assert matrix.entropy_rank_high == pytest.approx(matrix.entropy_rank_low, rel=1e-4)


def test_means_by_layer_and_module(tmp_path: Path) -> None:
    zero = llama_tensors()[PROJECTION]
    file, _ = decomposed(tmp_path, 8, **{PROJECTION: zero})
    report = safelox.spectrum(file, ranks=[2, 5, 2])
    assert report.ranks == (2, 5)
    assert report.overall.zero_deltas == 1
    assert math.isnan(by_label(report)[PROJECTION].stable_rank)
    assert [group.layer for group in report.by_layer] == [0, 1, None]
    modules = {group.module: group.means for group in report.by_module}
    assert set(modules) >= {"embed_tokens", "lm_head", "self_attn.q_proj", "mlp.down_proj"}
    other = by_label(report)["model.layers.1.self_attn.q_proj.weight"]
    assert modules["self_attn.q_proj"].matrices == 1
    assert modules["self_attn.q_proj"].energy_at == {2: other.energy[1], 5: other.energy[4]}
    layer = [m for m in report.matrices if m.layer == 1]
    means = report.by_layer[1].means
    assert means.stable_rank == pytest.approx(sum(m.stable_rank for m in layer) / 7)
    assert means.relative_norm == pytest.approx(
        math.hypot(*(m.delta_norm for m in layer)) / math.hypot(*(m.weight_norm for m in layer))
    )
    text = render_spectrum(report)
    assert "energy at 2" in text
    assert "1 with a delta of zero" in text
    assert "outside all layers" in text


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    file, _ = decomposed(tmp_path, 4)
    for rank in (0, 5):
        with pytest.raises(UsageError, match=f"rank {rank} was asked for, but .* holds 4 directions"):
            safelox.spectrum(file, ranks=[rank])
    with pytest.raises(CheckpointError, match="no safety subspace"):
        safelox.spectrum(tmp_path / "base" / "model.safetensors")
    content = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    content[start : start + 8] = b"\0" * 8
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"singular values of .* are damaged"):
        safelox.spectrum(file)


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_a_picture_is_drawn(tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    file, _ = decomposed(tmp_path, 4, **{PROJECTION: llama_tensors()[PROJECTION]})
    picture = tmp_path / f"spectrum.{suffix}"
    assert main(["spectrum", str(file), "--plot", str(picture)]) == 0
    assert "self_attn.q_proj" in capsys.readouterr().out
    content = picture.read_bytes()
    assert content.startswith({"svg": b"<?xml", "png": b"\x89PNG"}[suffix])
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == sorted([file.name, picture.name])
    if suffix == "svg":
        assert content.count(b"<!-- self_attn.q_proj -->") == 1
        assert b"<!-- Entropy rank: between these bounds -->" in content
    assert main(["spectrum", str(file), "--plot", str(picture)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert main(["spectrum", str(file), "--plot", str(picture), "--overwrite", "-q"]) == 0
    assert picture.read_bytes() == content


def test_pictures_of_few_and_of_no_deltas(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    weights = {"other.weight": torch.eye(6)}
    config = llama_config()
    base = str(write_checkpoint(tmp_path / "base", weights, config=config))
    aligned = str(write_checkpoint(tmp_path / "aligned", {"other.weight": torch.zeros(6, 6)}, config=config))
    copy = str(write_checkpoint(tmp_path / "copy", weights, config=config))
    for number, other in enumerate((copy, aligned)):
        file = tmp_path / f"{number}.safetensors"
        safelox.decompose(base, other, file, rank=6, force=True)
        draw_spectrum(safelox.spectrum(file), tmp_path / f"{number}.svg")
        assert (tmp_path / f"{number}.svg").stat().st_size > 1000


def test_a_picture_that_cannot_be_drawn_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, _ = decomposed(tmp_path, 4)
    report = safelox.spectrum(file)
    with pytest.raises(UsageError, match=r"ends in \.svg or \.png"):
        draw_spectrum(report, tmp_path / "spectrum.jpeg")
    with pytest.raises(TargetError, match="there is no folder"):
        draw_spectrum(report, tmp_path / "nowhere" / "spectrum.svg")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(PrerequisiteError, match=r"pip install 'safelox\[report\]'"):
        draw_spectrum(report, tmp_path / "spectrum.svg")
    assert main(["spectrum", str(file), "--plot", str(tmp_path / "spectrum.svg")]) == 1
    captured = capsys.readouterr()
    assert not captured.out
    assert "matplotlib, which is not installed" in captured.err
    assert not (tmp_path / "spectrum.svg").exists()
    assert main(["spectrum", str(file), "-q"]) == 0


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    file, _ = decomposed(tmp_path, 4)

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(TargetError, match=r"spectrum\.svg: cannot be written: No space left on device"):
        draw_spectrum(safelox.spectrum(file), tmp_path / "spectrum.svg")
    assert not list(tmp_path.glob("*.svg*"))
    assert not list(tmp_path.glob(".*"))


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, _ = decomposed(tmp_path, 4)
    assert main(["spectrum", str(file), "-k", "1", "-k", "4", "--json", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert (tmp_path / "out" / "spectrum.json").read_text(encoding="utf-8") == printed
    report = SpectrumReport.model_validate_json(printed)
    assert report.command == f"safelox spectrum {file} -k 1 -k 4 --json --out {tmp_path}/out"
    assert report.matrices == safelox.spectrum(file, ranks=[1, 4]).matrices
    assert report.overall.energy_at.keys() == {1, 4}
    assert len(json.loads(printed)["matrices"][0]["singular_values"]) == 4
    assert main(["spectrum", str(file), "-k", "9"]) == 2
    assert "holds 4 directions" in capsys.readouterr().err


def test_the_docs_name_options_that_there_are() -> None:
    text = (Path(__file__).parents[1] / "docs" / "drift.md").read_text(encoding="utf-8")
    command = get_command(app)
    for name, part in (("drift", text.split("# Spectra")[0]), ("spectrum", text.split("# Spectra")[1])):
        known = {option for parameter in command.commands[name].params for option in parameter.opts}  # type: ignore[attr-defined]
        own = re.sub(r"`safelox demo [^`]*`", "", part)
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", own))
        assert named
        assert named <= known, name
