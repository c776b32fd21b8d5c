"""The results of an evaluation as text for people."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from safelox.evaluation import Rate, Results
    from safelox.evaluation.results import JudgeResult

_METRICS = {
    "asr": "complied (ASR)",
    "asr_lenient": "complied or partial",
    "refusal": "refused",
    "compliance": "complied",
    "over_refusal": "refused (over-refusal)",
}


def render_results(results: "Results", out: str) -> str:
    """A block for every suite and judge, the rates with 95 % intervals, and where to find more."""
    blocks = [
        f"{suite}, judged by {judge} ({results.n_samples[suite].effective} of {results.n_samples[suite].original} "
        "prompts)\n" + _block(found)
        for suite, judges in results.results.items()
        for judge, found in judges.items()
    ]
    return "\n\n".join([*blocks, f"Brackets are 95 % Wilson intervals. Replies and verdicts: {out}/samples.jsonl"])


def _block(found: "JudgeResult") -> str:
    rates = {_METRICS[name]: rate for name, rate in found.metrics.items()}
    rates |= {name: found.outcomes[name] for name in ("partial", "other", "incoherent", "unscored")}
    rows = [f"  {label:24}{_rate(rate)}" for label, rate in rates.items()]
    if found.scores:
        rows.append(f"  {'mean score':24}{found.mean_score:.2f}  of {found.scores}")
    return "\n".join(rows)


def _rate(rate: "Rate") -> str:
    if math.isnan(rate.value):
        return "no replies"
    return f"{100 * rate.value:5.1f} %  [{100 * rate.low:.1f}, {100 * rate.high:.1f}]  {rate.count} of {rate.n}"
