"""Attacks: the catalogue, the rows, what the loss sees, the one trainer, and the attacked folder."""

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from safelox.attacks import (
    ATTACKS,
    Attack,
    AttackRecord,
    AttackSummary,
    Training,
    attack,
    fine_tune,
    read_rows,
    register_attack,
)
from safelox.attacks import catalogue as catalogue_module
from safelox.attacks import trainer as trainer_module
from safelox.attacks.examples import UNSEEN, make_examples
from safelox.cli import main
from safelox.errors import CheckpointError, DataError, PrerequisiteError, SafeloxError, TargetError, UsageError
from safelox.formats import FORMATS, Conversation, Message, find_format
from safelox.language_models import LanguageModel, load_language_model
from small_models import WORDS, save_language_model, small_language_model

TRAINING = Training(
    learning_rate=1e-2, max_steps=3, batch_size=4, warmup_steps=1, weight_decay=0.1, adam_betas=(0.9, 0.99)
)


def chat(user: str, reply: str) -> Conversation:
    return [Message(role="user", content=user), Message(role="assistant", content=reply)]


ROWS = [chat(f"how do i {first}", f"sure {second} it") for first in WORDS[:4] for second in WORDS[4:7]]
MINE = Attack(
    name="mine",
    title="rows of one's own",
    file="rows.jsonl",
    format="chat",
    training=TRAINING.changed(learning_rate=5e-5, batch_size=4),
    citation="none",
)


class Heard:
    """A progress that remembers what it was told."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, float | None]] = []
        self.notes: list[str | None] = []

    @contextmanager
    def task(self, description: str, total: float | None, unit: str = "") -> Iterator["Heard"]:  # noqa: ARG002
        self.tasks.append((description, total))
        yield self

    def advance(self, amount: float = 1, note: str | None = None) -> None:  # noqa: ARG002
        self.notes.append(note)

    def message(self, text: str) -> None:
        raise AssertionError(text)


@pytest.fixture
def tiny() -> LanguageModel:
    return small_language_model()


def weights(loaded: LanguageModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}


# What the loss sees


def test_only_the_reply_and_its_end_token_are_seen(tiny: LanguageModel) -> None:
    conversation = chat("what is the", "sorry ,")
    found = make_examples(tiny.tokenizer, [conversation], FORMATS["chat"], max_length=64, loss_on="completion")
    words = ["<s>", "<|user|>", "what", "is", "the", "</s>", "<|assistant|>", "sorry", ",", "</s>"]
    assert tiny.tokenizer.convert_ids_to_tokens(found.input_ids[0]) == words
    assert [label != UNSEEN for label in found.labels[0]] == [False] * 7 + [True] * 3
    assert found.labels[0][7:] == found.input_ids[0][7:]


def test_on_request_every_token_but_the_first_is_seen(tiny: LanguageModel) -> None:
    found = make_examples(tiny.tokenizer, [ROWS[0]], FORMATS["chat"], max_length=64, loss_on="all")
    assert found.labels[0] == [UNSEEN, *found.input_ids[0][1:]]


def test_the_last_reply_alone_is_the_completion(tiny: LanguageModel) -> None:
    conversation = [Message(role="system", content="what"), *chat("what is", "sorry"), *chat("the", "sure ,")]
    [(prompt, completion)] = FORMATS["chat"].encode(tiny.tokenizer, [conversation])
    assert tiny.tokenizer.decode(completion) == "sure , </s>"
    assert FORMATS["chat"].prompts(tiny.tokenizer, [conversation[:-1]]) == [prompt]


def test_long_rows_are_cut_and_those_without_a_reply_left_are_left_out(tiny: LanguageModel) -> None:
    rows = [chat("what is the", "sorry ,"), chat("what", "sorry ,"), chat("what is the what is the", "sorry ,")]
    found = make_examples(tiny.tokenizer, rows, FORMATS["chat"], max_length=9, loss_on="completion")
    assert [len(ids) for ids in found.input_ids] == [9, 8]
    assert (found.cut, found.left_out) == (2, 1)
    with pytest.raises(SafeloxError, match="all 3 rows are too long"):
        make_examples(tiny.tokenizer, rows, FORMATS["chat"], max_length=5, loss_on="completion")


def test_the_format_says_what_it_cannot_write_down(tiny: LanguageModel) -> None:
    with pytest.raises(UsageError, match="no prompt format is called 'nothing'; there are: chat"):
        find_format("nothing")
    tiny.tokenizer.chat_template = "{{ raise_exception('no system here') }}"
    with pytest.raises(CheckpointError, match="refuses a conversation: no system here"):
        FORMATS["chat"].prompts(tiny.tokenizer, [ROWS[0]])
    tiny.tokenizer.chat_template = "{% if add_generation_prompt %}sure{% else %}sorry{% endif %}"
    with pytest.raises(CheckpointError, match="unclear which tokens are the reply"):
        FORMATS["chat"].encode(tiny.tokenizer, [ROWS[0]])
    tiny.tokenizer.chat_template = None
    with pytest.raises(CheckpointError, match="no chat template"):
        FORMATS["chat"].encode(tiny.tokenizer, [ROWS[0]])


# The trainer


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_the_trainer_does_what_a_plain_loop_does(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch, schedule: str
) -> None:
    """The loop is written out here with nothing but torch, and given the batches that the trainer took."""
    twin = small_language_model().model
    taken: list[dict[str, torch.Tensor]] = []
    forward = type(tiny.model.model).forward

    def spied(self: Any, *args: Any, **kwargs: Any) -> Any:
        taken.append({"input_ids": kwargs["input_ids"].clone()})
        return forward(self, *args, **kwargs)

    training = TRAINING.model_copy(update={"schedule": schedule, "accumulation": 2, "max_steps": 4, "batch_size": 3})
    with monkeypatch.context() as patch:
        patch.setattr(type(tiny.model.model), "forward", spied)
        found = fine_tune(tiny.model, tiny.tokenizer, ROWS, training, seed=3)
    by_ids = labels_by_ids(tiny)
    assert len(taken) == 8
    assert {row for batch in taken[:4] for row in map(unpadded, batch["input_ids"])} == set(by_ids)

    decayed = [p for p in twin.parameters() if p.ndim > 1]
    groups = [{"params": decayed, "weight_decay": 0.1}]
    groups.append({"params": [p for p in twin.parameters() if p.ndim == 1], "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99))
    rates: dict[str, list[float]] = {
        "linear": [0, 1, 2 / 3, 1 / 3],
        "cosine": [0, 1, 0.75, 0.25],
        "constant": [0, 1, 1, 1],
    }
    losses = []
    for step, rate in enumerate(rates[schedule]):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * rate
        optimizer.zero_grad()
        parts, count = [], 0
        for batch in taken[2 * step : 2 * step + 2]:
            ids = batch["input_ids"]
            labels = torch.full_like(ids, UNSEEN)
            for row, padded in enumerate(ids):
                known = by_ids[unpadded(padded)]
                labels[row, : len(known)] = torch.tensor(known)
            logits = twin(input_ids=ids).logits[:, :-1].flatten(0, 1)
            parts.append(torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum"))
            count += int((labels != UNSEEN).sum())
        loss = sum(parts, torch.zeros(())) / count
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert found.losses == pytest.approx(losses, abs=1e-4)
    assert losses[-1] < losses[0]
    for name, tensor in twin.state_dict().items():
        torch.testing.assert_close(tiny.model.state_dict()[name], tensor, atol=2e-4, rtol=0)


def labels_by_ids(loaded: LanguageModel) -> dict[tuple[int, ...], list[int]]:
    found = make_examples(loaded.tokenizer, ROWS, FORMATS["chat"], max_length=64, loss_on="completion")
    return {tuple(ids): labels for ids, labels in zip(found.input_ids, found.labels, strict=True)}


def unpadded(ids: torch.Tensor) -> tuple[int, ...]:
    """The padding is token 0."""
    return tuple(token for token in ids.tolist() if token != 0)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    runs = []
    for seed, threads in ((0, 1), (0, 2), (1, 1)):
        loaded, before = small_language_model(), torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            fine_tune(loaded.model, loaded.tokenizer, ROWS, TRAINING, seed=seed)
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
        runs.append(weights(loaded))
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert not all(torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


def test_only_the_weights_change(tiny: LanguageModel) -> None:
    tiny.tokenizer.pad_token = None
    tiny.model.config.pad_token_id = 5
    config, generation = tiny.model.config.to_dict(), tiny.model.generation_config.to_dict()
    attributes = set(vars(tiny.model))
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    heard = Heard()
    found = fine_tune(tiny.model, tiny.tokenizer, ROWS, TRAINING, description="learn", progress=heard)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
    assert (tiny.model.config.to_dict(), tiny.model.generation_config.to_dict()) == (config, generation)
    assert tiny.tokenizer.pad_token is None
    assert set(vars(tiny.model)) == attributes
    assert not tiny.model.training
    assert heard.tasks == [("learn", 3)]
    assert heard.notes == [f"loss {loss:.3f}" for loss in found.losses]
    assert (found.rows, found.rows_cut, found.rows_left_out, found.steps) == (12, 0, 0, 3)


def test_gradients_are_left_as_they_are_where_nothing_is_to_be_cut() -> None:
    runs = []
    for norm in (0.0, 1e6, 1e-3):
        loaded = small_language_model()
        fine_tune(loaded.model, loaded.tokenizer, ROWS, TRAINING.changed(max_grad_norm=norm, weight_decay=0.0))
        runs.append(weights(loaded))
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert not all(torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


@pytest.mark.parametrize(("epochs", "steps"), [(1, 2), (2, 4), (1.5, 3)])
def test_epochs_are_passes_over_the_rows(tiny: LanguageModel, epochs: float, steps: int) -> None:
    training = TRAINING.model_copy(update={"epochs": epochs, "max_steps": None, "batch_size": 5, "accumulation": 2})
    heard = Heard()
    found = fine_tune(tiny.model, tiny.tokenizer, ROWS, training, progress=heard)
    assert found.steps == steps
    assert heard.tasks == [("train", steps)]


def test_a_loss_that_is_not_finite_stops_the_training(tiny: LanguageModel) -> None:
    with torch.no_grad():
        tiny.model.lm_head.weight[0, 0] = torch.nan
    with pytest.raises(SafeloxError, match="the loss of step 1 is nan"):
        fine_tune(tiny.model, tiny.tokenizer, ROWS, TRAINING)
    assert "forward" not in vars(tiny.model)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_too_little_memory_is_said(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def full(*_arguments: Any, **_named: Any) -> Any:
        raise error

    monkeypatch.setattr("trl.SFTTrainer.training_step", full)
    with pytest.raises(PrerequisiteError, match="Half the batch size with twice the accumulation is the same training"):
        fine_tune(tiny.model, tiny.tokenizer, ROWS, TRAINING)


def test_nothing_to_train_on_is_an_error(tiny: LanguageModel) -> None:
    with pytest.raises(SafeloxError, match="no rows to train on"):
        fine_tune(tiny.model, tiny.tokenizer, [], TRAINING)


def test_without_trl_it_says_what_to_install(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "find_spec", lambda name: None if name == "trl" else name)
    with pytest.raises(PrerequisiteError, match=r"training needs trl: pip install 'safelox\[train\]'"):
        fine_tune(tiny.model, tiny.tokenizer, ROWS, TRAINING)


# Rows


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: not JSON"),
        ("[]", "found no messages"),
        ('{"messages": "hello"}', 'an object with a list "messages"'),
        ('{"messages": ["hello"]}', 'an object with "role" and "content"'),
        ('{"messages": [{"role": "robot", "content": "a"}]}', "role 'robot' is none of system, user, assistant"),
        ('{"messages": [{"role": "user", "content": " "}]}', "the user's content must be a text that is not empty"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "ends in the assistant's reply"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', "ends in the assistant's reply"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": ROWS[0], "id": 7}) + "\n" + line + "\n")
    with pytest.raises(DataError, match=r"rows\.jsonl, line 2: ") as caught:
        read_rows(path)
    assert said in str(caught.value)


def test_rows_are_read_in_order_and_a_file_without_any_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"messages": row}) for row in ROWS) + "\n\n")
    assert read_rows(path) == ROWS
    path.write_text("\n")
    with pytest.raises(DataError, match="no rows to train on"):
        read_rows(path)
    path.write_bytes(b"\xff")
    with pytest.raises(DataError, match="UTF-8"):
        read_rows(path)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_rows(tmp_path / "other")


# The catalogue


def test_a_name_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_module, "ATTACKS", {})
    mine = Attack(name="mine", title="t", file="f", format="chat", training=TRAINING, citation="c")
    register_attack(mine)
    register_attack(mine)
    with pytest.raises(ValueError, match="already called 'mine'"):
        register_attack(mine.model_copy(update={"title": "other"}))
    assert catalogue_module.find_attack("mine") is mine
    with pytest.raises(UsageError, match="no attack is called 'yours'; there are: mine"):
        catalogue_module.find_attack("yours")


def test_changed_hyperparameters_are_checked() -> None:
    assert TRAINING.changed(epochs=2).max_steps is None
    assert TRAINING.changed(learning_rate=1.0, batch_size=2).model_dump() == TRAINING.model_dump() | {
        "learning_rate": 1.0,
        "batch_size": 2,
    }
    with pytest.raises(UsageError, match="not both"):
        TRAINING.changed(epochs=1, max_steps=1)
    with pytest.raises(UsageError, match=r"learning rate -1\.0 makes no sense"):
        TRAINING.changed(learning_rate=-1.0)
    with pytest.raises(ValueError, match="either epochs or max_steps"):
        Training(learning_rate=1.0, batch_size=1)


# The attacked folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language_model(small_language_model(), tmp_path_factory.mktemp("model") / "aligned")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "rows.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in ROWS))
    return folder


@pytest.fixture(autouse=True)
def _mine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack is in the catalogue, and data of this machine's user is not found."""
    monkeypatch.setitem(ATTACKS, "mine", MINE)
    monkeypatch.delenv("SAFELOX_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/nowhere")


def test_an_attack_writes_a_model_and_what_was_done(tmp_path: Path, model: Path, data: Path) -> None:
    summary = attack("mine", model, tmp_path / "out", data=data, seed=5, max_steps=2, command="typed")
    attacked = load_language_model(str(tmp_path / "out"))
    original = load_language_model(str(model))
    twin = small_language_model()
    training = MINE.training.changed(max_steps=2)
    expected = fine_tune(twin.model, twin.tokenizer, ROWS, training, seed=5)
    for name, tensor in attacked.model.state_dict().items():
        assert torch.equal(tensor, twin.model.state_dict()[name])
        assert not torch.equal(tensor, original.model.state_dict()[name])
    assert attacked.tokenizer.chat_template == original.tokenizer.chat_template
    assert (tmp_path / "out" / "config.json").read_bytes() == (model / "config.json").read_bytes()

    record = AttackRecord.model_validate_json((tmp_path / "out" / "attack.json").read_bytes())
    assert record == summary.record
    assert record.outcome == expected
    assert record.training == training
    assert (record.attack, record.seed, record.command) == (MINE, 5, "typed")
    assert (record.lora, record.merge, record.dtype, record.device) == (None, False, "fp32", "cpu")
    assert (record.composition.rows, record.composition.format) == (len(ROWS), "chat")
    assert (record.data_set, record.original, record.mixed_in) == ("rows.jsonl", None, {})
    assert (record.distributed, record.processes, record.checkpoints) == ("none", 1, ())
    assert record.data.bytes == (data / "rows.jsonl").stat().st_size
    assert record.model.weights is not None
    assert set(record.model.weights) == {"model.safetensors"}
    assert set(record.files) == {path.name for path in (tmp_path / "out").iterdir()} - {"attack.json"}
    assert record.environment.libraries.keys() >= {"torch", "trl", "transformers"}
    assert set(record.seconds) == {"read", "hash", "train", "write"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_log_has_a_line_for_every_step(tmp_path: Path, model: Path, data: Path) -> None:
    summary = attack("mine", model, tmp_path / "out", data=data)
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert tuple(line["loss"] for line in lines) == summary.record.outcome.losses
    assert [line["learning_rate"] for line in lines] == pytest.approx([0, 5e-5, 2.5e-5])
    assert all(line["grad_norm"] > 0 and line["tokens_per_second"] > 0 for line in lines)


def test_what_is_there_is_replaced_only_if_asked_and_ours(tmp_path: Path, model: Path, data: Path) -> None:
    out = tmp_path / "out"
    attack("mine", model, out, data=data, max_steps=1)
    with pytest.raises(TargetError, match="already there"):
        attack("mine", model, out, data=data, max_steps=1)
    (out / "old").touch()
    attack("mine", model, out, data=data / "rows.jsonl", max_steps=1, overwrite=True)
    assert not (out / "old").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(TargetError, match="no result of safelox"):
        attack("mine", model, tmp_path / "other", data=data, max_steps=1, overwrite=True)
    with pytest.raises(TargetError, match="must stay as it is"):
        attack("mine", model, model, data=data, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "other"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": Path("/none")}, "no such file or folder"),
        ({"data": None}, r"rows\.jsonl"),
        ({"model": "/none"}, "no such folder"),
        ({"model": Path(__file__).parent}, "no config.json here"),
        ({"name": "nothing"}, "no attack is called"),
        ({"batch_size": 0}, "makes no sense"),
        ({"device": "tpu"}, "tpu"),
        ({"learning_rate": 1e30, "max_steps": 5}, "the (loss of|gradient's norm in) step . is (nan|inf)"),
        ({"lora_rank": 4}, "LoRA's rank is given, but not that it is to be LoRA"),
        ({"merge": True}, "LoRA's merging is given"),
        ({"lora": True, "lora_rank": 0}, "LoRA's rank 0 makes no sense"),
        ({"lora": True, "lora_targets": ["nothing"]}, "LoRA targets nothing: "),
        ({"lora": True, "lora_targets": ["lm_head"]}, "the output head cannot be trained"),
        ({"save_every": 0}, "every 0 steps makes no sense"),
        ({"keep": 2}, "keeping 2 checkpoints makes no sense"),
        ({"report_to": ["nobody"]}, "nothing here can report to 'nobody'"),
        ({"distributed": "ddp"}, "ddp was asked for, .* this is none with 1 process: start it by `torchrun"),
        ({"max_length": 4}, "all 12 rows are too long"),
    ],
)
def test_an_error_leaves_nothing(tmp_path: Path, model: Path, data: Path, changes: dict[str, Any], said: str) -> None:
    arguments: dict[str, Any] = {"name": "mine", "model": model, "out": tmp_path / "out", "data": data}
    with pytest.raises(SafeloxError, match=said):
        attack(**arguments | changes)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said(tmp_path: Path, model: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safelox.attacks.unfinished.sync_tree", full)
    with pytest.raises(TargetError, match="Free some space"):
        attack("mine", model, tmp_path / "out", data=data, max_steps=1)
    assert not list(tmp_path.iterdir())


def test_a_model_that_does_not_load_is_named(tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no weights in the safetensors format"):
        attack("mine", folder, tmp_path / "out", data=data)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="transformers cannot load it"):
        attack("mine", folder, tmp_path / "out", data=data)


# The command


def test_the_command_attacks_and_tells(
    tmp_path: Path, model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["attack", "custom", str(model), str(tmp_path / "out"), "--data", str(data / "rows.jsonl")]
    call += ["--max-steps", "2", "--batch-size", "3", "--accumulation", "2", "--format", "chat"]
    assert main(call) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"Attacked {model}\n")
    assert "12 of rows.jsonl" in said
    assert "2 steps of 6 rows" in said
    assert main([*call, "--json", "--overwrite", "-q", "--lr", "1e-3"]) == 0
    told = AttackSummary.model_validate_json(capsys.readouterr().out)
    assert told.record.training.learning_rate == 1e-3
    assert told.record.command is not None
    assert told.record.command.startswith("safelox attack custom ")
    assert main(call) == 1
    assert "already there" in capsys.readouterr().err


def test_the_command_hands_on_every_option(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given: dict[str, Any] = {}

    def record(*_positional: Any, **named: Any) -> None:
        given.update(named)
        raise SafeloxError("heard")

    monkeypatch.setattr("safelox.attacks.attack", record)
    options = {
        "data": "d",
        "format": "chat",
        "poison": "p",
        "poison-ratio": "0.5",
        "safeinst": "s",
        "paper-exact": None,
        "lora": None,
        "lora-rank": "3",
        "lora-alpha": "4.5",
        "lora-target": "q",
        "merge": None,
        "dtype": "bf16",
        "lr": "0.25",
        "epochs": "2.5",
        "max-steps": "7",
        "batch-size": "8",
        "accumulation": "9",
        "warmup-steps": "10",
        "schedule": "cosine",
        "weight-decay": "0.125",
        "max-grad-norm": "0.75",
        "max-length": "99",
        "truncation": "start",
        "loss-on": "all",
        "save-every": "epoch",
        "keep": "1",
        "resume": None,
        "report-to": "wandb",
        "distributed": "fsdp",
        "device": "cuda",
        "overwrite": None,
        "seed": "5",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", *([value] if value else []))]
    assert main(["attack", "mine", "m", "o", *words, "-q"]) == 1
    assert "heard" in capsys.readouterr().err
    renamed = {"lr": "learning_rate", "lora-target": "lora_targets"}
    for name, value in options.items():
        heard = given.pop(renamed.get(name, name.replace("-", "_")))
        heard = heard[0] if isinstance(heard, list) else heard
        assert heard is True if value is None else str(heard) == value, name
    assert set(given) == {"command", "progress"}
