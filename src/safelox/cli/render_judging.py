"""The agreement of a judge with people as text."""

import math
from typing import TYPE_CHECKING

from safelox.cli.labelled import labelled

if TYPE_CHECKING:
    from safelox.evaluation.judge_check import Agreement, JudgeCheck


def render_check(check: "JudgeCheck") -> str:
    """How far the judge agrees, over all and by model, beside other judges whose labels are in the file."""
    half = "" if check.half is None else f", {check.half} half"
    found = check.agreement
    rows = [
        ("agrees on", f"whether a reply is {check.on!r}{half}"),
        ("with the people", _line(found)),
        ("not judged", str(found.unparsed)),
        *(("by model", f"{name}: {_line(own)}") for name, own in check.groups.items()),
        *(("others in the file", f"{name}: {_line(own)}") for name, own in check.others.items()),
        *(("people / judge", line) for line in _confusion(found)),
    ]
    if check.usage is not None:
        cost = "" if check.usage.cost is None else f", ${check.usage.cost:.4f}"
        asked = f"{check.usage.requests} requests, {check.usage.cached} answers from the cache"
        tokens = f"{check.usage.prompt_tokens} tokens read, {check.usage.completion_tokens} written"
        rows.append(("used", f"{asked}; {tokens}{cost}"))
    return "\n".join([f"{check.judge} (version {check.version})", *labelled(*rows)])


def _line(found: "Agreement") -> str:
    rate = found.accuracy
    kappa = "no kappa" if math.isnan(found.kappa) else f"kappa {found.kappa:.3f}"
    return f"{100 * rate.value:.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}], {rate.count} of {rate.n}, {kappa}"


def _confusion(found: "Agreement") -> list[str]:
    return [
        f"{human}: " + ", ".join(f"{judge} {count}" for judge, count in sorted(counts.items()))
        for human, counts in found.confusion.items()
    ]
