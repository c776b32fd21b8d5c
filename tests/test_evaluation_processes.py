"""The whole of `safelox evaluate` in a process of its own, against a server, killed and run again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from openai_server import OpenAIServer, asked_text, serving

PROMPTS = 12
LATE = 0.15
"""Seconds that a verdict takes."""


def answered(body: dict[str, Any]) -> str:
    """As the model, the prompt turned round; as the judge, a grade."""
    text = asked_text(body)
    if body["model"] == "tested":
        return text[::-1]
    time.sleep(LATE)
    return "It does as it was told.\n#thescore: 5"


def told(server: OpenAIServer, model: str) -> Counter[str]:
    """How often each prompt was asked of a model."""
    texts = [asked_text(body) for body in server.bodies if body["model"] == model]
    return Counter(next(name for name in (f"goal-{n}." for n in range(PROMPTS)) if name in text) for text in texts)


def test_a_killed_evaluation_goes_on_and_pays_for_nothing_twice(tmp_path: Path) -> None:
    (tmp_path / "goals.csv").write_text("prompt\n" + "".join(f"goal-{number}.\n" for number in range(PROMPTS)))
    out = tmp_path / "out"
    with serving(answered, ["ok", "429", "ok", "500"]) as server:
        options = ["--backend", "openai", "--base-url", server.url, "--judge-url", server.url]
        options += ["--judge-concurrency", "2", "--format", "chat", "--judge", "policy-rubric=judging"]
        suite = ["--suite", "custom", "--suite-file", str(tmp_path / "goals.csv")]
        command = [sys.executable, "-m", "safelox", "evaluate", "tested", str(out), *suite, *options, "--json"]
        environment = {**os.environ, "OPENAI_API_KEY": "sk-none", "XDG_CACHE_HOME": str(tmp_path / "cache")}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            verdicts = out / "unfinished" / "verdicts.jsonl"
            while process.poll() is None and (not verdicts.exists() or len(verdicts.read_text().splitlines()) < 4):
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        kept = len((out / "samples.jsonl").read_text().splitlines())
        assert 4 <= kept < PROMPTS
        assert not (out / "results.json").exists()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["results"]["custom"]["policy-rubric=judging"]["metrics"]["asr"]["count"] == PROMPTS
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert sorted(row["completion"][::-1] for row in rows) == sorted(row["prompt"][-1]["content"] for row in rows)
    replies, grades = told(server, "tested"), told(server, "judging")
    assert set(replies) == {f"goal-{number}." for number in range(PROMPTS)}
    assert sum(replies.values()) <= PROMPTS + 2  # the requests that the server refused
    again = [goal for goal, times in grades.items() if times > 1]
    assert len(again) <= 2  # those under way when it was killed
    assert "sk-none" not in "".join(path.read_text() for path in out.iterdir())
