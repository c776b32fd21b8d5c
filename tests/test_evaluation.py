"""Evaluation: generation, judges, and the results folder."""

import json
import math
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safelox.cli import main
from safelox.errors import CheckpointError, DataError, TargetError, UsageError
from safelox.evaluation import (
    JUDGES,
    PUBLISHED,
    SUITES,
    Message,
    Results,
    Sample,
    Suite,
    Verdict,
    evaluate,
    register_suite,
)
from safelox.evaluation.folder import read_config, read_scored
from safelox.evaluation.generation import GenerationSettings, Reply
from safelox.evaluation.generation.settings import wanted
from safelox.evaluation.judges import ask, build_judges, register_judge
from safelox.evaluation.metrics import METRICS
from safelox.evaluation.outcomes import Outcome, settled
from safelox.evaluation.results import collect, summarise
from safelox.evaluation.samples import read_samples
from safelox.evaluation.suites import Asks
from safelox.formats import Conversation
from safelox.lab.models import Shape, new_model, save_model
from safelox.lab.suites import FORBIDDEN, JUDGE, PERMITTED, evaluation_requests, request_samples, write_suites
from safelox.lab.world import World

N = 12
USER = Message(role="user", content="how?")
WORLD = World(3)


class Judging:
    """A judge that counts what it is asked, and says what it is told to."""

    version = "1"

    def __init__(self, name: str = "told", say: Callable[[str], Verdict | None] | None = None) -> None:
        self.name = name
        self.say = say or (lambda _: Verdict(outcome="refused", raw="no", score=1.0))
        self.asked: list[str] = []
        self.shown: list[tuple[Sample, str]] = []

    def judge(self, sample: Sample, reply: str) -> Verdict | None:
        self.asked.append(sample.id)
        self.shown.append((sample, reply))
        return self.say(reply)


class Deaf(Judging):
    """Has no word for help."""

    decides: tuple[Outcome, ...] = ("refused", "other")


class Saying:
    """A model that says what it is told to, by default the last thing that it was told."""

    def __init__(self, say: Callable[[Conversation, int], str] | None = None, stop_after: int | None = None) -> None:
        self.say = say or (lambda chat, _: chat[-1]["content"])
        self.stop_after = stop_after
        self.asked: list[Conversation] = []
        self.settings: list[GenerationSettings] = []
        self.closed = False

    def replies(
        self,
        prompts: Sequence[Conversation],
        settings: GenerationSettings,
        *,
        done: Collection[tuple[int, int]] = (),
    ) -> Iterator[tuple[int, Reply]]:
        self.settings.append(settings)
        for index, draw in reversed(wanted(len(prompts), settings.samples, done)):
            if len(self.asked) == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(prompts[index])
            yield index, Reply(self.say(prompts[index], draw), near_tie=False, finish_reason="stop", draw=draw)

    def close(self) -> None:
        self.closed = True


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


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Saying:
    """Answers in place of the model."""
    model = Saying()
    monkeypatch.setattr("safelox.evaluation.running.open_generator", lambda *_, **__: model)
    return model


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


@given(st.sets(st.sampled_from(get_args(Outcome)[:4])), st.sampled_from(get_args(Asks)))
def test_a_rate_is_there_if_the_judge_has_the_words_for_it_and_nowhere_else(decides: set[Outcome], asks: Any) -> None:
    found = summarise([Verdict(outcome="other")], asks, decides=sorted(decides))
    for name, metric in METRICS[asks].items():
        assert (name in found.metrics) == decides.issuperset(metric.needs)
        assert set(found.not_judged.get(name, ())) == set(metric.needs) - decides
    assert set(found.outcomes) == {*decides, "other", "incoherent", "unscored"}
    assert found.decides == tuple(sorted(decides))


def test_a_judge_without_a_word_for_help_has_no_attack_success_rate() -> None:
    verdicts = [JUDGES["refusal"].judge(Sample(id="a", messages=(USER,)), reply) for reply in ("I cannot.", "Sure:")]
    found = summarise([verdict for verdict in verdicts if verdict], "forbidden", decides=("refused", "other"))
    assert {name: rate.count for name, rate in found.metrics.items()} == {"refusal": 1}
    assert found.not_judged == {"asr": ("complied",), "asr_lenient": ("complied", "partial")}
    assert set(found.outcomes) == {"refused", "other", "incoherent", "unscored"}


@pytest.mark.parametrize(
    ("outcome", "score", "decides", "shown"),
    [
        ("complied", 5, ("complied", "other"), True),
        ("other", 1, ("complied", "other"), True),
        ("complied", 1, ("complied", "other"), False),  # a classifier, or a score from 0 to 1
        ("other", 0, ("complied", "other"), False),
        ("other", 5, ("other",), False),  # how helpful it is
        ("other", None, None, False),
    ],
)
def test_the_share_of_fives_is_that_of_judges_that_grade_harm_so(
    outcome: Outcome, score: float | None, decides: Sequence[Outcome] | None, shown: bool
) -> None:
    verdicts = [Verdict(outcome=outcome, score=score)]
    found = summarise(verdicts, "forbidden", decides=decides, paper_exact=True)
    assert ("asr_paper" in found.metrics) == shown


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
    sample = request_samples(WORLD, "x", evaluation_requests(WORLD, FORBIDDEN, 1))[0]

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
        requests = evaluation_requests(world, FORBIDDEN, 3) + evaluation_requests(world, PERMITTED, 3)
        for sample, request in zip(request_samples(world, "x", requests), requests, strict=True):
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
        ('{"id": "a", "suite": "b", "messages": [{"role": "user", "content": "x"}]}', 'line 1: .* take out "suite"'),
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
    with pytest.raises(DataError, match=r"nowhere: there is no such file or folder of data"):
        evaluate(model, tmp_path / "out", suites=["lab-forbidden"], judges=["lab"], data=tmp_path / "nowhere")
    with pytest.raises(
        DataError, match=r"no file .*cache/safelox/data/suites/forbidden.jsonl\. .*--data.*SAFELOX_DATA"
    ):
        evaluate(model, tmp_path / "out", suites=["lab-forbidden"], judges=["lab"])
    both, file = ["lab-forbidden", "lab-permitted"], data / "suites/forbidden.jsonl"
    with pytest.raises(UsageError, match=r"forbidden.jsonl is one file, which cannot hold 2 suites"):
        evaluate(model, tmp_path / "out", suites=both, judges=["lab"], data=file)
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv("SAFELOX_DATA", str(data))
    found = evaluate(model, tmp_path / "out", suites=["lab-forbidden"], judges=["lab"], limit=1)
    assert found.configs["lab-forbidden"].called == "forbidden.jsonl"


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
    assert set(written) == {"results", "configs", "versions", "n-samples", "replies"}
    assert Results.model_validate(written).model_dump_json() == found.model_dump_json()
    assert written["results"]["lab-forbidden"]["lab"]["mean_score"] == "NaN"
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["model"]["files"]["model.safetensors"]["bytes"] > 0
    assert "transformers" in manifest["environment"]["libraries"]
    assert set(manifest["seconds"]) == {"check", "ask", "judge"}
    assert (manifest["generated"], manifest["judged"]) == (2 * N, {"lab": 2 * N, "told": 2 * N})
    assert not (tmp_path / "out" / "unfinished").exists()


def test_a_finished_run_is_told_again_without_the_model(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Judging()
    first = run(model, tmp_path / "out", data, judges=[judge])
    monkeypatch.setattr("safelox.evaluation.running.open_generator", lambda *_, **__: pytest.fail("loaded"))
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
from pathlib import Path
from safelox.lab import suites
from safelox.evaluation import Verdict, evaluate

model, out, data, log, concurrency = sys.argv[1:]

class Told:
    def __init__(self, name, slow):
        self.name, self.version, self.concurrency, self.slow = name, "1", int(concurrency), slow
    def judge(self, sample, reply):
        with open(log, "a") as stream:
            stream.write(f"{self.name} {sample.id}\\n")
        if self.slow and Path(log).read_text().count(self.name) > 4:
            print("ready", flush=True)
            time.sleep(60)
        return Verdict(outcome="refused")

judges = [Told("first", slow=False), Told("told", slow=True)]
evaluate(model, out, suites=["lab-forbidden"], judges=judges, data=data, limit=9)
"""


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_killed_run_asks_nothing_twice(model: Path, data: Path, tmp_path: Path, concurrency: int) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    arguments = [sys.executable, "-c", KILLED, str(model), str(out), str(data), str(log), str(concurrency)]
    judges = [Judging("first"), Judging()]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(TargetError, match="another run is writing the same results"):
            run(model, out, data, judges=judges, limit=9)
        process.send_signal(signal.SIGKILL)
    given = [json.loads(line) for line in (out / "unfinished" / "verdicts.jsonl").read_text().splitlines()]
    kept = {(row["judge"], row["id"]) for row in given}
    assert len([name for name, _ in kept if name == "first"]) == 9
    asked = [tuple(line.split()) for line in log.read_text().splitlines()]
    assert len(asked) == len(set(asked))
    assert len(set(asked) - kept) <= concurrency  # what was under way
    assert {row["id"] for row in lines(out)} == {id for name, id in kept if name == "told"} != set()

    found = run(model, out, data, judges=judges, limit=9)
    assert judges[0].asked == []
    assert sorted(judges[1].asked) == sorted({id for _, id in kept} - {id for name, id in kept if name == "told"})
    assert len(lines(out)) == len({row["id"] for row in lines(out)}) == 9
    assert found.results["lab-forbidden"]["told"].outcomes["refused"].count == 9
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["generated"] == 0  # each reply was kept, too
    assert not (out / "unfinished").exists()


def test_a_run_goes_on_where_the_model_was_interrupted(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says = Saying(stop_after=3)
    monkeypatch.setattr("safelox.evaluation.running.open_generator", lambda *_, **__: says)
    judge = Judging()
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path / "out", data, judges=[judge])
    assert says.closed
    says.stop_after = None
    run(model, tmp_path / "out", data, judges=[judge])
    assert len(says.asked) == 5
    assert sorted(judge.asked) == sorted(row["id"] for row in lines(tmp_path / "out"))


def test_a_run_goes_on_after_a_verdict_whose_line_was_not_written(model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(model, out, data, judges=[Judging()])
    rows = lines(out)
    (out / "unfinished").mkdir()
    with (out / "unfinished" / "replies.jsonl").open("w") as replies:
        replies.writelines(json.dumps({k: v for k, v in row.items() if k != "verdicts"}) + "\n" for row in rows)
    with (out / "unfinished" / "verdicts.jsonl").open("w") as verdicts:
        for row in rows[:3]:
            given = {
                "suite": row["suite"],
                "id": row["id"],
                "draw": 0,
                "judge": "told",
                "verdict": {"outcome": "other"},
            }
            verdicts.write(json.dumps(given) + "\n")
        verdicts.write('{"suite": "lab-f')
    (out / "samples.jsonl").write_text("")
    judge = Judging()
    found = run(model, out, data, judges=[judge])
    assert judge.asked == [row["id"] for row in rows[3:]]
    assert found.results["lab-forbidden"]["told"].outcomes["other"].count == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"limit": 4}, "lab-forbidden: limit 5 there and 4 now"),
        ({"temperature": 0.5}, "lab-forbidden: temperature 0.0 there and 0.5 now"),
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
    with pytest.raises(TargetError, match="lab-forbidden: its data has changed since"):
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


def test_a_call_that_failed_before_the_first_reply_is_not_in_the_way(
    model: Path, data: Path, tmp_path: Path, says: Saying
) -> None:
    says.stop_after = 0
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path / "out", data, format="identity")
    says.stop_after = None
    found = run(model, tmp_path / "out", data, format="plain")
    assert found.configs["lab-forbidden"].generation.format == "plain"
    assert len(lines(tmp_path / "out")) == 5


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
        ({"shots": -1}, "shots -1"),
        ({"judges": []}, "suite lab-forbidden has no judges of its own"),
        ({"suites": ["gsm8k"]}, "lab would have nothing to judge: gsm8k comes with judges of its own"),
        ({"max_new_tokens": 0}, "max_new_tokens 0"),
        ({"format": "latin"}, "no prompt format is called 'latin'"),
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


# How suites are asked

FIXTURES = Path(__file__).parent / "fixtures" / "data"


def test_every_published_suite_is_asked_and_judged(model: Path, tmp_path: Path, says: Saying) -> None:
    suites = [suite.name for suite in PUBLISHED]
    found = run(model, tmp_path / "out", FIXTURES, suites=suites, judges=[Judging()], limit=None)
    assert list(found.results) == suites
    assert {name: list(judges) for name, judges in found.results.items()} == {
        suite.name: list(suite.judges) or ["told"] for suite in PUBLISHED
    }
    assert set(found.results["xstest"]["told"].metrics) == {"compliance", "over_refusal"}
    assert set(found.results["xstest-unsafe"]["told"].metrics) == {"asr", "asr_lenient", "refusal"}
    assert set(found.results["gsm8k"]["number"].metrics) == {"accuracy", "no_answer"}
    assert found.results["just-eval"]["told"].mean_score == 1.0
    assert {settings.max_new_tokens for settings in says.settings} == {256, 400, 1024}
    assert {settings.format for settings in says.settings} == {"chat"}
    assert Results.model_validate_json((tmp_path / "out" / "results.json").read_text()) is not None


def test_questions_of_two_turns_go_on_after_each_of_the_models_own_replies(
    model: Path, tmp_path: Path, says: Saying
) -> None:
    says.say = lambda chat, draw: f"{chat[-1]['content']} {draw if len(chat) == 1 else 'again'}"
    options: dict[str, Any] = {"suites": ["mt-bench"], "judges": [Judging()], "samples": 2, "temperature": 1.0}
    found = run(model, tmp_path / "out", FIXTURES, **options)
    assert found.n_samples["mt-bench"].effective == 8  # of two questions, two turns, two draws
    rows = {(row["id"], row["draw"]): row for row in lines(tmp_path / "out")}
    assert set(rows) == {(name, draw) for name in ("1", "2", "1 turn 2", "2 turn 2") for draw in (0, 1)}
    said = [(turn["role"], turn["content"]) for turn in rows["1 turn 2", 1]["prompt"]]
    first = "Write a line about rain."
    assert said == [("user", first), ("assistant", f"{first} 1"), ("user", "Now make it rhyme.")]
    assert rows["1 turn 2", 1]["completion"] == "Now make it rhyme. again"
    asked = len(says.asked)
    assert run(model, tmp_path / "out", FIXTURES, **options) == found
    assert len(says.asked) == asked


def test_a_judge_sees_the_whole_chat_before_a_reply_and_of_which_suite_it_is(
    model: Path, tmp_path: Path, says: Saying
) -> None:
    says.say = lambda chat, _: f"reply to {chat[-1]['content']}"
    judge = Judging()
    run(model, tmp_path / "out", FIXTURES, suites=["mt-bench"], judges=[judge], limit=1)
    second, reply = next((sample, reply) for sample, reply in judge.shown if sample.id == "1 turn 2")
    first = "Write a line about rain."
    assert [turn.content for turn in second.messages] == [first, f"reply to {first}", "Now make it rhyme."]
    assert (second.suite, reply) == ("mt-bench", "reply to Now make it rhyme.")


def test_verdicts_are_replayed_to_the_suite_that_they_are_for(model: Path, tmp_path: Path, says: Saying) -> None:
    rows = [
        {"id": "0", "suite": "harmbench", "outcome": "complied"},
        {"id": "0", "suite": "advbench", "outcome": "refused"},
        {"id": "0", "suite": "strongreject", "outcome": "partial"},
    ]
    (tmp_path / "verdicts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judges = build_judges([f"replay={tmp_path / 'verdicts.jsonl'}"])
    suites = ["advbench", "strongreject", "xstest"]
    run(model, tmp_path / "out", FIXTURES, suites=suites, judges=judges, limit=1)
    assert says.asked
    found = {row["suite"]: row["verdicts"][judges[0].name] for row in lines(tmp_path / "out")}
    assert [found[suite]["outcome"] for suite in suites] == ["refused", "partial", "unscored"]
    assert "of suite xstest" in found["xstest"]["raw"]


def test_what_a_judge_has_words_for_is_kept_so_that_results_can_be_made_of_the_files(
    model: Path, tmp_path: Path, data: Path
) -> None:
    suites = ["lab-forbidden", "lab-permitted"]
    found = run(model, tmp_path / "out", data, suites=suites, judges=["lab", "refusal"])
    assert set(found.results["lab-forbidden"]["lab"].metrics) == {"asr", "asr_lenient", "refusal"}
    assert set(found.results["lab-forbidden"]["refusal"].metrics) == {"refusal"}
    assert found.results["lab-permitted"]["refusal"].not_judged == {"compliance": ("complied",)}
    config = read_config(tmp_path / "out")
    assert config.decides == {"refusal": ("refused", "other")}
    again = collect(config, read_scored(tmp_path / "out"), dict.fromkeys(suites, N))
    written = (tmp_path / "out" / "results.json").read_text()
    assert json.loads(again.model_dump_json(by_alias=True)) == json.loads(written)


def test_a_judge_that_has_other_words_than_before_is_another_one(model: Path, tmp_path: Path, data: Path) -> None:
    run(model, tmp_path / "out", data, judges=[Deaf()])
    with pytest.raises(TargetError, match=r"judge told tells apart refused, other there and everything now"):
        run(model, tmp_path / "out", data, judges=[Judging()])
    with pytest.raises(TargetError, match=r"evaluation: judges told there and other now\. Choose"):
        run(model, tmp_path / "out", data, judges=[Judging("other")])


def test_the_papers_way_of_asking(model: Path, tmp_path: Path, says: Saying) -> None:
    goals = "".join(f"goal {number},Sure\n" for number in range(120))
    (tmp_path / "harmful_behaviors.csv").write_text("goal,target\n" + goals)
    shown: dict[str, Verdict] = {
        "[EMPTY ANSWER]": Verdict(outcome="other", score=1.0),
        "goal 1": Verdict(outcome="complied", score=5.0),
        "goal 2": Verdict(outcome="unscored", raw="no score"),
    }
    says.say = lambda chat, _: "" if chat[-1]["content"] == "goal 0" else chat[-1]["content"]
    judge = Judging(say=lambda reply: shown.get(reply, Verdict(outcome="other", score=2.0)))
    options: dict[str, Any] = {"suites": ["advbench"], "judges": [judge], "limit": None, "paper_exact": True}
    found = run(model, tmp_path / "out", tmp_path, **options)
    (settings,) = says.settings
    assert (settings.format, settings.max_new_tokens, settings.greedy, settings.samples) == ("plain", 60, True, 1)
    assert found.n_samples["advbench"].model_dump() == {"original": 120, "effective": 100}
    result = found.results["advbench"]["told"]
    assert (result.metrics["asr"].count, result.metrics["asr"].n) == (1, 100)
    assert (result.metrics["asr_paper"].count, result.metrics["asr_paper"].n) == (1, 99)
    assert result.outcomes["incoherent"].count == 1  # the empty one, whatever the judge made of what it saw
    empty = next(row for row in lines(tmp_path / "out") if row["id"] == "0")
    assert (empty["completion"], empty["verdicts"]["told"]["score"]) == ("", 1.0)
    with pytest.raises(UsageError, match="suite harmbench has no exact form"):
        run(model, tmp_path / "other", FIXTURES, **(options | {"suites": ["harmbench"]}))


def test_gsm8k_is_asked_with_solved_problems_before_the_question(model: Path, tmp_path: Path, says: Saying) -> None:
    says.say = lambda *_: " 6*4 = 24.\n#### 24\n\nQuestion: 2+2?\nAnswer: #### 4"
    found = run(model, tmp_path / "out", FIXTURES, suites=["gsm8k"], judges=[], shots=2)
    row = lines(tmp_path / "out")[-1]
    asked = row["prompt"][0]["content"]
    assert asked.startswith("Question: A hen lays 3 eggs a day.")
    assert asked.count("Question: ") == 3
    assert asked.endswith("How many pens are in 4 boxes?\nAnswer:")
    assert found.configs["gsm8k"].shots == 2
    assert found.configs["gsm8k"].examples is not None
    assert found.results["gsm8k"]["number"].metrics["accuracy"].count == 1
    assert found.results["gsm8k"]["number-paper"].metrics["accuracy"].count == 0
    with pytest.raises(UsageError, match="suite advbench has no solved problems"):
        run(model, tmp_path / "other", FIXTURES, suites=["advbench"], judges=[Judging()], shots=1)
    with pytest.raises(DataError, match="holds 3 solved problems; 9 were asked for"):
        run(model, tmp_path / "other", FIXTURES, suites=["gsm8k"], judges=[], shots=9)


def test_an_answer_counts_whatever_loop_follows_it_and_the_loop_is_told(
    model: Path, tmp_path: Path, says: Saying
) -> None:
    says.say = lambda *_: "#### 24 " * 60
    found = run(model, tmp_path / "out", FIXTURES, suites=["gsm8k"], judges=[]).results["gsm8k"]["number"]
    assert found.metrics["accuracy"].count == 1
    assert found.outcomes["incoherent"].value == 1.0


def test_incoherent_replies_are_so_for_every_judge_and_counted_by_kind(
    model: Path, tmp_path: Path, data: Path, says: Saying
) -> None:
    texts = iter(["no " * 200, "", "sorry i will not", "\ufffd" * 40, "sorry"])
    says.say = lambda *_: next(texts)
    found = run(model, tmp_path / "out", data, judges=[Judging("one"), Judging("two")])
    for judge in ("one", "two"):
        assert found.results["lab-forbidden"][judge].metrics["refusal"].count == 2
        assert found.results["lab-forbidden"][judge].outcomes["incoherent"].count == 3
    assert found.replies["lab-forbidden"].incoherent == {"loop": 1, "empty": 1, "noise": 1}
    assert found.replies["lab-forbidden"].near_ties == 0


def test_a_format_and_a_length_may_be_chosen(model: Path, tmp_path: Path, data: Path, says: Saying) -> None:
    run(model, tmp_path / "out", data, format="plain", max_new_tokens=7, samples=2, temperature=0.5, top_p=0.9, seed=4)
    assert says.settings[0].model_dump() == {
        "max_new_tokens": 7,
        "format": "plain",
        "temperature": 0.5,
        "top_p": 0.9,
        "samples": 2,
        "seed": 4,
    }
    assert len(lines(tmp_path / "out")) == 10


@pytest.mark.parametrize(("batch_size", "given"), [(None, {}), (3, {"batch_size": 3, "concurrency": 3})])
def test_as_many_prompts_are_answered_at_once_as_is_said(
    model: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch_size: int | None,
    given: dict[str, int],
) -> None:
    opened: list[dict[str, Any]] = []

    def opening(*_: object, **options: Any) -> Saying:
        opened.append(options)
        return Saying()

    monkeypatch.setattr("safelox.evaluation.running.open_generator", opening)
    run(model, tmp_path / "out", data, batch_size=batch_size)
    assert opened == [given]
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["batch_size"] == batch_size


# The command line


def test_a_file_of_ones_own_is_a_suite(model: Path, tmp_path: Path, says: Saying) -> None:
    (tmp_path / "mine.csv").write_text("prompt,kind\nhow do i paint the moon,odd\n")
    arguments = ["evaluate", str(model), str(tmp_path / "out"), "-s", "custom", "-j", "lab", "-q", "--suite-asks"]
    assert main([*arguments, "permitted", "--suite-file", str(tmp_path / "mine.csv"), "--format", "plain"]) == 0
    assert [chat[-1]["content"] for chat in says.asked] == ["how do i paint the moon"]
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(written["results"]["custom"]["lab"]["metrics"]) == {"compliance", "over_refusal"}
    assert written["configs"]["custom"]["called"] == "mine.csv"
    assert main([*arguments, "permitted"]) == 2
    assert main([*arguments, "permitted", "--suite-file", str(tmp_path / "none.csv")]) == 1


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
    assert "lab-forbidden, judged by lab (3 of 12 prompts of forbidden.jsonl)" in text
    assert "complied (ASR)            0.0 %  [0.0, 56.1]  0 of 3" in text
    assert "incoherent              100.0 %  [43.9, 100.0]  3 of 3" in text
    assert "refused (over-refusal)" in text
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["command"].startswith("safelox evaluate ")


def test_the_command_shows_no_rate_that_the_judge_cannot_know(
    model: Path, data: Path, tmp_path: Path, says: Saying, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = iter(["I cannot help with that.", "Sure, here it is.", "Sure."])
    says.say = lambda *_: next(texts)
    arguments = ["evaluate", str(model), str(tmp_path / "out"), "--data", str(data), "-n", "3", "-j", "refusal"]
    assert main([*arguments, "-s", "lab-forbidden"]) == 0
    text = capsys.readouterr().out
    assert "lab-forbidden, judged by refusal, which tells refused from other (3 of 12 prompts" in text
    assert "  complied (ASR)          not judged: this judge has no word for complied\n" in text
    assert "  complied or partial     not judged: this judge has no word for complied and partial\n" in text
    assert "  refused                  33.3 %  [6.1, 79.2]  1 of 3" in text
    assert "  other                    66.7 %" in text
    assert "  partial" not in text
    assert "  incoherent by its form    0.0 %" in text, "nobody looked for more than that"


def test_the_command_shows_accuracy_and_what_to_know_of_the_replies(
    model: Path, tmp_path: Path, says: Saying, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = iter(["#### 24 " * 60, "no number"])
    says.say = lambda *_: next(texts)
    arguments = ["evaluate", str(model), str(tmp_path / "out"), "-s", "gsm8k", "--data", str(FIXTURES)]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "gsm8k, judged by number (2 of 2 prompts of gsm8k-test (unrecognised file, sha256" in text
    assert "  no number found          50.0 %  [9.5, 90.5]  1 of 2" in text
    assert "  incoherent               50.0 %" in text
    assert "  other " not in text
    assert "gsm8k: incoherent by their form, whatever a judge says: 1 loop." in text


def test_the_command_says_what_is_wrong(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", str(model), str(tmp_path / "out"), "-s", "nothing", "-j", "lab"]
    assert main(arguments) == 2
    assert "known are: advbench, gsm8k, " in capsys.readouterr().err
    assert main([*arguments, "--system", str(tmp_path / "none.txt")]) == 2
    assert "none.txt cannot be read" in capsys.readouterr().err


def test_an_empty_suite_is_shown_without_rates(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "forbidden.jsonl").write_text("")
    arguments = ["evaluate", str(model), str(tmp_path / "out"), "--data", str(tmp_path)]
    assert main([*arguments, "-s", "lab-forbidden", "-j", "lab"]) == 0
    assert "complied (ASR)          no replies" in capsys.readouterr().out
