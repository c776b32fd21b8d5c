"""`harden(adapter=True)`: with PEFT, what it writes makes the whole hardened model; and it keeps to vLLM's rules."""

import json
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import safelox.hardening
from safelox.adapter_output import AdapterOutput
from safelox.engine import decompose_matrix
from safelox.errors import CheckpointError, UsageError
from safelox.hardening import harden, plan_harden
from safelox.lowrank import LowRank
from safelox.manifest import Manifest, Route
from safelox.output import Item
from safelox.subspace import decompose
from safelox.summary import Summary
from safelox.writer import Target
from tiny import llama_config, llama_tensors, lora_tensors, write_adapter, write_checkpoint

END = {"bos_token_id": 0, "eos_token_id": 1}
TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def llama_pair(root: Path, **options: Any) -> tuple[Path, Path]:
    """options: those of `llama_config`."""
    base = llama_tensors(**options)
    aligned = llama_tensors(near=base, seed=1, **options)
    config = llama_config(**options)
    files = {
        "tokenizer_config.json": "{}",
        "chat_template.jinja": "{{ messages }}",
        "generation_config.json": "{}",
        "modeling.py": "",
    }
    return (
        write_checkpoint(root / "base", base, config=config, shards=3),
        write_checkpoint(root / "aligned", aligned, config=config, shards=2, files=files),
    )


def transformers_pair(root: Path, model: str, config: str, **options: Any) -> tuple[Path, Path]:
    """A pair of tiny models of an architecture, as transformers saves it."""
    import transformers

    torch.manual_seed(0)
    made = getattr(transformers, model)(getattr(transformers, config)(**options))
    made.save_pretrained(root / "base")
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.005 * torch.randn(parameter.shape)
    made.save_pretrained(root / "aligned")
    return root / "base", root / "aligned"


def gpt2_pair(root: Path, **options: Any) -> tuple[Path, Path]:
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 32, "n_positions": 16} | END
    return transformers_pair(root, "GPT2LMHeadModel", "GPT2Config", **sizes, **options)


def run(base: Path | str, aligned: Path | str, out: Path, **options: Any) -> Summary:
    settings: dict[str, Any] = {"rank": 3, "coef": 0.75, "command": "safelox harden", "hash_sources": False}
    return harden(str(base), str(aligned), out, **(settings | options))


def as_adapter(base: Path | str, aligned: Path | str, out: Path, **options: Any) -> Summary:
    return run(base, aligned, out, adapter=True, **options)


@contextmanager
def only_expected_warnings() -> Iterator[None]:
    """pytest makes errors of all the others."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def loaded(model: Path, adapter: Path) -> Any:
    """The model with the adapter, by PEFT, after it was seen that nothing is missing and nothing is dropped."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with only_expected_warnings():
        adapted: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), adapter)
        result = adapted.load_adapter(adapter, "again")
    assert not result.missing_keys
    assert not result.unexpected_keys
    adapted.delete_adapter("again")
    return adapted.eval()


def logits(model: Any) -> Tensor:
    with torch.inference_mode():
        values: Tensor = model(TOKENS).logits
    return values


def assert_same(out: Path, model: Path, whole: Path) -> None:
    """`model` with the adapter `out` runs, and once merged is, as the hardened model `whole`."""
    from transformers import AutoModelForCausalLM

    expected = AutoModelForCausalLM.from_pretrained(whole).eval()
    adapted = loaded(model, out)
    assert torch.allclose(logits(adapted), logits(expected), atol=1e-5)
    assert not torch.allclose(logits(adapted), logits(AutoModelForCausalLM.from_pretrained(model)), atol=1e-3)
    merged = adapted.merge_and_unload().state_dict()
    for name, tensor in expected.state_dict().items():
        assert torch.linalg.vector_norm(merged[name] - tensor) <= 1e-5 * torch.linalg.vector_norm(tensor), name


def config_of(out: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((out / "adapter_config.json").read_text())
    return config


def factors_of(out: Path) -> dict[str, Tensor]:
    factors: dict[str, Tensor] = load_file(out / "adapter_model.safetensors")
    return factors


def assert_vllm_loads(out: Path) -> None:
    """What vLLM demands of the files, as its source has it."""
    config, factors = config_of(out), factors_of(out)
    assert config["peft_type"] == "LORA"
    assert isinstance(config["target_modules"], list)
    assert config["lora_alpha"] == config["r"], "the scale is 1"
    assert config["bias"] == "none"
    for name in ("modules_to_save", "rank_pattern", "alpha_pattern", "use_dora", "use_rslora"):
        assert not config.get(name)
    modules: dict[str, list[str]] = {}
    for key, tensor in factors.items():
        assert key.startswith("base_model.model.")
        for end in (".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B"):
            if key.endswith(end):
                modules.setdefault(key.removeprefix("base_model.model.").removesuffix(end), []).append(end)
                assert tensor.shape[0 if "_A" in end else 1] == config["r"]
                break
        else:
            pytest.fail(f"{key} is no key of a LoRA")
    assert all(len(ends) == 2 for ends in modules.values())
    assert sorted(modules) == sorted(config["target_modules"])


# --- the same as the whole model -----------------------------------------------------------------------------------


def test_an_untied_llama(tmp_path: Path) -> None:
    base, aligned = llama_pair(tmp_path)
    run(base, aligned, tmp_path / "whole")
    summary = as_adapter(base, aligned, tmp_path / "out")
    assert_same(tmp_path / "out", aligned, tmp_path / "whole")
    assert_vllm_loads(tmp_path / "out")
    assert {"lm_head", "model.embed_tokens"} < set(config_of(tmp_path / "out")["target_modules"])
    assert len(summary.manifest.matrices) == 2 + 2 * 7
    assert any("vLLM takes that for some architectures only" in note for note in summary.manifest.notes)


def test_the_tied_embedding_of_a_llama_is_left_out_and_named(tmp_path: Path) -> None:
    base, aligned = llama_pair(tmp_path, tied=True)
    run(base, aligned, tmp_path / "whole", exclude=["model.embed_tokens.weight"])
    manifest = as_adapter(base, aligned, tmp_path / "out").manifest
    assert_same(tmp_path / "out", aligned, tmp_path / "whole")
    assert_vllm_loads(tmp_path / "out")
    assert "model.embed_tokens" not in config_of(tmp_path / "out")["target_modules"]
    reasons = {record.name: record.reason for record in manifest.carried}
    assert "merging would break them" in reasons["model.embed_tokens.weight"]
    told = [note for note in manifest.notes if "model.embed_tokens.weight" in note]
    assert [note.partition(",")[0] for note in told] == ["not hardened: model.embed_tokens.weight"]
    assert "model.embed_tokens.weight" not in {record.name for record in manifest.matrices}
    plan = plan_harden(str(base), str(aligned), rank=3, adapter=True)
    assert (plan.matrices, plan.carried) == (14, manifest.carried)


def test_a_tied_embedding_that_is_stored_twice(tmp_path: Path) -> None:
    base, aligned = llama_pair(tmp_path, tied=True)
    for folder in (base, aligned):
        tensors: dict[str, Tensor] = {}
        for path in folder.glob("*.safetensors"):
            tensors |= load_file(path)
            path.unlink()
        (folder / "model.safetensors.index.json").unlink()
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    reasons = {record.name for record in as_adapter(base, aligned, tmp_path / "out").manifest.carried}
    assert {"lm_head.weight", "model.embed_tokens.weight"} < reasons


def test_gpt2_stores_its_layers_the_other_way_round(tmp_path: Path) -> None:
    base, aligned = gpt2_pair(tmp_path)
    run(base, aligned, tmp_path / "whole", exclude=["*.wte.weight"])
    as_adapter(base, aligned, tmp_path / "out")
    assert_same(tmp_path / "out", aligned, tmp_path / "whole")
    assert_vllm_loads(tmp_path / "out")
    assert config_of(tmp_path / "out")["fan_in_fan_out"] is True
    c_attn = "base_model.model.transformer.h.0.attn.c_attn"
    assert factors_of(tmp_path / "out")[f"{c_attn}.lora_A.weight"].shape == (3, 16)
    assert factors_of(tmp_path / "out")[f"{c_attn}.lora_B.weight"].shape == (48, 3)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to True:UserWarning")  # PEFT has one flag for both kinds
def test_gpt2_with_a_linear_head_of_its_own(tmp_path: Path) -> None:
    base, aligned = gpt2_pair(tmp_path, tie_word_embeddings=False)
    run(base, aligned, tmp_path / "whole")
    as_adapter(base, aligned, tmp_path / "out")
    assert "lm_head" in config_of(tmp_path / "out")["target_modules"]
    assert_same(tmp_path / "out", aligned, tmp_path / "whole")


def test_a_file_of_the_bare_model_whose_names_lack_their_first_part(tmp_path: Path) -> None:
    base, aligned = gpt2_pair(tmp_path)
    as_adapter(base, aligned, tmp_path / "out")
    for folder in (base, aligned):
        file = folder / "model.safetensors"
        bare = {name.removeprefix("transformer."): tensor for name, tensor in load_file(file).items()}
        save_file(bare, file, metadata={"format": "pt"})
    as_adapter(base, aligned, tmp_path / "bare")
    assert config_of(tmp_path / "bare")["target_modules"] == config_of(tmp_path / "out")["target_modules"]
    loaded(aligned, tmp_path / "bare")


def test_a_mixture_of_experts_but_for_its_feed_forward_blocks(tmp_path: Path) -> None:
    options = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    experts = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8}
    base, aligned = transformers_pair(
        tmp_path, "Qwen3MoeForCausalLM", "Qwen3MoeConfig", **options, **heads, **experts, tie_word_embeddings=False
    )
    with pytest.raises(UsageError, match=r"(?s)beside experts, .* --exclude") as caught:
        as_adapter(base, aligned, tmp_path / "out")
    excluded = re.findall("--exclude '(.*?)'", str(caught.value))
    assert len(excluded) == 4, "gate, gate_proj, up_proj and down_proj, each once for all layers and experts"
    run(base, aligned, tmp_path / "whole", exclude=excluded)
    as_adapter(base, aligned, tmp_path / "out", exclude=excluded)
    assert_same(tmp_path / "out", aligned, tmp_path / "whole")


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_the_dtype_of_the_factors(tmp_path: Path, dtype: str) -> None:
    base, aligned = llama_pair(tmp_path)
    as_adapter(base, aligned, tmp_path / "exact")
    as_adapter(base, aligned, tmp_path / "out", dtype=dtype)
    exact, rounded = factors_of(tmp_path / "exact"), factors_of(tmp_path / "out")
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    assert all(torch.equal(rounded[name], tensor.to(kind)) for name, tensor in exact.items())
    assert {tensor.dtype for tensor in exact.values()} == {torch.float32}


# --- particular matrices -------------------------------------------------------------------------------------------


def test_matrices_no_larger_than_the_rank_are_taken_whole_and_filled_up(tmp_path: Path) -> None:
    base, aligned = llama_pair(tmp_path, intermediate=6)
    run(base, aligned, tmp_path / "whole", rank=10)
    manifest = as_adapter(base, aligned, tmp_path / "out", rank=10).manifest
    assert_same(tmp_path / "out", aligned, tmp_path / "whole")
    assert_vllm_loads(tmp_path / "out")
    routes = {record.name.split(".")[-2]: record.route for record in manifest.matrices}
    assert (routes["k_proj"], routes["down_proj"], routes["q_proj"]) == ("whole", "whole", "svd")
    factors, layer = factors_of(tmp_path / "out"), "base_model.model.model.layers.0"
    wide = factors[f"{layer}.self_attn.k_proj.lora_B.weight"]  # of 8 x 16
    assert torch.equal(wide, torch.nn.functional.pad(0.75 * torch.eye(8), (0, 2)))
    tall = factors[f"{layer}.mlp.down_proj.lora_A.weight"]  # of 16 x 6
    assert torch.equal(tall, torch.nn.functional.pad(torch.eye(6), (0, 0, 0, 4)))


def test_coefficient_0_adds_nothing(tmp_path: Path) -> None:
    base, aligned = llama_pair(tmp_path)
    manifest = as_adapter(base, aligned, tmp_path / "out", coef=0.0).manifest
    assert all(not tensor.any() for name, tensor in factors_of(tmp_path / "out").items() if "_B" in name)
    assert all(record.entries_changed == 0 for record in manifest.matrices)


def test_a_matrix_that_did_not_change_gets_factors_that_add_nothing(tmp_path: Path) -> None:
    base, aligned = llama_pair(tmp_path)
    name = "model.layers.0.self_attn.q_proj.weight"
    for path in aligned.glob("*.safetensors"):
        tensors = load_file(path)
        if name in tensors:
            tensors[name] = llama_tensors()[name]
            save_file(tensors, path, metadata={"format": "pt"})
    manifest = as_adapter(base, aligned, tmp_path / "out").manifest
    record = next(record for record in manifest.matrices if record.name == name)
    assert (record.route, record.entries_changed) == ("zero", 0)
    factors = factors_of(tmp_path / "out")
    module = "base_model.model." + name.removesuffix(".weight")
    assert not (factors[f"{module}.lora_B.weight"] @ factors[f"{module}.lora_A.weight"]).any()


def test_tokens_that_the_base_does_not_know_stay_as_aligned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_rounding_errors(*arguments: Any) -> tuple[LowRank, Route]:
        part, route = decompose_matrix(*arguments)
        return replace(part, left=part.left + 1e-8), route

    def vocabulary(tokens: int) -> dict[str, str | bytes]:
        content = {"model": {"vocab": {f"t{i}": i for i in range(tokens)}}, "added_tokens": []}
        return {"tokenizer.json": json.dumps(content)}

    base, aligned = llama_tensors(), llama_tensors(near=llama_tensors(), seed=1)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        aligned[name] = torch.cat([aligned[name], torch.ones(3, 16)])
    write_checkpoint(tmp_path / "base", base, files=vocabulary(32))
    write_checkpoint(tmp_path / "aligned", aligned, config=llama_config(vocabulary=35), files=vocabulary(35))
    sources = tmp_path / "base", tmp_path / "aligned"
    run(*sources, tmp_path / "whole", vocab="common")
    monkeypatch.setattr(safelox.hardening, "decompose_matrix", with_rounding_errors)
    as_adapter(*sources, tmp_path / "out", vocab="common")
    assert_same(tmp_path / "out", sources[1], tmp_path / "whole")
    factors = factors_of(tmp_path / "out")
    assert not factors["base_model.model.model.embed_tokens.lora_embedding_A"][:, 32:].any()
    assert not factors["base_model.model.lm_head.lora_B.weight"][32:].any()


def test_the_record_is_that_of_the_whole_model(tmp_path: Path) -> None:
    base, aligned = llama_pair(tmp_path, dtype=torch.bfloat16)
    whole = run(base, aligned, tmp_path / "whole").manifest
    manifest = as_adapter(base, aligned, tmp_path / "out").manifest
    assert manifest.kind == "adapter"
    assert {record.name: record for record in manifest.matrices} == {record.name: record for record in whole.matrices}
    assert any(0 < record.entries_changed < record.entries for record in manifest.matrices)


@pytest.mark.parametrize("pair", ["dense", "lora"])
def test_a_subspace_file_spares_the_decomposition(tmp_path: Path, pair: str) -> None:
    base, aligned = llama_pair(tmp_path) if pair == "dense" else lora_pair(tmp_path)
    decompose(str(base), str(aligned), tmp_path / "subspace.safetensors", rank=5)
    manifest = as_adapter(base, aligned, tmp_path / "out", subspace=tmp_path / "subspace.safetensors").manifest
    assert {record.route for record in manifest.matrices} == {"subspace"}
    as_adapter(base, aligned, tmp_path / "other")
    factors, expected = factors_of(tmp_path / "out"), factors_of(tmp_path / "other")
    assert all(torch.allclose(factors[name], tensor, atol=1e-6) for name, tensor in expected.items())


# --- the folder ----------------------------------------------------------------------------------------------------


def test_the_folder(tmp_path: Path) -> None:
    base, aligned = llama_pair(tmp_path)
    summary = as_adapter(base, aligned, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("README.md", "adapter_config.json", "adapter_model.safetensors"),
        *("chat_template.jinja", "safelox.json", "tokenizer_config.json"),
    ]
    assert set(summary.manifest.files) == {path.name for path in (tmp_path / "out").iterdir()} - {"safelox.json"}
    assert summary.bytes_written == (tmp_path / "out" / "adapter_model.safetensors").stat().st_size
    assert summary.bytes_written == plan_harden(str(base), str(aligned), rank=3, adapter=True).disk_bytes


def test_the_config_is_one_of_pefts(tmp_path: Path) -> None:
    from peft import LoraConfig

    base, aligned = llama_pair(tmp_path)
    as_adapter(base, aligned, tmp_path / "out")
    config = LoraConfig.from_pretrained(tmp_path / "out")
    assert (config.r, config.lora_alpha, config.lora_dropout, config.bias) == (3, 3, 0.0, "none")
    assert (config.task_type, config.inference_mode, config.fan_in_fan_out) == ("CAUSAL_LM", True, False)
    assert (config.base_model_name_or_path, config.revision) == (str(aligned), None)
    assert "model.layers.1.mlp.down_proj" in config.target_modules


def test_the_config_names_a_model_of_the_hub_and_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    base, aligned = llama_pair(tmp_path)
    commit = 40 * "a"
    stored = tmp_path / "cache" / "models--org--aligned"
    (stored / "refs").mkdir(parents=True)
    (stored / "refs" / "v1").write_text(commit)
    (stored / "snapshots").mkdir()
    aligned.rename(stored / "snapshots" / commit)
    as_adapter(base, "org/aligned@v1", tmp_path / "out")
    config = config_of(tmp_path / "out")
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/aligned", commit)


def test_a_high_rank_is_noted(tmp_path: Path) -> None:
    base, aligned = llama_pair(tmp_path, hidden=32)
    assert not plan_harden(str(base), str(aligned), rank=16, adapter=True, embeddings=False).notes
    plan = plan_harden(str(base), str(aligned), rank=17, adapter=True, embeddings=False)
    assert [note for note in plan.notes if "--max-lora-rank" in note]


def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, aligned = llama_pair(tmp_path)
    as_adapter(base, aligned, tmp_path / "undisturbed", workers=1)
    write, calls = AdapterOutput.write, 0

    def fail_in_the_middle(output: AdapterOutput, item: Item, target: Target) -> None:
        nonlocal calls
        calls += 1
        if calls >= 6:
            raise KeyboardInterrupt
        write(output, item, target)

    monkeypatch.setattr(AdapterOutput, "write", fail_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        as_adapter(base, aligned, tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    summary = as_adapter(base, aligned, tmp_path / "out", workers=1)
    assert summary.resumed_items == 5
    assert_equal_bytes(tmp_path / "out", tmp_path / "undisturbed")


@pytest.mark.parametrize("workers", [2, 8])
def test_the_number_of_workers_changes_no_byte(tmp_path: Path, workers: int) -> None:
    base, aligned = llama_pair(tmp_path)
    as_adapter(base, aligned, tmp_path / "one", workers=1)
    as_adapter(base, aligned, tmp_path / "out", workers=workers)
    assert_equal_bytes(tmp_path / "out", tmp_path / "one")


def assert_equal_bytes(out: Path, other: Path) -> None:
    for name in ("adapter_model.safetensors", "adapter_config.json", "README.md", "chat_template.jinja"):
        assert (out / name).read_bytes() == (other / name).read_bytes(), name
    one, two = (Manifest.model_validate_json((folder / "safelox.json").read_bytes()) for folder in (out, other))
    assert one.matrices == two.matrices


# --- in place of ALIGNED's own adapter -----------------------------------------------------------------------------


def lora_pair(root: Path, **options: Any) -> tuple[Path, str]:
    """A base, and the same with a LoRA of rank 2 over some of its layers."""
    base = write_checkpoint(root / "base", llama_tensors(), files={"tokenizer_config.json": "{}"})
    adapted = {name: t for name, t in llama_tensors().items() if "q_proj" in name or "down_proj" in name}
    lora = write_adapter(root / "lora", lora_tensors(adapted, seed=3), rank=2, alpha=6, **options)
    return base, f"{base}+{lora}"


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_a_lora_is_replaced_by_one_of_its_rank(tmp_path: Path, rank: int) -> None:
    base, aligned = lora_pair(tmp_path)
    run(base, aligned, tmp_path / "whole", rank=rank)
    manifest = as_adapter(base, aligned, tmp_path / "out", rank=rank).manifest
    assert_same(tmp_path / "out", base, tmp_path / "whole")
    assert_vllm_loads(tmp_path / "out")
    config = config_of(tmp_path / "out")
    assert (config["r"], config["base_model_name_or_path"]) == (2, str(base))
    assert {record.route for record in manifest.matrices} == {"factors"}
    assert all(record.rank == min(rank, 2) for record in manifest.matrices)
    assert any("takes the place of" in note for note in manifest.notes)


def test_the_leading_values_of_a_lora_grow_and_its_directions_stay(tmp_path: Path) -> None:
    base, aligned = lora_pair(tmp_path)
    as_adapter(base, aligned, tmp_path / "out", rank=1)
    before, after = load_file(tmp_path / "lora" / "adapter_model.safetensors"), factors_of(tmp_path / "out")
    module = "base_model.model.model.layers.1.mlp.down_proj"
    U, S, Vh = torch.linalg.svd(3.0 * before[f"{module}.lora_B.weight"] @ before[f"{module}.lora_A.weight"])
    new = after[f"{module}.lora_B.weight"] @ after[f"{module}.lora_A.weight"]
    assert torch.allclose(new, (U[:, :2] * (S[:2] * torch.tensor([1.75, 1.0]))) @ Vh[:2], atol=1e-6)


def test_all_of_a_lora_may_be_extrapolated(tmp_path: Path) -> None:
    base, aligned = lora_pair(tmp_path)
    manifest = as_adapter(base, aligned, tmp_path / "out", rank="full").manifest
    assert {record.route for record in manifest.matrices} == {"full"}
    before, after = load_file(tmp_path / "lora" / "adapter_model.safetensors"), factors_of(tmp_path / "out")
    for name in before:
        assert torch.allclose(after[name], before[name] * (3.0 if "_B" in name else 1.75))


def test_a_matrix_no_larger_than_the_rank_under_a_lora(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base", llama_tensors())
    adapted = {name: t for name, t in llama_tensors().items() if "k_proj" in name or "q_proj" in name}
    aligned = f"{base}+{write_adapter(tmp_path / 'lora', lora_tensors(adapted))}"
    run(base, aligned, tmp_path / "whole", rank=8)
    manifest = as_adapter(base, aligned, tmp_path / "out", rank=8).manifest
    assert {record.route for record in manifest.matrices} == {"whole", "factors"}
    assert_same(tmp_path / "out", base, tmp_path / "whole")


def test_what_is_not_hardened_of_a_lora_is_kept(tmp_path: Path) -> None:
    base, aligned = lora_pair(tmp_path)
    manifest = as_adapter(base, aligned, tmp_path / "out", exclude=["*.q_proj.weight"]).manifest
    assert len(manifest.matrices) == 2
    before, after = load_file(tmp_path / "lora" / "adapter_model.safetensors"), factors_of(tmp_path / "out")
    assert set(after) == set(before)
    kept = [name for name in before if "q_proj" in name]
    assert len(kept) == 4
    assert all(torch.equal(after[name], before[name] * (3 if "_B" in name else 1)) for name in kept)
    run(base, aligned, tmp_path / "whole", exclude=["*.q_proj.weight"])
    assert_same(tmp_path / "out", base, tmp_path / "whole")


def test_ranks_of_a_lora_that_differ_become_one(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base", llama_tensors())
    weights = llama_tensors()
    narrow, wide = ({name: t for name, t in weights.items() if part in name} for part in ("q_proj", "up_proj"))
    tensors = lora_tensors(narrow, rank=2) | lora_tensors(wide, rank=5, seed=1)
    lora = write_adapter(tmp_path / "lora", tensors, rank=2, rank_pattern={"up_proj": 5}, alpha_pattern={"q_proj": 1})
    run(base, f"{base}+{lora}", tmp_path / "whole")
    as_adapter(base, f"{base}+{lora}", tmp_path / "out")
    assert config_of(tmp_path / "out")["r"] == 5
    assert_vllm_loads(tmp_path / "out")
    assert_same(tmp_path / "out", base, tmp_path / "whole")


PEFT_CASES: dict[str, tuple[Callable[..., tuple[Path, Path]], dict[str, Any]]] = {
    "embeddings": (llama_pair, {"target_modules": ["embed_tokens", "lm_head", "k_proj"]}),
    "conv1d": (gpt2_pair, {"target_modules": ["c_attn", "c_proj", "wpe"], "fan_in_fan_out": True}),
}


@pytest.mark.parametrize("case", PEFT_CASES)
def test_an_adapter_that_peft_wrote_is_replaced(tmp_path: Path, case: str) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    pair, options = PEFT_CASES[case]
    base, _ = pair(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the layers of both kinds, and that embeddings are saved as well
        config = LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights=False, **options)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        model.save_pretrained(tmp_path / "lora")
    aligned = f"{base}+{tmp_path / 'lora'}"
    run(base, aligned, tmp_path / "whole", force=True)  # its random factors are no small change
    as_adapter(base, aligned, tmp_path / "out", force=True)
    assert_vllm_loads(tmp_path / "out")
    assert_same(tmp_path / "out", base, tmp_path / "whole")


# --- refusals ------------------------------------------------------------------------------------------------------


def refusal(base: Path | str, aligned: Path | str, **options: Any) -> str:
    """What `plan_harden` says against it, which needs no more than the headers."""
    with pytest.raises(UsageError) as caught:
        plan_harden(str(base), str(aligned), adapter=True, **({"rank": 3} | options))
    return str(caught.value)


def test_the_whole_difference_does_not_fit(tmp_path: Path) -> None:
    text = refusal(*llama_pair(tmp_path), rank="full")
    assert text.startswith("rank `full` extrapolates the whole difference")
    assert "without --adapter" in text


def test_nothing_but_a_tied_embedding(tmp_path: Path) -> None:
    text = refusal(*llama_pair(tmp_path, tied=True), include=["*embed*"])
    assert text.startswith("nothing is left for the adapter: model.embed_tokens.weight")


UNFIT: dict[str, tuple[str, tuple[int, ...], dict[str, Any], str]] = {
    "fused experts": ("model.layers.0.mlp.experts.down_proj", (2, 16, 16), {}, "several matrices in one tensor"),
    "a parameter": ("model.layers.0.mixer.A_log", (16, 4), {}, "not the weight of a layer"),
    "a layer too many": ("model.layers.2.up_proj.weight", (24, 16), {}, "multi-token prediction head"),
    "positions": ("model.decoder.embed_positions.weight", (16, 16), {}, "read with an offset"),
    "Mamba": ("backbone.layers.0.mixer.out_proj.weight", (16, 32), {"model_type": "mamba"}, "PEFT refuses"),
    "Pythia's head": ("embed_out.weight", (32, 16), {}, "name differently"),
    "image models": ("model.layers.0.up.weight", (24, 16), {"vision_config": {"x": 1}}, "in a multimodal model"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_tensors_that_no_adapter_holds(tmp_path: Path, case: str) -> None:
    name, shape, options, expected = UNFIT[case]
    shapes = {"model.embed_tokens.weight": (32, 16), "lm_head.weight": (32, 16), name: shape}
    if name == "embed_out.weight":
        del shapes["lm_head.weight"]
    tensors = {key: torch.ones(size) for key, size in shapes.items()}
    config = llama_config() | options
    base = write_checkpoint(tmp_path / "base", tensors, config=config)
    aligned = write_checkpoint(tmp_path / "aligned", {key: 2 * t for key, t in tensors.items()}, config=config)
    text = refusal(base, aligned, include=["*"])
    assert name in text
    assert expected in text
    excluded = re.findall("--exclude '(.*?)'", text)
    assert plan_harden(str(base), str(aligned), rank=3, adapter=True, exclude=excluded).matrices


def test_the_bare_model_of_an_architecture_whose_names_are_not_known(tmp_path: Path) -> None:
    tensors = {"embed_tokens.weight": torch.ones(32, 16), "layers.0.q_proj.weight": torch.ones(16, 16)}
    base = write_checkpoint(tmp_path / "base", tensors)
    aligned = write_checkpoint(tmp_path / "aligned", {key: 2 * t for key, t in tensors.items()})
    text = refusal(base, aligned, include=["layers*"])
    assert "in a file of the bare model" in text
    assert text.endswith("That is all of it: write a whole model, without --adapter.")


def test_a_lora_that_also_replaces_tensors(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base", llama_tensors())
    tensors = lora_tensors({name: t for name, t in llama_tensors().items() if "q_proj" in name})
    tensors["base_model.model.model.norm.weight"] = torch.full((16,), 2.0)
    lora = write_adapter(tmp_path / "lora", tensors, modules_to_save=["norm"])
    text = refusal(base, f"{base}+{lora}")
    assert "replaces 1 tensors as a whole, such as model.norm.weight" in text
    assert "write a whole model" in text


def test_a_lora_with_biases(tmp_path: Path) -> None:
    base, _ = gpt2_pair(tmp_path)
    module = "transformer.h.0.attn.c_attn"
    tensors = lora_tensors({f"{module}.weight": torch.ones(48, 16)})
    tensors[f"base_model.model.{module}.lora_B.bias"] = torch.ones(48)
    lora = write_adapter(tmp_path / "lora", tensors, lora_bias=True, fan_in_fan_out=True)
    assert f"changes 1 biases, such as {module}.bias" in refusal(base, f"{base}+{lora}")


def test_a_lora_of_tied_embeddings(tmp_path: Path) -> None:
    base, _ = llama_pair(tmp_path, tied=True)
    q = "base_model.model.model.layers.0.self_attn.q_proj"
    a, b = torch.ones(2, 32), torch.ones(16, 2)
    tensors = {
        f"{q}.lora_A.weight": torch.ones(2, 16),
        f"{q}.lora_B.weight": torch.ones(16, 2),
        "base_model.model.model.embed_tokens.lora_embedding_A": a,
        "base_model.model.model.embed_tokens.lora_embedding_B": b,
        "base_model.model.lm_head.lora_A.weight": b.T,
        "base_model.model.lm_head.lora_B.weight": a.T,
    }
    lora = write_adapter(tmp_path / "lora", tensors, ensure_weight_tying=True)
    assert "changes model.embed_tokens.weight, input embedding and output head in one" in refusal(
        base, f"{base}+{lora}"
    )


def test_a_lora_over_another_model_than_the_base(tmp_path: Path) -> None:
    _, aligned = lora_pair(tmp_path)
    other = write_checkpoint(tmp_path / "other", llama_tensors(near=llama_tensors(), seed=5))
    text = refusal(other, aligned)
    assert "is an adapter over another model than BASE" in text
    assert "Merge ALIGNED into a model of its own" in text


def test_factors_too_large_for_their_dtype(tmp_path: Path) -> None:
    base = {"model.layers.0.q_proj.weight": torch.ones(16, 16)}
    aligned = {name: tensor + 2e-2 * torch.eye(16) for name, tensor in base.items()}
    folders = write_checkpoint(tmp_path / "base", base), write_checkpoint(tmp_path / "aligned", aligned)
    with pytest.raises(CheckpointError, match=r"q_proj.weight: its factors .* use --dtype fp32"):
        as_adapter(*folders, tmp_path / "out", coef=1e8, dtype="fp16")
    assert not (tmp_path / "out").exists()
