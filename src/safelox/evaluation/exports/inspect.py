"""Logs that Inspect reads: `inspect view` shows them, `inspect_ai.log.read_eval_log` opens them."""

import json
import math
import uuid
from pathlib import Path
from typing import Any

from safelox.evaluation.answers import ANSWER
from safelox.evaluation.exports.finished import Finished
from safelox.evaluation.exports.tables import file_name
from safelox.evaluation.outcomes import Verdict
from safelox.evaluation.results import JudgeResult, ScoredSample

VERSION = 2
"""Of the format of logs."""
_STOP_REASONS = {"stop": "stop", "length": "max_tokens", "content_filter": "content_filter"}
_NAMES = uuid.UUID("6b0f2f0e-54d4-5b0a-9a0e-2f7c8d9a1b3c")
"""Where ids are drawn from, so that the same results give the same log."""


def write_inspect(finished: Finished, folder: Path) -> None:
    """Write one log for each suite, in JSON, with every judge as a scorer whose value is the outcome."""
    created = finished.manifest.created
    for suite in finished.samples:
        name = f"{created.replace(':', '-')}_{file_name(suite).replace('_', '-')}_{_id(finished, suite)}.json"
        (folder / name).write_text(json.dumps(_log(finished, suite), indent=1, allow_nan=False), encoding="utf-8")


def _id(finished: Finished, suite: str) -> str:
    return uuid.uuid5(_NAMES, f"{finished.config.model_dump_json()} {finished.manifest.created} {suite}").hex


def _log(finished: Finished, suite: str) -> dict[str, Any]:
    samples = finished.samples[suite]
    judged = finished.results.results[suite]
    created = finished.manifest.created
    return {
        "version": VERSION,
        "status": "success",
        "eval": _spec(finished, suite),
        "plan": {"name": "plan", "steps": [{"solver": "generate", "params": {}}], "config": {}},
        "results": {
            "total_samples": len(samples),
            "completed_samples": len(samples),
            "scores": [_score_summary(judge, result) for judge, result in judged.items()],
        },
        "stats": {"started_at": created, "completed_at": created, "model_usage": {}},
        "samples": [_sample(sample, finished.config.model.reference) for sample in samples],
    }


def _spec(finished: Finished, suite: str) -> dict[str, Any]:
    config, settings = finished.config, finished.config.suites[suite]
    generation = settings.generation
    identity = _id(finished, suite)
    ids = list(dict.fromkeys(sample.id for sample in finished.samples[suite]))
    return {
        "eval_id": identity,
        "run_id": identity,
        "task_id": identity,
        "created": finished.manifest.created,
        "task": suite,
        "task_version": settings.version,
        "task_args": {"format": generation.format, "shots": settings.shots, "system": config.system},
        "dataset": {"name": settings.called, "samples": len(ids), "sample_ids": ids},
        "model": config.model.reference,
        "model_base_url": config.backend.base_url,
        "model_generate_config": {
            "max_tokens": generation.max_new_tokens,
            "temperature": generation.temperature,
            **({} if generation.greedy else {"top_p": generation.top_p, "seed": generation.seed}),
        },
        "config": {"limit": settings.limit, "epochs": generation.samples},
        "packages": {"safelox": finished.manifest.safelox},
        "metadata": {"judges": config.judges, "command": finished.manifest.command},
    }


def _score_summary(judge: str, result: JudgeResult) -> dict[str, Any]:
    values = {name: rate.value for name, rate in result.metrics.items()}
    values |= {f"share_{name}": rate.value for name, rate in result.outcomes.items()}
    values["mean_score"] = result.mean_score
    unscored = result.outcomes["unscored"]
    return {
        "name": judge,
        "scorer": judge,
        "scored_samples": unscored.n - unscored.count,
        "unscored_samples": unscored.count,
        "metrics": {name: {"name": name, "value": value} for name, value in values.items() if not math.isnan(value)},
    }


def _sample(sample: ScoredSample, model: str) -> dict[str, Any]:
    asked = [message.model_dump() for message in sample.prompt]
    reply = {"role": "assistant", "content": sample.completion, "source": "generate", "model": model}
    stopped = _STOP_REASONS.get(sample.finish_reason or "", "unknown")
    return {
        "id": sample.id,
        "epoch": sample.draw + 1,
        "input": asked,
        "target": str(sample.about.get(ANSWER, "")),
        "messages": [*asked, reply],
        "output": {
            "model": model,
            "choices": [{"message": reply, "stop_reason": stopped}],
            "completion": sample.completion,
        },
        "scores": {judge: _score(verdict, sample) for judge, verdict in sample.verdicts.items()},
        "metadata": {"about": sample.about, "near_tie": sample.near_tie, "incoherence": sample.incoherence},
    }


def _score(verdict: Verdict, sample: ScoredSample) -> dict[str, Any]:
    return {
        "value": verdict.outcome,
        "answer": sample.completion,
        "explanation": verdict.raw,
        "metadata": {"score": verdict.score},
    }
