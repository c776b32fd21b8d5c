"""The results of an evaluation as text for people."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safelox.evaluation import Comparison, Rate, Results
    from safelox.evaluation.comparison import ComparedMetric
    from safelox.evaluation.harness import HarnessResults
    from safelox.evaluation.outcomes import Outcome
    from safelox.evaluation.results import JudgeResult, ReplyCounts
    from safelox.evaluation.suites import Asks

_METRICS = {
    "asr": "complied (ASR)",
    "asr_paper": "5s of those scored",
    "asr_lenient": "complied or partial",
    "refusal": "refused",
    "compliance": "complied",
    "over_refusal": "refused (over-refusal)",
    "accuracy": "right (accuracy)",
    "no_answer": "no number found",
}


def render_results(results: "Results", out: str) -> str:
    """A block for every suite and judge, the rates with 95 % intervals, and where to find more."""
    blocks = [
        f"{suite}, judged by {judge}{_words(found.decides)} ({_asked(results, suite)})\n"
        + _block(found, results.configs[suite].asks)
        for suite, judges in results.results.items()
        for judge, found in judges.items()
    ]
    notes = [note for suite, counts in results.replies.items() for note in _notes(suite, counts)]
    end = f"Brackets are 95 % Wilson intervals. Replies and verdicts: {out}/samples.jsonl"
    return "\n\n".join([*blocks, "\n".join([*notes, end])])


def render_harness(found: "HarnessResults") -> str:
    """A row for every task and metric of lm-eval's, and where to find more."""
    rows = [
        f"  {task}, {metric.partition(',')[0]:20} {value:.4f}"
        for task, metrics in found.results.items()
        for metric, value in metrics.items()
    ]
    return "\n".join(["lm-eval", *rows, f"Its whole results: {found.folder}"])


def render_comparison(comparison: "Comparison", first: str, second: str) -> str:
    """A block for every suite and judge, a row for every rate: both values, their difference, and the test."""
    blocks = [f"A  {comparison.first} ({first})\nB  {comparison.second} ({second})"]
    for suite, compared in comparison.suites.items():
        unlike = f"; not alike: {', '.join(compared.differ)}" if compared.differ else ""
        left_out = compared.only_first + compared.only_second
        alone = f"; {left_out} in one folder alone are left out" if left_out else ""
        for judge, metrics in compared.judges.items():
            decides = compared.decides[judge]
            head = f"{suite}, judged by {judge}{_words(decides)} ({compared.pairs} replies in both{alone}{unlike})"
            rows = [_compared(_label(name, decides), metric) for name, metric in metrics.items()]
            missing = [_not_judged(name, lacks) for name, lacks in compared.not_judged[judge].items()]
            blocks.append("\n".join([head, *missing, *rows]))
    end = "Differences are B less A, in points, with 95 % intervals; p is of the exact McNemar test."
    return "\n\n".join([*blocks, end])


def _asked(results: "Results", suite: str) -> str:
    counts, config = results.n_samples[suite], results.configs[suite]
    kind = "replies to" if config.generation.samples > 1 or counts.effective > counts.original else "of"
    return f"{counts.effective} {kind} {counts.original} prompts of {config.called}"


def _notes(suite: str, counts: "ReplyCounts") -> list[str]:
    notes = []
    if counts.cut:
        notes.append(f"{suite}: cut at the largest number of new tokens: {counts.cut} replies.")
    if counts.near_ties:
        notes.append(f"{suite}: with a near-tie of two tokens, so that they may differ elsewhere: {counts.near_ties}.")
    if counts.incoherent:
        kinds = ", ".join(f"{count} {kind}" for kind, count in counts.incoherent.items())
        notes.append(f"{suite}: incoherent by their form, whatever a judge says: {kinds}.")
    return notes


def _compared(label: str, metric: "ComparedMetric") -> str:
    found = metric.difference
    if math.isnan(found.value):
        return f"  {label:24}no replies"
    return (
        f"  {label:24}A {_percent(metric.first)}  B {_percent(metric.second)}  "
        f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]  p = {found.p_value:.2g}  "
        f"({found.only_first} in A alone, {found.only_second} in B alone)"
    )


def _percent(rate: "Rate") -> str:
    return f"{100 * rate.value:.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def _block(found: "JudgeResult", asks: "Asks") -> str:
    rates = {_METRICS[name]: rate for name, rate in found.metrics.items()}
    beside: tuple[Outcome, ...] = ("partial", "other", "incoherent", "unscored")
    shown = beside[2:] if asks == "answer" else beside
    rates |= {_label(name, found.decides): found.outcomes[name] for name in shown if name in found.outcomes}
    rows = [_not_judged(name, lacks) for name, lacks in found.not_judged.items()]
    rows += [f"  {label:24}{_rate(rate)}" for label, rate in rates.items()]
    if found.scores and asks != "answer":
        rows.append(f"  {'mean score':24}{found.mean_score:.2f}  of {found.scores}")
    return "\n".join(rows)


def _label(name: str, decides: "Sequence[Outcome] | None") -> str:
    """What people call a rate. A judge without a word for incoherent leaves finding that to the check of form."""
    if name == "incoherent" and decides is not None and name not in decides:
        return "incoherent by its form"
    return _METRICS.get(name, name)


def _words(decides: "Sequence[Outcome] | None") -> str:
    """What a judge tells apart, where that is not everything."""
    if decides is None:
        return ""
    *first, last = decides or ("scores",)
    return f", which tells {', '.join(first)} from {last}" if first else f", which says nothing but {last}"


def _not_judged(name: str, lacks: "Sequence[Outcome]") -> str:
    """Why there is no rate: a 0 would look like a result."""
    return f"  {_METRICS[name]:24}not judged: this judge has no word for {' and '.join(lacks)}"


def _rate(rate: "Rate") -> str:
    if math.isnan(rate.value):
        return "no replies"
    return f"{100 * rate.value:5.1f} %  [{100 * rate.low:.1f}, {100 * rate.high:.1f}]  {rate.count} of {rate.n}"
