"""The replies for the page's browser: compressed, so that ten thousand of them fit and none can be taken for HTML."""

import base64
import gzip
import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

from safelox.evaluation.outcomes import Outcome
from safelox.evaluation.results import ScoredSample
from safelox.reporting.chart import number
from safelox.reporting.found import Found, Question

LONGEST = 20_000
"""Characters of a text that the page shows at most; the whole stands in samples.jsonl."""
SHORTEST = 250
LARGEST = 8_000_000
"""Bytes that the replies may take of the page."""
MOST = 60_000
"""Replies that a browser searches without delay."""


class Browser(NamedTuple):
    """What the page holds of the replies."""

    payload: str
    """Base64 of gzip of a JSON document: see `_document`."""
    samples: int
    """Replies in it."""
    left_out: int
    """Replies that are not, for want of room."""
    longest: int
    """Texts were cut at so many characters."""


def pack(found: Found) -> Browser:
    """Texts are cut shorter, and at last replies left out, until all fits."""
    samples = [
        (place, asked.evaluation, sample)
        for place, model in enumerate(found.models)
        for asked in model.asked
        if asked.replies is not None
        for sample in asked.replies.samples
    ]
    longest, step = LONGEST, max(1, math.ceil(len(samples) / MOST))
    while True:
        kept = samples[::step]
        payload = _compressed(_document(found, kept, longest))
        if len(payload) <= LARGEST or len(kept) <= 1:
            return Browser(payload, len(kept), len(samples) - len(kept), longest)
        if longest > SHORTEST:
            longest = max(SHORTEST, longest // 4)
        else:
            step = max(step + 1, math.ceil(step * len(payload) / LARGEST))


def _compressed(document: dict[str, Any]) -> str:
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode("ascii"), compresslevel=6, mtime=0)).decode("ascii")


def _document(found: Found, samples: list[tuple[int, str, ScoredSample]], longest: int) -> dict[str, Any]:
    """Names, and a list for each reply of numbers that point into them; prompts are there once, for all models."""
    suites: dict[str, int] = {}
    judges: dict[str, int] = {}
    prompts: dict[str, int] = {}
    texts: list[Sequence[tuple[str, str]]] = []
    outcomes = {outcome: place for place, outcome in enumerate(get_args(Outcome))}
    rows = []
    for place, evaluation, sample in samples:
        suite = Question(evaluation, sample.suite, "").suite_label
        said = [(message.role, _cut(message.content, longest)) for message in sample.prompt]
        key = json.dumps(said)
        if key not in prompts:
            prompts[key] = len(texts)
            texts.append(said)
        verdicts = [
            (
                judges.setdefault(judge, len(judges)),
                outcomes[verdict.outcome],
                number(verdict.score),
                None if verdict.raw is None else _cut(verdict.raw, longest),
            )
            for judge, verdict in sample.verdicts.items()
        ]
        rows.append(
            (
                place,
                suites.setdefault(suite, len(suites)),
                sample.id if sample.draw == 0 else f"{sample.id}, draw {sample.draw}",
                prompts[key],
                _cut(sample.completion, longest),
                sample.incoherence,
                verdicts,
            )
        )
    return {
        "models": [model.name for model in found.models],
        "suites": list(suites),
        "judges": list(judges),
        "outcomes": list(outcomes),
        "prompts": texts,
        "rows": rows,
    }


def _cut(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    return f"{text[:longest]}\n[… {len(text) - longest:,} more characters in samples.jsonl]"
