"""Judges behind a server, by the real openai client, through everything that servers do wrong."""

import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from openai_server import ANSWERED, Fault, OpenAIServer, asked_text, serving
from safelox.errors import JudgeError, PrerequisiteError, UsageError
from safelox.evaluation.judges import JudgeOptions, Patience, build_judges, judge_many, judge_usage
from safelox.evaluation.judges.aspects import ASPECTS
from safelox.evaluation.judges.cache import Answer, AnswerCache
from safelox.evaluation.judges.spending import Price, Purse, list_price
from safelox.evaluation.outcomes import Verdict
from safelox.evaluation.samples import Message, Sample

KEY = "sk-very-secret"
PASSING: tuple[Fault, ...] = ("cut", "truncated", "not json", "wrong shape", "no choices", "429", "500", "503", "hang")
NUMBER = 40


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def items(number: int = NUMBER) -> list[tuple[Sample, str]]:
    return [
        (Sample(id=str(index), messages=(Message(role="user", content=f"question <{index}>"),)), f"reply {index}")
        for index in range(number)
    ]


def grade(body: dict[str, Any]) -> str:
    """A grade that depends on the question: 1 to 5."""
    number = int(asked_text(body).split("question <")[1].split(">")[0])
    return f"Because of this and that.\n#thescore: {number % 5 + 1}"


def expected(number: int = NUMBER) -> dict[int, int]:
    return {index: index % 5 + 1 for index in range(number)}


def scores(found: dict[int, Verdict]) -> dict[int, float | None]:
    return {index: verdict.score for index, verdict in found.items()}


def options(server: OpenAIServer, cache: Path, **changes: Any) -> JudgeOptions:
    patience = Patience(first_wait=0.001, timeout=changes.pop("timeout", 0.5), attempts=changes.pop("attempts", 8))
    given: dict[str, Any] = {"url": server.url, "cache": cache, "concurrency": 4, "patience": patience}
    return JudgeOptions(**given | changes)


def judge_all(server: OpenAIServer, cache: Path, number: int = NUMBER, **changes: Any) -> dict[int, Verdict]:
    [judge] = build_judges(["policy-rubric"], options(server, cache, **changes))
    return dict(judge_many(judge, items(number)))


# What is asked


def test_the_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(grade) as server:
        judge_all(server, tmp_path, 1)
    [body] = server.bodies
    assert {name: body[name] for name in ("model", "temperature", "seed")} == {
        "model": "gpt-4o-mini",
        "temperature": 0,
        "seed": 42,
    }
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert "question <0>" in body["messages"][1]["content"]
    assert "reply 0" in body["messages"][1]["content"]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert not any(KEY in path.read_text() for path in tmp_path.rglob("*") if path.is_file())


def test_the_model_may_follow_the_name_and_two_stand_side_by_side(tmp_path: Path) -> None:
    with serving(grade) as server:
        judges = build_judges(["policy-rubric=one", "policy-rubric"], options(server, tmp_path, model="two"))
        for judge in judges:
            assert scores(dict(judge_many(judge, items(2)))) == expected(2)
    assert [judge.name for judge in judges] == ["policy-rubric=one", "policy-rubric"]
    assert Counter(body["model"] for body in server.bodies) == {"one": 2, "two": 2}
    assert judges[0].version != judges[1].version


def test_classifiers_behind_a_server(tmp_path: Path) -> None:
    wording = tmp_path / "wording.txt"
    wording.write_text("[INST] {behavior} / {generation} [/INST]")
    says = lambda body: "Yes" if "prompt" in body else "unsafe\nS2"  # noqa: E731
    with serving(says) as server:
        judges = build_judges(["llama-guard", "harmbench"], options(server, tmp_path / "cache", prompt=wording))
        found = [dict(judge_many(judge, items(1)))[0].outcome for judge in judges]
    assert found == ["complied", "complied"]
    assert server.paths == ["/v1/chat/completions", "/v1/completions"]
    assert [message["role"] for message in server.bodies[0]["messages"]] == ["user", "assistant"]
    assert server.bodies[1]["prompt"] == "[INST] question <0> / reply 0 [/INST]"


def test_strongreject_behind_a_server(tmp_path: Path) -> None:
    with serving(lambda _: "#refusal: no\n#convincing: 5\n#specific: 3") as server:
        [judge] = build_judges(["strongreject"], options(server, tmp_path))
        assert dict(judge_many(judge, items(1)))[0].score == 0.75


def test_five_aspects_are_paid_for_once(tmp_path: Path) -> None:
    names = [f"aspect-{aspect}" for aspect in ASPECTS]
    text = "\n".join(f"#{aspect}: {grade}" for grade, aspect in enumerate(ASPECTS, 1))
    with serving(lambda _: text) as server:
        judges = build_judges(names, options(server, tmp_path))
        found = [scores(dict(judge_many(judge, items(3)))) for judge in judges]
        assert found == [dict.fromkeys(range(3), grade) for grade in range(1, 6)]
        assert len(server.bodies) == 3


# What goes wrong


@pytest.mark.parametrize("seed", range(3))
def test_through_all_faults_nothing_is_lost_and_nothing_is_judged_twice(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    faults: list[Fault] = [rng.choice((*PASSING, *ANSWERED, "ok", "ok")) for _ in range(2 * NUMBER)]
    faults = ["ok" if fault == "length" else fault for fault in faults]
    with serving(grade, faults, slow=0.08) as server:
        found = judge_all(server, tmp_path, attempts=30)
        assert scores(found) == expected()
        assert server.busiest <= 4
        assert set(server.given.values()) == {1}
        assert len(server.bodies) > NUMBER
        before = len(server.bodies)
        assert judge_all(server, tmp_path) == found
        assert len(server.bodies) == before


def test_as_many_at_once_as_allowed(tmp_path: Path) -> None:
    with serving(grade, delay=0.05) as server:
        judge_all(server, tmp_path, 16, concurrency=3)
        assert server.busiest == 3


def test_judges_of_one_server_share_its_limit(tmp_path: Path) -> None:
    with serving(lambda _: "#score: 3", delay=0.03) as server:
        judges = build_judges(["policy-rubric=a", "policy-rubric=b"], options(server, tmp_path, concurrency=2))
        streams = [judge_many(judge, items(6)) for judge in judges]
        for pair in zip(*streams, strict=True):
            assert [verdict.score for _, verdict in pair] == [3, 3]
        assert server.busiest == 2


@pytest.mark.parametrize("text", ["I would say 5.", "#thescore: 10", "#thescore: 0", "", "#thescore: 4.5"])
def test_a_verdict_in_the_wrong_form_is_unscored_kept_raw_and_not_asked_again(tmp_path: Path, text: str) -> None:
    with serving(lambda _: text) as server:
        for _ in range(2):
            [verdict] = judge_all(server, tmp_path, 1).values()
            assert verdict == Verdict(outcome="unscored", raw=text)
        assert len(server.bodies) == 1


def test_a_server_that_is_down_ends_the_work_and_the_next_run_goes_on(tmp_path: Path) -> None:
    faults: tuple[Fault, ...] = (*("ok",) * 10, *("503",) * 12)
    with serving(grade, faults) as server:
        [judge] = build_judges(["policy-rubric"], options(server, tmp_path, attempts=3))
        found: dict[int, Verdict] = {}
        with pytest.raises(JudgeError, match="run the same again") as caught:
            found.update(judge_many(judge, items()))
        assert "3 tries" in str(caught.value)
        assert 0 < server.given.total() < NUMBER
        assert scores(judge_all(server, tmp_path)) == expected()
        assert set(server.given.values()) == {1}


def test_a_request_on_which_alone_the_server_breaks_is_unscored(tmp_path: Path) -> None:
    def breaks(body: dict[str, Any]) -> str:
        if "question <3>" in asked_text(body):
            raise ConnectionResetError
        return grade(body)

    with serving(breaks, delay=0.01) as server:
        found = judge_all(server, tmp_path, 20, attempts=4)
        assert [index for index, verdict in found.items() if verdict.outcome == "unscored"] == [3]
        assert "4 tries" in str(found[3].raw)


def test_a_request_that_the_server_does_not_let_through_is_unscored(tmp_path: Path) -> None:
    with serving(grade, ["ok", "filtered", "400"]) as server:
        found = judge_all(server, tmp_path, 6, concurrency=1)
    assert [found[index].outcome for index in (1, 2)] == ["unscored", "unscored"]
    assert "content_filter" in str(found[1].raw)
    assert "refuses the request" in str(found[2].raw)
    assert scores(found) == expected(6) | {1: None, 2: None}


@pytest.mark.parametrize(
    ("fault", "message"),
    [("401", "OPENAI_API_KEY"), ("404", "refuses"), ("400", "refuses"), ("no quota", "no quota")],
)
def test_what_no_patience_helps_against_ends_the_work_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault, message: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(grade, [fault]) as server, pytest.raises(JudgeError, match=message) as caught:
        judge_all(server, tmp_path, 5, concurrency=1)
    assert len(server.bodies) == 1
    assert KEY not in str(caught.value)


def test_interrupting_does_not_wait_for_patience(tmp_path: Path) -> None:
    faults: tuple[Fault, ...] = ("ok", *("503",) * 1000)
    with serving(grade, faults) as server:
        patience = Patience(first_wait=30.0)
        [judge] = build_judges(["policy-rubric"], options(server, tmp_path, patience=patience))
        verdicts = judge_many(judge, items())
        next(verdicts)
        start = time.monotonic()
        verdicts.close()  # type: ignore[attr-defined]
        assert time.monotonic() - start < 5
        server.faults = iter(["503"])
        patience = Patience(first_wait=0.001)
        assert scores(judge_all(server, tmp_path, patience=patience)) == expected()


# Resuming

KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_judges_api import items
from safelox.evaluation.judges import JudgeOptions, build_judges, judge_many

options = JudgeOptions(url=sys.argv[1], cache=Path(sys.argv[2]), concurrency=4)
[judge] = build_judges(["policy-rubric"], options)
for _ in judge_many(judge, items()):
    print("judged", flush=True)
"""


def test_a_killed_run_asks_nothing_again_that_it_was_answered(tmp_path: Path) -> None:
    with serving(grade, delay=0.05) as server:
        arguments = [sys.executable, "-c", KILLED, server.url, str(tmp_path), str(Path(__file__).parent)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(8):
                assert process.stdout.readline() == "judged\n"
            process.kill()
        while server.busy:
            time.sleep(0.01)
        kept = sum(1 for path in tmp_path.rglob("*.json") if path.is_file())
        under_way = server.given.total() - kept
        assert 8 <= kept < NUMBER
        assert 0 <= under_way <= 4  # answered while the process died
        assert scores(judge_all(server, tmp_path)) == expected()
        assert server.given.total() == NUMBER + under_way


def test_the_cache_goes_by_all_that_was_asked(tmp_path: Path) -> None:
    with serving(grade) as server:
        for changes in ({}, {"model": "other"}, {}):
            judge_all(server, tmp_path, 1, **changes)
        assert len(server.bodies) == 2
    with serving(grade) as another:
        judge_all(another, tmp_path, 1)
        assert len(another.bodies) == 1


def test_a_damaged_answer_is_asked_for_again(tmp_path: Path) -> None:
    with serving(grade) as server:
        judge_all(server, tmp_path, 1)
        [path] = list(tmp_path.rglob("*.json"))
        path.write_text(path.read_text()[:10])
        assert scores(judge_all(server, tmp_path, 1)) == expected(1)
        assert len(server.bodies) == 2
        assert not list(tmp_path.rglob(".*"))


def test_the_cache_is_in_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    AnswerCache().put({"a": 1}, Answer(text="t", finish_reason="stop"))
    assert AnswerCache().get({"a": 1}) == Answer(text="t", finish_reason="stop")
    assert len(list((tmp_path / "safelox" / "judges").rglob("*.json"))) == 1


def test_an_answer_that_cannot_be_kept_ends_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with serving(grade) as server, pytest.raises(JudgeError, match="XDG_CACHE_HOME"):
        judge_all(server, tmp_path / "file", 3)
    assert len(server.bodies) == 0


# Money


def test_what_was_used_is_counted(tmp_path: Path) -> None:
    with serving(grade, ["ok", "no usage"]) as server:
        [judge] = build_judges(["policy-rubric"], options(server, tmp_path, concurrency=1))
        list(judge_many(judge, items(3)))
        list(judge_many(judge, items(4)))
    usage = judge_usage([judge])["policy-rubric"]
    assert (usage.requests, usage.cached, usage.uncounted) == (4, 3, 1)
    assert usage.completion_tokens == 3 * 7
    assert usage.cost == pytest.approx((usage.prompt_tokens * 0.15 + usage.completion_tokens * 0.60) / 1e6)


def test_no_more_is_spent_than_the_budget_and_nothing_is_lost(tmp_path: Path) -> None:
    price = (1000.0, 1000.0)
    with serving(grade) as server:
        found: dict[int, Verdict] = {}
        [judge] = build_judges(["policy-rubric"], options(server, tmp_path, budget=20.0, price=price))
        with pytest.raises(JudgeError, match=r"the budget of \$20") as caught:
            found.update(judge_many(judge, items()))
        usage = judge_usage([judge])["policy-rubric"]
        assert usage.cost is not None
        assert 0 < usage.cost <= 20.0
        assert "higher budget" in str(caught.value)
        assert 0 < usage.requests < NUMBER
        assert scores(judge_all(server, tmp_path, budget=200.0, price=price)) == expected()
        assert set(server.given.values()) == {1}


def test_threads_do_not_overdraw_the_purse() -> None:
    purse = Purse(1.0)
    purse.reserve(0.6)
    with pytest.raises(JudgeError, match="budget"):
        purse.reserve(0.6)
    purse.settle(0.6, 0.1)
    purse.reserve(0.6)


def test_list_prices() -> None:
    assert list_price("gpt-4o-mini-2024-07-18") == list_price("gpt-4o-mini") == Price(0.15, 0.60)
    assert list_price("gpt-4o-minima") is None
    assert list_price("served") is None


# Options


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        (["policy-rubric"], {"budget": 1.0, "model": "served"}, "needs the price of served"),
        (["policy-rubric"], {"budget": 0.0}, "budget 0.0: has to be above 0"),
        (["policy-rubric"], {"price": (-1.0, 2.0)}, "two amounts from 0 up"),
        (["policy-rubric"], {"price": (float("nan"), 2.0)}, "two amounts from 0 up"),
        (["policy-rubric"], {"concurrency": 0}, "at least one request"),
        (["policy-rubric"], {"url": "http://me:secret@host/v1"}, "keys in the environment alone"),
        (["policy-rubric"], {"url": "host"}, "is not the URL of a server"),
        (["refusal"], {}, "a URL was given, but no judge that asks a server"),
        (["refusal"], {"url": None, "model": "m"}, "the model m was given, but no judge that is a model"),
        (["strongreject"], {"prompt": Path("p")}, "none of these judges does"),
        (["policy-rubric", "harmbench"], {"prompt": Path("p")}, "harmbench and policy-rubric both do"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, names: list[str], changes: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"url": "http://127.0.0.1:1/v1", "cache": tmp_path} | changes
    with pytest.raises(UsageError, match=message):
        build_judges(names, JudgeOptions(**given))


def test_openai_needs_a_key_and_a_server_of_ones_own_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PrerequisiteError, match="OPENAI_API_KEY"):
        build_judges(["policy-rubric"])
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1/")
    [judge] = build_judges(["policy-rubric"])
    assert "http://127.0.0.1:1/v1," in judge.version


def test_without_the_client_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safelox.evaluation.generation.api.find_spec", lambda _: None)
    with pytest.raises(PrerequisiteError, match="safelox\\[eval\\]"):
        build_judges(["policy-rubric"], JudgeOptions(url="http://127.0.0.1:1/v1"))
