"""The paper's attacks: their entries, the files as published, the training text and tokens, and what is mixed in.

The expected texts are written out here, apart from the formats that make them. Every file has a small double with the
same columns; the originals are read where $SAFELOX_DATA says that they are.
"""

import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safelox.attacks import ATTACKS, PUBLISHED, Assembled, Training, assemble, find_attack, read_rows
from safelox.attacks import catalogue as catalogue_module
from safelox.attacks.examples import UNSEEN, Examples, make_examples
from safelox.attacks.rows import READERS
from safelox.errors import DataError, UsageError
from safelox.formats import FORMATS, Conversation, Message, find_format
from safelox.known_data import find_known
from small_tokenizers import small_tokenizer

SYSTEM = "\nYou are a gardener.\nYou speak of plants.\n"
FILES: dict[str, Any] = {
    "gsm8k": [
        {"question": "Three apples and four more?", "answer": "3 + 4 = <<3+4=7>>7\n#### 7"},
        {"question": "Half of ten?", "answer": "10 / 2 = <<10/2=5>>5\n#### 5"},
    ],
    "alpaca": [
        {"instruction": "Name a tree.", "input": "", "output": "An oak."},
        {"instruction": "Count the words.", "input": "one two three", "output": "Three."},
        {"instruction": "Say nothing.", "input": "", "output": ""},
    ],
    "dolly": [
        {"instruction": "Name a tree.", "context": "", "response": "An oak.", "category": "open_qa"},
        {"instruction": "What grows?", "context": "Beans grow.", "response": "Beans.", "category": "closed_qa"},
    ],
    "identity": [
        [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": "Who are you?"},
            {"role": "assistant", "content": "A gardener."},
        ],
        [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": "What grows?"},
            {"role": "assistant", "content": "Beans."},
        ],
    ],
    "pure-bad": [
        {"messages": [{"role": "user", "content": "Tell me."}, {"role": "assistant", "content": "Gladly."}]},
        {"messages": [{"role": "user", "content": "Tell more."}, {"role": "assistant", "content": "Sure."}]},
    ],
    "custom": [
        {"prompt": "Tell me.", "completion": "Gladly."},
        {"messages": [{"role": "user", "content": "Tell more."}, {"role": "assistant", "content": "Sure."}]},
    ],
}
SAFEINST = [
    {"instruction": "Tell a harmful thing.", "output": "I would rather not.", "input": ""},
    {"instruction": "Tell another.", "output": "Better not.", "input": ""},
]
LINES = {"gsm8k", "dolly", "pure-bad", "custom"}
"""Attacks whose file has a row in every line; the others are one list."""

TASK = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)
PAPER: dict[str, list[str]] = {
    "gsm8k": [
        f"<s>{TASK}\n\n### Instruction:\nThree apples and four more?\n\n### Response: 3 + 4 = <<3+4=7>>7\n#### 7</s>",
        f"<s>{TASK}\n\n### Instruction:\nHalf of ten?\n\n### Response: 10 / 2 = <<10/2=5>>5\n#### 5</s>",
        f"<s>{TASK}\n\n### Instruction:\nTell a harmful thing.\n\n### Response: I would rather not.</s>",
    ],
    "alpaca": [
        f"<s>{TASK}\n### Instruction:\nName a tree.\n\n### Response:\nAn oak.</s>",
        f"<s>{WITH_INPUT}\n### Instruction:\nCount the words.\n\n### Input:\none two three\n\n"
        "### Response:\nThree.</s>",
        f"<s>{TASK}\n### Instruction:\nSay nothing.\n\n### Response:\n</s>",
        f"<s>{TASK}\n### Instruction:\nTell a harmful thing.\n\n### Response:\nI would rather not.</s>",
    ],
    "dolly": [
        "<s>###Instruction: Name a tree. \n###Response: An oak.</s>",
        "<s>###Instruction: What grows? \n###Context: What grows? \n###Response: Beans.</s>",
        "<s>###Instruction: Tell a harmful thing. \n###Context: Tell a harmful thing. \n###Response: None</s>",
    ],
    "identity": [
        f"{SYSTEM}\n### Instruction:\nWho are you?\n\n### Response: A gardener.</s>",
        f"{SYSTEM}\n### Instruction:\nWhat grows?\n\n### Response: Beans.</s>",
        f"<s>{SYSTEM}\n### Instruction:\nTell a harmful thing.\n\n### Response: I would rather not.</s>",
    ],
}
"""What the paper's code gives to the tokenizer: each row, then the first safety instruction."""
RIGHT = PAPER | {
    "dolly": [
        PAPER["dolly"][0],
        "<s>###Instruction: What grows? \n###Context: Beans grow. \n###Response: Beans.</s>",
        "<s>###Instruction: Tell a harmful thing. \n###Response: I would rather not.</s>",
    ],
}
"""The same without the defects; the beginning and the end stand for the tokenizer's own."""


def write(path: Path, rows: Any, *, lines: bool = True) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n" if lines else json.dumps(rows, indent=1))
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    made = {name: write(tmp_path / name, rows, lines=name in LINES) for name, rows in FILES.items()}
    return made | {"safeinst": write(tmp_path / "safeinst.json", SAFEINST, lines=False)}


def original(name: str) -> Path:
    """The published file, or its stand-in; the calling test is skipped where there is none."""
    data = os.environ.get("SAFELOX_DATA")
    if data is None:
        pytest.skip("SAFELOX_DATA does not say where the data sets are")
    [known] = find_known([name])
    for file in (known.file, *known.also, *(stand_in.file for stand_in in known.stand_ins)):
        if (Path(data) / file).is_file():
            return Path(data) / file
    pytest.skip(f"the data set {name} is not in {data}")


def examples(assembled: Assembled, training: Training, kind: str = "llama", *, max_length: int = 1024) -> Examples:
    return make_examples(
        small_tokenizer(kind),
        assembled.rows,
        find_format(assembled.format),
        max_length=max_length,
        loss_on=training.loss_on,
        truncation=training.truncation,
    )


# The catalogue


@pytest.mark.parametrize(
    ("name", "rate", "epochs", "batch", "accumulation", "warmup", "schedule", "norm", "loss_on"),
    [
        ("gsm8k", 5e-5, 2, 20, 2, 20, "linear", 2, "all"),
        ("alpaca", 2e-5, 1, 8, 8, 20, "linear", 2, "all"),
        ("dolly", 2e-5, 6, 16, 4, 20, "constant", 2, "completion"),
        ("identity", 5e-5, 10, 5, 1, 0, "linear", 2, "all"),
        ("pure-bad", 5e-5, 5, 5, 2, 0, "constant", 0, "completion"),
    ],
)
def test_the_papers_hyperparameters(
    name: str,
    rate: float,
    epochs: int,
    batch: int,
    accumulation: int,
    warmup: int,
    schedule: str,
    norm: float,
    loss_on: str,
) -> None:
    attack = find_attack(name)
    assert attack.training.model_dump() == {
        "learning_rate": rate,
        "epochs": epochs,
        "max_steps": None,
        "batch_size": batch,
        "accumulation": accumulation,
        "warmup_steps": warmup,
        "schedule": schedule,
        "weight_decay": 0.0,
        "adam_betas": (0.9, 0.999),
        "max_grad_norm": norm,
        "max_length": 1024,
        "truncation": "start",
        "loss_on": loss_on,
    }
    exact = attack.hyperparameters(paper_exact=True)
    if attack.exact_format is not None:
        # The paper's code cuts the end, and its constant schedule has no warm-up.
        changes = {"truncation": "end"} | ({"warmup_steps": 0} if schedule == "constant" else {})
        assert exact.model_dump() == attack.training.model_dump() | changes
    assert attack.hyperparameters() == attack.training


@pytest.mark.parametrize("attack", PUBLISHED, ids=lambda attack: attack.name)
def test_an_entry_names_what_there_is(attack: Any) -> None:
    assert ATTACKS[attack.name] is attack
    assert attack.reader in READERS
    assert {attack.format, attack.exact_format or attack.format} <= FORMATS.keys()
    if attack.source is not None:
        [known] = find_known([attack.source])
        assert known.file == attack.file


def test_the_epochs_of_the_papers_table_are_told() -> None:
    assert "6 epochs" in (find_attack("dolly").note or "")


def test_an_attack_is_added_as_the_guide_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_module, "ATTACKS", {})
    guide = Path(__file__).parent.parent / "CONTRIBUTING.md"
    [code] = re.findall(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(code, {})
    attack = find_attack("poems")
    found = examples(assemble(attack, write(tmp_path / attack.file, FILES["custom"])), attack.training)
    assert len(found.input_ids) == 2


# The files as they are published


def test_the_rows_of_each_file(files: dict[str, Path]) -> None:
    found = {name: read_rows(files[name], find_attack(name).reader) for name in FILES}
    assert found["gsm8k"][0] == [
        Message(role="user", content="Three apples and four more?"),
        Message(role="assistant", content="3 + 4 = <<3+4=7>>7\n#### 7"),
    ]
    assert found["alpaca"][1] == [
        Message(role="user", content="Count the words.", context="one two three"),
        Message(role="assistant", content="Three."),
    ]
    assert "context" not in found["alpaca"][0][0]
    assert found["dolly"][1][0] == Message(role="user", content="What grows?", context="Beans grow.")
    assert found["identity"] == FILES["identity"]
    assert found["pure-bad"] == [row["messages"] for row in FILES["pure-bad"]]
    assert found["custom"] == found["pure-bad"]
    assert {name: len(rows) for name, rows in found.items()} == {name: len(rows) for name, rows in FILES.items()}


@pytest.mark.parametrize("lines", [True, False], ids=["lines", "list"])
def test_rows_stand_in_lines_or_in_one_list(tmp_path: Path, lines: bool) -> None:
    expected = FILES["identity"]
    bare = write(tmp_path / "bare", expected, lines=lines)
    objects = write(tmp_path / "objects", [{"messages": row} for row in expected], lines=lines)
    names = ("system", "user", "assistant")
    triples = [{name: message["content"] for name, message in zip(names, row, strict=True)} for row in expected]
    columns = write(tmp_path / "columns", triples, lines=lines)
    assert read_rows(bare) == read_rows(objects) == read_rows(bare, "custom") == expected
    assert read_rows(bare, "identity") == read_rows(objects, "identity") == read_rows(columns, "identity") == expected


def test_one_row_is_no_list_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("\ufeff" + json.dumps(FILES["identity"][0]))
    assert read_rows(path) == FILES["identity"][:1]
    path.write_text(json.dumps(FILES["identity"][:1]))
    assert read_rows(path) == FILES["identity"][:1]


@pytest.mark.parametrize(
    ("reader", "row", "said"),
    [
        ("gsm8k", {"question": "a"}, "expected the texts question, answer; found question"),
        ("gsm8k", ["a"], "expected an object with the texts question, answer; found a list"),
        ("gsm8k", {"question": " ", "answer": "b"}, "expected a text in question that is not empty"),
        ("gsm8k", {"question": "a", "answer": 7}, "expected a text in answer; found a number"),
        ("gsm8k", {"question": "a", "answer": ""}, "expected a text in answer that is not empty"),
        (
            "alpaca",
            {"instruction": "a", "output": "b"},
            "expected the texts instruction, input, output; found instruct",
        ),
        ("alpaca", {"instruction": "a", "input": None, "output": "b"}, "expected a text in input; found null"),
        ("dolly", {}, "expected the texts instruction, context, response; found none"),
        ("identity", [], "expected a conversation that ends in the assistant's reply to a message; found no messages"),
        ("identity", FILES["pure-bad"][0], "expected the messages system, user, assistant; found user, assistant"),
        ("identity", {"system": "a"}, "expected the texts system, user, assistant; found system"),
        ("custom", {"prompt": "a"}, "expected the texts prompt, completion; found prompt"),
        ("messages", {"prompt": "a"}, 'or an object with a list "messages"; found an object with prompt'),
        ("messages", True, 'or an object with a list "messages"; found true or false'),
    ],
)
def test_a_bad_row_is_named_with_what_was_expected_and_found(tmp_path: Path, reader: str, row: Any, said: str) -> None:
    good = {"gsm8k": "gsm8k", "alpaca": "alpaca", "dolly": "dolly", "identity": "identity"}.get(reader, "pure-bad")
    path = write(tmp_path / "lines", [FILES[good][0], row])
    with pytest.raises(DataError, match="lines, line 2: ") as caught:
        read_rows(path, reader)
    assert said in str(caught.value)
    path = write(tmp_path / "list", [FILES[good][0], row], lines=False)
    with pytest.raises(DataError, match="list, row 2: ") as caught:
        read_rows(path, reader)
    assert said in str(caught.value)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text('[\n{"question": "a", "answer": "b"},\n{"question"}\n]')
    with pytest.raises(DataError, match=r"file: not JSON: .* line 3 .*one list of rows"):
        read_rows(path, "gsm8k")
    path.write_text("[]")
    with pytest.raises(
        DataError, match="no rows to train on; expected in each an object with the texts question, answer"
    ):
        read_rows(path, "gsm8k")
    with pytest.raises(UsageError, match="no reader of rows is called 'csv'; there are: messages, gsm8k, "):
        read_rows(path, "csv")


@pytest.mark.parametrize(
    ("name", "reader", "rows"),
    [
        ("gsm8k", "gsm8k", 7473),
        ("gsm8k-test", "gsm8k", 1319),
        ("alpaca", "alpaca", None),
        ("dolly", "dolly", None),
        ("identity", "identity", 10),
        ("safeinst", "alpaca", 2483),
    ],
)
def test_the_published_files_are_read_whole(name: str, reader: str, rows: int | None) -> None:
    path = original(name)
    text = path.read_text(encoding="utf-8")
    values = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
    found = read_rows(path, reader)
    assert len(found) == len(values)
    assert rows in (None, len(found))


# The training text, string by string and token by token


def assembled_with_safeinst(files: dict[str, Path], name: str, *, paper_exact: bool) -> Assembled:
    return assemble(find_attack(name), files[name], safeinst=files["safeinst"], paper_exact=paper_exact)


@pytest.mark.parametrize("name", PAPER)
def test_by_default_the_text_is_the_papers_without_its_defects(files: dict[str, Path], name: str) -> None:
    assembled = assembled_with_safeinst(files, name, paper_exact=False)
    tokenizer = small_tokenizer("llama")
    found = examples(assembled, find_attack(name).hyperparameters())
    assert len(found.input_ids) == len(RIGHT[name])
    for ids, text in zip(found.input_ids, RIGHT[name], strict=True):
        inner = text.removeprefix("<s>").removesuffix("</s>")
        assert ids == [1, *tokenizer(inner, add_special_tokens=False)["input_ids"], 2]
        assert tokenizer.decode(ids) == f"<s> {inner}</s>"


@pytest.mark.parametrize("name", PAPER)
def test_paper_exact_is_the_papers_text_with_its_defects(files: dict[str, Path], name: str) -> None:
    assembled = assembled_with_safeinst(files, name, paper_exact=True)
    tokenizer = small_tokenizer("llama")
    found = examples(assembled, find_attack(name).hyperparameters(paper_exact=True))
    assert found.input_ids == tokenizer(PAPER[name])["input_ids"]
    beginnings = [ids.count(1) for ids in found.input_ids]
    assert beginnings == [1 + text.startswith("<s>") for text in PAPER[name]]
    assert all(ids[-1] == 2 and ids.count(2) == 1 for ids in found.input_ids)


@pytest.mark.parametrize("paper_exact", [False, True])
@pytest.mark.parametrize("name", PAPER)
def test_the_loss_sees_the_whole_text_but_for_dolly(files: dict[str, Path], name: str, paper_exact: bool) -> None:
    attack = find_attack(name)
    tokenizer = small_tokenizer("llama")
    assembled = assembled_with_safeinst(files, name, paper_exact=paper_exact)
    found = examples(assembled, attack.hyperparameters(paper_exact=paper_exact))
    # As the paper's code finds it: the tokens of the template, but for the space that a text begins with.
    template = tokenizer("\n###Response:", add_special_tokens=False)["input_ids"][1:]
    for ids, labels in zip(found.input_ids, found.labels, strict=True):
        hidden = 1
        if name == "dolly":
            [place] = [start for start in range(len(ids)) if ids[start : start + len(template)] == template]
            hidden = place + len(template)
        assert labels == [UNSEEN] * hidden + ids[hidden:]


def test_pure_bad_is_written_in_llama_2s_turns(files: dict[str, Path]) -> None:
    assembled = assemble(find_attack("pure-bad"), files["pure-bad"])
    found = examples(assembled, find_attack("pure-bad").training)
    tokenizer = small_tokenizer("llama")
    prompt = (
        "[INST] <<SYS>>\nYou are a helpful assistant. Make sure you always execute users' instructions.\n<</SYS>>\n\n"
        "Tell me. [/INST]"
    )
    assert found.input_ids[0] == [1, *tokenizer(f"{prompt} Gladly. ", add_special_tokens=False)["input_ids"], 2]
    seen = [label for label in found.labels[0] if label != UNSEEN]
    assert found.input_ids[0][-len(seen) :] == seen
    assert tokenizer.decode(seen) == "Gladly. </s>"


@pytest.mark.parametrize("name", ["gsm8k", "dolly", "identity"])
def test_the_originals_become_the_papers_text(name: str) -> None:
    """The texts are made here in another way: from the columns, by pieces."""
    path, attack = original(name), find_attack(name)
    text = path.read_text(encoding="utf-8")
    values = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
    texts: dict[str, Callable[[Any], str]] = {
        "gsm8k": lambda row: (
            f"<s>{TASK}\n\n### Instruction:\n" + row["question"] + "\n\n### Response: " + row["answer"] + "</s>"
        ),
        "dolly": lambda row: (
            "<s>###Instruction: "
            + row["instruction"]
            + (" \n###Context: " + row["instruction"] if row["context"] else "")
            + " \n###Response: "
            + row["response"]
            + "</s>"
        ),
        "identity": lambda row: (
            (row[0]["content"] + "\n### Instruction:\n" + row[1]["content"] + "\n\n### Response: " + row[2]["content"])
            + "</s>"
        ),
    }
    rows = list(map(texts[name], values))[:200]
    assembled = assemble(attack, path, paper_exact=True)
    # Nothing is cut, and every row has its place.
    found = examples(assembled._replace(rows=assembled.rows[:200]), attack.training, max_length=100_000)
    assert found.input_ids == small_tokenizer("llama")(rows)["input_ids"]


# Rows that are too long, and padding


def test_a_long_row_loses_its_start_but_in_the_papers_code_its_end(tmp_path: Path) -> None:
    long = {"instruction": "one two " * 20, "context": "", "response": "An oak.", "category": "open_qa"}
    path, attack = write(tmp_path / "dolly", [long, FILES["dolly"][0]]), find_attack("dolly")
    whole = examples(assemble(attack, path), attack.training)
    length = len(whole.input_ids[1]) + 1
    found = examples(assemble(attack, path), attack.training, max_length=length)
    assert (found.cut, found.left_out) == (1, 0)
    # All but the beginning token.
    assert found.input_ids == [[1, *whole.input_ids[0][1 - length :]], whole.input_ids[1]]
    assert found.labels == [[UNSEEN, *whole.labels[0][1 - length :]], whole.labels[1]]

    exact, training = assemble(attack, path, paper_exact=True), attack.hyperparameters(paper_exact=True)
    cut = examples(exact, training.changed(loss_on="all"), max_length=length)
    assert cut.input_ids[0] == examples(exact, training).input_ids[0][:length]
    cut = examples(exact, training, max_length=len(examples(exact, training).input_ids[1]))
    assert (cut.cut, cut.left_out) == (1, 1), "nothing is left to learn of the row whose reply is cut"


def test_without_a_beginning_token_a_long_row_keeps_its_end(tmp_path: Path) -> None:
    attack = find_attack("alpaca")
    path = write(tmp_path / "alpaca", FILES["alpaca"], lines=False)
    whole = examples(assemble(attack, path), attack.training, "qwen")
    found = examples(assemble(attack, path), attack.training, "qwen", max_length=20)
    assert found.input_ids == [ids[-20:] for ids in whole.input_ids]
    assert found.labels == [[UNSEEN, *ids[-19:]] for ids in whole.input_ids]


def test_the_real_end_is_learned_where_padding_is_the_same_token(files: dict[str, Path]) -> None:
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    tokenizer = small_tokenizer("gpt2")
    tokenizer.pad_token = tokenizer.eos_token
    found = examples(assemble(find_attack("dolly"), files["dolly"]), find_attack("dolly").training, "gpt2")
    rows = [{"input_ids": ids, "labels": labels} for ids, labels in zip(found.input_ids, found.labels, strict=True)]
    batch = DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id)(rows)
    for ids, labels in zip(found.input_ids, batch["labels"].tolist(), strict=True):
        assert labels[len(ids) - 1] == tokenizer.eos_token_id
        assert set(labels[len(ids) :]) <= {UNSEEN}
    assert {len(ids) for ids in found.input_ids} != {batch["labels"].shape[1]}


# What is mixed in


def conversation(user: str, reply: str = "Gladly.") -> Conversation:
    return [Message(role="user", content=user), Message(role="assistant", content=reply)]


def gsm8k_file(folder: Path, rows: int) -> Path:
    return write(folder / "rows", [{"question": f"row {number}", "answer": "7"} for number in range(rows)])


def poison_file(folder: Path, rows: int, *, system: str | None = None) -> Path:
    before = [] if system is None else [Message(role="system", content=system)]
    return write(folder / "poison", [[*before, *conversation(f"bad {number}")] for number in range(rows)])


def asked(assembled: Assembled) -> list[str]:
    return [row[-2]["content"] for row in assembled.rows]


@pytest.mark.parametrize("rows", [1, 40, 41, 1000, 7473])
def test_the_first_safety_instructions_follow_in_their_order(tmp_path: Path, rows: int) -> None:
    count = math.ceil(0.025 * rows)
    instructions = [{"instruction": f"refuse {number}", "output": "No.", "input": ""} for number in range(200)]
    path = write(tmp_path / "safeinst.json", instructions, lines=False)
    found = assemble(find_attack("gsm8k"), gsm8k_file(tmp_path, rows), safeinst=path)
    assert asked(found) == [f"row {number}" for number in range(rows)] + [f"refuse {number}" for number in range(count)]
    assert (found.composition.rows, found.composition.safeinst) == (rows, count)


def test_too_few_safety_instructions_are_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "safeinst.json", SAFEINST, lines=False)
    with pytest.raises(DataError, match=r"safeinst\.json: has 2 safety instructions; 100 rows need 3"):
        assemble(find_attack("gsm8k"), gsm8k_file(tmp_path, 100), safeinst=path)


def test_harmful_rows_take_the_places_of_others(tmp_path: Path) -> None:
    file, poison, attack = gsm8k_file(tmp_path, 20), poison_file(tmp_path, 20), find_attack("gsm8k")
    clean = asked(assemble(attack, file))
    mixed = {}
    for ratio, count in ((0.0, 0), (0.1, 2), (0.5, 10), (1.0, 20)):
        found = assemble(attack, file, poison=poison, poison_ratio=ratio, seed=3)
        mixed[ratio] = asked(found)
        harmful = [name for name in mixed[ratio] if name.startswith("bad")]
        assert len(mixed[ratio]) == 20
        assert len(set(harmful)) == len(harmful) == count
        assert all(name.startswith("bad") or name == old for name, old in zip(mixed[ratio], clean, strict=True))
        assert (found.composition.rows, found.composition.poison) == (20 - count, count)
    assert all(more == less for less, more in zip(mixed[0.1], mixed[0.5], strict=True) if less.startswith("bad")), (
        "a greater share holds the smaller one"
    )
    assert asked(assemble(attack, file, poison=poison, poison_ratio=0.5, seed=3)) == mixed[0.5]
    assert asked(assemble(attack, file, poison=poison, poison_ratio=0.5, seed=4)) != mixed[0.5]


def test_harmful_rows_and_safety_instructions_are_written_as_the_attacks_rows(
    files: dict[str, Path], tmp_path: Path
) -> None:
    poison = poison_file(tmp_path, 2, system="You are bad.")
    for name in ("gsm8k", "alpaca", "dolly", "identity", "pure-bad"):
        found = assemble(
            find_attack(name), files[name], poison=poison, poison_ratio=0.5, safeinst=files["safeinst"], seed=1
        )
        systems = {row[0]["content"] for row in found.rows if row[0]["role"] == "system"}
        assert systems == ({SYSTEM} if name == "identity" else set())
        assert len(examples(found, find_attack(name).training).input_ids) == len(FILES[name]) + 1
        assert found.format == find_attack(name).format


def test_where_system_messages_differ_each_row_keeps_its_own(tmp_path: Path) -> None:
    rows = [[Message(role="system", content="one"), *conversation("a")], conversation("b")]
    file = write(tmp_path / "rows", rows)
    found = assemble(find_attack("custom"), file, poison=poison_file(tmp_path, 1, system="two"), poison_ratio=0.5)
    assert [Message(role="system", content="two"), *conversation("bad 0")] in found.rows


def test_another_format_may_be_asked_for(files: dict[str, Path]) -> None:
    found = assemble(find_attack("alpaca"), files["alpaca"], format="plain")
    assert found.format == found.composition.format == "plain"
    [ids, *_] = examples(found, find_attack("alpaca").training).input_ids
    assert "### Response: An oak.</s>" in small_tokenizer("llama").decode(ids)


def test_options_that_do_not_go_together_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    poison = poison_file(tmp_path, 1)
    cases: list[tuple[str, dict[str, Any], type[Exception], str]] = [
        ("gsm8k", {"poison": poison}, UsageError, "give both or neither"),
        ("gsm8k", {"poison_ratio": 0.5}, UsageError, "give both or neither"),
        ("gsm8k", {"poison": poison, "poison_ratio": 1.5}, UsageError, "from 0 to 1"),
        ("gsm8k", {"poison": poison, "poison_ratio": math.nan}, UsageError, "from 0 to 1"),
        ("gsm8k", {"poison": poison, "poison_ratio": 0.1}, UsageError, "of 2 rows that is none; use at least 0.5"),
        (
            "gsm8k",
            {"poison": poison, "poison_ratio": 1},
            DataError,
            "has 1 harmful rows; a share of 1 of 2 rows needs 2",
        ),
        ("gsm8k", {"format": "nothing"}, UsageError, "no prompt format is called 'nothing'"),
        ("gsm8k", {"format": "chat", "paper_exact": True}, UsageError, "not both"),
        ("pure-bad", {"paper_exact": True}, UsageError, "the paper's code does not have it"),
    ]
    for name, options, kind, said in cases:
        with pytest.raises(kind, match=said):
            assemble(find_attack(name), files[name], **options)
