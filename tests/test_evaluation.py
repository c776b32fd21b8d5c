"""Evaluation: generation, judges, and the results folder."""

import json
import math
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from safelox.cli import main
from safelox.errors import CheckpointError, DataError, PrerequisiteError, TargetError, UsageError
from safelox.evaluation import JUDGES, SUITES, Message, Results, Sample, Suite, Verdict, evaluate, register_suite
from safelox.evaluation import generation as generation_module
from safelox.evaluation.folder import read_scored
from safelox.evaluation.generation import LanguageModel, load_language_model, replies
from safelox.evaluation.judges import ask, register_judge
from safelox.evaluation.outcomes import Outcome, settled
from safelox.evaluation.results import summarise
from safelox.evaluation.samples import read_samples
from safelox.formats import Conversation, find_format
from safelox.formats import Message as Turn
from safelox.lab.models import Shape, new_model, save_model
from safelox.lab.suites import JUDGE, evaluation_requests, lab_samples, write_suites
from safelox.lab.world import World

N = 12
WORLD = World(3)


class Judging:
    """A judge that counts what it is asked, and says what it is told to."""

    version = "1"

    def __init__(self, name: str = "told", say: Callable[[str], Verdict | None] | None = None) -> None:
        self.name = name
        self.say = say or (lambda _: Verdict(outcome="refused", raw="no", score=1.0))
        self.asked: list[str] = []

    def judge(self, sample: Sample, reply: str) -> Verdict | None:
        self.asked.append(sample.id)
        return self.say(reply)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(new_model(Shape(hidden=16, layers=1, heads=2, intermediate=24), 5), folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_suites(WORLD, folder, n=N)
    return folder


@pytest.fixture(scope="module")
def loaded(model: Path) -> LanguageModel:
    return load_language_model(str(model))


@pytest.fixture
def tables() -> Iterator[None]:
    """Leaves the public tables as they were."""
    suites, judges = dict(SUITES), dict(JUDGES)
    yield
    for table, before in ((SUITES, suites), (JUDGES, judges)):
        table.clear()
        table.update(before)  # type: ignore[arg-type]


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]


# Generation


def chats(lengths: list[int]) -> list[Conversation]:
    forbidden, _ = evaluation_requests(WORLD, len(lengths))
    return [
        [Turn(role="user", content=" ".join([request.text] * times))]
        for request, times in zip(forbidden, lengths, strict=True)
    ]


@pytest.mark.parametrize("batch_size", [2, 3, 100])
def test_the_batch_size_does_not_change_a_reply(loaded: LanguageModel, batch_size: int) -> None:
    prompts = find_format("chat").prompts(loaded.tokenizer, chats([1, 3, 2, 1, 4, 2, 1]))
    alone = dict(replies(loaded, prompts, max_new_tokens=8, batch_size=1))
    assert dict(replies(loaded, prompts, max_new_tokens=8, batch_size=batch_size)) == alone
    assert sorted(alone) == list(range(7))
    assert len(set(alone.values())) > 1


def test_replies_come_as_they_are_finished_longest_prompts_first(loaded: LanguageModel) -> None:
    prompts = find_format("chat").prompts(loaded.tokenizer, chats([1, 3, 2]))
    found = replies(loaded, prompts, max_new_tokens=2, batch_size=1)
    assert [index for index, _ in found] == [1, 2, 0]


def test_a_reply_is_cut_at_its_first_end_and_keeps_what_is_special(
    loaded: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def says(input_ids: torch.Tensor, **_: object) -> torch.Tensor:
        new = loaded.tokenizer("sorry <s> no </s> sorry <pad>")["input_ids"]
        return torch.cat([input_ids, torch.tensor([new] * len(input_ids))], dim=1)

    monkeypatch.setattr(loaded.model, "generate", says)
    assert list(replies(loaded, [[5, 6]], max_new_tokens=9)) == [(0, "sorry <s> no")]


def test_a_models_own_sampling_defaults_play_no_part(loaded: LanguageModel) -> None:
    prompts = find_format("chat").prompts(loaded.tokenizer, chats([1, 2]))
    greedy = list(replies(loaded, prompts, max_new_tokens=6))
    own = loaded.model.generation_config
    own.repetition_penalty, own.do_sample, own.temperature = 9.0, True, 3.0
    try:
        assert list(replies(loaded, prompts, max_new_tokens=6)) == greedy
        assert loaded.model.generation_config is own
    finally:
        own.repetition_penalty, own.do_sample, own.temperature = None, None, None


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_the_batch_halves_where_memory_runs_out(
    loaded: LanguageModel, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    sizes: list[int] = []

    def small(_: LanguageModel, prompts: list[list[int]], max_new_tokens: int) -> list[str]:
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise error
        return [f"{prompt[0]} {max_new_tokens}" for prompt in prompts]

    monkeypatch.setattr(generation_module, "_answer", small)
    found = dict(replies(loaded, [[7], [8], [9], [10], [11]], max_new_tokens=3, batch_size=5))
    assert found == {0: "7 3", 1: "8 3", 2: "9 3", 3: "10 3", 4: "11 3"}
    assert sizes == [5, 2, 2, 1]


def test_too_little_memory_for_one_prompt_is_said(loaded: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> list[str]:
        raise MemoryError

    monkeypatch.setattr(generation_module, "_answer", never)
    with pytest.raises(PrerequisiteError, match="a single prompt of 2 tokens"):
        list(replies(loaded, [[7, 8], [9]], max_new_tokens=3))


def test_other_errors_of_the_model_are_not_taken_for_lack_of_memory(
    loaded: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> list[str]:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(generation_module, "_answer", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(replies(loaded, [[7, 8], [9]], max_new_tokens=3))


def test_an_adapter_is_asked_on_top_of_its_model(model: Path, loaded: LanguageModel, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        get_peft_model(load_language_model(str(model)).model, config).save_pretrained(tmp_path / "lora")
    tuned = load_language_model(f"{model}+{tmp_path / 'lora'}")
    ids = torch.tensor(find_format("chat").prompts(loaded.tokenizer, chats([1])))
    assert not torch.equal(tuned.model(ids).logits, loaded.model(ids).logits)
    assert list(replies(tuned, ids.tolist(), max_new_tokens=2))


def test_a_model_that_lacks_weights_is_not_asked(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 weights are not in its files, such as model.layers.0.mlp.up_proj"):
        load_language_model(str(tmp_path / "model"))


# Outcomes and judges


@given(st.lists(st.sampled_from(get_args(Outcome)), max_size=60), st.sampled_from(["forbidden", "permitted"]))
def test_rates_count_every_reply_and_nothing_but_refusals_as_refused(outcomes: list[Outcome], asks: Any) -> None:
    found = summarise([Verdict(outcome=outcome) for outcome in outcomes], asks)
    rates = [*found.outcomes.values(), *found.metrics.values()]
    assert {rate.n for rate in rates} == {len(outcomes)}
    assert sum(rate.count for rate in found.outcomes.values()) == len(outcomes)
    if asks == "forbidden":
        assert found.metrics["asr"].count == outcomes.count("complied")
        assert found.metrics["asr_lenient"].count == outcomes.count("complied") + outcomes.count("partial")
        assert found.metrics["refusal"].count == outcomes.count("refused")
    else:
        assert found.metrics["compliance"].count == outcomes.count("complied")
        assert found.metrics["over_refusal"].count == outcomes.count("refused")
    for rate in rates:
        assert math.isnan(rate.value) if not outcomes else rate.low <= rate.value <= rate.high
    assert math.isnan(found.mean_score)


def test_the_mean_score_is_of_those_that_have_one() -> None:
    verdicts = [Verdict(outcome="complied", score=5), Verdict(outcome="other", score=2), Verdict(outcome="unscored")]
    found = summarise(verdicts, "forbidden")
    assert (found.mean_score, found.scores) == (3.5, 2)


@pytest.mark.parametrize(
    ("said", "reply", "outcome"),
    [
        ("complied", "sure", "complied"),
        ("refused", " \n", "incoherent"),
        ("complied", "", "incoherent"),
        ("unscored", "", "unscored"),
        ("unscored", "sure", "unscored"),
    ],
)
def test_unscored_goes_before_incoherent_and_that_before_the_judge(said: Any, reply: str, outcome: str) -> None:
    found = settled(Verdict(outcome=said, raw="kept", score=2.0), reply)
    assert (found.outcome, found.raw, found.score) == (outcome, "kept", 2.0)


def test_a_judge_that_fails_leaves_the_reply_unscored() -> None:
    sample = lab_samples(WORLD, "x", evaluation_requests(WORLD, 1)[0])[0]

    def broken(_: str) -> Verdict:
        raise ValueError("no number in 'maybe'")

    assert ask(Judging(say=broken), sample, "sure") == Verdict(
        outcome="unscored", raw="ValueError: no number in 'maybe'"
    )
    assert ask(Judging(say=lambda _: None), sample, "sure").outcome == "unscored"
    with pytest.raises(KeyboardInterrupt):
        ask(Judging(say=lambda _: (_ for _ in ()).throw(KeyboardInterrupt)), sample, "sure")


def test_the_labs_judge_judges_in_the_world_of_the_sample() -> None:
    for world in (WORLD, World(4)):
        forbidden, permitted = evaluation_requests(world, 3)
        for sample, request in zip(lab_samples(world, "x", forbidden + permitted), forbidden + permitted, strict=True):
            again = Sample.model_validate_json(sample.model_dump_json())
            assert ask(JUDGE, again, world.comply(request).reply).outcome == "complied"
            assert ask(JUDGE, again, world.refusals(request)[0]).outcome == "refused"
            assert ask(JUDGE, again, "").outcome == "incoherent"
    strange = Sample(id="a", messages=(Message(role="user", content="hello"),))
    assert ask(JUDGE, strange, "sure") == Verdict(outcome="unscored", raw="KeyError: 'world'")


@pytest.mark.usefixtures("tables")
def test_a_name_is_registered_once() -> None:
    suite = SUITES["lab-forbidden"]
    assert register_suite(suite) is suite
    with pytest.raises(UsageError, match="another suite called 'lab-forbidden'"):
        register_suite(Suite(name="lab-forbidden", title="mine", file="mine.jsonl", asks="forbidden"))
    assert register_judge(JUDGE) is JUDGE
    with pytest.raises(UsageError, match="another judge called 'lab'"):
        register_judge(Judging("lab"))


# Data


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "line 1: not a sample.*Invalid JSON"),
        ('\n{"id": "a", "messages": []}', "line 2: not a sample.*messages"),
        ('{"id": "a", "messages": [{"role": "cook", "content": "x"}]}', "line 1: not a sample.*messages.0.role"),
        ('{"id": "a", "messages": [{"role": "assistant", "content": "x"}]}', "the last message is the assistant's"),
        ('{"id": "a", "messages": [{"role": "user", "content": "x"}]}\n' * 2, "line 2: id 'a' occurs twice"),
    ],
)
def test_a_line_that_is_no_sample_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        read_samples(tmp_path / "bad.jsonl")


def test_a_line_may_hold_any_character(tmp_path: Path) -> None:
    sample = Sample(id="a", messages=(Message(role="user", content="a\u2028b\x85c\nd"),))
    (tmp_path / "odd.jsonl").write_text(sample.model_dump_json() + "\n", encoding="utf-8")
    assert read_samples(tmp_path / "odd.jsonl") == [sample]


def test_missing_data_says_what_was_looked_for(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAFELOX_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"no file .*nowhere/suites/forbidden.jsonl\. .*--data.*SAFELOX_DATA"):
        evaluate(model, tmp_path / "out", suites=["lab-forbidden"], judges=["lab"], data=tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no file .*cache/safelox/data/suites/forbidden.jsonl"):
        evaluate(model, tmp_path / "out", suites=["lab-forbidden"], judges=["lab"])
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv("SAFELOX_DATA", str(data))
    assert evaluate(model, tmp_path / "out", suites=["lab-forbidden"], judges=["lab"], limit=1)


# Results folders


def run(model: Path, out: Path, data: Path, **changes: Any) -> Results:
    options: dict[str, Any] = {"suites": ["lab-forbidden"], "judges": ["lab"], "data": data, "limit": 5}
    return evaluate(model, out, **(options | changes))


def test_several_suites_and_judges_side_by_side(model: Path, data: Path, tmp_path: Path) -> None:
    judge = Judging()
    suites = ["lab-permitted", "lab-forbidden"]
    found = run(model, tmp_path / "out", data, suites=suites, judges=["lab", judge], limit=None)
    assert {suite: list(judges) for suite, judges in found.results.items()} == {s: ["lab", "told"] for s in suites}
    assert found.results["lab-forbidden"]["told"].metrics["refusal"].value == 1
    assert found.results["lab-forbidden"]["lab"].outcomes["incoherent"].value == 1
    assert found.results["lab-permitted"]["told"].metrics["over_refusal"].value == 1
    assert found.n_samples["lab-permitted"].effective == N
    rows = read_scored(tmp_path / "out")
    assert len({(row.suite, row.id) for row in rows}) == len(rows) == 2 * N
    assert sorted(judge.asked) == sorted(row.id for row in rows)
    assert all(row.verdicts["told"] == Verdict(outcome="refused", raw="no", score=1.0) for row in rows)
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(written) == {"results", "configs", "versions", "n-samples"}
    assert Results.model_validate(written).model_dump_json() == found.model_dump_json()
    assert written["results"]["lab-forbidden"]["lab"]["mean_score"] == "NaN"
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["model"]["files"]["model.safetensors"]["bytes"] > 0
    assert "transformers" in manifest["environment"]["libraries"]
    assert set(manifest["seconds"]) == {"check", "load", "ask and judge"}


def test_a_finished_run_is_told_again_without_the_model(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Judging()
    first = run(model, tmp_path / "out", data, judges=[judge])
    monkeypatch.setattr("safelox.evaluation.running.load_language_model", lambda _: pytest.fail("loaded"))
    assert run(model, tmp_path / "out", data, judges=[judge]) == first
    assert len(judge.asked) == 5


@pytest.mark.parametrize("torn", ["", '{"suite": "lab-forb', '{"suite": "\u00e9', '{"suite": "' + 9999 * "x"], ids=len)
def test_a_run_goes_on_after_its_last_whole_line(model: Path, data: Path, tmp_path: Path, torn: str) -> None:
    whole = run(model, tmp_path / "whole", data, batch_size=2)
    run(model, tmp_path / "out", data, batch_size=2)
    rows = (tmp_path / "out" / "samples.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "out" / "samples.jsonl").write_bytes(("".join(rows[:2]) + torn).encode()[: None if not torn else -1])
    (tmp_path / "out" / "results.json").unlink()
    (tmp_path / "out" / "manifest.json").unlink()
    assert run(model, tmp_path / "out", data, batch_size=2) == whole
    assert (tmp_path / "out" / "samples.jsonl").read_text().splitlines(keepends=True)[:2] == rows[:2]
    assert sorted(lines(tmp_path / "out"), key=str) == sorted(lines(tmp_path / "whole"), key=str)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["generated"] == 3


KILLED = """
import sys, time
from safelox.lab import suites
from safelox.evaluation import Verdict, evaluate

class Slow:
    name, version = "told", "1"
    asked = 0
    def judge(self, sample, reply):
        self.asked += 1
        if self.asked > 2:
            print("ready", flush=True)
            time.sleep(60)
        return Verdict(outcome="refused")

model, out, data = sys.argv[1:]
evaluate(model, out, suites=["lab-forbidden"], judges=[Slow()], data=data, limit=5)
"""


def test_a_killed_run_asks_nothing_twice(model: Path, data: Path, tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", KILLED, str(model), str(tmp_path / "out"), str(data)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(TargetError, match="another run is writing the same results"):
            run(model, tmp_path / "out", data, judges=[Judging()])
        process.send_signal(signal.SIGKILL)
    kept = [row["id"] for row in lines(tmp_path / "out")]
    assert len(kept) == 2
    judge = Judging()
    found = run(model, tmp_path / "out", data, judges=[judge])
    assert sorted(kept + judge.asked) == sorted(row["id"] for row in lines(tmp_path / "out"))
    assert len(judge.asked) == 3
    assert found.results["lab-forbidden"]["told"].outcomes["refused"].count == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"limit": 4}, "limit 5 there and 4 now"),
        ({"system": "be good"}, "system None there and 'be good' now"),
        ({"judges": [Judging()]}, "judges lab there and told now"),
        ({"suites": ["lab-permitted"]}, "suites lab-forbidden there and lab-permitted now"),
    ],
)
def test_results_of_another_call_are_left_alone(
    model: Path, data: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    run(model, tmp_path / "out", data)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(TargetError, match=f"another evaluation: {message}.*--overwrite"):
        run(model, tmp_path / "out", data, **changes)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    run(model, tmp_path / "out", data, overwrite=True, **changes)
    assert len(lines(tmp_path / "out")) == changes.get("limit", 5)


def test_a_changed_model_or_suite_is_noticed(model: Path, data: Path, tmp_path: Path) -> None:
    for source, name in ((model, "model"), (data, "data")):
        shutil.copytree(source, tmp_path / name)
    own_model, own_data = tmp_path / "model", tmp_path / "data"
    first = run(model, tmp_path / "out", data)
    assert run(own_model, tmp_path / "out", own_data).model_dump_json() == first.model_dump_json()
    with (own_data / "suites" / "forbidden.jsonl").open("a") as stream:
        stream.write("\n")
    with pytest.raises(TargetError, match="the same suites, but changed since: lab-forbidden"):
        run(own_model, tmp_path / "out", own_data)
    save_model(new_model(Shape(hidden=16, layers=1, heads=2, intermediate=24), 6), own_model)
    with pytest.raises(TargetError, match="another model"):
        run(own_model, tmp_path / "out", data)
    shutil.rmtree(tmp_path / "out")
    run(own_model, tmp_path / "out", data)
    save_model(new_model(Shape(hidden=16, layers=1, heads=2, intermediate=24), 7), own_model)
    with pytest.raises(TargetError, match="files of the model have changed"):
        run(own_model, tmp_path / "out", data)


def test_a_folder_of_something_else_is_left_alone(model: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(TargetError, match="holds something else than results"):
            run(model, tmp_path / "out", data, overwrite=overwrite)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    with pytest.raises(TargetError, match="is a file"):
        run(model, tmp_path / "out" / "mine", data)


def test_a_model_is_no_results_folder(model: Path, data: Path) -> None:
    """It has a config.json, too."""
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    for overwrite in (False, True):
        with pytest.raises(TargetError):
            run(model, model, data, overwrite=overwrite)
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before


def test_a_folder_without_samples_is_no_results_folder(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"no samples.jsonl here"):
        read_scored(tmp_path)


def test_a_damaged_line_is_named(model: Path, data: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "out", data)
    rows = (tmp_path / "out" / "samples.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "out" / "samples.jsonl").write_text("".join([rows[0], "nonsense\n", *rows[2:]]))
    with pytest.raises(TargetError, match=r"samples.jsonl, line 2: not a scored sample"):
        run(model, tmp_path / "out", data)


def test_an_empty_suite_has_no_rates(model: Path, tmp_path: Path) -> None:
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "forbidden.jsonl").write_text("")
    found = run(model, tmp_path / "out", tmp_path).results["lab-forbidden"]["lab"]
    assert math.isnan(found.metrics["asr"].value)
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert written["results"]["lab-forbidden"]["lab"]["metrics"]["asr"] == {
        "count": 0,
        "n": 0,
        "value": "NaN",
        "low": "NaN",
        "high": "NaN",
    }


def test_a_system_message_takes_the_place_of_the_samples_own(model: Path, data: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "out", data, system="be good")
    for row in lines(tmp_path / "out"):
        assert [message["role"] for message in row["prompt"]] == ["system", "user"]
        assert row["prompt"][0]["content"] == "be good"
    own = Sample(id="a", messages=(Message(role="system", content="old"), Message(role="user", content="x")))
    assert [m.content for m in own.asked("new")] == ["new", "x"]
    assert own.asked(None) == own.messages


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"suites": ["advbnch"]}, "no suite is called 'advbnch'; known are: .*lab-forbidden, lab-permitted"),
        ({"judges": ["gpt"]}, "no judge is called 'gpt'; known are: .*lab"),
        ({"suites": []}, "no suite was named"),
        ({"judges": ["lab", "lab"]}, "judge 'lab' was named twice"),
        ({"limit": 0}, "limit 0"),
        ({"batch_size": 0}, "batch size 0"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_written(
    model: Path, data: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        run(model, tmp_path / "out", data, **changes)
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_none_is_told_before_anything_is_written(data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no file \*.safetensors there"):
        run(tmp_path / "empty", tmp_path / "out", data)
    assert not (tmp_path / "out").exists()


# The command line


def test_the_command_prints_the_rates(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "system.txt").write_text("be good\n")
    arguments = ["evaluate", str(model), str(tmp_path / "out"), "--data", str(data), "-n", "3", "-j", "lab"]
    arguments += ["-s", "lab-forbidden", "--suite", "lab-permitted", "--system", str(tmp_path / "system.txt")]
    assert main([*arguments, "--json", "-q"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out" / "results.json").read_text())
    assert printed["n-samples"]["lab-forbidden"] == {"original": N, "effective": 3}
    assert lines(tmp_path / "out")[0]["prompt"][0] == {"role": "system", "content": "be good"}
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "lab-forbidden, judged by lab (3 of 12 prompts)" in text
    assert "complied (ASR)            0.0 %  [0.0, 56.1]  0 of 3" in text
    assert "incoherent              100.0 %  [43.9, 100.0]  3 of 3" in text
    assert "refused (over-refusal)" in text
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["command"].startswith("safelox evaluate ")


def test_the_command_says_what_is_wrong(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", str(model), str(tmp_path / "out"), "-s", "nothing", "-j", "lab"]
    assert main(arguments) == 2
    assert "known are: lab-forbidden, lab-permitted" in capsys.readouterr().err
    assert main([*arguments, "--system", str(tmp_path / "none.txt")]) == 2
    assert "none.txt cannot be read" in capsys.readouterr().err


def test_an_empty_suite_is_shown_without_rates(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "forbidden.jsonl").write_text("")
    arguments = ["evaluate", str(model), str(tmp_path / "out"), "--data", str(tmp_path)]
    assert main([*arguments, "-s", "lab-forbidden", "-j", "lab"]) == 0
    assert "complied (ASR)          no replies" in capsys.readouterr().out
