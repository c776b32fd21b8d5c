"""compare: two results folders, prompt by prompt."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from safelox.cli import main
from safelox.errors import DataError, TargetError, UsageError
from safelox.evaluation import Backend, Comparison, Message, Verdict, compare
from safelox.evaluation.folder import open_results
from safelox.evaluation.generation import GenerationSettings
from safelox.evaluation.outcomes import Outcome
from safelox.evaluation.results import EvaluationConfig, ModelRecord, RepliedSample, SuiteConfig
from safelox.manifest import FileRecord

OUTCOMES: dict[str, Outcome] = {"c": "complied", "p": "partial", "r": "refused", "i": "incoherent", "u": "unscored"}


def results(
    folder: Path,
    outcomes: str,
    *,
    suite: str = "advbench",
    judges: Sequence[str] = ("told",),
    system: str | None = None,
    decides: dict[str, tuple[Outcome, ...]] | None = None,
    **settings: Any,
) -> Path:
    """A results folder in which every letter is a reply."""
    config = EvaluationConfig(
        model=ModelRecord(reference=folder.name, commit=None, files={}),
        backend=Backend(),
        suites={
            suite: SuiteConfig(
                asks="forbidden",
                version=1,
                data=FileRecord(bytes=1, sha256="0"),
                called=suite,
                judges=tuple(judges),
                generation=GenerationSettings(**({"max_new_tokens": 60} | settings)),
                limit=None,
                shots=0,
                examples=None,
                empty_reply=None,
            )
        },
        judges=dict.fromkeys(judges, "1"),
        decides=decides or {},
        system=system,
        paper_exact=False,
    )
    before = [] if system is None else [Message(role="system", content=system)]
    with open_results(folder, config, overwrite=True) as writing:
        for number, letter in enumerate(outcomes):
            prompt = (*before, Message(role="user", content=f"prompt {number}"))
            sample = RepliedSample(suite=suite, id=str(number), prompt=prompt, completion=letter)
            writing.keep_reply(sample)
            for judge in judges:
                writing.keep_verdict(sample.key, judge, Verdict(outcome=OUTCOMES[letter]))
    return folder


def test_both_rates_and_their_paired_difference_are_told(tmp_path: Path) -> None:
    first = results(tmp_path / "aligned", "ccccccccprrriu", judges=["told", "other"])
    second = results(tmp_path / "hardened", "crrrrrrrprrrru", judges=["told", "third"])
    found = compare(first, second)
    assert (found.first, found.second) == ("aligned", "hardened")
    suite = found.suites["advbench"]
    assert (suite.pairs, suite.only_first, suite.only_second, suite.differ) == (14, 0, 0, ())
    assert set(suite.judges) == {"told"}
    asr = suite.judges["told"]["asr"]
    assert (asr.first.count, asr.second.count, asr.first.n) == (8, 1, 14)
    cells = asr.difference
    assert (cells.both, cells.only_first, cells.only_second, cells.neither) == (1, 7, 0, 6)
    assert cells.value == pytest.approx(-0.5)
    assert cells.p_value == pytest.approx(2 / 2**7)
    assert suite.judges["told"]["asr_lenient"].first.count == 9
    assert suite.judges["told"]["refusal"].difference.only_second == 8  # the incoherent one, now a refusal, too
    assert suite.judges["told"]["incoherent"].first.count == 1
    assert suite.judges["told"]["unscored"].second.count == 1
    assert Comparison.model_validate_json(found.model_dump_json()) == found


def test_only_what_stands_in_both_is_compared(tmp_path: Path) -> None:
    found = compare(results(tmp_path / "a", "ccr"), results(tmp_path / "b", "crrrr")).suites["advbench"]
    assert (found.pairs, found.only_first, found.only_second) == (3, 0, 2)
    assert found.judges["told"]["asr"].second.n == 3
    empty = compare(results(tmp_path / "a", ""), tmp_path / "b").suites["advbench"].judges["told"]["asr"]
    assert empty.first.n == 0
    assert empty.difference.p_value == 1.0


def test_a_judge_without_words_for_help_compares_refusals_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limited: dict[str, tuple[Outcome, ...]] = {"told": ("refused", "other")}
    first = results(tmp_path / "a", "rrii", decides=limited)
    second = results(tmp_path / "b", "riiu", decides=limited)
    found = compare(first, second).suites["advbench"]
    assert set(found.judges["told"]) == {"refusal", "incoherent", "unscored"}
    assert found.not_judged["told"] == {"asr": ("complied",), "asr_lenient": ("complied", "partial")}
    assert main(["compare", str(first), str(second)]) == 0
    text = capsys.readouterr().out
    assert "  complied (ASR)          not judged: this judge has no word for complied\n" in text
    assert "  refused                 A 50.0 %" in text
    assert "  incoherent by its form  A 50.0 %" in text
    assert "advbench, judged by told, which tells refused from other (4 replies" in text
    third = results(tmp_path / "c", "cccc", decides={"told": ("complied", "other")})
    assert set(compare(first, third).suites["advbench"].judges["told"]) == {"incoherent", "unscored"}


def test_a_system_message_may_differ_and_is_told_with_all_else_that_does(tmp_path: Path) -> None:
    first = results(tmp_path / "a", "cr")
    second = results(tmp_path / "b", "rr", system="You are POL.", format="identity", max_new_tokens=256)
    assert compare(first, second).suites["advbench"].differ == (
        "max_new_tokens (60, 256)",
        "format (chat, identity)",
        "system message",
    )


def test_other_prompts_of_the_same_name_are_not_compared(tmp_path: Path) -> None:
    first, second = results(tmp_path / "a", "cr"), results(tmp_path / "b", "rr")
    samples = (second / "samples.jsonl").read_text().replace("prompt 1", "another prompt")
    (second / "samples.jsonl").write_text(samples)
    with pytest.raises(DataError, match=r"prompt 1 of suite advbench is not the same in both"):
        compare(first, second)


def test_folders_that_have_nothing_in_common_are_refused(tmp_path: Path) -> None:
    first = results(tmp_path / "a", "cr")
    for other in (results(tmp_path / "b", "cr", suite="xstest"), results(tmp_path / "c", "cr", judges=["else"])):
        with pytest.raises(UsageError, match=r"no suite in common .*advbench by told there, .* here"):
            compare(first, other)
    (tmp_path / "none").mkdir()
    with pytest.raises(TargetError, match=r"config.json: not the config of an evaluation"):
        compare(first, tmp_path / "none")


def test_the_command_tells_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = results(tmp_path / "a", "cccccccc"), results(tmp_path / "b", "crrrrrrrr", max_new_tokens=90)
    assert main(["compare", str(first), str(second)]) == 0
    text = capsys.readouterr().out
    assert "advbench, judged by told (8 replies in both; 1 in one folder alone are left out; not alike: max_new" in text
    assert "complied (ASR)          A 100.0 % [67.6, 100.0]  B 12.5 % [2.2, 47.1]  -87.5 [" in text
    assert "p = 0.016  (7 in A alone, 0 in B alone)" in text
    assert main(["compare", str(first), str(second), "--json", "-q"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(compare(first, second).model_dump_json())
    results(first, "")
    assert main(["compare", str(first), str(second)]) == 0
    assert "complied (ASR)          no replies" in capsys.readouterr().out
    assert main(["compare", str(first), str(tmp_path / "none")]) == 1
