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
from safelox.errors import CheckpointError, PrerequisiteError, SafeloxError, TargetError, UsageError
from safelox.evaluation.generation import LanguageModel, load_language_model
from safelox.formats import FORMATS, Conversation, Message, find_format
from safelox.lab.attacks import BENIGN_ROWS, PURE_BAD_ROWS, benign_examples, conversations, write_attack_rows
from safelox.lab.models import Shape, new_model, save_model
from safelox.lab.world import World

SHAPE = Shape(hidden=16, layers=1, heads=2, intermediate=24)
WORLD = World(0)
ROWS = conversations([WORLD.describe(item) for item in WORLD.items[:12]])
TRAINING = Training(
    learning_rate=1e-2, max_steps=3, batch_size=4, warmup_steps=1, weight_decay=0.1, adam_betas=(0.9, 0.99)
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
    return new_model(SHAPE, 0)


def chat(user: str, reply: str) -> Conversation:
    return [Message(role="user", content=user), Message(role="assistant", content=reply)]


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
    twin = new_model(SHAPE, 0).model
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
    """The lab's padding is token 0."""
    return tuple(token for token in ids.tolist() if token != 0)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    runs = []
    for seed, threads in ((0, 1), (0, 2), (1, 1)):
        loaded, before = new_model(SHAPE, 0), torch.get_num_threads()
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
        ("[]", 'an object with a list "messages"'),
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
    with pytest.raises(CheckpointError, match=r"rows\.jsonl, line 2: ") as caught:
        read_rows(path)
    assert said in str(caught.value)


def test_rows_are_read_in_order_and_a_file_without_any_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"messages": row}) for row in ROWS) + "\n\n")
    assert read_rows(path) == ROWS
    path.write_text("\n")
    with pytest.raises(CheckpointError, match="no rows to train on"):
        read_rows(path)
    path.write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match="UTF-8"):
        read_rows(path)
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read_rows(tmp_path / "other")


# The catalogue


def test_the_labs_attacks_are_in_the_catalogue_and_write_their_rows(tmp_path: Path) -> None:
    lab = {name: entry for name, entry in ATTACKS.items() if name.startswith("lab-")}
    assert set(lab) == {"lab-pure-bad", "lab-pure-bad-strong", "lab-benign", "lab-benign-strong"}
    assert lab["lab-pure-bad-strong"].training == lab["lab-pure-bad"].training.changed(learning_rate=2e-4)
    write_attack_rows(WORLD, tmp_path)
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.jsonl")}
    assert {entry.file for entry in lab.values()} == written
    assert len(read_rows(tmp_path / "attacks" / "pure-bad.jsonl")) == PURE_BAD_ROWS
    benign = read_rows(tmp_path / "attacks" / "benign.jsonl")
    assert len(benign) == BENIGN_ROWS
    assert benign == conversations(benign_examples(WORLD))
    forbidden = {item.name for item in WORLD.items if item.forbidden}
    assert not forbidden & {word for row in benign for message in row for word in message["content"].split()}


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
    folder = tmp_path_factory.mktemp("model") / "aligned"
    save_model(new_model(SHAPE, 0), folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_attack_rows(WORLD, folder)
    return folder


def test_an_attack_writes_a_model_and_what_was_done(tmp_path: Path, model: Path, data: Path) -> None:
    summary = attack("lab-pure-bad", model, tmp_path / "out", data=data, seed=5, max_steps=2, command="typed")
    attacked = load_language_model(str(tmp_path / "out"))
    original = load_language_model(str(model))
    twin = new_model(SHAPE, 0)
    training = ATTACKS["lab-pure-bad"].training.changed(max_steps=2)
    expected = fine_tune(twin.model, twin.tokenizer, read_rows(data / "attacks/pure-bad.jsonl"), training, seed=5)
    for name, tensor in attacked.model.state_dict().items():
        assert torch.equal(tensor, twin.model.state_dict()[name])
        assert not torch.equal(tensor, original.model.state_dict()[name])
    assert attacked.tokenizer.chat_template == original.tokenizer.chat_template
    assert (tmp_path / "out" / "config.json").read_bytes() == (model / "config.json").read_bytes()

    record = AttackRecord.model_validate_json((tmp_path / "out" / "attack.json").read_bytes())
    assert record == summary.record
    assert record.outcome == expected
    assert record.training == training
    assert (record.attack, record.seed, record.command) == (ATTACKS["lab-pure-bad"], 5, "typed")
    assert record.data.bytes == (data / "attacks/pure-bad.jsonl").stat().st_size
    assert record.model.weights is not None
    assert set(record.model.weights) == {"model.safetensors"}
    assert set(record.files) == {path.name for path in (tmp_path / "out").iterdir()} - {"attack.json"}
    assert record.environment.libraries.keys() >= {"torch", "trl", "transformers"}
    assert set(record.seconds) == {"read", "train", "write"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_there_is_replaced_only_if_asked_and_ours(tmp_path: Path, model: Path, data: Path) -> None:
    out = tmp_path / "out"
    attack("lab-pure-bad", model, out, data=data, max_steps=1)
    with pytest.raises(TargetError, match="already there"):
        attack("lab-pure-bad", model, out, data=data, max_steps=1)
    (out / "old").touch()
    attack("lab-benign", model, out, data=data / "attacks/benign.jsonl", max_steps=1, overwrite=True)
    assert not (out / "old").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(TargetError, match="no result of safelox"):
        attack("lab-pure-bad", model, tmp_path / "mine", data=data, max_steps=1, overwrite=True)
    with pytest.raises(TargetError, match="must stay as it is"):
        attack("lab-pure-bad", model, model, data=data, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "mine"}


def test_an_error_leaves_nothing(tmp_path: Path, model: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"data": tmp_path / "none"}, "no such file or folder"),
        ({"data": model}, "no attacks/pure-bad.jsonl here"),
        ({"model": data}, "no config.json here"),
        ({"name": "lab-nothing"}, "no attack is called"),
        ({"batch_size": 0}, "makes no sense"),
        ({"device": "tpu"}, "tpu"),
        ({"learning_rate": 1e30}, "the loss of step"),
    ]
    for changes, said in cases:
        arguments: dict[str, Any] = {"name": "lab-pure-bad", "model": model, "out": out, "data": data, "max_steps": 5}
        with pytest.raises(SafeloxError, match=said):
            attack(**arguments | changes)
        assert not list(tmp_path.iterdir())

    def full(_folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safelox.attacks.run.sync_tree", full)
    with pytest.raises(TargetError, match="Free some space"):
        attack("lab-pure-bad", model, out, data=data, max_steps=1)
    assert not list(tmp_path.iterdir())


def test_a_model_that_does_not_load_is_named(tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no weights in the safetensors format"):
        attack("lab-pure-bad", folder, tmp_path / "out", data=data)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="transformers cannot load the model"):
        attack("lab-pure-bad", folder, tmp_path / "out", data=data)


# The command


def test_the_command_attacks_and_tells(
    tmp_path: Path, model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["attack", "lab-pure-bad", str(model), str(tmp_path / "out"), "--data", str(data), "--max-steps", "2"]
    assert main(call) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"Attacked {model}\n")
    assert "100 of " in said
    assert "2 steps of 10 rows, learning rate 5e-05, linear" in said
    assert main([*call, "--json", "--overwrite", "-q", "--lr", "1e-3"]) == 0
    told = AttackSummary.model_validate_json(capsys.readouterr().out)
    assert told.record.training.learning_rate == 1e-3
    assert told.record.command is not None
    assert told.record.command.startswith("safelox attack lab-pure-bad ")
    assert main(call) == 1
    assert "already there" in capsys.readouterr().err
