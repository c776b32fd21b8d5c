"""The outcome of `tune` as text for people; `--json` prints every rate."""

import math
import shlex
import textwrap
from typing import TYPE_CHECKING

from safelox.cli.labelled import labelled, table

if TYPE_CHECKING:
    from safelox.analysis.search.record import BoundRecord, Confirmation, SuiteRecord, Trial, Tuning
    from safelox.evaluation import Rate

_WIDTH = 96


def render_tuning(result: "Tuning", out: str) -> str:
    """The points with their rates, the Pareto set among them, and what is recommended, with the reason."""
    paragraphs = [
        "\n".join(_head(result)),
        "\n".join(["Points tried, by their ASR after the attack (* in the Pareto set)", *_points(result)]),
        "\n".join(["Recommendation", *labelled(*_advice(result))]),
    ]
    confirmation = result.recommendation.confirmation
    if confirmation is not None:
        paragraphs.append("\n".join(_confirmed(result, confirmation)))
    paragraphs.append("\n".join(labelled(*_end(result, out))))
    return "\n\n".join(paragraphs)


def _head(result: "Tuning") -> list[str]:
    attack = result.attack
    how = ", ".join(
        [*(["LoRA"] if attack.lora else []), *(f"{name} {value:g}" for name, value in attack.settings.items())]
    )
    rows = [("attack", f"{attack.name} on {attack.called}" + (f" ({how})" if how else ""))]
    rows += [("asked", _asked(suite)) for suite in result.suites]
    rows += [("bound", _bound(bound)) for bound in result.bounds]
    return [
        f"{result.aligned}, hardened from {result.base}: {len(result.trials)} of "
        f"{len(result.ranks) * len(result.coefs)} points, seed {result.seed}",
        *labelled(*rows),
    ]


def _asked(suite: "SuiteRecord") -> str:
    metric = suite.metric.replace("_", " ")
    return f"{suite.name}, {suite.search_prompts} prompts, for {_capital(metric)} by {suite.judge}"


def _bound(bound: "BoundRecord") -> str:
    side = "at least" if bound.at_least else "at most"
    return f"{bound.name} on {bound.suite}: {side} {bound.limit:.1%} ({bound.reason})"


def _points(result: "Tuning") -> list[str]:
    own = result.aligned_objectives
    rows: list[tuple[str, ...]] = [
        ("", "rank", "coef", "ASR after", "95 % interval", "utility before", "95 % interval", "change", ""),
        ("  no hardening", "", "", *_rate(own.asr_after), *_rate(own.utility_before), "", ""),
    ]
    rows += [_row(result, trial) for trial in sorted(result.trials, key=_place)]
    return table(rows)


def _place(trial: "Trial") -> tuple[bool, float, int]:
    asr = math.inf if trial.objectives is None else trial.objectives.asr_after.value
    return trial.state != "done", asr, trial.number


def _row(result: "Tuning", trial: "Trial") -> tuple[str, ...]:
    found, utility = trial.objectives, next(suite for suite in result.suites if suite.role == "utility")
    if found is not None:
        rates = (*_rate(found.asr_after), *_rate(found.utility_before))
    elif trial.measured is not None:
        rates = ("", "", *_rate(trial.measured.before[utility.name][utility.metric]))
    else:
        rates = ("", "", "", "")
    mark = ("* " if trial.pareto else "  ") + ("recommended" if trial.number == result.recommendation.trial else "")
    return (mark, str(trial.rank), f"{trial.coef:g}", *rates, f"{trial.relative_change:.1%}", _why(trial))


def _why(trial: "Trial") -> str:
    if trial.state == "failed":
        return "failed"
    broken = dict.fromkeys(violation.bound for violation in trial.violations)
    return f"breaks: {', '.join(broken)}" if broken else ""


def _advice(result: "Tuning") -> list[tuple[str, str]]:
    found = result.recommendation
    point = "none" if found.rank is None else f"rank {found.rank}, coefficient {found.coef:g}"
    because, rule = (textwrap.fill(text, _WIDTH) for text in (found.reason, found.rule))
    return [("point", point), ("because", because), ("rule", rule)]


def _confirmed(result: "Tuning", found: "Confirmation") -> list[str]:
    safety = next(suite for suite in result.suites if suite.role == "safety")
    after = [(each.after or {})[safety.name] for each in (found.point, found.aligned)]
    names = [name for name in ("refusal", "incoherent") if name in after[0]]
    head = ("", "recommended", "95 % interval", "no hardening", "95 % interval")
    rows = [
        head,
        ("ASR after the attack", *_rate(found.objectives.asr_after), *_rate(found.aligned_objectives.asr_after)),
    ]
    rows += [(f"{name} after it", *_rate(after[0][name]), *_rate(after[1][name])) for name in names]
    own, theirs = found.objectives.utility_before, found.aligned_objectives.utility_before
    rows.append(("utility before it", *_rate(own), *_rate(theirs)))
    difference = found.difference
    lines = [
        f"On {found.objectives.asr_after.n} prompts that the search has not seen, attacked with another seed",
        *table(rows),
        *labelled(
            (
                "ASR, difference",
                f"{100 * difference.value:+.1f} points, 95 % interval {100 * difference.low:+.1f} to "
                f"{100 * difference.high:+.1f}, exact McNemar p = {difference.p_value:.2g}",
            )
        ),
    ]
    broken = dict.fromkeys(f"{violation.bound} on {violation.suite}" for violation in found.violations)
    if broken:
        lines += labelled(("but there it breaks", ", ".join(broken)))
    if not found.better:
        lines.append("  So it is not confirmed that this hardening is better than none.")
    return lines


def _end(result: "Tuning", out: str) -> list[tuple[str, str]]:
    found = result.recommendation
    rows = [("everything", f"{out}/tune.json")]
    if found.rank is not None:
        words = ["safelox", "harden", result.base, result.aligned, "HARDENED", "--rank", str(found.rank)]
        words += ["--coef", f"{found.coef:g}", "--subspace", result.subspace]
        words += [word for glob in result.include for word in ("--include", glob)]
        words += [word for glob in result.exclude for word in ("--exclude", glob)]
        words += [] if result.embeddings else ["--no-embeddings"]
        words += [] if result.vocab == "error" else ["--vocab", result.vocab]
        rows.append(("next", shlex.join(words)))
    return rows


def _rate(rate: "Rate") -> tuple[str, str]:
    return f"{rate.value:.1%}", f"{rate.low:.1%} to {rate.high:.1%}"


def _capital(metric: str) -> str:
    return metric.upper() if metric == "asr" else metric
