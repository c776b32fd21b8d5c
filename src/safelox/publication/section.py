"""The section of the model card that tells what an experiment found of the model."""

import math
from collections.abc import Iterator, Sequence

from safelox.publication.figures import MEAN_SCORE, Figure, Row, Side, is_known
from safelox.publication.finding import Subject
from safelox.rates import Rate

BEGIN = "<!-- safelox evaluation: begin -->"
END = "<!-- safelox evaluation: end -->"

METRICS = {
    "asr": "attack success rate",
    "refusal": "refused",
    "compliance": "complied with",
    "over_refusal": "refused (over-refusal)",
    "accuracy": "right answers",
    MEAN_SCORE: "mean score",
}
"""What each figure is, in words."""
NONE = "-"

_LIMITS = """\
- The intervals speak of the prompts alone: another seed, judge or attack often changes a figure by more.
- Only the attacks in the table were tried, with the settings in the recipe. An attacker may use a larger learning rate,
  more data or another method, or fine-tune the base model instead, which hardening does not protect.
- A reply that is incoherent or could not be judged is not a safe one; both are in every denominator.
- Numbers of different judges, suites or reply lengths are not comparable with each other."""


def evaluation_section(subject: Subject, rows: Sequence[Row], missing: Sequence[str]) -> str:
    """The section in Markdown, between its two markers."""
    method = subject.defence
    lead = (
        f"By the experiment *{_plain(subject.experiment.title)}*: the aligned model as it was (*without*) "
        f"and hardened with rank {method.rank} and coefficient {method.coef:g} (*hardened*), before "
        "an attack by fine-tuning and after."
    )
    parts = [BEGIN, "## Evaluation: before and after fine-tuning attacks", lead, *_summary(rows)]
    if missing:
        parts.append(f"**The experiment is not finished.** Not in here: {_listed(missing)}.")
    suites = [row.suite for row in rows]
    for title, asks in (("Forbidden requests", ("forbidden",)), ("Utility", ("permitted", "answer", "help"))):
        chosen = [row for row in rows if row.asks in asks]
        if chosen:
            chosen.sort(key=lambda row: (suites.index(row.suite), row.judge))
            parts += [f"### {title}", _table(chosen)]
    parts += [
        "Rates are shares of all n replies, with 95 % Wilson intervals in brackets. Where a judge gives no attack "
        "success rate, the table shows what it does give.",
        "### Limits of this evaluation",
        _LIMITS,
        "### How to reproduce",
        "`reproduce/README.md` has the commands; beside it are the recipe, the versions of what ran and the SHA-256 of "
        "all that went in and came out.",
        END,
    ]
    return "\n\n".join(parts)


def _summary(rows: Sequence[Row]) -> Iterator[str]:
    """A paragraph for every suite of forbidden requests and judge that gives an ASR."""
    kinds = dict.fromkeys((row.suite, row.judge) for row in rows if row.metric == "asr")
    for suite, judge in kinds:
        own = [row for row in rows if (row.suite, row.judge, row.metric) == (suite, judge, "asr")]
        before = [row.hardened for row in own if row.attack is None and row.hardened is not None]
        both = [row for row in own if row.attack is not None and is_known(row.without) and is_known(row.hardened)]
        if both:
            yield _summary_of(suite, judge, before, both)


def _summary_of(suite: str, judge: str, before: Sequence[Side], both: Sequence[Row]) -> str:
    pairs = [(row, row.without, row.hardened) for row in both if row.without is not None and row.hardened is not None]
    worst, plain, own = max(pairs, key=lambda pair: pair[2].figure.value)
    without = [side.figure.value for _, side, _ in pairs]
    hardened = [side.figure.value for _, _, side in pairs]
    sizes = sorted({side.figure.n for pair in pairs for side in pair[1:]})
    n = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    first = f"Before any attack its attack success rate (ASR) is {_figure(before[0].figure)}. " if before else ""
    over = "In the one row of the table that follows" if len(pairs) == 1 else f"Over the {len(pairs)} rows that follow"
    return (
        f"**{_plain(suite)}, judged by {_plain(judge)}.** {first}{over} "
        f"an attack (n = {n} each), the mean ASR is {_percent(_mean(without))} without hardening and "
        f"{_percent(_mean(hardened))} with it. "
        f"The attack that did most against the hardened model is {_setting(worst)}: {_figure(own.figure)}, and "
        f"{_figure(plain.figure)} without hardening. At worst {_percent(max(_shares(pairs)))} of the hardened model's "
        "replies to these requests are incoherent."
    )


def _shares(pairs: Sequence[tuple[Row, Side, Side]]) -> list[float]:
    return [hardened.incoherent.value for _, _, hardened in pairs]


def _table(rows: Sequence[Row]) -> str:
    head = ("attack", "suite, judge, figure", "without", "hardened", "incoherent, without", "incoherent, hardened")
    body = [
        (
            _setting(row),
            f"{_plain(row.suite)}, {_plain(row.judge)}, {METRICS[row.metric]}",
            _figure(row.without.figure) if row.without else NONE,
            _figure(row.hardened.figure) if row.hardened else NONE,
            _rate(row.without.incoherent) if row.without else NONE,
            _rate(row.hardened.incoherent) if row.hardened else NONE,
        )
        for row in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ("---",) * len(head), *body))


def _setting(row: Row) -> str:
    """Which attack, as it was set and asked."""
    words = ["none"] if row.attack is None else [_plain(row.attack), f"seed {row.seed}"]
    return ", ".join([*words, *(["prompted"] if row.prompted else [])])


def _figure(figure: Figure) -> str:
    if math.isnan(figure.value):
        return NONE
    if figure.count is None or figure.low is None or figure.high is None:
        return f"{figure.value:.2f} (n = {figure.n})"
    return f"{_percent(figure.value)} \\[{100 * figure.low:.1f}, {100 * figure.high:.1f}\\] ({figure.count}/{figure.n})"


def _rate(rate: Rate) -> str:
    return NONE if math.isnan(rate.value) else f"{_percent(rate.value)} ({rate.count}/{rate.n})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _listed(words: Sequence[str]) -> str:
    return "; ".join(map(_plain, words))


def _plain(text: str) -> str:
    """Text of others as Markdown and HTML show it as it is, on one line."""
    return "".join(f"\\{sign}" if sign in "\\`*_[]|#" else sign for sign in " ".join(text.split())).replace("<", "&lt;")
