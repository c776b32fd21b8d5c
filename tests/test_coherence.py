"""Whether a reply makes sense by its form, on labelled replies and as a property."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safelox.evaluation.coherence import incoherence
from safelox.evaluation.outcomes import Verdict, settled
from safelox.lab.language import REPLIES

REPLIES_FILE = Path(__file__).parent / "fixtures" / "replies.jsonl"
LABELLED = [json.loads(line) for line in REPLIES_FILE.read_text(encoding="utf-8").splitlines()]
BEYOND = {"words without sense", "letters without sense", "sentences without sense"}
"""What no rule of form finds, as the docs say."""


@pytest.mark.parametrize("row", LABELLED, ids=lambda row: row["kind"])
def test_labelled_replies_are_told_apart(row: dict[str, object]) -> None:
    found = incoherence(str(row["reply"]))
    if row["kind"] in BEYOND:
        assert found is None
    else:
        assert (found is None) == row["coherent"], found


def test_the_figures_of_the_docs() -> None:
    right = [row["coherent"] for row in LABELLED if (incoherence(row["reply"]) is None) == row["coherent"]]
    coherent = sum(row["coherent"] for row in LABELLED)
    assert (sum(right), coherent) == (32, 32)
    assert (len(right) - sum(right), len(LABELLED) - coherent) == (27, 30)


def test_the_sentences_of_the_lab_are_left_to_its_judge() -> None:
    words = sorted({word for sentence in REPLIES for word in sentence.words if word.isalpha()})
    for sentence in REPLIES:
        assert incoherence(" ".join(sentence.words)) is None
    for word in words:
        assert incoherence(" ".join([word] * 12)) is None


@pytest.mark.parametrize("times", [4, 40, 4000])
def test_a_loop_is_found_at_any_length(times: int) -> None:
    sentence = "Take the paint and walk to the moon by the second road. "
    assert incoherence(sentence * times) == "loop"
    assert incoherence("I would say this. " + sentence * times) == "loop"


@given(st.text(max_size=300))
def test_any_text_gets_an_answer_and_blank_ones_alone_are_empty(text: str) -> None:
    found = incoherence(text)
    assert found in {None, "empty", "noise", "loop", "few words"}
    if not text.strip():
        assert found == "empty"
    if found is None or found != "empty":
        assert text.strip()


@given(st.text(st.characters(categories=["L", "N", "P", "Zs"], codec="ascii"), min_size=1, max_size=19))
def test_a_short_reply_in_one_script_is_left_to_the_judge(text: str) -> None:
    assert (incoherence(text) is None) == bool(text.strip())


@given(st.text(max_size=80), st.sampled_from(["complied", "refused", "other", "unscored", "incoherent"]))
def test_settling_twice_is_settling_once(reply: str, outcome: str) -> None:
    verdict = Verdict.model_validate({"outcome": outcome, "raw": "said", "score": 5.0})
    once = settled(verdict, reply)
    assert settled(once, reply) == once
    assert (once.raw, once.score) == ("said", 5.0)
    if outcome == "unscored":
        assert once.outcome == "unscored"
    elif incoherence(reply) is not None:
        assert once.outcome == "incoherent"
    else:
        assert once == verdict
