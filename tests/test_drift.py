import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import safelox
from safelox.attacks import attack
from safelox.cli import main
from safelox.cli.render_drift import render_drift
from safelox.drift_metrics import DriftGroup, DriftMeans, DriftReport, MatrixDrift, draw_drift
from safelox.errors import CheckpointError, PairingError, UsageError
from safelox.hardening import harden
from safelox.lab.attacks import ARITHMETIC, PURE_BAD
from safelox.lab.build import LabModels
from safelox.methods import ControlName
from safelox.pairing.naming import place
from tiny import llama_config, llama_tensors, lora_tensors, write_adapter, write_checkpoint, write_json

HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"
PROJECTION = "model.layers.0.self_attn.q_proj.weight"
WIDE: dict[str, Any] = {"hidden": 24, "intermediate": 40, "vocabulary": 48}


def naive(base: Tensor, aligned: Tensor, tuned: Tensor, rank: int) -> tuple[float, float, float]:
    """R_align, R_ft and the share of the tuning's energy as they are defined, with a full SVD and U U^T, in fp64."""
    d_align, d_ft = aligned.double() - base.double(), tuned.double() - base.double()
    u = torch.linalg.svd(d_align, full_matrices=False)[0][:, :rank]
    projector = u @ u.T
    r_align, r_ft = (float((projector @ d).norm() / d.norm()) for d in (d_align, d_ft))
    tuning = d_ft - d_align
    return r_align, r_ft, float((projector @ tuning).norm() / tuning.norm()) ** 2


Models = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]


def models(*, near: Mapping[str, Tensor] | None = None, **shape: Any) -> Models:
    """A base, an aligned and a tuned model; the last was tuned from `near`, or from the aligned one."""
    base = llama_tensors(**shape)
    aligned = llama_tensors(near=base, seed=1, **shape)
    return base, aligned, llama_tensors(near=near or aligned, seed=2, step=0.01, **shape)


def written(root: Path, triple: tuple[Mapping[str, Tensor], ...], **shape: Any) -> tuple[str, str, str]:
    config = llama_config(**shape)
    names = ("base", "aligned", "tuned")
    folders = [write_checkpoint(root / name, t, config=config) for name, t in zip(names, triple, strict=True)]
    return str(folders[0]), str(folders[1]), str(folders[2])


def measured(tensors: Mapping[str, Tensor]) -> list[str]:
    return [name for name, tensor in tensors.items() if tensor.ndim == 2 and name != EMBEDDING]


def by_label(report: DriftReport) -> dict[str, MatrixDrift]:
    return {matrix.label: matrix for matrix in report.matrices}


def naive_angles(base: Tensor, aligned: Tensor, tuned: Tensor, rank: int) -> list[float]:
    """The principal angles of the two leading spaces, in degrees, ascending, from two full SVDs in fp64."""
    u, v = (torch.linalg.svd(side.double() - base.double())[0][:, :rank] for side in (aligned, tuned))
    cosines = torch.linalg.svdvals(u.T @ v).clamp(max=1)
    return torch.rad2deg(torch.arccos(cosines)).tolist()


def hardened_as(base: Mapping[str, Tensor], aligned: Mapping[str, Tensor], rank: int = 2) -> dict[str, Tensor]:
    """LoX by its formula, coefficient 1.25."""
    result = dict(aligned)
    for name in measured(base):
        u, s, vh = torch.linalg.svd(aligned[name] - base[name], full_matrices=False)
        result[name] = aligned[name] + 1.25 * (u[:, :rank] * s[:rank]) @ vh[:rank]
    return result


def with_vocabulary(folder: str, tokens: list[str]) -> None:
    """A tokenizer for a model folder; the tokens in the order of their ids."""
    vocabulary = {token: i for i, token in enumerate(tokens)}
    write_json(Path(folder) / "tokenizer.json", {"model": {"vocab": vocabulary}, "added_tokens": []})


def figures(report: DriftReport) -> tuple[tuple[MatrixDrift, ...], DriftMeans]:
    return report.matrices, report.overall


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", [1, 5, 100])
def test_every_figure_equals_the_naive_formula(tmp_path: Path, rank: int, dtype: torch.dtype) -> None:
    base, aligned, tuned = models(**WIDE, dtype=dtype)
    report = safelox.drift(*written(tmp_path, (base, aligned, tuned), **WIDE), rank=rank)
    found = by_label(report)
    assert set(found) == set(measured(base))
    exact = {name: naive(base[name], aligned[name], tuned[name], rank) for name in found}
    for name, (r_align, r_ft, share) in exact.items():
        matrix = found[name]
        assert (matrix.r_align, matrix.r_ft, matrix.tuning_share) == pytest.approx((r_align, r_ft, share), abs=1e-6)
        assert matrix.directions == min(rank, *base[name].shape)
        w_base, w_aligned, w_tuned = (side[name].double() for side in (base, aligned, tuned))
        assert matrix.aligned_delta_norm == pytest.approx(float((w_aligned - w_base).norm()))
        assert matrix.tuned_delta_norm == pytest.approx(float((w_tuned - w_base).norm()))
        assert matrix.tuning_norm == pytest.approx(float((w_tuned - w_aligned).norm()))
    count = len(exact)
    mean_align, mean_ft = (sum(values[i] for values in exact.values()) / count for i in (0, 1))
    overall = report.overall
    assert (overall.matrices, overall.zero_deltas, report.apart) == (count, 0, {})
    assert (overall.r_align, overall.r_ft) == pytest.approx((mean_align, mean_ft), abs=1e-6)
    assert overall.ratio_of_means == pytest.approx(mean_ft / mean_align, abs=1e-6)
    ratios = [r_ft / r_align for r_align, r_ft, _ in exact.values()]
    assert overall.mean_of_ratios == pytest.approx(sum(ratios) / count, abs=1e-6)
    energies = {name: found[name].tuning_norm ** 2 for name in found}
    inside = sum(exact[name][2] * energies[name] for name in found)
    assert overall.tuning_share == pytest.approx(inside / sum(energies.values()), abs=1e-6)
    chance = sum(min(rank, *base[name].shape) / base[name].shape[0] * energies[name] for name in found)
    assert overall.tuning_share_by_chance == pytest.approx(chance / sum(energies.values()))


def test_a_matrix_beyond_the_plain_svd_equals_the_naive_formula_too(tmp_path: Path) -> None:
    shape: dict[str, Any] = {"hidden": 320, "intermediate": 200, "layers": 1}
    base, aligned, tuned = models(**shape)
    names = "model.layers.0.mlp.*_proj.weight"
    folders = written(tmp_path, (base, aligned, tuned), **shape)
    for rank in (6, 100):
        report = safelox.drift(*folders, rank=rank, include=[names])
        assert len(report.matrices) == 3
        for name, matrix in by_label(report).items():
            exact = naive(base[name], aligned[name], tuned[name], rank)
            assert (matrix.r_align, matrix.r_ft, matrix.tuning_share) == pytest.approx(exact, abs=1e-6)


def test_the_cut_is_exact_where_singular_values_are_close(tmp_path: Path) -> None:
    name, rank = "model.layers.0.mlp.up_proj.weight", 4
    shape: dict[str, Any] = {"hidden": 180, "intermediate": 200, "layers": 1}
    base, aligned, tuned = models(**shape)
    generator = torch.Generator().manual_seed(3)
    left = torch.linalg.qr(torch.randn(200, 180, generator=generator))[0]
    right = torch.linalg.qr(torch.randn(180, 180, generator=generator))[0]
    values = torch.cat([torch.tensor([10.0]), 1 - 1e-4 * torch.arange(8), torch.linspace(0.6, 0.1, 171)])
    base[name].zero_()
    aligned[name] = left * values @ right.T
    tuned[name] = aligned[name] + 0.1 * torch.randn(200, 180, generator=generator)
    matrix = by_label(safelox.drift(*written(tmp_path, (base, aligned, tuned), **shape), rank=rank))[name]
    exact = naive(base[name], aligned[name], tuned[name], rank)
    assert (matrix.r_align, matrix.r_ft, matrix.tuning_share) == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("rank", [3, 30])
def test_figures_over_a_floor_of_noise_are_exact(tmp_path: Path, rank: int) -> None:
    """In bf16 a small delta drowns in rounding: no gap tells the leading directions from the others."""
    shape: dict[str, Any] = {"hidden": 256, "intermediate": 320, "layers": 1, "dtype": torch.bfloat16}
    base, _, _ = models(**shape)
    name = "model.layers.0.mlp.up_proj.weight"
    generator = torch.Generator().manual_seed(4)
    sides: list[dict[str, Tensor]] = []
    for _ in range(2):
        thin = (
            torch.randn(320, 40, generator=generator) / torch.arange(1, 41),
            torch.randn(40, 256, generator=generator),
        )
        noise = 0.5 * torch.randn(320, 256, generator=generator)
        near = sides[-1] if sides else base
        sides.append({**base, name: (near[name].float() + 1e-4 * (thin[0] @ thin[1] + noise)).bfloat16()})
    folders = written(tmp_path, (base, *sides), hidden=256, intermediate=320, layers=1)
    (matrix,) = safelox.drift(*folders, rank=rank, include=[name]).matrices
    exact = naive(base[name], sides[0][name], sides[1][name], rank)
    assert (matrix.r_align, matrix.r_ft, matrix.tuning_share) == pytest.approx(exact, abs=1e-6)


def test_the_full_rank_holds_everything_but_what_a_tall_matrix_can_add(tmp_path: Path) -> None:
    found = by_label(safelox.drift(*written(tmp_path, models())))
    wide, tall = found["model.layers.0.mlp.down_proj.weight"], found["model.layers.0.mlp.up_proj.weight"]
    assert (wide.r_align, wide.r_ft, wide.tuning_share) == pytest.approx((1, 1, 1))
    assert tall.r_align == pytest.approx(1)
    assert tall.r_ft < 0.99


def test_directions_without_any_alignment_are_no_part_of_the_subspace(tmp_path: Path) -> None:
    base, aligned, tuned = models()
    generator = torch.Generator().manual_seed(5)
    base[PROJECTION].zero_()
    thin = torch.randn(16, 2, generator=generator), torch.randn(2, 16, generator=generator)
    aligned[PROJECTION] = thin[0] @ thin[1]
    matrix = by_label(safelox.drift(*written(tmp_path, (base, aligned, tuned)), rank=6))[PROJECTION]
    assert matrix.directions == 2
    exact = naive(base[PROJECTION], aligned[PROJECTION], tuned[PROJECTION], 2)
    assert (matrix.r_align, matrix.r_ft, matrix.tuning_share) == pytest.approx(exact, abs=1e-6)


def test_zero_deltas_are_counted_and_left_out(tmp_path: Path) -> None:
    base, aligned, tuned = models()
    undone = "model.layers.1.self_attn.o_proj.weight"
    aligned[PROJECTION] = base[PROJECTION]
    tuned[undone] = base[undone]
    report = safelox.drift(*written(tmp_path, (base, aligned, tuned)), rank=3)
    found = by_label(report)
    assert math.isnan(found[PROJECTION].r_align)
    assert math.isnan(found[PROJECTION].r_ft)
    assert math.isnan(found[PROJECTION].tuning_share)
    assert found[PROJECTION].directions == 0
    assert found[PROJECTION].tuned_delta_norm > 0
    assert math.isnan(found[undone].r_ft)
    assert 0 < found[undone].r_align < 1
    assert found[undone].tuning_share == pytest.approx(found[undone].r_align ** 2)
    assert (report.overall.matrices, report.overall.zero_deltas) == (len(found) - 2, 2)
    others = [m.r_align for m in report.matrices if m.label not in (PROJECTION, undone)]
    assert report.overall.r_align == pytest.approx(sum(others) / len(others))


def test_no_delta_at_all_gives_nan(tmp_path: Path) -> None:
    base, _, tuned = models()
    overall = safelox.drift(*written(tmp_path, (base, base, tuned)), rank=3).overall
    assert overall.matrices == 0
    assert all(math.isnan(x) for x in (overall.r_align, overall.r_ft, overall.ratio_of_means, overall.tuning_share))


def test_an_untouched_model_has_not_drifted(tmp_path: Path) -> None:
    base, aligned, _ = models()
    report = safelox.drift(*written(tmp_path, (base, aligned, aligned)), rank=3)
    assert report.overall.ratio_of_means == report.overall.mean_of_ratios == 1
    for matrix in report.matrices:
        assert matrix.r_ft == matrix.r_align
        assert matrix.tuning_norm == 0
        assert math.isnan(matrix.tuning_share)


def test_workers_do_not_change_a_figure(tmp_path: Path) -> None:
    shape: dict[str, Any] = {"hidden": 160, "intermediate": 192}
    folders = written(tmp_path, models(**shape), **shape)
    assert figures(safelox.drift(*folders, rank=9, workers=1)) == figures(safelox.drift(*folders, rank=9, workers=3))


def test_a_tied_head_is_measured_once_and_found_under_either_name(tmp_path: Path) -> None:
    base, aligned, tuned = models(tied=True)
    folders = written(tmp_path, (base, aligned, tuned), tied=True)
    report = safelox.drift(*folders, rank=3)
    exact = naive(base[EMBEDDING], aligned[EMBEDDING], tuned[EMBEDDING], 3)
    head = by_label(report)[EMBEDDING]
    assert (head.r_align, head.r_ft, head.tuning_share) == pytest.approx(exact, abs=1e-6)
    twice = {**tuned, HEAD: tuned[EMBEDDING]}
    write_checkpoint(Path(folders[2]), twice, config=llama_config(tied=True))
    assert figures(safelox.drift(*folders, rank=3)) == figures(report)
    both = [{**side, HEAD: side[EMBEDDING]} for side in (base, aligned)]
    for folder, tensors in zip(folders, both, strict=False):
        write_checkpoint(Path(folder), tensors, config=llama_config(tied=True))
    write_checkpoint(Path(folders[2]), tuned, config=llama_config(tied=True))
    swapped = safelox.drift(*folders, rank=3)
    assert EMBEDDING not in by_label(swapped)
    assert by_label(swapped)[HEAD].r_ft == head.r_ft
    assert any(item.name == EMBEDDING for item in swapped.carried)


def test_what_is_left_out(tmp_path: Path) -> None:
    folders = written(tmp_path, models())
    without = by_label(safelox.drift(*folders, embeddings=False, exclude=["*q_proj*"]))
    assert HEAD not in without
    assert not any("q_proj" in label for label in without)
    assert len(without) == 12
    with pytest.raises(PairingError, match="nothing is left to measure"):
        safelox.drift(*folders, include=[EMBEDDING])


def test_experts_are_averaged_apart(tmp_path: Path) -> None:
    base, aligned, tuned = models()
    experts = "model.layers.0.mlp.experts.down_proj"
    for seed, side in enumerate((base, aligned, tuned)):
        side[experts] = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(seed))
    report = safelox.drift(*written(tmp_path, (base, aligned, tuned)), rank=2)
    exact = [naive(base[experts][i], aligned[experts][i], tuned[experts][i], 2) for i in (0, 1)]
    found = by_label(report)
    for i, values in enumerate(exact):
        matrix = found[f"{experts}[{i}]"]
        assert matrix.kind == "experts"
        assert (matrix.r_align, matrix.r_ft, matrix.tuning_share) == pytest.approx(values, abs=1e-6)
    assert set(report.apart) == {"experts"}
    assert report.apart["experts"].matrices == 2
    assert report.apart["experts"].r_ft == pytest.approx((exact[0][1] + exact[1][1]) / 2, abs=1e-6)
    assert report.overall.matrices == len(found) - 2


def test_conv1d_layers_are_averaged_apart_and_the_head_is_not(tmp_path: Path) -> None:
    shapes = {"wte.weight": (20, 8), "wpe.weight": (10, 8)}
    shapes |= {"h.0.attn.c_attn.weight": (8, 24), "h.0.mlp.c_fc.weight": (8, 32)}
    config = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "vocab_size": 20, "tie_word_embeddings": True}
    folders = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        folders.append(str(write_checkpoint(tmp_path / str(seed), tensors, config=config)))
    report = safelox.drift(folders[0], folders[1], folders[2], rank=2)
    kinds = {label: matrix.kind for label, matrix in by_label(report).items()}
    assert kinds == {"wte.weight": "linear", "h.0.attn.c_attn.weight": "conv1d", "h.0.mlp.c_fc.weight": "conv1d"}
    assert (report.overall.matrices, report.apart["conv1d"].matrices) == (1, 2)


def test_tuned_may_be_an_adapter(tmp_path: Path) -> None:
    base, aligned, _ = models()
    lora = lora_tensors({PROJECTION: aligned[PROJECTION]})
    folders = written(tmp_path, (base, aligned, aligned))
    adapter = write_adapter(tmp_path / "adapter", lora)
    found = by_label(safelox.drift(folders[0], folders[1], f"{folders[1]}+{adapter}", rank=3))
    a, b = lora.values()
    exact = naive(base[PROJECTION], aligned[PROJECTION], aligned[PROJECTION].double() + 3 * b.double() @ a.double(), 3)
    matrix = found[PROJECTION]
    assert (matrix.r_align, matrix.r_ft, matrix.tuning_share) == pytest.approx(exact, abs=1e-6)
    assert all(other.tuning_norm == 0 for label, other in found.items() if label != PROJECTION)


def test_where_aligned_is_an_adapter_over_base_the_rest_is_a_zero_delta(tmp_path: Path) -> None:
    base, _, tuned = models()
    lora = lora_tensors({PROJECTION: base[PROJECTION]})
    folders = written(tmp_path, (base, base, tuned))
    adapter = write_adapter(tmp_path / "adapter", lora)
    report = safelox.drift(folders[0], f"{folders[0]}+{adapter}", folders[2], rank=100)
    a, b = lora.values()
    exact = naive(base[PROJECTION], base[PROJECTION].double() + 3 * b.double() @ a.double(), tuned[PROJECTION], 2)
    matrix = by_label(report)[PROJECTION]
    assert matrix.directions == 2
    assert (matrix.r_align, matrix.r_ft) == pytest.approx(exact[:2], abs=1e-6)
    assert (report.overall.matrices, report.overall.zero_deltas) == (1, len(measured(base)) - 1)
    assert not any(item.reason == "not changed by the adapter" for item in report.carried if item.name != EMBEDDING)


def test_a_tuned_model_that_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    base, aligned, tuned = models()
    del tuned[PROJECTION]
    tuned[HEAD] = torch.randn(33, 16)
    tuned["model.layers.1.mlp.up_proj.weight"] = torch.ones(24, 16, dtype=torch.int32)
    folders = written(tmp_path, (base, aligned, tuned))
    with pytest.raises(PairingError) as caught:
        safelox.drift(*folders)
    text = str(caught.value)
    assert "TUNED is quantised" in text
    tuned["model.layers.1.mlp.up_proj.weight"] = torch.ones(24, 16)
    write_checkpoint(Path(folders[2]), tuned)
    with pytest.raises(PairingError) as caught:
        safelox.drift(*folders)
    text = str(caught.value)
    assert f"TUNED lacks 1 tensor that ALIGNED has: {PROJECTION}" in text
    assert f"{HEAD} has 32 rows in ALIGNED and 33 in TUNED, and rows are never matched by their place" in text
    assert "TUNED has no tokenizer" in text
    assert PROJECTION not in by_label(safelox.drift(*folders, exclude=[PROJECTION], embeddings=False))


def test_a_tuned_model_without_floating_point_values_is_refused_by_name(tmp_path: Path) -> None:
    base, aligned, tuned = models()
    experts = "model.layers.0.mlp.experts.down_proj"
    for side in (base, aligned, tuned):
        side[experts] = torch.ones(2, 6, 8, dtype=torch.int32 if side is tuned else torch.float32)
    with pytest.raises(PairingError, match=rf"TUNED has no floating-point values in 1 tensor: {experts} \(I32\)"):
        safelox.drift(*written(tmp_path, (base, aligned, tuned)))


def test_values_that_are_not_finite_are_refused_by_name(tmp_path: Path) -> None:
    base, aligned, tuned = models()
    tuned[PROJECTION][3, 3] = math.nan
    with pytest.raises(CheckpointError, match=rf"tensor {PROJECTION} of .*tuned.* NaN or infinite"):
        safelox.drift(*written(tmp_path, (base, aligned, tuned)))


@pytest.mark.parametrize("options", [{"rank": 0}, {"workers": 0}, {"device": "abacus"}, {"max_memory": 10}])
def test_arguments_that_make_no_sense(tmp_path: Path, options: dict[str, Any]) -> None:
    folders = written(tmp_path, models())
    with pytest.raises(UsageError):
        safelox.drift(*folders, **options)


def test_tokens_that_aligned_added_are_left_alone(tmp_path: Path) -> None:
    """Rows of tokens that BASE does not know count for neither delta."""
    base, aligned, tuned = models()
    grown = [
        side | {name: torch.cat([side[name], torch.full((2, 16), value)]) for name in (EMBEDDING, HEAD)}
        for side, value in ((aligned, 9.0), (tuned, -9.0))
    ]
    folders = written(tmp_path, (base, *grown))
    for folder, size in zip(folders, (32, 34, 34), strict=True):
        vocabulary = {f"t{i}": i for i in range(size)}
        write_json(Path(folder) / "tokenizer.json", {"model": {"vocab": vocabulary}, "added_tokens": []})
    with pytest.raises(PairingError, match="--vocab common"):
        safelox.drift(*folders)
    head = by_label(safelox.drift(*folders, rank=3, vocab="common"))[HEAD]
    exact = naive(base[HEAD], aligned[HEAD], tuned[HEAD], 3)
    assert (head.r_align, head.r_ft, head.tuning_share) == pytest.approx(exact, abs=1e-6)


def test_the_overlap_is_that_of_the_two_leading_spaces(tmp_path: Path) -> None:
    base, aligned, tuned = models(**WIDE)
    report = safelox.drift(*written(tmp_path, (base, aligned, tuned), **WIDE), rank=5)
    overlaps = []
    for name, matrix in by_label(report).items():
        exact = naive_angles(base[name], aligned[name], tuned[name], 5)
        assert matrix.principal_angles == pytest.approx(exact, abs=1e-4)
        overlaps.append(sum(math.cos(math.radians(angle)) ** 2 for angle in exact) / 5)
        assert matrix.overlap == pytest.approx(overlaps[-1], abs=1e-6)
    assert report.overall.overlap == pytest.approx(sum(overlaps) / len(overlaps), abs=1e-6)
    chance = sum(5 / matrix.rows for matrix in report.matrices) / len(report.matrices)
    assert report.overall.overlap_by_chance == pytest.approx(chance)


def test_the_overlap_has_its_bounds(tmp_path: Path) -> None:
    base, aligned, tuned = models()
    for side, (row, value) in zip((base, aligned, tuned), ((0, 0.0), (2, 3.0), (5, 4.0)), strict=True):
        side[PROJECTION] = torch.zeros(16, 16)
        side[PROJECTION][row, 1] = value
    found = by_label(safelox.drift(*written(tmp_path, (base, aligned, tuned)), rank=3))
    assert found[PROJECTION].directions == 1
    assert found[PROJECTION].principal_angles == pytest.approx([90])
    assert found[PROJECTION].overlap == pytest.approx(0, abs=1e-12)
    same = safelox.drift(*written(tmp_path / "same", (base, aligned, aligned)), rank=3)
    assert all(matrix.overlap == pytest.approx(1, abs=1e-6) for matrix in same.matrices)


def test_the_overlap_may_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = written(tmp_path, models())
    plain = safelox.drift(*folders, rank=3)
    monkeypatch.delattr("safelox.drift_metrics.measure.top_singular")
    report = safelox.drift(*folders, rank=3, overlap=False)
    assert report.overall.overlap is None
    assert all(matrix.principal_angles is None for matrix in report.matrices)
    assert (report.overall.r_ft, report.overall.tuning_share) == (plain.overall.r_ft, plain.overall.tuning_share)
    assert "overlap      " not in render_drift(report)


def test_the_hardened_model_has_an_r_align_of_its_own(tmp_path: Path) -> None:
    base, aligned, _ = models(**WIDE)
    hardened = hardened_as(base, aligned)
    _, _, tuned = models(near=hardened, **WIDE)
    folders = written(tmp_path, (base, aligned, tuned), **WIDE)
    extra = str(write_checkpoint(tmp_path / "hardened", hardened, config=llama_config(**WIDE)))
    report = safelox.drift(*folders, hardened=extra, rank=5)
    plain = by_label(safelox.drift(*folders, rank=5))
    exact_hardened, exact_ft = [], []
    for name, matrix in by_label(report).items():
        r_align, r_ft, _ = naive(base[name], aligned[name], tuned[name], 5)
        # The official code projects on the subspace of the model that it is given; the two are the same.
        r_hardened, r_ft_official, share = naive(base[name], hardened[name], tuned[name], 5)
        found = (matrix.r_align, matrix.r_hardened, matrix.r_ft, matrix.tuning_share)
        assert found == pytest.approx((r_align, r_hardened, r_ft, share), abs=1e-6)
        assert matrix.r_ft == pytest.approx(r_ft_official, abs=1e-6)
        assert matrix.r_hardened is not None
        assert matrix.r_hardened > matrix.r_align
        assert matrix.hardened_delta_norm == pytest.approx(float((hardened[name] - base[name]).norm()))
        assert matrix.tuning_norm == pytest.approx(float((tuned[name] - hardened[name]).norm()), rel=1e-5)
        assert matrix.tuning_norm < plain[name].tuning_norm
        assert (matrix.r_align, matrix.r_ft) == (plain[name].r_align, plain[name].r_ft)
        assert plain[name].r_hardened is None
        exact_hardened.append(r_hardened)
        exact_ft.append(r_ft)
    overall, count = report.overall, len(exact_ft)
    assert overall.r_hardened == pytest.approx(sum(exact_hardened) / count, abs=1e-6)
    assert overall.hardened_ratio_of_means == pytest.approx(sum(exact_ft) / sum(exact_hardened), abs=1e-6)
    ratios = [r_ft / r_hardened for r_ft, r_hardened in zip(exact_ft, exact_hardened, strict=True)]
    assert overall.hardened_mean_of_ratios == pytest.approx(sum(ratios) / count, abs=1e-6)
    assert "R_align, hardened" in render_drift(report)


def test_a_hardened_model_that_is_base_again_is_counted_and_left_out(tmp_path: Path) -> None:
    base, aligned, tuned = models()
    folders = written(tmp_path, (base, aligned, tuned))
    hardened = str(write_checkpoint(tmp_path / "hardened", {**aligned, PROJECTION: base[PROJECTION]}))
    report = safelox.drift(*folders, hardened=hardened, rank=3)
    assert math.isnan(by_label(report)[PROJECTION].r_hardened or 0)
    assert (report.overall.matrices, report.overall.zero_deltas) == (len(report.matrices) - 1, 1)


def test_both_problems_of_tuned_and_hardened_are_told_at_once(tmp_path: Path) -> None:
    base, aligned, tuned = models()
    del tuned[PROJECTION]
    folders = written(tmp_path, (base, aligned, tuned))
    hardened = str(write_checkpoint(tmp_path / "hardened", {**aligned, PROJECTION: torch.ones(3, 16)}))
    with pytest.raises(PairingError) as caught:
        safelox.drift(*folders, hardened=hardened)
    assert f"TUNED lacks 1 tensor that ALIGNED has: {PROJECTION}" in str(caught.value)
    assert f"{PROJECTION} (16 x 16 in ALIGNED, 3 x 16 in HARDENED)" in str(caught.value)


def test_layers_and_modules_are_averaged_one_by_one(tmp_path: Path) -> None:
    report = safelox.drift(*written(tmp_path, models()), rank=3)

    def chosen(group: DriftGroup) -> list[MatrixDrift]:
        return [
            m for m in report.matrices if m.layer == group.layer and (group.module is None or m.module == group.module)
        ]

    assert [group.layer for group in report.by_layer] == [0, 1, None]
    assert {group.kind for group in (*report.by_layer, *report.by_module)} == {"linear"}
    for group in report.by_layer:
        matrices = chosen(group)
        assert len(matrices) == (1 if group.layer is None else 7)
        assert group.means.r_ft == pytest.approx(sum(m.r_ft for m in matrices) / len(matrices))
        assert group.means.tuned_delta_norm == pytest.approx(math.hypot(*(m.tuned_delta_norm for m in matrices)))
    modules = {group.module: group.means for group in report.by_module}
    assert len(modules) == 8
    assert modules["lm_head"].matrices == 1
    both = [m.r_align for m in report.matrices if m.label.endswith("self_attn.q_proj.weight")]
    assert modules["self_attn.q_proj"].r_align == pytest.approx(sum(both) / 2)
    text = render_drift(report)
    assert "self_attn.q_proj" in text
    assert "outside all layers" in text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.12.self_attn.q_proj.weight", (12, "self_attn.q_proj")),
        ("model.layers.3.mlp.experts.7.down_proj.weight", (3, "mlp.experts.down_proj")),
        ("model.layers.3.mlp.experts.down_proj", (3, "mlp.experts.down_proj")),
        ("h.0.attn.c_proj.weight", (0, "attn.c_proj")),
        ("model.embed_tokens.weight", (None, "embed_tokens")),
    ],
)
def test_a_name_tells_layer_and_module(name: str, expected: tuple[int | None, str]) -> None:
    assert place(name) == expected


@pytest.mark.parametrize("rank", [3, 100])
def test_a_subspace_file_gives_the_same_figures(tmp_path: Path, rank: int) -> None:
    shape: dict[str, Any] = {"hidden": 160, "intermediate": 192, "layers": 1}
    folders = written(tmp_path, models(**shape), **shape)
    file = tmp_path / "subspace.safetensors"
    safelox.decompose(folders[0], folders[1], file, rank=rank + 10)
    report = safelox.drift(*folders, rank=rank, subspace=file)
    plain = by_label(safelox.drift(*folders, rank=rank))
    assert report.subspace == str(file)
    for matrix in report.matrices:
        other = plain[matrix.label]
        found = (matrix.r_align, matrix.r_ft, matrix.tuning_share, matrix.overlap)
        assert found == pytest.approx((other.r_align, other.r_ft, other.tuning_share, other.overlap), abs=1e-6)


def test_the_directions_are_those_of_the_subspace_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = written(tmp_path, models())
    file = tmp_path / "subspace.safetensors"
    safelox.decompose(folders[0], folders[1], file, rank=8)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("decomposed, though a file was given")

    monkeypatch.setattr("safelox.drift_metrics.measure.decompose_matrix", fail)
    assert len(safelox.drift(*folders, rank=8, subspace=file).matrices) == 15


def test_a_subspace_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    base, aligned, tuned = models()
    folders = written(tmp_path, (base, aligned, tuned))
    file = tmp_path / "subspace.safetensors"
    safelox.decompose(folders[0], folders[1], file, rank=4)
    with pytest.raises(UsageError, match=r"rank 5 was asked for, but .* holds 4 directions"):
        safelox.drift(*folders, rank=5, subspace=file)
    with pytest.raises(PairingError, match="was decomposed from"):
        safelox.drift(folders[0], folders[2], folders[1], rank=4, subspace=file)
    with pytest.raises(CheckpointError, match="no safety subspace"):
        safelox.drift(*folders, rank=4, subspace=Path(folders[0]) / "model.safetensors")


TOKENS = [f"t{i}" for i in range(32)]


def resized(side: Mapping[str, Tensor], rows: list[int]) -> dict[str, Tensor]:
    """A model whose embedding and head have these rows of the former ones; -1 for a row of another size of its own."""
    filled = {name: torch.cat([side[name], torch.full((1, 16), 50.0)]) for name in (EMBEDDING, HEAD)}
    return {**side, **{name: tensor[rows] for name, tensor in filled.items()}}


@pytest.mark.parametrize("tied", [False, True])
def test_a_tuned_model_may_have_further_tokens(tmp_path: Path, tied: bool) -> None:
    """Rows are matched by token, wherever they lie."""
    base, aligned, tuned = models(tied=tied)
    head = EMBEDDING if tied else HEAD
    expected = naive(base[head], aligned[head], tuned[head], 3)
    order = [-1, *range(1, 32), 0, -1]
    grown = {name: value for name, value in resized({HEAD: tuned[head], **tuned}, order).items() if name in tuned}
    folders = written(tmp_path, (base, aligned, grown), tied=tied)
    names = ["new", *TOKENS[1:], TOKENS[0], "newer"]
    for folder, tokens in zip(folders, (TOKENS, TOKENS, names), strict=True):
        with_vocabulary(folder, tokens)
    file = tmp_path / "subspace.safetensors"
    safelox.decompose(folders[0], folders[1], file, rank=16)
    for subspace in (None, file):
        report = safelox.drift(*folders, rank=3, subspace=subspace)
        found = by_label(report)[head]
        assert (found.r_align, found.r_ft, found.tuning_share) == pytest.approx(expected, abs=1e-6)
        assert found.principal_angles == pytest.approx(
            naive_angles(base[head], aligned[head], tuned[head], 3), abs=1e-4
        )
        assert any(f"{head} has 32 rows in ALIGNED and 34 in TUNED: 32 were matched" in note for note in report.notes)


def test_rows_that_the_tuned_model_lost_count_for_nothing(tmp_path: Path) -> None:
    base, aligned, tuned = models()
    folders = written(tmp_path, (base, aligned, resized(tuned, list(range(30)))))
    for folder, tokens in zip(folders, (TOKENS, TOKENS, TOKENS[:30]), strict=True):
        with_vocabulary(folder, tokens)
    file = tmp_path / "subspace.safetensors"
    safelox.decompose(folders[0], folders[1], file, rank=16)
    for subspace in (None, file):
        head = by_label(safelox.drift(*folders, rank=3, subspace=subspace))[HEAD]
        exact = naive(base[HEAD][:30], aligned[HEAD][:30], tuned[HEAD][:30], 3)
        assert (head.r_align, head.r_ft, head.tuning_share) == pytest.approx(exact, abs=1e-6)
        assert head.aligned_delta_norm == pytest.approx(float((aligned[HEAD] - base[HEAD])[:30].norm()))


def test_a_resized_model_without_any_common_token_is_refused(tmp_path: Path) -> None:
    base, aligned, tuned = models()
    folders = written(tmp_path, (base, aligned, resized(tuned, list(range(30)))))
    for folder, tokens in zip(folders, (TOKENS, TOKENS, [f"x{i}" for i in range(30)]), strict=True):
        with_vocabulary(folder, tokens)
    with pytest.raises(PairingError, match=r"lm_head.weight has 32 rows .* no token in common: .*--no-embeddings"):
        safelox.drift(*folders)
    assert len(safelox.drift(*folders, embeddings=False).matrices) == 14


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = written(tmp_path, models())
    assert main(["drift", *folders, "-k", "3", "--json"]) == 0
    printed = capsys.readouterr().out
    report = DriftReport.model_validate_json(printed)
    assert figures(report) == figures(safelox.drift(*folders, rank=3))
    assert report.command == f"safelox drift {' '.join(folders)} -k 3 --json"
    assert json.loads(printed)["overall"]["matrices"] == len(report.matrices)
    assert main(["drift", *folders, "-k", "3"]) == 0
    text = capsys.readouterr().out
    assert f"{report.overall.r_ft:.4f}" in text
    assert f"{report.overall.ratio_of_means:.4f} (ratio of means)" in text
    assert main(["drift", *folders, "-q"]) == 0
    assert not capsys.readouterr().out
    assert main(["drift", *folders, "-k", "0"]) == 2
    assert "integer from 1" in capsys.readouterr().err


def test_the_command_hands_everything_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    made: dict[str, Any] = {}
    report = DriftReport(
        base="b",
        aligned="a",
        hardened="h",
        tuned="t",
        rank=9,
        subspace=None,
        command=None,
        overall=DriftMeans(
            matrices=0,
            zero_deltas=4,
            aligned_delta_norm=0.0,
            hardened_delta_norm=0.0,
            tuned_delta_norm=0.0,
            tuning_norm=0.0,
            r_align=math.nan,
            r_hardened=math.nan,
            r_ft=math.nan,
            ratio_of_means=math.nan,
            mean_of_ratios=math.nan,
            hardened_ratio_of_means=math.nan,
            hardened_mean_of_ratios=math.nan,
            tuning_share=math.nan,
            tuning_share_by_chance=math.nan,
            overlap=math.nan,
            overlap_by_chance=math.nan,
        ),
        apart={},
        by_layer=(),
        by_module=(),
        matrices=(),
        carried=(),
        notes=("mind this",),
        seconds={},
        peak_memory_bytes=0,
    )

    def record(*positional: Any, **named: Any) -> DriftReport:
        made.update(named, positional=positional)
        return report

    monkeypatch.setattr("safelox.drift_metrics.drift", record)
    words = (
        "drift b a t --hardened h -k 9 --subspace f --no-overlap --include x --exclude z --no-embeddings --vocab common"
    )
    words += " --device cuda --workers 3 --max-memory 1GiB --allow-pickle --seed 7 --json"
    assert main(words.split()) == 0
    assert '"NaN"' in capsys.readouterr().out
    del made["progress"]
    assert made == {
        "positional": ("b", "a", "t"),
        "hardened": "h",
        "rank": 9,
        "subspace": Path("f"),
        "overlap": False,
        "include": ["x"],
        "exclude": ["z"],
        "embeddings": False,
        "vocab": "common",
        "device": "cuda",
        "workers": 3,
        "max_memory": 1024**3,
        "allow_pickle": True,
        "seed": 7,
        "command": f"safelox {words}",
    }
    text = render_drift(report)
    assert "0; 4 left out, with a delta of zero" in text
    assert "mind this" in text


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_outcome_is_kept_and_drawn(tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    folders = written(tmp_path, models())
    out, picture = tmp_path / "out", tmp_path / f"drift.{suffix}"
    arguments = ["drift", *folders, "-k", "2", "--out", str(out), "--plot", str(picture)]
    assert main([*arguments, "--json", "-q"]) == 0
    assert (out / "drift.json").read_text(encoding="utf-8") == capsys.readouterr().out
    content = picture.read_bytes()
    assert content.startswith({"svg": b"<?xml", "png": b"\x89PNG"}[suffix])
    if suffix == "svg":
        for word in (b"R_align", b"R_ft", b"outside", b"mlp.down_proj", b"by chance"):
            assert b"<!-- %s -->" % word in content
        assert b"hardened" not in content
    assert main(arguments) == 1
    assert "drift.json is there already" in capsys.readouterr().err
    assert main([*arguments, "--overwrite", "-q"]) == 0
    assert picture.read_bytes() == content


def test_a_picture_without_any_delta(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    base, _, _ = models()
    report = safelox.drift(*written(tmp_path, (base, base, base)), rank=2)
    draw_drift(report, tmp_path / "nothing.svg")
    assert (tmp_path / "nothing.svg").stat().st_size > 1000


# The lab


@pytest.mark.slow
def test_attacks_lower_r_and_only_lox_raises_it(lab_pair: LabModels, tmp_path: Path) -> None:
    """The paper's two claims about R_ft, and two controls: models that were changed as much in other directions end
    lower, and a fine-tuning that leaves the refusals alone lowers R_ft more than the attack that breaks them."""
    base, aligned, data = str(lab_pair.base), str(lab_pair.aligned), lab_pair.base.parent
    controls: dict[str, ControlName | None] = {"lox": None, "random-subspace": "random-subspace", "noise": "noise"}
    before = {"none": lab_pair.aligned} | {name: tmp_path / name for name in controls}
    for name, control in controls.items():
        harden(base, aligned, before[name], rank=6, coef=0.5, control=control)

    def r_ft(tuned: Path) -> float:
        return safelox.drift(base, aligned, str(tuned), rank=6, overlap=False).overall.r_ft

    def attacked(attack_name: str, name: str) -> float:
        out = tmp_path / "attacked" / attack_name / name
        attack(attack_name, str(before[name]), out, data=data)
        return r_ft(out)

    r_align, pure_bad = r_ft(lab_pair.aligned), {name: attacked(PURE_BAD.name, name) for name in before}
    assert pure_bad["none"] < r_align
    assert pure_bad["lox"] > r_align + 0.05
    for name in ("random-subspace", "noise"):
        assert pure_bad[name] < pure_bad["none"] - 0.02
    assert attacked(ARITHMETIC.name, "none") < pure_bad["none"] - 0.02
