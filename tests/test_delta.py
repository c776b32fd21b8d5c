"""The delta of one matrix, read block by block, and the factors of an adapter's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reference import write_pair
from safelox.checkpoint import open_checkpoint
from safelox.delta import DeltaRows, exact_factors
from safelox.lowrank import block_bounds
from safelox.pairing import Matrix
from tiny import llama_tensors, lora_tensors, write_adapter, write_checkpoint

CPU = torch.device("cpu")
NAME = "a.weight"


def matrix(rows: int, columns: int, **changes: Any) -> Matrix:
    return Matrix(
        **{
            "name": NAME,
            "expert": None,
            "start": 0,
            "stop": rows,
            "columns": columns,
            "base_name": NAME,
            "base_start": 0,
            "row_map": None,
        }
        | changes
    )


def delta_rows(tmp_path: Path, base: Tensor, aligned: Tensor, **changes: Any) -> DeltaRows:
    write_pair(tmp_path, {NAME: base}, {NAME: aligned}, base_shards=1, aligned_shards=1)
    models = open_checkpoint(str(tmp_path / "base")), open_checkpoint(str(tmp_path / "aligned"))
    return DeltaRows(*models, matrix(len(aligned), aligned.shape[-1], **changes), CPU)


@pytest.mark.parametrize("base_dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("aligned_dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_blocks_are_the_difference_in_fp32(tmp_path: Path, base_dtype: torch.dtype, aligned_dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(50, 7, generator=generator, dtype=torch.float64).to(base_dtype)
    aligned = torch.randn(50, 7, generator=generator, dtype=torch.float64).to(aligned_dtype)
    delta = delta_rows(tmp_path, base, aligned)
    exact = aligned.double() - base.double()
    for start, stop, step in ((0, 50, 1), (3, 20, 1), (20, 50, 1), (0, 50, 7), (49, 50, 1), (5, 5, 1)):
        block = delta.block(start, stop, step)
        assert block.dtype == torch.float32
        expected = exact[start:stop:step]
        if torch.float64 in (base_dtype, aligned_dtype):
            assert torch.equal(block, expected.float())
        else:
            assert ((block.double() - expected).abs() <= 2**-24 * expected.abs()).all()
    assert torch.equal(delta.aligned(3, 20), aligned[3:20])
    assert delta.aligned(3, 20).dtype == aligned_dtype


def test_blocks_of_a_large_matrix(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    base, aligned = (torch.randn(1500, 900, generator=generator).to(torch.bfloat16) for _ in range(2))
    delta = delta_rows(tmp_path, base, aligned)
    bounds = list(block_bounds(1500, 900))
    assert len(bounds) > 2
    exact = aligned.float() - base.float()
    for start, stop in [*bounds, *reversed(bounds)]:
        assert torch.equal(delta.block(start, stop), exact[start:stop])
    assert torch.equal(delta.block(0, 1500, 2), exact[::2])
    delta.release()
    assert torch.equal(delta.block(*bounds[1]), exact[slice(*bounds[1])])


def test_experts_are_parts_of_their_tensor(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    base, aligned = (torch.randn(3, 5, 4, generator=generator) for _ in range(2))
    delta = delta_rows(tmp_path, base, aligned, expert=1, start=5, stop=10, base_start=5)
    assert delta.shape == (5, 4)
    assert torch.equal(delta.block(0, 5), aligned[1] - base[1])
    assert torch.equal(delta.aligned(1, 3), aligned[1, 1:3])


@pytest.mark.parametrize("step", [1, 3])
def test_rows_are_matched_by_the_map(tmp_path: Path, step: int) -> None:
    base, aligned = torch.arange(12.0).reshape(4, 3), torch.arange(100.0, 118.0).reshape(6, 3)
    row_map = torch.tensor([-1, 3, 0, -1, 1, 2])
    delta = delta_rows(tmp_path, base, aligned, row_map=row_map)
    exact = torch.stack(
        [aligned[row] - base[other] if other >= 0 else torch.zeros(3) for row, other in enumerate(row_map.tolist())]
    )
    assert torch.equal(delta.block(0, 6, step), exact[::step])
    assert torch.equal(delta.block(1, 5, step), exact[1:5:step])
    delta.release()


@pytest.fixture
def adapted(tmp_path: Path) -> tuple[Path, Path, dict[str, Tensor], dict[str, Tensor]]:
    """Folders of a base and of an adapter of two of its matrices, and the tensors of both."""
    base = llama_tensors(hidden=160)
    lora = lora_tensors({name: tensor for name, tensor in base.items() if "layers.0.self_attn.q_proj" in name})
    return write_checkpoint(tmp_path / "base", base), write_adapter(tmp_path / "adapter", lora), base, lora


def test_rows_of_an_adapter_are_computed_where_they_are_wanted(
    adapted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, adapter, base, lora = adapted
    name = "model.layers.0.self_attn.q_proj.weight"
    exact = base[name].double() + 3 * (
        lora["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"].double()
        @ lora["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"].double()
    )
    other = write_checkpoint(tmp_path / "other", llama_tensors(hidden=160, seed=3))
    before, after = open_checkpoint(str(other)), open_checkpoint(f"{folder}+{adapter}")
    delta = DeltaRows(before, after, matrix(160, 160, name=name, base_name=name), CPU)
    exact -= before.rows(name).double()
    for step in (1, 5):
        assert torch.allclose(delta.block(0, 160, step).double(), exact[::step], atol=1e-6)
    read: list[int] = []
    rows = after.rows

    def counted(name: str, start: int = 0, stop: int | None = None) -> Tensor:
        part = rows(name, start, stop)
        read.append(len(part))
        return part

    monkeypatch.setattr(after, "rows", counted)
    delta.block(0, 160, 5)
    assert sum(read) == 32


def test_the_factors_of_an_adapter_over_the_same_base(adapted: Any, tmp_path: Path) -> None:
    folder, adapter, base, lora = adapted
    name = "model.layers.0.self_attn.q_proj.weight"
    plain, over = open_checkpoint(str(folder)), open_checkpoint(f"{folder}+{adapter}")
    whole = matrix(160, 160, name=name, base_name=name)
    factors = exact_factors(plain, over, whole)
    assert factors is not None
    assert factors.scale == 3
    assert torch.equal(factors.a, lora["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"])
    assert torch.equal(factors.b, lora["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"])

    copy = open_checkpoint(str(write_checkpoint(tmp_path / "copy", base)))
    mapped = matrix(160, 160, name=name, base_name=name, row_map=torch.arange(160))
    untouched = "model.layers.1.self_attn.q_proj.weight"
    assert exact_factors(copy, over, whole) is None, "the base is another file"
    assert exact_factors(over, over, whole) is None, "the base has an adapter too"
    assert exact_factors(plain, over, mapped) is None, "rows are matched by token"
    assert exact_factors(plain, plain, whole) is None
    assert exact_factors(plain, over, matrix(160, 160, name=untouched, base_name=untouched)) is None


def test_a_replaced_tensor_has_no_exact_factors(tmp_path: Path) -> None:
    base = llama_tensors()
    name = "lm_head.weight"
    tensors = {f"base_model.model.{name}": base[name] + 1.0}
    folder = write_checkpoint(tmp_path / "base", base)
    adapter = write_adapter(tmp_path / "adapter", tensors, modules_to_save=["lm_head"])
    plain, over = open_checkpoint(str(folder)), open_checkpoint(f"{folder}+{adapter}")
    head = matrix(32, 16, name=name, base_name=name)
    assert exact_factors(plain, over, head) is None
    assert torch.equal(DeltaRows(plain, over, head, CPU).block(0, 32), (base[name] + 1.0) - base[name])
