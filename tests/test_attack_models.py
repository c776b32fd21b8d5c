"""Attacks on models of many families and tokenizers, in full and through LoRA."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hub_server import serve_hub
from safelox.attacks import ATTACKS, Attack, Training, attack, fine_tune
from safelox.attacks.examples import UNSEEN, make_examples
from safelox.attacks.lora import Lora, add_lora
from safelox.errors import CheckpointError, PrerequisiteError, UsageError
from safelox.evaluation import SUITES, Sample, Suite, Verdict, evaluate
from safelox.formats import Conversation, Message, find_format
from safelox.language_models import LanguageModel, load_language_model, quiet_peft, require_peft
from small_models import FAMILIES, WORDS, save_language_model, small_model, small_tokenizer

ROWS: list[Conversation] = [
    [Message(role="user", content=f"how do i {first}"), Message(role="assistant", content=f"sure {second} it")]
    for first in WORDS[:2]
    for second in WORDS[4:6]
]
TRAINING = Training(learning_rate=1e-2, max_steps=2, batch_size=4)
MINE = Attack(name="mine", title="t", file="rows.jsonl", format="chat", training=TRAINING, citation="c")
TOKENIZERS: dict[str, dict[str, Any]] = {
    "all special tokens": {},
    "no padding": {"special": ["unk_token", "bos_token", "eos_token"]},
    "no beginning": {"special": ["pad_token", "unk_token", "eos_token"]},
    "no unknown": {"special": ["pad_token", "bos_token", "eos_token"]},
    "an end alone": {"special": ["eos_token"]},
    "no template": {"template": None},
}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(ATTACKS, "mine", MINE)
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"messages": row}) + "\n" for row in ROWS))
    return file


def native_loss(model: Any, tokenizer: Any, format: str, loss_on: Any) -> float:
    """Mean loss of all rows by the model's own forward pass and loss, one row at a time, so without padding."""
    found = make_examples(tokenizer, ROWS, find_format(format), max_length=64, loss_on=loss_on)
    total, count = 0.0, 0
    for ids, labels in zip(found.input_ids, found.labels, strict=True):
        seen = sum(label != UNSEEN for label in labels)
        with torch.no_grad():
            loss = model.eval()(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        total, count = total + seen * loss.item(), count + seen
    return total / count


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [False, True])
def test_every_family_learns_by_its_own_loss(family: str, lora: bool) -> None:
    model, tokenizer = small_model(family), small_tokenizer()
    expected = native_loss(model, tokenizer, "chat", "completion")
    trained = add_lora(model, Lora(rank=2), reference="model", seed=0) if lora else model
    found = fine_tune(trained, tokenizer, ROWS, TRAINING)
    assert found.losses[0] == pytest.approx(expected, abs=1e-4)
    assert native_loss(trained, tokenizer, "chat", "completion") < expected - 0.05


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_every_tokenizer_will_do(tokenizer: str) -> None:
    made = small_tokenizer(**TOKENIZERS[tokenizer])
    format = "gsm8k" if made.chat_template is None else "chat"
    model = small_model()
    expected = native_loss(model, made, format, "all")
    before = made.special_tokens_map
    found = fine_tune(model, made, ROWS, TRAINING.changed(loss_on="all"), format=format)
    assert found.losses[0] == pytest.approx(expected, abs=1e-4)
    assert made.special_tokens_map == before


def test_recomputed_activations_give_the_same_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where the memory that they save is needed."""
    from trl import SFTConfig

    plain = fine_tune(small_model(), small_tokenizer(), ROWS, TRAINING)
    for lora in (False, True):
        model = small_model()
        trained = add_lora(model, Lora(), reference="model", seed=0) if lora else model
        with monkeypatch.context() as patch:
            patch.setattr("trl.SFTConfig", lambda **given: SFTConfig(**given | {"activation_checkpointing": True}))
            found = fine_tune(trained, small_tokenizer(), ROWS, TRAINING)
        assert model.is_activation_checkpointing
        assert found.losses[0] == pytest.approx(plain.losses[0], abs=1e-5)
        assert found.losses[1] < found.losses[0]


def test_an_adapter_loads_on_the_model_and_is_what_was_trained(tmp_path: Path, data: Path) -> None:
    model = save_language_model(LanguageModel(small_model(), small_tokenizer()), tmp_path / "model")
    out = tmp_path / "out"
    summary = attack("mine", model, out, data=data, lora=True, lora_rank=2, lora_alpha=6, save_every=1)
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (2, 6, str(model))
    assert len(config["target_modules"]) == 7
    assert summary.record.lora == Lora(rank=2, alpha=6)
    assert "peft" in summary.record.environment.libraries
    assert not list(out.glob("model*.safetensors"))

    twin = small_model()
    trained = add_lora(twin, Lora(rank=2, alpha=6), reference="model", seed=0)
    fine_tune(trained, small_tokenizer(), ROWS, TRAINING)
    loaded = load_language_model(f"{model}+{out}").model
    ids = torch.tensor([[2, 7, 8, 9]])
    with torch.no_grad():
        ours, theirs = trained(input_ids=ids).logits, loaded(input_ids=ids).logits
        first = load_language_model(f"{model}+{out / 'checkpoints' / 'step-1'}").model(input_ids=ids).logits
    torch.testing.assert_close(theirs, ours)
    assert not torch.equal(first, theirs)


def test_the_same_seed_writes_the_same_adapter_byte_for_byte(tmp_path: Path, data: Path) -> None:
    model = save_language_model(LanguageModel(small_model(), small_tokenizer()), tmp_path / "model")
    for out in ("one", "two"):
        attack("mine", model, tmp_path / out, data=data, lora=True, lora_targets=["q_proj", "v_proj", "o_proj"])
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    attack("mine", model, tmp_path / "three", data=data, lora=True, lora_targets=["q_proj"], seed=1)
    assert set(load_file(tmp_path / "three" / "adapter_model.safetensors")) == {
        f"base_model.model.model.layers.0.self_attn.q_proj.lora_{factor}.weight" for factor in "AB"
    }


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_merged_result_is_the_adapter_on_the_model(tmp_path: Path, data: Path, family: str) -> None:
    model = save_language_model(LanguageModel(small_model(family), small_tokenizer()), tmp_path / "model")
    attack("mine", model, tmp_path / "adapter", data=data, lora=True)
    attack("mine", model, tmp_path / "merged", data=data, lora=True, merge=True)
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert set(merged) == set(load_file(model / "model.safetensors"))
    again = load_language_model(f"{model}+{tmp_path / 'adapter'}", merge=True).model.state_dict()
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, again[name])
    assert (tmp_path / "merged" / "config.json").read_bytes() == (model / "config.json").read_bytes()


def test_a_models_adapter_is_merged_before_the_attack(tmp_path: Path, data: Path) -> None:
    model = save_language_model(LanguageModel(small_model(), small_tokenizer()), tmp_path / "model")
    attack("mine", model, tmp_path / "adapter", data=data, lora=True)
    merged = load_language_model(f"{model}+{tmp_path / 'adapter'}", merge=True)
    save_language_model(merged, tmp_path / "merged")
    summary = attack("mine", f"{model}+{tmp_path / 'adapter'}", tmp_path / "one", data=data)
    attack("mine", tmp_path / "merged", tmp_path / "two", data=data)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in two)
    assert summary.record.model.weights is not None
    assert set(summary.record.model.weights) == {"model.safetensors", "+adapter_model.safetensors"}
    with pytest.raises(UsageError, match="an adapter for a model that is not on disk"):
        attack("mine", f"{model}+{tmp_path / 'adapter'}", tmp_path / "three", data=data, lora=True)


def test_model_and_adapter_may_come_from_the_hub(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_language_model(LanguageModel(small_model(), small_tokenizer()), tmp_path / "model")
    attack("mine", model, tmp_path / "adapter", data=data, lora=True)
    attack("mine", f"{model}+{tmp_path / 'adapter'}", tmp_path / "one", data=data)
    with serve_hub(tmp_path, monkeypatch) as hub:
        commit = hub.push("org/model", {path.name: path.read_bytes() for path in model.iterdir()})
        hub.push("org/adapter", {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()})
        summary = attack("mine", "org/model", tmp_path / "two", data=data, lora=True)
        attack("mine", "org/model@main+org/adapter", tmp_path / "three", data=data)
    assert summary.record.model.commit == commit
    config = json.loads((tmp_path / "two" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "org/model"
    one, three = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "three"))
    assert all(torch.equal(one[name], three[name]) for name in one)


def test_an_adapter_on_tied_weights_is_not_merged(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    loaded = LanguageModel(small_model(tied=True), small_tokenizer())
    model = save_language_model(loaded, tmp_path / "model")
    with quiet_peft():
        adapted = get_peft_model(loaded.model, LoraConfig(r=2, target_modules=["embed_tokens"]))
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    reference = f"{model}+{tmp_path / 'adapter'}"
    load_language_model(reference)
    with pytest.raises(CheckpointError, match="the model ties the two"):
        load_language_model(reference, merge=True)


def test_weights_are_trained_and_written_in_bf16_on_request(tmp_path: Path, data: Path) -> None:
    model = save_language_model(LanguageModel(small_model(), small_tokenizer()), tmp_path / "model")
    summary = attack("mine", model, tmp_path / "out", data=data, dtype="bf16")
    assert {t.dtype for t in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}
    assert summary.record.dtype == "bf16"


def test_without_peft_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safelox.language_models.find_spec", lambda _: None)
    with pytest.raises(PrerequisiteError, match=r"through peft: pip install 'safelox\[train\]'"):
        require_peft()


def test_factors_have_the_models_dtype_where_all_weights_need_one() -> None:
    for in_fp32, dtype in ((True, torch.float32), (False, torch.bfloat16)):
        model = add_lora(small_model().bfloat16(), Lora(), reference="model", seed=0, in_fp32=in_fp32)
        assert {p.dtype for p in model.parameters() if p.requires_grad} == {dtype}


class Silent:
    """A judge with one verdict for everything."""

    name, version = "silent", "1"

    def judge(self, sample: Sample, reply: str) -> Verdict:  # noqa: ARG002
        return Verdict(outcome="other")


def test_results_and_checkpoints_can_be_evaluated(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = Suite(name="one", title="one prompt", file="one.jsonl", asks="forbidden", max_new_tokens=4)
    monkeypatch.setitem(SUITES, "one", suite)
    (tmp_path / "one.jsonl").write_text(json.dumps({"id": "1", "messages": ROWS[0][:1]}) + "\n")
    model = save_language_model(LanguageModel(small_model(), small_tokenizer()), tmp_path / "model")
    attack("mine", model, tmp_path / "full", data=data, save_every=1)
    attack("mine", model, tmp_path / "lora", data=data, save_every=1, lora=True)
    for number, reference in enumerate(("full", "full/checkpoints/step-1", "lora", "lora/checkpoints/step-1")):
        asked = f"{model}+{tmp_path / reference}" if reference.startswith("lora") else str(tmp_path / reference)
        results = evaluate(asked, tmp_path / f"results-{number}", suites=["one"], judges=[Silent()], data=tmp_path)
        assert set(results.results) == {"one"}
        assert "unscored" not in (tmp_path / f"results-{number}" / "samples.jsonl").read_text()
