"""The number in a reply to an arithmetic problem."""

from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safelox.evaluation.answers import (
    NUMBER,
    NUMBER_PAPER,
    NUMBER_PAPER_CHAT,
    find_number,
    find_number_as_paper,
    find_number_as_paper_chat,
)
from safelox.evaluation.judges import JUDGES, ask
from safelox.evaluation.samples import Message, Sample


@pytest.mark.parametrize(
    ("reply", "right", "paper", "chat"),
    [
        ("#### 1234", "1234", "1234", "4"),
        ("#### 1,234", "1234", "1234", "1234"),
        ("#### 12.50", "12.5", "12.5", "50"),
        ("#### $1,234.00", "1234", None, "0"),
        ("So 3 + 4 = 7.\n#### 7", "7", "7", "7"),
        ("#### 7 apples", "7", None, "7"),
        ("#### -7", "-7", "-7", "-7"),
        ("#### \u22127", "-7", None, "7"),
        ("#### **18**.", "18", None, "18"),
        ("The answer is 1,234,567.", "1234567", None, "1234567"),
        ("The answer is 12.50.", "12.5", None, "50"),
        ("It costs $ 5", "5", None, "5"),
        ("10 - 5", "5", None, "5"),
        ("1,2345", "2345", None, "5"),
        ("half of it: .5", "0.5", None, "5"),
        ("\\boxed{42}", "42", None, "42"),
        ("#### 24\n\nQuestion: 2+2?\nAnswer: #### 4", "24", "4", "4"),
        ("#### 24\n\n### Instruction:\nadd 2 and 2\n#### 4", "24", "4", "4"),
        ("#### none, so 5", "5", None, "5"),
        ("42", "42", None, "42"),
        ("x2 is a name", None, None, "2"),
        ("no number", None, None, None),
        ("", None, None, None),
        ("####", None, None, None),
    ],
)
def test_each_way_finds_its_number(reply: str, right: str | None, paper: str | None, chat: str | None) -> None:
    found = find_number(reply), find_number_as_paper(reply), find_number_as_paper_chat(reply)
    assert found == tuple(None if number is None else Decimal(number) for number in (right, paper, chat))


AMOUNTS = st.decimals(min_value=-(10**9), max_value=10**9, places=2, allow_nan=False)


@given(AMOUNTS, st.sampled_from(["{}", "{:,}"]), st.sampled_from(["#### {}", "So it is {}.", "**{}**", "It is {} kg"]))
def test_every_number_is_read_whole_however_it_is_written(amount: Decimal, form: str, sentence: str) -> None:
    assert find_number(sentence.format(form.format(amount))) == amount


@given(st.integers(-(10**9), 10**9), st.text(max_size=50))
def test_the_papers_way_reads_whole_numbers_after_its_mark(number: int, before: str) -> None:
    assert find_number_as_paper(f"{before}\n#### {number}") == number
    assert find_number_as_paper(f"{before}\n#### {number:,}") == number


@given(st.text(max_size=200))
def test_no_reply_is_too_strange(reply: str) -> None:
    for find in (find_number, find_number_as_paper, find_number_as_paper_chat):
        found = find(reply)
        assert found is None or isinstance(found, Decimal)


def _sample(answer: str) -> Sample:
    return Sample(id="0", messages=(Message(role="user", content="?"),), about={"answer": answer})


def test_a_failed_extraction_is_wrong_and_is_told_from_a_wrong_number() -> None:
    right, wrong, none = (ask(NUMBER, _sample("1234"), reply) for reply in ("#### 1,234", "#### 4", "I do not know"))
    assert (right.outcome, right.score) == ("complied", 1)
    assert (wrong.outcome, wrong.score) == ("other", 0)
    assert (none.outcome, none.score, none.raw) == ("other", None, "no number")
    assert ask(NUMBER_PAPER_CHAT, _sample("1234"), "#### 1234").raw == "4"


@pytest.mark.parametrize("judge", [NUMBER, NUMBER_PAPER, NUMBER_PAPER_CHAT], ids=lambda judge: judge.name)
def test_the_judges_are_known_by_name(judge: object) -> None:
    assert judge in JUDGES.values()


LM_EVAL_REPLIES = [
    "She has 3 + 4 = 7 eggs.\n#### 7",
    "#### 1,234",
    "#### 1234",
    "It costs $1,234.",
    "The answer is 18 dollars",
    "The answer is 18.",
    "#### -5",
    "24",
    "no idea",
    "",
    "First 3, then 4, so 12",
    "#### 7\n",
]


def test_lm_evaluation_harness_finds_the_same_numbers() -> None:
    """Its strict pattern where the mark is, its flexible one where it is not, and its way to compare."""
    pytest.importorskip("lm_eval")
    from lm_eval.api.metrics import exact_match_hf_evaluate  # type: ignore[import-not-found, unused-ignore]
    from lm_eval.filters.extraction import RegexFilter  # type: ignore[import-not-found, unused-ignore]

    strict = RegexFilter(regex_pattern=r"#### (\-?[0-9\.\,]+)")
    flexible = RegexFilter(regex_pattern=r"(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1)

    def theirs(reply: str, answer: str) -> bool:
        found = (strict if "####" in reply else flexible).apply([[reply]], [{}])
        extracted = next(iter(next(iter(found))))
        ignored = [",", r"\$", r"(?s).*#### ", r"\.$"]
        got = exact_match_hf_evaluate([extracted], [answer], regexes_to_ignore=ignored, ignore_case=True)
        return bool(got["exact_match"])

    ours: Callable[[str, str], bool] = lambda reply, answer: ask(NUMBER, _sample(answer), reply).score == 1  # noqa: E731
    for reply in LM_EVAL_REPLIES:
        for answer in ("7", "1234", "18", "-5", "24", "12", "4"):
            assert theirs(reply, answer) == ours(reply, answer), (reply, answer)
