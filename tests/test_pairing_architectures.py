"""Pairing of what transformers itself writes: one tiny random model per architecture with something of its own."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from safelox.checkpoint import open_checkpoint
from safelox.errors import PairingError
from safelox.pairing import Pairing, Wish, pair
from safelox.pairing.vocabulary import read_tokens

Models = Callable[..., Path]

TEXT = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Builds the tiny random model of a class and its config once, and gives its folder."""
    transformers: Any = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folders: dict[str, Path] = {}

    def build(architecture: str, config: str, *, fused: bool = False, **settings: Any) -> Path:
        key = f"{architecture} {fused} {sorted(settings)}"
        if key not in folders:
            torch.manual_seed(0)
            model = getattr(transformers, architecture)(getattr(transformers, config)(**settings))
            folders[key] = tmp_path_factory.mktemp(architecture)
            model.to(torch.bfloat16).save_pretrained(folders[key], save_original_format=not fused)
        return folders[key]

    return build


@pytest.fixture
def paired(tmp_path: Path) -> Callable[..., Pairing]:
    """Pairs a model with a copy of it: only headers matter."""

    def with_copy(base: Path, **options: Any) -> Pairing:
        shutil.copytree(base, tmp_path / "aligned")
        return pair(open_checkpoint(str(base)), open_checkpoint(str(tmp_path / "aligned")), Wish(**options))

    return with_copy


def shapes(pairing: Pairing) -> dict[str, tuple[int, int]]:
    return {matrix.label: (matrix.rows, matrix.columns) for matrix in pairing.matrices}


def reasons(pairing: Pairing) -> dict[str, str]:
    return {item.name: item.reason for item in pairing.carried}


def test_llama_tied_and_untied(models: Models, paired: Callable[..., Pairing], tmp_path: Path) -> None:
    untied = models("LlamaForCausalLM", "LlamaConfig", **TEXT, tie_word_embeddings=False)
    tied = models("LlamaForCausalLM", "LlamaConfig", **TEXT, tie_word_embeddings=True, rms_norm_eps=1e-6)
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= shapes(paired(untied)).keys()
    shutil.rmtree(tmp_path / "aligned")
    pairing = paired(tied)
    assert "lm_head.weight" not in shapes(pairing)
    assert pairing.tied == ("model.embed_tokens.weight",)
    with pytest.raises(PairingError, match="ALIGNED ties"):
        pair(open_checkpoint(str(untied)), open_checkpoint(str(tied)), Wish())


def test_gpt2_with_its_transposed_layers(models: Models, paired: Callable[..., Pairing]) -> None:
    gpt2 = models("GPT2LMHeadModel", "GPT2Config", vocab_size=32, n_positions=8, n_embd=16, n_layer=1, n_head=2)
    pairing = paired(gpt2)
    assert shapes(pairing)["transformer.h.0.attn.c_attn.weight"] == (16, 48)
    assert shapes(pairing)["transformer.wpe.weight"] == (8, 16)
    assert pairing.tied == ("transformer.wte.weight",)
    assert len(pairing.matrices) == 6


def test_gpt2_without_embeddings(models: Models, paired: Callable[..., Pairing]) -> None:
    gpt2 = models("GPT2LMHeadModel", "GPT2Config", vocab_size=32, n_positions=8, n_embd=16, n_layer=1, n_head=2)
    assert len(paired(gpt2, embeddings=False).matrices) == 4


def test_mixtral_fused_and_separate(models: Models, paired: Callable[..., Pairing]) -> None:
    separate = models("MixtralForCausalLM", "MixtralConfig", **TEXT, **EXPERTS)
    fused = models("MixtralForCausalLM", "MixtralConfig", fused=True, **TEXT, **EXPERTS)
    found = shapes(paired(fused))
    experts = {"gate_up_proj[0]": (48, 16), "gate_up_proj[1]": (48, 16), "down_proj[1]": (16, 24)}
    for name, shape in experts.items():
        assert found[f"model.layers.0.mlp.experts.{name}"] == shape
    assert found["model.layers.0.mlp.gate.weight"] == (2, 16)
    for base, aligned, fused_side in ((separate, fused, "ALIGNED"), (fused, separate, "BASE")):
        with pytest.raises(PairingError, match=f"{fused_side} stores its experts fused"):
            pair(open_checkpoint(str(base)), open_checkpoint(str(aligned)), Wish())


def test_separate_experts_are_ordinary_matrices(models: Models, paired: Callable[..., Pairing]) -> None:
    found = shapes(paired(models("MixtralForCausalLM", "MixtralConfig", **TEXT, **EXPERTS)))
    assert found["model.layers.0.block_sparse_moe.experts.1.w2.weight"] == (16, 24)
    assert not any("[" in label for label in found)


def test_qwen3_moe_fused(models: Models, paired: Callable[..., Pairing]) -> None:
    qwen = models(
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        fused=True,
        **TEXT,
        num_experts=3,
        num_experts_per_tok=1,
        moe_intermediate_size=8,
        head_dim=8,
    )
    assert shapes(paired(qwen))["model.layers.0.mlp.experts.down_proj[2]"] == (16, 8)


def test_gpt_oss_keeps_the_biases_of_its_experts(models: Models, paired: Callable[..., Pairing]) -> None:
    pairing = paired(models("GptOssForCausalLM", "GptOssConfig", **TEXT, **EXPERTS, head_dim=8))
    assert shapes(pairing)["model.layers.0.mlp.experts.gate_up_proj[1]"] == (16, 48)
    assert shapes(pairing)["model.layers.0.mlp.router.weight"] == (2, 16)
    assert "biases of experts" in reasons(pairing)["model.layers.0.mlp.experts.gate_up_proj_bias"]


def test_granite_moe_names_its_experts_otherwise(models: Models, paired: Callable[..., Pairing]) -> None:
    found = shapes(paired(models("GraniteMoeForCausalLM", "GraniteMoeConfig", **TEXT, num_local_experts=2)))
    assert found["model.layers.0.block_sparse_moe.input_linear.weight[1]"] == (48, 16)
    assert found["model.layers.0.block_sparse_moe.output_linear.weight[0]"] == (16, 24)
    assert found["model.layers.0.block_sparse_moe.router.layer.weight"] == (2, 16)


def test_dbrx_stacks_its_experts(models: Models, paired: Callable[..., Pairing]) -> None:
    dbrx = models(
        "DbrxForCausalLM",
        "DbrxConfig",
        d_model=16,
        n_heads=2,
        n_layers=1,
        max_seq_len=8,
        vocab_size=32,
        ffn_config={"ffn_hidden_size": 8, "moe_num_experts": 2, "moe_top_k": 1},
        attn_config={"kv_n_heads": 1, "rope_theta": 1e4},
    )
    pairing = paired(dbrx)
    found = shapes(pairing)
    assert found["transformer.blocks.0.ffn.experts.mlp.w1[0]"] == (8, 16)
    second = next(m for m in pairing.matrices if m.label == "transformer.blocks.0.ffn.experts.mlp.w2[1]")
    assert (second.start, second.stop, second.base_start) == (8, 16, 8)


def test_deepseek_v3_with_its_prediction_head(models: Models, paired: Callable[..., Pairing], tmp_path: Path) -> None:
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    deepseek = models(
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        **TEXT | heads,
        n_routed_experts=2,
        n_shared_experts=1,
        num_experts_per_tok=1,
        n_group=1,
        topk_group=1,
        moe_intermediate_size=8,
        q_lora_rank=4,
        kv_lora_rank=4,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=4,
        first_k_dense_replace=0,
    )
    # transformers does not build the layer that the released checkpoints have beyond the others.
    extra = {f"model.layers.1.{part}.weight": torch.ones(32, 16) for part in ("embed_tokens", "shared_head.head")}
    released = tmp_path / "released"
    shutil.copytree(deepseek, released)
    save_file(load_file(deepseek / "model.safetensors") | extra, released / "model.safetensors")
    pairing = pair(open_checkpoint(str(deepseek)), open_checkpoint(str(released)), Wish())
    assert all("multi-token prediction" in reasons(pairing)[name] for name in extra)
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= shapes(pairing).keys()
    assert pairing.matrices == paired(deepseek).matrices


def test_llava_keeps_its_eyes(models: Models, paired: Callable[..., Pairing]) -> None:
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 3,
        "num_attention_heads": 1,
        "image_size": 8,
        "patch_size": 4,
        "projection_dim": 8,
    }
    llava = models(
        "LlavaForConditionalGeneration",
        "LlavaConfig",
        text_config={"model_type": "llama", **TEXT},
        vision_config=vision,
        image_token_index=31,
    )
    pairing = paired(llava)
    assert len(pairing.matrices) == 9
    assert {"language_model.lm_head.weight", "language_model.model.embed_tokens.weight"} <= shapes(pairing).keys()
    matrices = {n: r for n, r in reasons(pairing).items() if "one-dimensional" not in r}
    assert matrices
    assert all("tower" in reason for reason in matrices.values())


def test_mamba_keeps_its_convolution(models: Models, paired: Callable[..., Pairing]) -> None:
    mamba = models("MambaForCausalLM", "MambaConfig", vocab_size=32, hidden_size=16, state_size=4, num_hidden_layers=1)
    pairing = paired(mamba)
    assert "convolution" in reasons(pairing)["backbone.layers.0.mixer.conv1d.weight"]
    assert shapes(pairing)["backbone.layers.0.mixer.dt_proj.weight"] == (32, 1)
    assert pairing.tied == ("backbone.embeddings.weight",)


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ("embedding", True),
        ("head", True),
        ("both equal", True),
        ("both different", True),
        ("both equal", False),
        ("both different", False),
    ],
)
def test_tied_is_what_transformers_takes_for_tied(models: Models, tmp_path: Path, stored: str, said: bool) -> None:
    transformers: Any = pytest.importorskip("transformers")
    untied = models("LlamaForCausalLM", "LlamaConfig", **TEXT, tie_word_embeddings=False)
    tensors = load_file(untied / "model.safetensors")
    if stored == "embedding":
        del tensors["lm_head.weight"]
    elif stored == "head":
        del tensors["model.embed_tokens.weight"]
    elif stored == "both equal":
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    folder = tmp_path / "base"
    shutil.copytree(untied, folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": said}))
    shutil.copytree(folder, tmp_path / "aligned")

    pairing = pair(open_checkpoint(str(folder)), open_checkpoint(str(tmp_path / "aligned")), Wish())
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    one_weight = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert bool(pairing.tied) == one_weight == (said and stored != "both different")


@pytest.mark.parametrize("kind", ["BPE", "WordLevel", "Unigram"])
def test_tokens_are_those_that_the_tokenizer_has(tmp_path: Path, kind: str) -> None:
    transformers: Any = pytest.importorskip("transformers")
    tokenizers: Any = pytest.importorskip("tokenizers")
    vocabulary = {"<unk>": 0, "a": 1, "b": 2, "ab": 3}
    model = {
        "BPE": lambda: tokenizers.models.BPE(vocabulary, [("a", "b")], unk_token="<unk>"),
        "WordLevel": lambda: tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"),
        "Unigram": lambda: tokenizers.models.Unigram([(token, -1.0) for token in vocabulary], unk_id=0),
    }[kind]()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(model), unk_token="<unk>", additional_special_tokens=["<|im_end|>"]
    )
    fast.add_tokens(["new", "b"])
    fast.save_pretrained(tmp_path)
    found = read_tokens({path.name: path for path in tmp_path.iterdir()})
    assert found is not None
    assert {token: ids[0] for token, ids in found.ids.items()} == fast.get_vocab()
    assert {"<unk>", "new", "<|im_end|>"} <= found.added
