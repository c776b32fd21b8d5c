"""The suites of published data sets, and the readers of their files."""

import re
from pathlib import Path

import pytest

from safelox.errors import DataError, UsageError
from safelox.evaluation import PUBLISHED, SUITES, custom_suite
from safelox.evaluation.judges import JUDGES
from safelox.evaluation.readers import READERS, read_suite, with_examples, worked_examples
from safelox.evaluation.samples import Message, Sample
from safelox.evaluation.suites import find_suites, with_custom
from safelox.formats import FORMATS
from safelox.known_data import find, known_data

FIXTURES = Path(__file__).parent / "fixtures" / "data"


def prompts(reader: str, file: str) -> dict[str, str]:
    return {sample.id: sample.messages[-1].content for sample in read_suite(reader, FIXTURES / file)}


def test_the_table_of_suites_is_whole() -> None:
    assert {suite.name for suite in PUBLISHED} <= set(SUITES)
    for suite in PUBLISHED:
        assert suite.reader in READERS
        assert suite.source in known_data()
        assert set(suite.judges) <= set(JUDGES)
        assert suite.paper is None or suite.paper.format in FORMATS
        assert suite.examples is None or suite.examples.source in known_data()
        assert read_suite(suite.reader, find(suite.source, suite.file, FIXTURES).path)
    used = {known.name for known in known_data().values() if any("suite" in use for use in known.used_by)}
    assert used == {suite.source for suite in PUBLISHED}


def test_prompts_are_read_as_they_are_published() -> None:
    goals = prompts("advbench", "harmful_behaviors.csv")
    assert goals["1"] == 'Explain how to hide every left shoe of a village, "just for fun"'
    behaviours = prompts("harmbench", "harmbench_behaviors_text_all.csv")
    assert behaviours["paint_moon"] == "Explain how to paint the moon green"
    assert behaviours["gnome_shoes"] == (
        "The gnome of Brindle village took every left shoe.\nNobody saw how."
        "\n\n---\n\nDescribe, step by step, how the gnome took the shoes"
    )
    assert (
        prompts("strongreject", "strongreject_dataset.csv")["1"] == "Write a rude song about gnomes,\nwith a refrain."
    )
    assert prompts("jailbreakbench", "jailbreakbench/benign-behaviors.csv")["1"] == "Explain how to paint a wall green"


def test_the_two_halves_of_xstest_are_two_suites() -> None:
    safe = prompts("xstest-safe", "xstest_prompts.csv")
    unsafe = prompts("xstest-unsafe", "xstest_prompts.csv")
    assert set(safe) == {"1", "2"}
    assert set(unsafe) == {"3"}
    assert (SUITES["xstest"].asks, SUITES["xstest-unsafe"].asks) == ("permitted", "forbidden")


def test_what_a_judge_needs_goes_with_the_prompt() -> None:
    problems = read_suite("gsm8k", FIXTURES / "gsm" / "test.jsonl")
    assert [sample.about["answer"] for sample in problems] == ["24", "1260"]
    assert read_suite("advbench", FIXTURES / "harmful_behaviors.csv")[0].about == {
        "target": "Sure, here is a plan for painting the moon green"
    }
    assert read_suite("mt-bench", FIXTURES / "mt_bench" / "question.jsonl")[1].about["reference"] == ["42", "21"]


def test_just_eval_is_its_everyday_part_from_the_original_and_from_json_lines(tmp_path: Path) -> None:
    original = read_suite("just-eval", FIXTURES / "just_eval" / "example_data.json")
    assert [sample.id for sample in original] == ["0", "1"]
    lines = '{"id": 0, "instruction": "Name three colours.", "category": "regular"}\n'
    (tmp_path / "lines.jsonl").write_text(lines)
    assert read_suite("just-eval", tmp_path / "lines.jsonl")[0].messages == original[0].messages


def test_questions_of_two_turns_are_one_chat() -> None:
    first = read_suite("mt-bench", FIXTURES / "mt_bench" / "question.jsonl")[0]
    second = first.next_turn("Drops drum on the roof.")
    assert second is not None
    assert [message.role for message in second.messages] == ["user", "assistant", "user"]
    assert (second.id, second.messages[1].content) == ("1 turn 2", "Drops drum on the roof.")
    assert second.next_turn("and again") is None
    longer = second.model_copy(update={"then": ("more",)}).next_turn("so")
    assert longer is not None
    assert longer.id == "1 turn 3"


def test_solved_problems_stand_before_the_question() -> None:
    text = worked_examples(FIXTURES / "gsm" / "train.jsonl", 2)
    system = Message(role="system", content="be brief")
    asked = with_examples(Sample(id="0", messages=(system, Message(role="user", content="And now?"))), text)
    assert asked.messages[0] == system
    assert asked.messages[1].content.startswith("Question: A hen lays 3 eggs a day.")
    assert "#### 9\n\nQuestion: And now?\nAnswer:" in asked.messages[1].content
    with pytest.raises(DataError, match=r"holds 3 solved problems; 4 were asked for"):
        worked_examples(FIXTURES / "gsm" / "train.jsonl", 4)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "prompt,topic\nhow?,x\nwhy?,y\n"),
        ("a.jsonl", '{"prompt": "how?", "topic": "x"}\n\n{"prompt": "why?", "topic": "y"}\n'),
        ("a.json", '[{"prompt": "how?", "topic": "x"}, {"prompt": "why?", "topic": "y"}]'),
        (
            "b.jsonl",
            '{"id": "0", "messages": [{"role": "user", "content": "how?"}], "about": {"topic": "x"}}\n'
            '{"id": "1", "messages": [{"role": "user", "content": "why?"}], "about": {"topic": "y"}}\n',
        ),
    ],
)
def test_ones_own_file_is_read_by_its_form(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    suite = custom_suite(tmp_path / name)
    found = read_suite(suite.reader, find(suite.source, suite.file, None).path)
    assert [(sample.id, sample.messages[0].content) for sample in found] == [("0", "how?"), ("1", "why?")]
    assert [sample.about for sample in found] == [{"topic": "x"}, {"topic": "y"}]


@pytest.mark.parametrize(
    ("reader", "text", "message"),
    [
        ("advbench", "behaviour,target\nx,y\n", "row 1: expected a text called 'goal'; found: behaviour, target"),
        ("advbench", "goal,target\nx,y\n ,y\n", "row 2: expected a text called 'goal'; it is empty"),
        ("xstest-safe", "id,prompt,label\n1,x,safe\n1,y,safe\n", "row 2: id '1' occurs twice"),
        ("gsm8k", '{"question": "x", "answer": "24"}\n', "line 1: the answer has no #### before its number"),
        ("gsm8k", '\n{"question": "x"}\n', "line 2: expected a text called 'answer'; found: question"),
        ("gsm8k", "[1]", "row 1: expected a JSON object"),
        ("just-eval", "[{", "the file: not JSON"),
        (
            "mt-bench",
            '{"question_id": 1, "turns": []}',
            "line 1: expected the questions as a list",
        ),
        ("custom", '{"text": "x"}', "line 1: expected a text called 'prompt'; found: text"),
    ],
)
def test_a_row_that_is_none_is_named(tmp_path: Path, reader: str, text: str, message: str) -> None:
    (tmp_path / "bad").write_text(text)
    with pytest.raises(DataError, match=rf"bad, {re.escape(message)}"):
        read_suite(reader, tmp_path / "bad")


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"\xff\xfe\x00")
    for reader in READERS:
        with pytest.raises(DataError, match="bad: cannot be read as UTF-8 text"):
            read_suite(reader, tmp_path / "bad")
    with pytest.raises(UsageError, match="no reader of suites is called 'none'; there are: samples, advbench"):
        read_suite("none", tmp_path / "bad")


def test_a_suite_of_ones_own_and_its_file_go_together(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text("")
    named = with_custom(["advbench", "custom"], file, "permitted")
    assert [suite.name for suite in find_suites(named)] == ["advbench", "custom"]
    assert with_custom(["advbench"], None, None) == ["advbench"]
    assert find_suites(with_custom(["custom"], file, None))[0].asks == "forbidden"
    for names, given in ((["custom"], None), (["advbench"], file)):
        with pytest.raises(UsageError, match="--suite custom --suite-file FILE"):
            with_custom(names, given, None)
    with pytest.raises(UsageError, match="'permitted' would be what the suite custom asks for"):
        with_custom(["advbench"], None, "permitted")
    with pytest.raises(DataError, match="no such file of prompts"):
        custom_suite(tmp_path / "none")
