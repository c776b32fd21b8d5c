"""Replies of a model behind a server, by the real openai client, through everything that servers do wrong."""

import random
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from openai_server import Fault, OpenAIServer, asked_text, serving
from safelox.errors import DataError, PrerequisiteError, ServerError, UsageError
from safelox.evaluation import evaluate
from safelox.evaluation.folder import read_scored
from safelox.evaluation.generation import Backend, GenerationSettings, Reply, find_backend, open_generator
from safelox.evaluation.generation.server import CONCURRENCY, ServerGenerator
from safelox.evaluation.suites import custom_suite
from safelox.formats import FORMATS, Conversation, Message, TextFormat

GREEDY = GenerationSettings(max_new_tokens=16)
PASSING: tuple[Fault, ...] = ("cut", "truncated", "not json", "wrong shape", "no choices", "429", "500", "503")
NUMBER = 24


@pytest.fixture(autouse=True)
def no_key_and_short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr("safelox.evaluation.generation.api.LONGEST_WAIT", 0.5)


def chats(number: int) -> list[Conversation]:
    return [[Message(role="user", content=f"question {index}")] for index in range(number)]


def answer(body: dict[str, Any]) -> str:
    return f"answer to {asked_text(body)}"


def asking(server: OpenAIServer, **options: Any) -> ServerGenerator:
    return ServerGenerator(server.url, "served", **{"first_wait": 0.001, "timeout": 0.5} | options)


def replies_of(server: OpenAIServer, number: int = NUMBER, **options: Any) -> dict[int, Reply]:
    return dict(asking(server, **options).replies(chats(number), GREEDY))


def expected(number: int = NUMBER) -> dict[int, Reply]:
    return {index: Reply(f"answer to question {index}", None, "stop") for index in range(number)}


# What is asked


def test_a_chat_is_sent_as_a_chat() -> None:
    chat = [
        Message(role="system", content="be good"),
        Message(role="user", content="sum up", context="a text"),
        Message(role="assistant", content="sure"),
        Message(role="user", content="and now"),
    ]
    with serving(answer) as server:
        generator = open_generator("served", find_backend("openai", base_url=server.url))
        assert list(generator.replies([chat], GREEDY)) == [(0, Reply("answer to and now", None, "stop"))]
        generator.close()
    assert server.paths == ["/v1/chat/completions"]
    assert server.bodies == [
        {
            "model": "served",
            "messages": [
                {"role": "system", "content": "be good"},
                {"role": "user", "content": "sum up\n\na text"},
                {"role": "assistant", "content": "sure"},
                {"role": "user", "content": "and now"},
            ],
            "max_tokens": 16,
            "temperature": 0.0,
        }
    ]


@pytest.mark.parametrize("name", ["plain", "gsm8k", "alpaca-exact"])
def test_other_formats_are_sent_as_the_text_to_complete(name: str) -> None:
    layout = FORMATS[name]
    assert isinstance(layout, TextFormat)
    with serving(lambda _: " sure") as server:
        backend = Backend(name="openai", device=None, dtype=None, base_url=server.url, api_model="other")
        found = list(open_generator("served", backend).replies(chats(1), GREEDY.model_copy(update={"format": name})))
    assert found == [(0, Reply(" sure", None, "stop"))]
    assert server.paths == ["/v1/completions"]
    text = ("<s>" if name == "alpaca-exact" else "") + layout.text(chats(1)[0])
    assert server.bodies == [{"model": "other", "prompt": text, "max_tokens": 16, "temperature": 0.0}]


def test_a_conversation_that_the_format_cannot_hold_is_told_before_anything_is_sent() -> None:
    wrong = [[Message(role="user", content="a"), Message(role="assistant", content="b")]]
    with serving(answer) as server, pytest.raises(DataError, match="conversation 2"):
        list(asking(server).replies(chats(1) + wrong, GREEDY.model_copy(update={"format": "plain"})))
    assert server.bodies == []


def test_every_draw_is_asked_for_with_a_seed_of_its_own() -> None:
    drawn = GenerationSettings(max_new_tokens=16, temperature=0.7, top_p=0.9, samples=3, seed=5)
    with serving(answer) as server:
        found = list(asking(server).replies(chats(2), drawn, done={(0, 1), (1, 2)}))
        again = list(asking(server).replies(chats(1), drawn, done={(0, 1)}))
    assert sorted((index, reply.draw) for index, reply in found) == [(0, 0), (0, 2), (1, 0), (1, 1)]
    assert len(again) == 2
    seeds = [{body["seed"] for body in server.bodies if asked_text(body) == f"question {index}"} for index in (0, 1)]
    assert [len(some) for some in seeds] == [2, 2]
    assert all(0 <= seed < 2**31 for some in seeds for seed in some)
    assert {(body["temperature"], body["top_p"]) for body in server.bodies} == {(0.7, 0.9)}


def test_a_cut_reply_is_told_from_an_ended_one() -> None:
    with serving(answer, ["length"]) as server:
        assert replies_of(server, 1)[0].finish_reason == "length"


def test_the_key_comes_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(answer) as server:
        replies_of(server, 1)
        monkeypatch.setenv("OPENAI_API_KEY", "of-mine")
        replies_of(server, 1)
    assert [headers["authorization"] for headers in server.headers] == ["Bearer none", "Bearer of-mine"]


# What goes wrong and passes


@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_is_tried_again(fault: Fault) -> None:
    with serving(answer, [fault, fault]) as server:
        assert replies_of(server, 1) == expected(1)
    assert len(server.bodies) == 3


def test_a_server_that_hangs_is_asked_again() -> None:
    with serving(answer, ["hang"], slow=0.1) as server:
        assert replies_of(server, 1, timeout=0.2) == expected(1)


def test_no_reply_is_lost_and_never_are_too_many_requests_under_way() -> None:
    chance = random.Random(3)
    faults: Iterator[Fault] = (chance.choice((*PASSING, "ok", "ok", "ok", "slow")) for _ in iter(int, 1))
    with serving(answer, faults, delay=0.002, slow=0.03) as server:
        assert replies_of(server, NUMBER, concurrency=5, attempts=40) == expected()
    assert server.given == {f"question {index}": 1 for index in range(NUMBER)}
    assert 2 <= server.busiest <= 5


def test_requests_go_side_by_side() -> None:
    with serving(answer, delay=0.05) as server:
        began = time.monotonic()
        assert replies_of(server, 12, concurrency=6) == expected(12)
        assert time.monotonic() - began < 0.45
    assert server.busiest == 6


def test_a_server_that_says_how_long_to_wait_is_waited_for() -> None:
    with serving(answer, ["429"], retry_after="0.2") as server:
        began = time.monotonic()
        assert replies_of(server, 1) == expected(1)
    assert 0.2 <= time.monotonic() - began < 0.6


# What goes wrong for good


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("400", ServerError, r"127\.0\.0\.1.*refuses the request: .*fault 400"),
        ("404", ServerError, "refuses the request: .*fault 404"),
        ("no quota", ServerError, "refuses the request: .*fault no quota"),
        ("401", PrerequisiteError, r"does not take the key in \$OPENAI_API_KEY, or there is none: .*fault 401"),
    ],
)
def test_what_does_not_pass_is_not_tried_again(fault: Fault, error: type[Exception], message: str) -> None:
    with serving(answer, ["ok", "ok", fault]) as server, pytest.raises(error, match=message) as caught:
        replies_of(server, 5, concurrency=1)
    assert len(server.bodies) == 3
    assert caught.value.__notes__ == ["It was asked prompt 3."]


def collect(generator: ServerGenerator, number: int, found: dict[int, Reply]) -> None:
    """Takes the replies one by one, so that what was there before an error is kept."""
    for index, reply in generator.replies(chats(number), GREEDY):
        found[index] = reply


def test_patience_has_an_end_and_what_was_there_before_is_kept() -> None:
    found: dict[int, Reply] = {}
    with serving(answer, ["ok", "ok", "500", "500", "500"]) as server:
        generator = asking(server, concurrency=1, attempts=3)
        with pytest.raises(ServerError, match=r"no answer after 3 tries; the last one: .*fault 500"):
            collect(generator, 4, found)
        assert found == expected(2)
        # The same generator may be asked for the rest.
        found |= dict(generator.replies(chats(4), GREEDY, done={(0, 0), (1, 0)}))
    assert found == expected(4)
    assert server.given == {f"question {index}": 1 for index in range(4)}


def test_what_is_under_way_when_one_fails_is_still_had() -> None:
    found: dict[int, Reply] = {}
    faults: list[Fault] = ["400", "slow", "slow"]
    with serving(answer, faults, slow=0.1) as server, pytest.raises(ServerError, match="fault 400"):
        collect(asking(server, concurrency=3), 9, found)
    assert len(found) == 2
    assert sum(server.given.values()) == 2


def test_a_reply_that_the_server_filters_is_an_empty_one_with_the_reason() -> None:
    with serving(answer, ["filtered"]) as server:
        assert replies_of(server, 1) == {0: Reply("", None, "content_filter")}


def test_the_key_is_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "fault 4")  # which this server says in its error
    with serving(answer, ["401"]) as server, pytest.raises(PrerequisiteError) as caught:
        replies_of(server, 1)
    assert "fault 4" not in str(caught.value)


def test_a_server_that_is_not_there_is_told() -> None:
    generator = ServerGenerator("http://127.0.0.1:9/v1", "m", first_wait=0.001, attempts=2)
    with pytest.raises(ServerError, match=r"127\.0\.0\.1:9/v1/: no answer after 2 tries.*[Cc]onnection"):
        list(generator.replies(chats(1), GREEDY))


def test_a_reader_that_has_enough_does_not_wait_for_tries_to_come() -> None:
    faults: list[Fault] = ["ok", *(["503"] * 50)]  # type: ignore[list-item]
    with serving(answer, faults) as server:
        generator = asking(server, concurrency=4, first_wait=30)
        found = generator.replies(chats(9), GREEDY)
        assert next(found)[1].finish_reason == "stop"
        began = time.monotonic()
        found.close()  # type: ignore[attr-defined]
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("seed", range(3))
def test_evaluate_loses_no_reply_and_asks_for_none_twice(tmp_path: Path, seed: int) -> None:
    (tmp_path / "own.jsonl").write_text("".join(f'{{"prompt": "question {index}"}}\n' for index in range(NUMBER)))
    chance = random.Random(seed)
    faults: list[Fault] = chance.choices((*PASSING, "ok", "ok", "slow"), k=30)
    faults.insert(chance.randrange(5, 20), "404")  # which ends the first run
    suites = [custom_suite(tmp_path / "own.jsonl")]
    with serving(answer, faults, slow=0.02) as server:
        backend = find_backend("openai", base_url=server.url)
        run = partial(evaluate, "served", tmp_path / "out", suites=suites, judges=["refusal"], backend=backend)
        with pytest.raises(ServerError, match="fault 404"):
            run()
        results = run()
    assert results.n_samples["custom"].effective == NUMBER
    assert server.given == {f"question {index}": 1 for index in range(NUMBER)}
    assert server.busiest <= CONCURRENCY
    kept = {sample.prompt[-1].content: sample.completion for sample in read_scored(tmp_path / "out")}
    assert kept == {f"question {index}": f"answer to question {index}" for index in range(NUMBER)}


def test_nothing_at_once_is_refused() -> None:
    with pytest.raises(UsageError, match="concurrency 0"):
        open_generator("m", find_backend("openai", base_url="http://127.0.0.1:9/v1"), concurrency=0)


def test_a_missing_client_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safelox.evaluation.generation.api.find_spec", lambda _: None)
    with pytest.raises(PrerequisiteError, match=r"safelox\[eval\]"):
        ServerGenerator("http://127.0.0.1:9/v1", "m")
