"""`harden` on what real models are made of: adapters, grown vocabularies, tied weights, experts, transposed layers."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reference import decaying_pair, extrapolated, rank_part, read_tensors, steps, write_pair
from safelox import harden
from safelox.errors import PairingError
from safelox.summary import Summary
from safelox.verification import verify
from tiny import llama_config, llama_tensors, lora_tensors, write_adapter, write_checkpoint

COEF = 1.25
BF16, F32 = torch.bfloat16, torch.float32
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def assert_near(written: Tensor, exact: Tensor, label: str = "") -> None:
    """The values are the fp64 ones, but for rounding to their dtype and that of fp32 arithmetic."""
    tolerance = 8 * torch.finfo(F32).eps
    if written.dtype == F32:
        assert (written.double() - exact).abs().max() <= tolerance * exact.abs().max(), label
    else:
        assert (steps(written, exact.to(written.dtype)) > 0).double().mean() <= 0.01, label


def routes(summary: Summary) -> dict[str, str]:
    return {record.name: record.route for record in summary.manifest.matrices}


def product(lora: Mapping[str, Tensor], name: str, scale: float) -> Tensor:
    """scale * B @ A of one weight, in fp64."""
    module = f"base_model.model.{name.removesuffix('.weight')}"
    return scale * lora[f"{module}.lora_B.weight"].double() @ lora[f"{module}.lora_A.weight"].double()


# Adapters


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("rank", [1, 2, 6, "full"])
def test_an_adapter_over_the_base_is_decomposed_through_its_factors(
    tmp_path: Path, dtype: torch.dtype, rank: Any
) -> None:
    base = llama_tensors(dtype=dtype)
    adapted = {name: tensor for name, tensor in base.items() if "self_attn" in name}
    lora = lora_tensors(adapted)
    folder = write_checkpoint(tmp_path / "base", base, shards=2, config=llama_config(dtype=dtype))
    adapter = write_adapter(tmp_path / "adapter", lora, files={"chat_template.jinja": "of the adapter"})
    summary = harden(str(folder), f"{folder}+{adapter}", tmp_path / "out", rank=rank, coef=COEF)
    expected = "full" if rank == "full" else "factors"
    assert routes(summary) == dict.fromkeys(adapted, expected)
    written = read_tensors(tmp_path / "out")
    for name, values in written.items():
        assert values.dtype == dtype
        if name in adapted:
            delta = product(lora, name, 6 / 2)
            assert_near(values, base[name].double() + delta + COEF * rank_part(delta, rank), name)
        else:
            assert torch.equal(values, base[name])
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "of the adapter"
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    for record in summary.manifest.matrices:
        if rank != "full":
            assert record.rank == min(rank, 2)
            assert record.energy_kept == pytest.approx(1.0) if rank > 1 else record.energy_kept < 1
    assert all(check.ok is not False for check in verify(tmp_path / "out", recompute=3).checks)


def test_an_adapter_over_another_base_is_a_dense_difference(tmp_path: Path) -> None:
    base = llama_tensors()
    other = llama_tensors(near=base, seed=5)
    lora = lora_tensors({name: tensor for name, tensor in base.items() if "q_proj" in name}, size=0.05)
    first = write_checkpoint(tmp_path / "base", base, shards=2)
    second = write_checkpoint(tmp_path / "other", other, shards=3)
    adapter = write_adapter(tmp_path / "adapter", lora)
    summary = harden(str(first), f"{second}+{adapter}", tmp_path / "out", rank=3, coef=COEF)
    assert set(routes(summary).values()) == {"svd"}
    written = read_tensors(tmp_path / "out")
    for name in routes(summary):
        aligned = other[name].double() + (product(lora, name, 3) if "q_proj" in name else 0)
        assert_near(written[name], extrapolated(base[name], aligned, 3, COEF), name)


def test_adapters_on_both_sides(tmp_path: Path) -> None:
    base = llama_tensors()
    first, second = (
        {name: tensor for name, tensor in base.items() if part in name} for part in ("q_proj", "self_attn")
    )
    loras = lora_tensors(first, seed=1), lora_tensors(second, seed=2)
    folder = write_checkpoint(tmp_path / "base", base)
    references = [f"{folder}+{write_adapter(tmp_path / f'adapter{i}', lora)}" for i, lora in enumerate(loras)]
    summary = harden(references[0], references[1], tmp_path / "out", rank=3, coef=COEF, force=True)
    assert routes(summary).keys() == second.keys()
    written = read_tensors(tmp_path / "out")
    for name in second:
        before = base[name].double() + (product(loras[0], name, 3) if name in first else 0)
        after = base[name].double() + product(loras[1], name, 3)
        assert_near(written[name], extrapolated(before, after, 3, COEF), name)
    assert torch.equal(written[HEAD], base[HEAD])


def test_modules_to_save_are_dense_and_stay_in_the_dtype_of_the_base(tmp_path: Path) -> None:
    base = llama_tensors(dtype=BF16)
    attention = {name: tensor for name, tensor in base.items() if "v_proj" in name}
    lora = lora_tensors(attention)
    generator = torch.Generator().manual_seed(8)
    saved = {
        name: base[name].float() + 0.02 * torch.randn(base[name].shape, generator=generator)
        for name in (EMBEDDING, HEAD, "model.norm.weight")
    }
    tensors = lora | {f"base_model.model.{name}": tensor for name, tensor in saved.items()}
    folder = write_checkpoint(tmp_path / "base", base, shards=2, config=llama_config(dtype=BF16))
    modules = ["embed_tokens", "lm_head", "norm"]
    adapter = write_adapter(tmp_path / "adapter", tensors, modules_to_save=modules)
    summary = harden(str(folder), f"{folder}+{adapter}", tmp_path / "out", rank=3, coef=COEF)
    assert routes(summary) == {EMBEDDING: "svd", HEAD: "svd"} | dict.fromkeys(attention, "factors")
    written = read_tensors(tmp_path / "out")
    assert {values.dtype for values in written.values()} == {BF16}
    for name in (EMBEDDING, HEAD):
        assert_near(written[name], extrapolated(base[name], saved[name], 3, COEF), name)
    assert torch.equal(written["model.norm.weight"], saved["model.norm.weight"].to(BF16))
    for name in attention:
        delta = product(lora, name, 3)
        assert_near(written[name], base[name].double() + delta + COEF * rank_part(delta, 3), name)


# Vocabularies


def tokenizer(words: list[str]) -> str:
    return json.dumps({"model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}}})


@pytest.mark.parametrize("hidden", [16, 160])
def test_rows_of_a_grown_vocabulary_are_matched_by_token(tmp_path: Path, hidden: int) -> None:
    """ALIGNED has a new token in front, so that all others have moved, two new ones at the end, and one is gone."""
    known = [f"word{i}" for i in range(300)]
    kept = known[:200] + known[201:]
    grown = ["<|start|>", *kept, "<|user|>", "<|end|>"]
    generator = torch.Generator().manual_seed(0)
    base: dict[str, Tensor] = {}
    aligned: dict[str, Tensor] = {}
    for name in (EMBEDDING, HEAD):
        one, other = decaying_pair((300, hidden), generator=generator)
        base[name] = one.to(BF16)
        new = torch.randn(3, hidden, generator=generator, dtype=torch.float64)
        aligned[name] = torch.cat([new[:1], other[:200], other[201:], new[1:]]).to(BF16)
    configs = {n: llama_config(hidden=hidden, vocabulary=n) for n in (300, 302)}
    first = write_checkpoint(tmp_path / "base", base, config=configs[300], files={"tokenizer.json": tokenizer(known)})
    second = write_checkpoint(
        tmp_path / "aligned", aligned, shards=2, config=configs[302], files={"tokenizer.json": tokenizer(grown)}
    )
    with pytest.raises(PairingError, match="--vocab common"):
        harden(str(first), str(second), tmp_path / "out")
    summary = harden(str(first), str(second), tmp_path / "out", rank=3, coef=COEF, vocab="common")
    assert set(routes(summary).values()) == {"svd" if hidden == 16 else "krylov"}
    written = read_tensors(tmp_path / "out")
    for name in (EMBEDDING, HEAD):
        delta = torch.zeros(302, hidden, dtype=torch.float64)
        for row, word in enumerate(grown):
            if word in known:
                delta[row] = aligned[name][row].double() - base[name][known.index(word)].double()
        assert_near(written[name], aligned[name].double() + COEF * rank_part(delta, 3), name)
        unknown = [0, 300, 301]
        assert torch.equal(written[name][unknown], aligned[name][unknown])
        assert not torch.equal(written[name][1:300], aligned[name][1:300])
        record = next(record for record in summary.manifest.matrices if record.name == name)
        assert record.delta_norm == pytest.approx(float(delta.norm()), rel=1e-4)
        assert record.entries_changed == int((written[name] != aligned[name]).sum())
    assert any("299 rows matched by token" in note for note in summary.manifest.notes)


def test_a_whole_delta_leaves_the_rows_of_unknown_tokens_alone(tmp_path: Path) -> None:
    base = {EMBEDDING: torch.ones(3, 4), HEAD: torch.ones(3, 4)}
    aligned = {EMBEDDING: torch.full((4, 4), 1.25), HEAD: torch.full((4, 4), 1.25)}
    aligned[EMBEDDING][3] = aligned[HEAD][3] = -0.0
    tokens = {"tokenizer.json": tokenizer(["a", "b", "c"])}, {"tokenizer.json": tokenizer(["a", "b", "c", "new"])}
    first = write_checkpoint(tmp_path / "base", base, config={}, files=tokens[0])
    second = write_checkpoint(tmp_path / "aligned", aligned, config={}, files=tokens[1])
    harden(str(first), str(second), tmp_path / "out", rank="full", coef=1.0, vocab="common")
    for values in read_tensors(tmp_path / "out").values():
        assert torch.equal(values[:3], torch.full((3, 4), 1.5))
        assert torch.equal(values[3].view(torch.int32), torch.full((4,), -0.0).view(torch.int32))


# Tied weights


def test_a_tied_weight_is_extrapolated_once(tmp_path: Path) -> None:
    base = llama_tensors(tied=True)
    aligned = llama_tensors(tied=True, near=base, seed=1)
    summary = harden(*write_pair(tmp_path, base, aligned, config=llama_config(tied=True)), tmp_path / "out", coef=COEF)
    assert EMBEDDING in routes(summary)
    written = read_tensors(tmp_path / "out")
    assert HEAD not in written
    assert_near(written[EMBEDDING], extrapolated(base[EMBEDDING], aligned[EMBEDDING], 6, COEF))


@pytest.mark.parametrize("vocabulary", [32, 200])
def test_a_tied_weight_that_is_stored_twice_stays_one(tmp_path: Path, vocabulary: int) -> None:
    base = llama_tensors(tied=True, hidden=160, vocabulary=vocabulary, layers=1)
    aligned = llama_tensors(tied=True, hidden=160, vocabulary=vocabulary, layers=1, near=base, seed=1)
    for tensors in (base, aligned):
        tensors[HEAD] = tensors[EMBEDDING].clone()
    config = llama_config(tied=True, hidden=160, vocabulary=vocabulary, layers=1)
    harden(*write_pair(tmp_path, base, aligned, config=config), tmp_path / "out", coef=COEF)
    written = read_tensors(tmp_path / "out")
    assert torch.equal(written[EMBEDDING], written[HEAD])
    assert not torch.equal(written[HEAD], aligned[HEAD])


def test_two_weights_over_a_tied_base_are_each_compared_with_it(tmp_path: Path) -> None:
    base = llama_tensors(tied=True)
    aligned = llama_tensors(tied=True, near=base, seed=1)
    aligned[HEAD] = base[EMBEDDING] + 0.03 * torch.randn(32, 16, generator=torch.Generator().manual_seed(4))
    first = write_checkpoint(tmp_path / "base", base, config=llama_config(tied=True))
    second = write_checkpoint(tmp_path / "aligned", aligned, config=llama_config(tied=False))
    summary = harden(str(first), str(second), tmp_path / "out", rank=3, coef=COEF)
    assert {EMBEDDING, HEAD} <= routes(summary).keys()
    written = read_tensors(tmp_path / "out")
    for name in (EMBEDDING, HEAD):
        assert_near(written[name], extrapolated(base[EMBEDDING], aligned[name], 3, COEF), name)


def test_a_tied_weight_over_two_of_the_base_is_refused(tmp_path: Path) -> None:
    base = llama_tensors()
    aligned = llama_tensors(near=base, seed=1)
    del aligned[HEAD]
    first = write_checkpoint(tmp_path / "base", base)
    second = write_checkpoint(tmp_path / "aligned", aligned, config=llama_config(tied=True))
    with pytest.raises(PairingError, match=f"{EMBEDDING}.*{HEAD}"):
        harden(str(first), str(second), tmp_path / "out")


# What transformers writes and reads


TEXT = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("Llama", TEXT | {"tie_word_embeddings": False}, {}),
    "tied llama": ("Llama", TEXT | {"tie_word_embeddings": True}, {}),
    "gpt2": ("GPT2", {"vocab_size": 40, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}, {}),
    "fused experts": (
        "Mixtral",
        TEXT | {"num_local_experts": 3, "num_experts_per_tok": 1},
        {"save_original_format": False},
    ),
    "separate experts": ("Mixtral", TEXT | {"num_local_experts": 3, "num_experts_per_tok": 1}, {}),
}


@pytest.mark.parametrize("dtype", [BF16, F32])
@pytest.mark.parametrize("kind", MODELS)
def test_what_transformers_saved_is_hardened_and_loads_again(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    transformers: Any = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    family, settings, saving = MODELS[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**settings)
    model = transformers.AutoModelForCausalLM.from_config(config).to(dtype)
    model.save_pretrained(tmp_path / "base", max_shard_size="30KB", **saving)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += (0.05 * parameter.std() * torch.randn(parameter.shape)).to(dtype)
    model.save_pretrained(tmp_path / "aligned", max_shard_size="8KB", **saving)
    assert len(list((tmp_path / "aligned").glob("*.safetensors"))) > 1

    summary = harden(str(tmp_path / "base"), str(tmp_path / "aligned"), tmp_path / "out", rank=3, coef=COEF)
    base, aligned, written = (read_tensors(tmp_path / name) for name in ("base", "aligned", "out"))
    assert written.keys() == aligned.keys()
    for name, values in written.items():
        if values.ndim == 3:
            assert "experts" in name
            parts = zip(values, base[name], aligned[name], strict=True)
        else:
            parts = zip((values,), (base[name],), (aligned[name],), strict=True)
        for part, before, after in parts:
            if values.ndim > 1:
                assert_near(part, extrapolated(before, after, 3, COEF), name)
            else:
                assert torch.equal(part, after), name
    experts = [record for record in summary.manifest.matrices if record.expert is not None]
    assert len(experts) == (2 * 2 * 3 if kind == "fused experts" else 0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        hardened, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()), info
    assert hardened.dtype == dtype
    state = hardened.state_dict()
    for name, tensor in written.items():
        if name in state:
            assert torch.equal(state[name], tensor), name
    assert "fused" in kind or "separate" in kind or written.keys() <= state.keys()
    reply = hardened.generate(torch.tensor([[1, 5, 7]]), max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert reply.shape == (1, 7)
    assert verify(tmp_path / "out", recompute=2).ok


def test_a_chosen_dtype_is_what_transformers_loads(tmp_path: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")
    base = llama_tensors()
    sources = write_pair(tmp_path, base, llama_tensors(near=base, seed=1), config=llama_config())
    harden(*sources, tmp_path / "out", dtype="bf16")
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == BF16
