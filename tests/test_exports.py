"""Results in the forms that other tools read."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from safelox.cli import main
from safelox.errors import PrerequisiteError, TargetError, UsageError
from safelox.evaluation.exports import EXPORTS, export
from safelox.evaluation.folder import open_results
from safelox.evaluation.generation import Backend, GenerationSettings
from safelox.evaluation.outcomes import Outcome, Verdict
from safelox.evaluation.results import (
    EvaluationConfig,
    EvaluationManifest,
    ModelRecord,
    RepliedSample,
    SuiteConfig,
    collect,
)
from safelox.evaluation.samples import Message
from safelox.evaluation.suites import Asks
from safelox.formats import FORMATS, TextFormat
from safelox.manifest import Environment, FileRecord

RUBRIC, STRONG, REFUSAL, NUMBER = "policy-rubric=org/model", "strongreject", "refusal", "number"
MODEL = ModelRecord(reference="org/model", commit=None, files={})


def suite(judges: Sequence[str], *, asks: Asks = "forbidden", **changes: Any) -> SuiteConfig:
    settings = {"format": "plain", "max_new_tokens": 60} | changes.pop("generation", {})
    return SuiteConfig(
        asks=asks,
        version=3,
        data=FileRecord(bytes=1, sha256="0"),
        called="a stand-in",
        judges=tuple(judges),
        generation=GenerationSettings.model_validate(settings),
        limit=None,
        shots=0,
        examples=None,
        empty_reply=None,
    ).model_copy(update=changes)


def says(outcome: Outcome, raw: str | None = None, score: float | None = None) -> Verdict:
    return Verdict(outcome=outcome, raw=raw, score=score)


def reply(suite: str, id: str, question: str, text: str, **more: Any) -> RepliedSample:
    return RepliedSample(suite=suite, id=id, prompt=(Message(role="user", content=question),), completion=text, **more)


def write_results(
    folder: Path,
    suites: Mapping[str, SuiteConfig],
    replies: Sequence[tuple[RepliedSample, Mapping[str, Verdict]]],
    *,
    finish: bool = True,
) -> Path:
    judges = {judge: "1" for config in suites.values() for judge in config.judges}
    config = EvaluationConfig(
        model=MODEL, backend=Backend(), suites=dict(suites), judges=judges, system=None, paper_exact=False
    )
    with open_results(folder, config, overwrite=False) as opened:
        for sample, verdicts in replies:
            opened.keep_reply(sample)
            for judge, verdict in verdicts.items():
                opened.keep_verdict(sample.key, judge, verdict)
        if finish:
            manifest = EvaluationManifest(
                safelox="0.1",
                created="2026-11-24T12:00:00+00:00",
                command="safelox evaluate",
                model=MODEL,
                environment=Environment(device="cpu", instruction_set="x", libraries={}, python="3", platform="p"),
                batch_size=1,
                generated=len(replies),
                judged={},
                usage={},
                seconds={},
            )
            opened.finish(collect(config, list(opened.scored.values()), dict.fromkeys(suites, 9)), manifest)
    return folder


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two judges on one suite, whose replies came longest first, and numbers on another."""
    advbench = [
        (
            reply("advbench", "10", "third", 'a "quoted", reply\nof two lines', finish_reason="length", near_tie=True),
            {RUBRIC: says("complied", "bad. #thescore: 5", 5), REFUSAL: says("other")},
        ),
        (
            reply("advbench", "2", "second", "", finish_reason="stop", near_tie=False, incoherence="empty"),
            {RUBRIC: says("unscored", "no grade"), REFUSAL: says("incoherent")},
        ),
        (
            reply("advbench", "0", "first é", "I cannot.", finish_reason="stop", near_tie=False),
            {RUBRIC: says("other", "good. #thescore: 1", 1), REFUSAL: says("refused", "cannot")},
        ),
    ]
    gsm8k = [
        (
            reply("gsm8k", "1", "2 + 2?", "nothing", about={"answer": "4", "solution": "so #### 4"}),
            {NUMBER: says("other", "no number")},
        ),
        (
            reply("gsm8k", "0", "1 + 1?", "it is #### 2", about={"answer": "2", "solution": "so #### 2"}),
            {NUMBER: says("complied", "2", 1.0)},
        ),
    ]
    suites = {"advbench": suite([RUBRIC, REFUSAL]), "gsm8k": suite([NUMBER], asks="answer")}
    return write_results(tmp_path / "results", suites, [*advbench, *gsm8k])


def rows(path: Path) -> list[list[str]]:
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))


# CSV


def test_the_columns_of_the_papers_asr_script(results: Path, tmp_path: Path) -> None:
    exported = export(results, tmp_path / "out", to="csv")
    assert exported.files == ("advbench-policy-rubric=org_model.csv", "advbench-refusal.csv", "gsm8k-number.csv")
    layout = FORMATS["plain"]
    assert isinstance(layout, TextFormat)
    texts = [layout.text([{"role": "user", "content": word}]) for word in ("first é", "second", "third")]
    assert rows(tmp_path / "out" / exported.files[0]) == [
        ["index", "score", "instruction", "completion", "gpt_out"],
        ["0", "1", texts[0], "I cannot.", "good. #thescore: 1"],
        ["1", "", texts[1], "", "no grade"],
        ["2", "5", texts[2], 'a "quoted", reply\nof two lines', "bad. #thescore: 5"],
    ]
    assert [row[4] for row in rows(tmp_path / "out" / exported.files[1])[1:]] == ["cannot", "incoherent", "other"]


def test_the_columns_of_the_papers_gsm8k_script(results: Path, tmp_path: Path) -> None:
    export(results, tmp_path / "out", to="csv")
    assert rows(tmp_path / "out" / "gsm8k-number.csv") == [
        ["question", "true_answer", "pred_answer", "true_number", "pred_number"],
        ["1 + 1?", "so #### 2", "it is #### 2", "2", "2"],
        ["2 + 2?", "so #### 4", "nothing", "4", ""],
    ]


def test_a_stand_in_for_empty_replies_and_a_chat_are_written_as_they_were(tmp_path: Path) -> None:
    chat = suite([REFUSAL], generation={"format": "chat"}, empty_reply="[EMPTY ANSWER]")
    turns = (Message(role="system", content="be good"), Message(role="user", content="hello"))
    samples = [
        (reply("one", "a", "hello", ""), {REFUSAL: says("incoherent")}),
        (reply("one", "b", "", "hi").model_copy(update={"prompt": turns}), {REFUSAL: says("other")}),
    ]
    folder = write_results(tmp_path / "results", {"one": chat}, samples)
    export(folder, tmp_path / "out", to="csv")
    assert [row[2:4] for row in rows(tmp_path / "out" / "one-refusal.csv")[1:]] == [
        ["hello", "[EMPTY ANSWER]"],
        ["system: be good\n\nuser: hello", "hi"],
    ]


# Inspect


def logs(folder: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return {log["eval"]["task"]: log for log in found}


def test_a_log_holds_every_reply_and_verdict(results: Path, tmp_path: Path) -> None:
    export(results, tmp_path / "out", to="inspect")
    log = logs(tmp_path / "out")["advbench"]
    assert [sample["id"] for sample in log["samples"]] == ["0", "2", "10"]
    last = log["samples"][2]
    assert last["output"]["choices"][0]["stop_reason"] == "max_tokens"
    assert last["scores"][RUBRIC] == {
        "value": "complied",
        "answer": last["output"]["completion"],
        "explanation": "bad. #thescore: 5",
        "metadata": {"score": 5.0},
    }
    assert [message["role"] for message in last["messages"]] == ["user", "assistant"]
    summary = {score["name"]: score for score in log["results"]["scores"]}
    assert (summary[RUBRIC]["scored_samples"], summary[RUBRIC]["unscored_samples"]) == (2, 1)
    assert summary[RUBRIC]["metrics"]["asr"]["value"] == pytest.approx(1 / 3)
    assert summary[RUBRIC]["metrics"]["mean_score"]["value"] == 3
    assert "mean_score" not in summary[REFUSAL]["metrics"], "NaN has no place in JSON"
    assert logs(tmp_path / "out")["gsm8k"]["samples"][0]["target"] == "2"


def test_the_same_results_give_the_same_log(results: Path, tmp_path: Path) -> None:
    first, second = (export(results, tmp_path / name, to="inspect") for name in ("one", "two"))
    assert first.files == second.files
    for name in first.files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.filterwarnings("ignore")
def test_inspect_opens_the_logs(results: Path, tmp_path: Path) -> None:
    inspect_log = pytest.importorskip("inspect_ai.log")
    export(results, tmp_path / "out", to="inspect")
    listed = inspect_log.list_eval_logs(str(tmp_path / "out"))
    assert {info.task for info in listed} == {"advbench", "gsm8k"}
    for info in listed:
        header = inspect_log.read_eval_log(info, header_only=True)
        assert header.eval.model == "org/model"
        assert header.eval.task_id == info.task_id
    log = inspect_log.read_eval_log(next(info for info in listed if info.task == "advbench"))
    assert (log.status, log.results.total_samples, len(log.samples)) == ("success", 3, 3)
    sample = log.samples[2]
    assert sample.output.completion == sample.messages[-1].text == 'a "quoted", reply\nof two lines'
    assert sample.scores[RUBRIC].value == "complied"
    assert log.results.scores[0].metrics["asr"].value == pytest.approx(1 / 3)


# TamperBench


def parquet(path: Path) -> dict[str, list[Any]]:
    pyarrow = pytest.importorskip("pyarrow.parquet")
    found: dict[str, list[Any]] = pyarrow.read_table(path).to_pydict()
    return found


def measured(path: Path) -> dict[str, float]:
    return {row["metric_name"]: row["metric_value"] for row in json.loads(path.read_text())}


def test_tamperbench_gets_its_three_files(results: Path, tmp_path: Path) -> None:
    exported = export(results, tmp_path / "out", to="tamperbench")
    inner = "advbench-policy-rubric=org_model/tamperbench_evaluation/policy_eval"
    assert exported.files == tuple(
        f"{inner}/{name}" for name in ("evaluation.json", "evaluator_scores.parquet", "inferences.parquet")
    )
    folder = tmp_path / "out" / inner
    assert parquet(folder / "inferences.parquet") == {
        "prompt": ["first é", "second", "third"],
        "response": ["I cannot.", "", 'a "quoted", reply\nof two lines'],
    }
    # The reply without a score stands in the inferences alone.
    scores = parquet(folder / "evaluator_scores.parquet")
    assert (scores["prompt"], scores["score"]) == (["first é", "third"], [1.0, 5.0])
    assert measured(folder / "evaluation.json") == {"harmfulness_score": 3.0, "harmfulness_rate": 50.0}


def test_tamperbench_gets_its_own_measures(tmp_path: Path) -> None:
    outcomes: tuple[Outcome, ...] = ("refused", "other", "partial", "incoherent", "unscored")
    xstest = [
        (reply("xstest", str(i), "ask", "say", about={"type": "homonyms"}), {REFUSAL: says(outcome)})
        for i, outcome in enumerate(outcomes)
    ]
    strong = [
        (reply(name, str(i), "ask", "say"), {STRONG: says("other", score=score)})
        for name in ("strongreject", "jailbreakbench")
        for i, score in enumerate((0.0, 0.75))
    ]
    suites = {
        "xstest": suite([REFUSAL], asks="permitted"),
        "strongreject": suite([STRONG]),
        "jailbreakbench": suite([STRONG]),
        "lab-forbidden": suite([REFUSAL]),
    }
    lab = [(reply("lab-forbidden", "0", "ask", "say"), {REFUSAL: says("refused")})]
    folder = write_results(tmp_path / "results", suites, [*xstest, *strong, *lab])
    export(folder, tmp_path / "out", to="tamperbench")
    found = {path.parent.name: measured(path) for path in (tmp_path / "out").rglob("evaluation.json")}
    assert found == {
        "xstest": {
            "xstest_safe_refusal_rate": 50.0,
            "xstest_safe_full_refusal_rate": 25.0,
            "xstest_safe_partial_refusal_rate": 25.0,
        },
        "strong_reject": {"strong_reject_score": 0.375},
        "jailbreak_bench": {"jailbreak_bench_strong_reject_score": 0.375},
    }
    scores = parquet(next((tmp_path / "out").rglob("xstest/evaluator_scores.parquet")))
    assert scores["score"] == [2.0, 1.0, 3.0, 1.0]
    assert (set(scores["prompt_type"]), set(scores["label"])) == ({"homonyms"}, {"safe"})


def test_what_tamperbench_does_not_measure_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = [(reply("lab", "0", "ask", "say"), {REFUSAL: says("refused")})]
    folder = write_results(tmp_path / "results", {"lab": suite([REFUSAL])}, lab)
    with pytest.raises(UsageError, match="measures none of what stands in these results"):
        export(folder, tmp_path / "out", to="tamperbench")
    monkeypatch.setattr("safelox.evaluation.exports.tamperbench.find_spec", lambda _: None)
    with pytest.raises(PrerequisiteError, match="pip install pyarrow"):
        export(folder, tmp_path / "out", to="tamperbench")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results"]


# All forms


@pytest.mark.parametrize("to", [*EXPORTS])
def test_nothing_is_written_over_or_into_what_is_there(results: Path, tmp_path: Path, to: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    for out in (tmp_path / "full", results, results / "inside"):
        with pytest.raises(TargetError):
            export(results, out, to=to)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "results"]
    assert not (results / "inside").exists()
    (tmp_path / "empty").mkdir()
    assert export(results, tmp_path / "empty", to=to).files


@pytest.mark.parametrize("to", [*EXPORTS])
def test_an_export_that_fails_leaves_nothing(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    def broken(_: object, folder: Path) -> None:
        (folder / "half").write_text("half")
        raise RuntimeError("no more")

    monkeypatch.setitem(EXPORTS, to, broken)
    with pytest.raises(RuntimeError, match="no more"):
        export(results, tmp_path / "out", to=to)
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_only_finished_results_are_exported(tmp_path: Path) -> None:
    lab = [(reply("lab", "0", "ask", "say"), {REFUSAL: says("refused")})]
    unfinished = write_results(tmp_path / "results", {"lab": suite([REFUSAL])}, lab, finish=False)
    with pytest.raises(TargetError, match="these results are unfinished"):
        export(unfinished, tmp_path / "out", to="csv")
    (tmp_path / "other").mkdir()
    with pytest.raises(TargetError, match=r"no samples\.jsonl here"):
        export(tmp_path / "other", tmp_path / "out", to="csv")
    (unfinished / "manifest.json").write_text("{}")
    with pytest.raises(TargetError, match="not results of this version"):
        export(unfinished, tmp_path / "out", to="csv")
    with pytest.raises(UsageError, match="no form is called 'pdf'; there are: csv, inspect, tamperbench"):
        export(unfinished, tmp_path / "out", to="pdf")


def test_the_command_names_the_files(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(results), str(tmp_path / "out"), "--to", "csv"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "out" / "gsm8k-number.csv")
    assert main(["export", str(results), str(tmp_path / "out"), "--to", "csv"]) == 1
    assert main(["export", str(results), str(tmp_path / "out"), "--to", "pdf"]) == 2
    capsys.readouterr()
    assert main(["export", str(results), str(tmp_path / "json"), "--to", "csv", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["files"]) == 3
