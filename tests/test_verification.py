from pathlib import Path
from typing import Any

import pytest
import torch

from hardened import make_manifest, renew_hashes, rewrite_tensor, write_hardened, write_hardened_adapter
from safelox.errors import CheckpointError, PrerequisiteError, UsageError
from safelox.hardening import harden
from safelox.manifest import read_manifest
from safelox.verification import VerifyReport, distributions, reference, verify
from safelox.verification.agreement import count_far
from tiny import llama_config, llama_tensors, lora_tensors, write_adapter, write_checkpoint

MATRIX = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    return write_hardened(tmp_path)


def outcome(report: VerifyReport, name: str) -> bool | None:
    (found,) = [check.ok for check in report.checks if check.name == name]
    return found


def detail(report: VerifyReport, name: str) -> str:
    (found,) = [check.detail for check in report.checks if check.name == name]
    return found


def failed(report: VerifyReport) -> list[str]:
    return [check.name for check in report.checks if check.ok is False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_sound_result_passes_everything(tmp_path: Path, dtype: torch.dtype) -> None:
    _, _, out = write_hardened(tmp_path, dtype=dtype)
    report = verify(out, recompute=100)
    assert report.ok, report
    assert all(check.ok for check in report.checks), report
    assert [check.name for check in report.checks] == [
        "files",
        "unexpected files",
        "base",
        "aligned",
        "coverage",
        "finite",
        "kept tensors",
        "recomputed",
    ]
    assert MATRIX in detail(report, "recomputed")


def test_changed_missing_and_additional_files_are_named(folders: tuple[Path, Path, Path]) -> None:
    out = folders[2]
    (out / "config.json").write_bytes((out / "config.json").read_bytes().replace(b"16", b"17", 1))
    (out / "README.md").unlink()
    (out / "more").mkdir()
    (out / "more" / "pytorch_model.bin").write_bytes(b"x")
    (out / ".gitattributes").write_bytes(b"x")
    report = verify(out)
    assert failed(report) == ["files", "unexpected files"]
    assert "config.json has other contents" in detail(report, "files")
    assert "README.md is missing" in detail(report, "files")
    assert detail(report, "unexpected files") == "more/pytorch_model.bin was not written by safelox"


def test_a_truncated_shard_is_told_twice(folders: tuple[Path, Path, Path]) -> None:
    shard = folders[2] / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-2])
    report = verify(folders[2])
    assert failed(report) == ["files", "weights"]
    assert "bytes" in detail(report, "files")


@pytest.mark.parametrize("position", [100, -1])
def test_one_flipped_bit_of_the_weights_is_found(folders: tuple[Path, Path, Path], position: int) -> None:
    shard = folders[2] / "model-00002-of-00002.safetensors"
    content = bytearray(shard.read_bytes())
    content[position] ^= 1
    shard.write_bytes(content)
    assert "files" in failed(verify(folders[2]))


def test_a_tensor_without_record_and_a_record_without_tensor(folders: tuple[Path, Path, Path]) -> None:
    out = folders[2]
    manifest = read_manifest(out)
    carried = tuple(record for record in manifest.carried if record.name != "model.norm.weight")
    matrices = (*manifest.matrices, manifest.matrices[0].model_copy(update={"name": "gone.weight"}))
    manifest.model_copy(update={"carried": carried, "matrices": matrices}).write(out)
    report = verify(out)
    assert failed(report) == ["coverage"]
    assert "model.norm.weight is in the weights but not in the manifest" in detail(report, "coverage")
    assert "gone.weight is in the manifest but in no weights file" in detail(report, "coverage")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 23}, "24 x 16 in the weights and 23 x 16"),
        ({"expert": 1}, "experts [1]"),
    ],
)
def test_shapes_and_experts_have_to_add_up(
    folders: tuple[Path, Path, Path], changes: dict[str, int], message: str
) -> None:
    out = folders[2]
    manifest = read_manifest(out)
    matrices = tuple(m.model_copy(update=changes if m.name == MATRIX else {}) for m in manifest.matrices)
    manifest.model_copy(update={"matrices": matrices}).write(out)
    assert message in detail(verify(out), "coverage")


def test_not_finite_values_are_counted(folders: tuple[Path, Path, Path]) -> None:
    def spoil(tensor: torch.Tensor) -> torch.Tensor:
        tensor[3, 1], tensor[0, 0] = torch.nan, torch.inf
        return tensor

    rewrite_tensor(folders[2], MATRIX, spoil)
    report = verify(folders[2])
    assert failed(report) == ["finite"]
    assert detail(report, "finite") == f"{MATRIX}: 2 values are NaN or infinite"


def test_a_kept_tensor_that_changed_is_found(folders: tuple[Path, Path, Path]) -> None:
    rewrite_tensor(folders[2], "model.norm.weight", lambda tensor: tensor * 1.5)
    report = verify(folders[2])
    assert failed(report) == ["kept tensors"]
    assert detail(report, "kept tensors") == "model.norm.weight differs from ALIGNED's"


def test_minus_zero_is_not_zero_in_kept_tensors(folders: tuple[Path, Path, Path]) -> None:
    zero = torch.zeros(16, dtype=torch.bfloat16)
    _, aligned, out = folders
    for folder, value in ((aligned, -zero), (out, zero)):
        tensors = {**llama_tensors(dtype=torch.bfloat16), "model.norm.weight": value}
        write_checkpoint(folder, tensors, shards=2)
    renew_hashes(out)
    assert "kept tensors" in failed(verify(out))


def test_sources_that_changed_or_went_away(folders: tuple[Path, Path, Path]) -> None:
    base, aligned, out = folders
    aligned.rename(aligned.parent / "moved")
    write_checkpoint(base, llama_tensors(dtype=torch.bfloat16, seed=5), shards=3)
    report = verify(out, recompute=1)
    assert failed(report) == ["base"]
    assert outcome(report, "aligned") is None
    assert "--aligned" in detail(report, "aligned")
    assert outcome(report, "recomputed") is None
    again = verify(out, aligned=str(aligned.parent / "moved"))
    assert outcome(again, "aligned") is True


def test_a_source_on_the_hub_is_not_downloaded_unasked(folders: tuple[Path, Path, Path]) -> None:
    out = folders[2]
    hub = make_manifest().aligned
    read_manifest(out).model_copy(update={"aligned": hub}).write(out)
    report = verify(out)
    assert report.ok
    assert detail(report, "aligned") == "org/aligned@v1 is not a folder here; give --aligned"


def test_sources_whose_hashes_were_not_recorded(folders: tuple[Path, Path, Path]) -> None:
    out = folders[2]
    manifest = read_manifest(out)
    manifest.model_copy(update={"base": manifest.base.model_copy(update={"weights": None})}).write(out)
    assert outcome(verify(out), "base") is None


def test_a_given_source_that_cannot_be_opened_is_an_error(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        verify(folders[2], base=str(tmp_path / "nowhere"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("wrong", ["aligned", "coefficient", "rank"])
def test_recomputing_finds_a_wrong_matrix(tmp_path: Path, dtype: torch.dtype, wrong: str) -> None:
    out = write_hardened(tmp_path, dtype=dtype)[2]
    other = {"coefficient": {"coef": 0.6}, "rank": {"rank": 3}}
    if wrong == "aligned":  # nothing was extrapolated
        tensors = llama_tensors(near=llama_tensors(dtype=dtype), seed=1, dtype=dtype)
        rewrite_tensor(out, MATRIX, lambda _: tensors[MATRIX])
    else:
        again = write_hardened(tmp_path / "again", dtype=dtype, **other[wrong])[2]  # type: ignore[arg-type]
        for shard in again.glob("*.safetensors"):
            (out / shard.name).write_bytes(shard.read_bytes())
        renew_hashes(out)
    report = verify(out, recompute=100)
    assert failed(report) == ["recomputed"]
    assert MATRIX in detail(report, "recomputed") or wrong != "aligned"


def test_recomputing_by_svd_lowrank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "LARGEST_FULL_SVD", 1)
    report = verify(write_hardened(tmp_path)[2], recompute=3)
    assert outcome(report, "recomputed") is True, report
    assert "svd_lowrank" in detail(report, "recomputed")


def test_directions_that_are_not_separate_are_compared_by_energy(tmp_path: Path) -> None:
    # All singular values of each delta are equal, so that any directions may be taken.
    generator = torch.Generator().manual_seed(0)
    base = llama_tensors()

    def flat_delta(tensor: torch.Tensor) -> torch.Tensor:
        U, _, Vh = torch.linalg.svd(torch.randn(tensor.shape, generator=generator), full_matrices=False)
        delta: torch.Tensor = 0.05 * U @ Vh
        return delta

    deltas = {name: flat_delta(tensor) for name, tensor in base.items() if tensor.ndim == 2}
    aligned = {name: tensor + deltas.get(name, 0) for name, tensor in base.items()}
    _, _, out = write_hardened(tmp_path, dtype=torch.float32)
    write_checkpoint(tmp_path / "base", base, shards=3)
    write_checkpoint(tmp_path / "aligned", aligned, shards=2)

    def harden(directions: int) -> VerifyReport:
        hardened = dict(aligned)
        for name, delta in deltas.items():
            Vh = torch.linalg.svd(delta, full_matrices=False).Vh
            basis = Vh.T @ torch.linalg.qr(torch.randn(len(Vh), directions, generator=generator)).Q
            hardened[name] = aligned[name] + 0.5 * delta @ basis @ basis.T
        write_checkpoint(out, hardened, shards=2)
        renew_hashes(out)
        return verify(out, recompute=100)

    assert outcome(harden(2), "recomputed") is True
    assert "singular values at the cut differ by 0.0%" in detail(harden(2), "recomputed")
    assert outcome(harden(1), "recomputed") is False
    assert outcome(harden(3), "recomputed") is False


LORA_B = f"base_model.model.{MATRIX.removesuffix('.weight')}.lora_B.weight"


@pytest.mark.parametrize("over_lora", [False, True])
def test_a_sound_adapter_passes_everything(tmp_path: Path, over_lora: bool) -> None:
    report = verify(write_hardened_adapter(tmp_path, over_lora=over_lora), recompute=100, compare=True)
    assert report.ok, report
    assert {check.name: check.ok for check in report.checks} == {
        "files": True,
        "unexpected files": True,
        "base": True,
        "aligned": None,  # its hashes were not recorded
        "finite": True,
        "coverage": True,
        "recomputed": True,
        "next tokens": True,
    }
    assert "(full SVD in fp64): differs from the reference by" in detail(report, "recomputed")


@pytest.mark.parametrize("over_lora", [False, True])
def test_a_wrong_factor_of_an_adapter_is_found(tmp_path: Path, over_lora: bool) -> None:
    out = write_hardened_adapter(tmp_path, over_lora=over_lora)
    rewrite_tensor(out, LORA_B, lambda tensor: 1.01 * tensor)
    report = verify(out, recompute=100)
    assert failed(report) == ["recomputed"]
    assert detail(report, "recomputed").startswith(f"{MATRIX} ")


def test_factors_that_are_not_finite_missing_or_too_many(tmp_path: Path) -> None:
    out = write_hardened_adapter(tmp_path)
    rewrite_tensor(out, LORA_B, lambda tensor: tensor * torch.nan)
    manifest = read_manifest(out)
    gone = manifest.matrices[0].model_copy(update={"name": "lm_head.weight"})
    manifest.model_copy(update={"matrices": (gone, *manifest.matrices[1:])}).write(out)
    report = verify(out)
    assert failed(report) == ["finite", "coverage"]
    assert "lm_head.weight has no factors" in detail(report, "coverage")
    assert f"{manifest.matrices[0].name} has factors but is not" in detail(report, "coverage")


def test_an_adapter_without_its_model(tmp_path: Path) -> None:
    out = write_hardened_adapter(tmp_path)
    (tmp_path / "aligned").rename(tmp_path / "moved")
    report = verify(out, recompute=1, compare=True)
    assert report.ok
    assert [check.name for check in report.checks if check.ok is None] == [
        "aligned",
        "coverage",
        "recomputed",
        "next tokens",
    ]


def test_steps_are_counted_between_neighbours() -> None:
    values = torch.tensor([1.0, -1.0, 0.0, 2.0], dtype=torch.bfloat16)
    up = torch.nextafter(values, torch.full_like(values, torch.inf))
    size = values.abs().double()
    assert count_far(up, values, size) == 0
    assert count_far(torch.nextafter(up, torch.full_like(up, torch.inf)), values, torch.zeros(4).double()) == 4
    # A sum that cancels: many steps of a small result, yet less than one of the numbers that were added.
    small = torch.tensor([1e-3], dtype=torch.bfloat16)
    assert count_far(2 * small, small, torch.tensor([1.0]).double()) == 0
    assert count_far(2 * small, small, torch.tensor([1e-3]).double()) == 1


def test_the_choice_of_matrices_follows_the_seed(folders: tuple[Path, Path, Path]) -> None:
    first, same, other = (detail(verify(folders[2], recompute=2, seed=seed), "recomputed") for seed in (0, 0, 1))
    assert first == same != other


def test_wrong_use(folders: tuple[Path, Path, Path]) -> None:
    with pytest.raises(UsageError, match="recompute is -1"):
        verify(folders[2], recompute=-1)
    with pytest.raises(CheckpointError, match=r"no safelox\.json"):
        verify(folders[1])


def test_next_tokens_are_compared(folders: tuple[Path, Path, Path]) -> None:
    report = verify(folders[2], compare=True)
    assert outcome(report, "next tokens") is True
    assert "KL(aligned || hardened)" in detail(report, "next tokens")
    assert "of 4 prompts" in detail(report, "next tokens")


def test_a_result_that_gives_nan_fails_the_comparison(folders: tuple[Path, Path, Path]) -> None:
    rewrite_tensor(folders[2], MATRIX, lambda tensor: tensor * torch.nan)
    assert "next tokens" in failed(verify(folders[2], compare=True))


def test_comparing_without_transformers_says_what_to_install(
    folders: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributions, "find_spec", lambda _: None)
    with pytest.raises(PrerequisiteError, match=r"pip install 'safelox\[train\]'"):
        verify(folders[2], compare=True)


@pytest.mark.parametrize("options", [{}, {"rank": "full", "coef": 0.5}, {"coef": 0.0}, {"dtype": "fp32"}, {"rank": 2}])
def test_what_harden_writes_passes_everything(tmp_path: Path, options: dict[str, Any]) -> None:
    base, aligned, _ = write_hardened(tmp_path)
    harden(str(base), str(aligned), tmp_path / "hardened", **options)
    report = verify(tmp_path / "hardened", recompute=100)
    assert all(check.ok for check in report.checks), report


def test_factors_that_a_replacing_adapter_keeps_are_not_strangers(tmp_path: Path) -> None:
    tensors = llama_tensors()
    base = write_checkpoint(tmp_path / "base", tensors, config=llama_config())
    query, value = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.v_proj.weight"
    adapter = write_adapter(tmp_path / "adapter", lora_tensors({name: tensors[name] for name in (query, value)}))
    out = tmp_path / "out"
    harden(str(base), f"{base}+{adapter}", out, rank=1, adapter=True, exclude=[value])
    report = verify(out, recompute=100)
    assert outcome(report, "coverage") is True, report
    assert report.ok, report


def test_an_aligned_model_that_does_not_load_is_not_the_results_fault(folders: tuple[Path, Path, Path]) -> None:
    (folders[1] / "tokenizer_config.json").write_text("no JSON")
    report = verify(folders[2], compare=True)
    assert outcome(report, "next tokens") is None
    assert "ALIGNED itself does not load" in detail(report, "next tokens")
