"""PEFT adapters read as exact deltas, held against PEFT's own merge, and refused where they are more than that."""

import copy
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from safelox.checkpoint import Checkpoint, open_checkpoint
from safelox.errors import CheckpointError
from tiny import llama_config, llama_tensors, lora_tensors, write_adapter, write_checkpoint

Q = "model.layers.0.self_attn.q_proj"
GPT2_CONFIG = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "vocab_size": 32,
    "n_positions": 16,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def factors(module: str = Q, rank: int = 2, rows: int = 16, columns: int = 16) -> dict[str, Tensor]:
    return lora_tensors({f"{module}.weight": torch.empty(rows, columns)}, rank=rank, size=1.0)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "base", llama_tensors(), shards=2)


def opened(base: Path, adapter: Path, **options: bool) -> Checkpoint:
    return open_checkpoint(f"{base}+{adapter}", **options)


def refusal(base: Path, adapter: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        opened(base, adapter)
    return str(caught.value)


# --- against PEFT --------------------------------------------------------------------------------------------------


def llama_folder(folder: Path, tied: bool = False) -> Path:
    return write_checkpoint(folder, llama_tensors(tied=tied), config=llama_config(tied=tied), shards=2)


def gpt2_folder(folder: Path) -> Path:
    from transformers import AutoModelForCausalLM, GPT2Config

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(GPT2Config(**GPT2_CONFIG)).save_pretrained(folder)
    return folder


LLAMA_CASES: dict[str, dict[str, Any]] = {
    "lora": {"target_modules": ["q_proj", "v_proj", "down_proj"], "r": 4, "lora_alpha": 6},
    "rslora": {"target_modules": ["q_proj", "gate_proj"], "r": 4, "lora_alpha": 6, "use_rslora": True},
    "patterns": {
        "target_modules": "all-linear",
        "r": 3,
        # In the order in which PEFT writes them: sorted, and the first that matches holds.
        "rank_pattern": {"gate_proj": 4, "layers.1.mlp.up_proj": 5, r"model\.layers\.\d+\.mlp\.up_proj": 7, "proj": 9},
        "alpha_pattern": {r".*\.1\..*": 11, "down_proj": 0.5, "k_proj": 1},
    },
    "embedding": {"target_modules": ["embed_tokens", "q_proj", "lm_head"]},
    "modules to save": {"target_modules": ["k_proj"], "modules_to_save": ["embed_tokens", "lm_head", "model.norm"]},
}
GPT2_CASES: dict[str, dict[str, Any]] = {
    "conv1d": {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True},
    "biases": {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "bias": "all"},
    "own biases": {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "bias": "lora_only"},
    "lora bias": {
        "target_modules": ["c_attn", "c_proj"],
        "fan_in_fan_out": True,
        "lora_bias": True,
        "use_rslora": True,
    },
}


def train(base: Path, adapter: Path, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Save a PEFT adapter over the base with random values everywhere, and return PEFT's merge of the two."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of transformers' deprecations and of tied weights
        return train_loudly(base, adapter, options)


def train_loudly(base: Path, adapter: Path, options: Mapping[str, Any]) -> dict[str, Tensor]:
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    # PEFT rewrites the configuration it is given.
    config = LoraConfig(task_type="CAUSAL_LM", **copy.deepcopy(dict(options)))
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            trained = "lora_" in name or "modules_to_save" in name
            if trained or (
                name.endswith("bias") and options.get("bias") in ("all", "lora_only") and parameter.requires_grad
            ):
                parameter += 0.1 * torch.randn(parameter.shape)
    model.save_pretrained(adapter)
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    return {name: tensor.detach() for name, tensor in again.merge_and_unload().state_dict().items()}


def check(base: Path, adapter: Path, merged: Mapping[str, Tensor]) -> Checkpoint:
    checkpoint, plain = opened(base, adapter), open_checkpoint(str(base))
    changed = 0
    for name, info in checkpoint.tensors.items():
        rows = checkpoint.rows(name)
        expected = merged[name].view(info.matrix_shape)
        assert rows.dtype == torch.float32
        assert (rows - expected).abs().max() < 1e-6, name
        changed += not torch.equal(expected, plain.rows(name))
        part = checkpoint.rows(name, info.matrix_shape[0] // 3, info.matrix_shape[0])
        assert (part - expected[info.matrix_shape[0] // 3 :]).abs().max() < 1e-6
        assert torch.equal(checkpoint.stored_rows(name), plain.rows(name))
        if (lora := checkpoint.lora(name)) is not None:
            assert lora.a.dtype == lora.b.dtype == torch.float32
            assert lora.a.shape[0] == lora.b.shape[1]
    assert changed >= 2
    assert checkpoint.base_identity() == plain.base_identity()
    return checkpoint


@pytest.mark.parametrize("case", LLAMA_CASES)
def test_llama_rows_equal_pefts_merge(tmp_path: Path, case: str) -> None:
    base = llama_folder(tmp_path / "base")
    merged = train(base, tmp_path / "adapter", LLAMA_CASES[case])
    checkpoint = check(base, tmp_path / "adapter", merged)
    assert checkpoint.adapter is not None
    replaced = {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"}
    assert set(checkpoint.adapter.replaced) == (replaced if case == "modules to save" else set())


@pytest.mark.parametrize("case", GPT2_CASES)
def test_gpt2_rows_equal_pefts_merge(tmp_path: Path, case: str) -> None:
    base = gpt2_folder(tmp_path / "base")
    check(base, tmp_path / "adapter", train(base, tmp_path / "adapter", GPT2_CASES[case]))


def test_a_square_conv1d_beside_a_linear_head(tmp_path: Path) -> None:
    """PEFT's flag says what the head is; the square c_proj is stored the other way round all the same."""
    from transformers import AutoModelForCausalLM, GPT2Config

    torch.manual_seed(0)
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    AutoModelForCausalLM.from_config(GPT2Config(**GPT2_CONFIG, tie_word_embeddings=False)).save_pretrained(base)
    merged = train(base, adapter, {"target_modules": ["c_proj", "lm_head"], "fan_in_fan_out": True})
    assert json.loads((adapter / "adapter_config.json").read_text())["fan_in_fan_out"] is False
    check(base, adapter, merged)


def test_a_file_of_the_bare_model_lacks_the_first_part_of_the_names(tmp_path: Path) -> None:
    base = gpt2_folder(tmp_path / "base")
    merged = train(base, tmp_path / "adapter", GPT2_CASES["biases"])
    bare = {name.removeprefix("transformer."): t for name, t in load_file(base / "model.safetensors").items()}
    assert "h.0.attn.c_attn.weight" in bare
    save_file(bare, base / "model.safetensors", metadata={"format": "pt"})
    check(base, tmp_path / "adapter", {name.removeprefix("transformer."): t for name, t in merged.items()})


TIED_BOTH: dict[str, dict[str, Any]] = {
    "factors": {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
    "whole": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
}


@pytest.mark.parametrize("case", TIED_BOTH)
def test_a_tied_pair_that_is_adapted_alike(tmp_path: Path, case: str) -> None:
    """Against the run time: PEFT's merge adds the delta of such a pair to the one tensor twice."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base, adapter = llama_folder(tmp_path / "base", tied=True), tmp_path / "adapter"
    train(base, adapter, TIED_BOTH[case])
    checkpoint = opened(base, adapter)
    tokens = torch.arange(9)[None]
    plain = AutoModelForCausalLM.from_pretrained(base)
    before = plain(tokens).logits
    rows = {name: checkpoint.rows(name).view(info.shape) for name, info in checkpoint.tensors.items()}
    assert plain.load_state_dict(rows, strict=False).missing_keys == ["lm_head.weight"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    assert torch.allclose(plain(tokens).logits, adapted(tokens).logits, atol=1e-5)
    assert not torch.allclose(before, adapted(tokens).logits, atol=1e-2)


TIED_APART: dict[str, dict[str, Any]] = {
    "one factor pair": {"target_modules": ["q_proj", "embed_tokens"]},
    "one whole": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "two whole": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "head only": {"target_modules": ["q_proj", "lm_head"]},
}


@pytest.mark.parametrize("case", TIED_APART)
def test_a_tied_pair_that_is_not_adapted_alike_is_refused(tmp_path: Path, case: str) -> None:
    base = llama_folder(tmp_path / "base", tied=True)
    train(base, tmp_path / "adapter", TIED_APART[case])
    assert "output head and token embedding of the base are one tensor" in refusal(base, tmp_path / "adapter")


# --- by hand -------------------------------------------------------------------------------------------------------


def test_the_delta_is_the_scaled_product(base: Path, tmp_path: Path) -> None:
    tensors = factors()
    checkpoint = opened(base, write_adapter(tmp_path / "adapter", tensors))
    lora = checkpoint.lora(f"{Q}.weight")
    assert lora is not None
    assert lora.scale == 3.0
    delta = tensors[f"base_model.model.{Q}.lora_B.weight"] @ tensors[f"base_model.model.{Q}.lora_A.weight"]
    assert torch.equal(lora.b @ lora.a, delta)
    part = checkpoint.lora(f"{Q}.weight", 5, 9)
    assert part is not None
    assert torch.equal(part.b, lora.b[5:9])
    assert checkpoint.lora("lm_head.weight") is None


def test_half_precision_is_summed_in_fp32(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base", llama_tensors(dtype=torch.bfloat16))
    tensors = {name: tensor.to(torch.float16) for name, tensor in factors().items()}
    checkpoint = opened(base, write_adapter(tmp_path / "adapter", tensors))
    a, b = (tensor.to(torch.float64) for tensor in tensors.values())
    expected = open_checkpoint(str(base)).rows(f"{Q}.weight").to(torch.float64) + 3.0 * b @ a
    assert checkpoint.rows(f"{Q}.weight").dtype == torch.float32
    assert torch.allclose(checkpoint.rows(f"{Q}.weight").to(torch.float64), expected, atol=1e-5)
    assert checkpoint.rows("lm_head.weight").dtype == torch.bfloat16


def test_a_replaced_tensor_is_described_as_the_adapter_stores_it(base: Path, tmp_path: Path) -> None:
    head = torch.ones(32, 16, dtype=torch.float16)
    adapter = write_adapter(tmp_path / "adapter", factors() | {"base_model.model.lm_head.weight": head})
    with opened(base, adapter) as checkpoint:
        assert checkpoint.tensors["lm_head.weight"].dtype == "F16"
        assert checkpoint.tensors["lm_head.weight"].file == adapter / "adapter_model.safetensors"
        assert checkpoint.stored["lm_head.weight"].dtype == "F32"
        assert torch.equal(checkpoint.rows("lm_head.weight"), head)
        assert checkpoint.stored_bytes("lm_head.weight").numel() == 32 * 16 * 4
        checkpoint.release("lm_head.weight")


def test_a_trained_module_may_be_adapted_on_top(base: Path, tmp_path: Path) -> None:
    own = torch.full((16, 16), 2.0)
    tensors = factors() | {f"base_model.model.{Q}.base_layer.weight": own}
    checkpoint = opened(base, write_adapter(tmp_path / "adapter", tensors))
    a, b = factors().values()
    assert torch.allclose(checkpoint.rows(f"{Q}.weight"), own + 3.0 * b @ a, atol=1e-5)


def test_a_plus_in_a_path_is_no_adapter(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "c++" / "base+1", llama_tensors())
    adapter = write_adapter(tmp_path / "c++" / "one+two", factors())
    assert open_checkpoint(str(base)).adapter is None
    checkpoint = opened(base, adapter)
    assert checkpoint.adapter is not None
    assert (checkpoint.folder, checkpoint.adapter.folder) == (base, adapter)
    with pytest.raises(CheckpointError, match="neither a folder of that name nor BASE\\+ADAPTER"):
        open_checkpoint(f"{base}+{tmp_path / 'gone'}")


def test_the_adapters_tokenizer_and_template_take_precedence(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base", llama_tensors(), files={"tokenizer.json": "base", "README.md": "base"})
    files = {"chat_template.jinja": "mine", "tokenizer.json": "mine", "README.md": "mine", "training.log": "mine"}
    adapter = write_adapter(tmp_path / "adapter", factors(), files=files)
    other = opened(base, adapter).other_files()
    assert {name: path.parent.name for name, path in other.items()} == {
        "config.json": "base",
        "README.md": "base",
        "tokenizer.json": "adapter",
        "chat_template.jinja": "adapter",
    }


def test_a_pickled_adapter_needs_leave(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", factors())
    expected = opened(base, adapter).rows(f"{Q}.weight")
    (adapter / "adapter_model.safetensors").unlink()
    torch.save(factors(), adapter / "adapter_model.bin")
    assert "only adapter_model.bin" in refusal(base, adapter)
    assert torch.equal(opened(base, adapter, allow_pickle=True).rows(f"{Q}.weight"), expected)


# --- refused -------------------------------------------------------------------------------------------------------

OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "dora": ({"use_dora": True}, "use_dora is set: DoRA rescales the columns .* merge it into its base with PEFT"),
    "token rows": ({"trainable_token_indices": [1]}, "trainable_token_indices is set: it replaces single rows"),
    "experts": ({"target_parameters": ["mlp.experts.down_proj"]}, "target_parameters is set"),
    "replication": ({"layer_replication": [[0, 2]]}, "layer_replication is set: it has more layers"),
    "activated": ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens is set"),
    "pissa": ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4': .* path_initial_model"),
    "olora": ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
    "loftq": ({"init_lora_weights": "loftq"}, "init_lora_weights is 'loftq'"),
    "ia3": ({"peft_type": "IA3"}, "peft_type is 'IA3'; only LORA"),
    "no type": ({"peft_type": None}, "peft_type is None"),
    "unknown": ({"use_next_thing": {"x": 1}}, "use_next_thing is {'x': 1}: an unknown option"),
    "rank 0": ({"r": 0}, "r is 0, a whole number from 1 was expected"),
    "no alpha": ({"lora_alpha": None}, "lora_alpha is None, a number was expected"),
    "alpha nan": ({"lora_alpha": float("nan")}, "lora_alpha is nan, a number was expected"),
    "pattern": ({"rank_pattern": {"q_proj": "4"}}, r"rank_pattern\['q_proj'\] is '4'"),
    "bad expression": ({"alpha_pattern": {"q(": 4}}, "alpha_pattern: 'q\\(' is no regular expression"),
    "pattern no object": ({"alpha_pattern": [4]}, r"alpha_pattern is \[4\], an object was expected"),
    "rank": ({"r": 3}, f"module {Q}: its factors have rank 2, but adapter_config.json says 3"),
    "rank pattern": ({"rank_pattern": {"q_proj": 4}}, "have rank 2, but adapter_config.json says 4"),
    "unsaved": ({"modules_to_save": ["lm_head"]}, "modules_to_save names lm_head, which the base has"),
    "saved list": ({"modules_to_save": "lm_head"}, "modules_to_save is 'lm_head', a list of names"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_that_are_more_than_lora_are_refused(base: Path, tmp_path: Path, case: str) -> None:
    changes, expected = OPTIONS[case]
    adapter = write_adapter(tmp_path / "adapter", factors(), **changes)
    with pytest.raises(CheckpointError, match=expected):
        opened(base, adapter)


def test_options_without_a_meaning_for_the_weights_are_accepted(base: Path, tmp_path: Path) -> None:
    harmless: dict[str, Any] = {
        "init_lora_weights": "gaussian",
        "velora_config": {"x": 1},
        "modules_to_save": ["score"],
        "new": None,
    }
    assert opened(base, write_adapter(tmp_path / "adapter", factors(), **harmless)).lora(f"{Q}.weight")


PREFIX = "base_model.model."
CONTENTS: dict[str, tuple[Callable[[], dict[str, Tensor]], str]] = {
    "no such module": (lambda: factors("model.layers.7.q"), "the base has no tensor model.layers.7.q.weight"),
    "no such tensor": (
        lambda: {PREFIX + "score.weight": torch.ones(2)},
        f"tensor {PREFIX}score.weight matches no tensor",
    ),
    "no prefix": (lambda: {f"{Q}.lora_A.weight": torch.ones(2, 16)}, f"tensor {Q}.lora_A.weight does not begin with"),
    "dora's vector": (
        lambda: factors() | {f"{PREFIX}{Q}.lora_magnitude_vector": torch.ones(16)},
        "lora_magnitude_vector matches no tensor of the base",
    ),
    "half a pair": (lambda: dict(list(factors().items())[:1]), f"module {Q}: lora_B.weight is missing"),
    "both kinds": (
        lambda: factors() | {f"{PREFIX}{Q}.lora_embedding_{x}": torch.ones(2, 2) for x in "AB"},
        f"module {Q}: cannot have lora_A.weight, lora_B.weight too",
    ),
    "wrong width": (
        lambda: factors(columns=12),
        r"shape \(2, 12\) and \(16, 2\) do not fit a base weight of shape \(16, 16\)",
    ),
    "a convolution": (
        lambda: {name: tensor[..., None, None] for name, tensor in factors().items()},
        "do not fit a base weight .* If it adapts a convolution",
    ),
    "wrong shape": (
        lambda: {PREFIX + "model.norm.weight": torch.ones(17)},
        r"shape \(17,\), but model.norm.weight .* has \(16,\)",
    ),
    "other vocabulary": (
        lambda: {PREFIX + "lm_head.weight": torch.ones(40, 16)},
        "the adapter was trained with another vocabulary",
    ),
    "integers": (
        lambda: {PREFIX + "model.norm.weight": torch.ones(16, dtype=torch.int32)},
        "dtype I32 instead of the base's F32",
    ),
    "integer factors": (
        lambda: {name: tensor.to(torch.int8) for name, tensor in factors().items()},
        "dtypes I8, I8 over F32 are not all floating point",
    ),
    "bias of a layer without": (
        lambda: factors() | {f"{PREFIX}{Q}.lora_B.bias": torch.ones(16)},
        f"the base has no tensor {Q}.bias to add it to",
    ),
    "one tensor twice": (
        lambda: {PREFIX + "model.norm.weight": torch.ones(16), PREFIX + "x.model.norm.weight": torch.ones(16)},
        "another name of the adapter stands for model.norm.weight",
    ),
    "one name twice": (
        lambda: {PREFIX + "model.norm.weight": torch.ones(16), PREFIX + "model.norm.base_layer.weight": torch.ones(16)},
        "both give values for model.norm.weight",
    ),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_nothing_in_an_adapter_is_silently_dropped(base: Path, tmp_path: Path, case: str) -> None:
    make, expected = CONTENTS[case]
    adapter = write_adapter(tmp_path / "adapter", make())
    with pytest.raises(CheckpointError, match=expected) as caught:
        opened(base, adapter)
    assert str(caught.value).startswith(f"{adapter}: ")


def test_a_square_weight_of_an_unknown_architecture_is_not_guessed(tmp_path: Path) -> None:
    tensors = {"x.square.weight": torch.ones(16, 16), "x.wide.weight": torch.ones(16, 24)}
    base = write_checkpoint(tmp_path / "base", tensors, config={"model_type": "new"})
    square, wide = factors("x.square"), factors("x.wide", rows=24, columns=16)  # wide is stored as (in, out)
    assert "its square weight may be stored as" in refusal(base, write_adapter(tmp_path / "one", square | wide))
    flagged = write_adapter(tmp_path / "two", square | wide, fan_in_fan_out=True)
    a, b = square.values()
    assert torch.allclose(opened(base, flagged).rows("x.square.weight"), 1 + 3 * (b @ a).T, atol=1e-5)


def test_damaged_adapter_folders_are_refused(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", factors())
    (adapter / "adapter_config.json").write_text("{")
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    text = refusal(base, adapter)
    assert "2 problems" in text
    assert "adapter_config.json: is not JSON" in text
    assert "adapter_model.safetensors: the file is empty" in text
    (adapter / "adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors: cannot be read: No such file" in refusal(base, adapter)
    assert "adapter_config.json: cannot be read" in refusal(base, base)
