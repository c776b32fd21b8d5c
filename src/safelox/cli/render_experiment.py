"""An experiment as text for people: what it takes, and what it found."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from safelox.cli.labelled import labelled, table
from safelox.experiment.summary import (
    Figure,
    FigureKey,
    Measured,
    WorstCase,
    failures,
    figure_keys,
    read_measured,
    states,
    worst_cases,
)
from safelox.rates import Rate
from safelox.units import format_bytes, format_count

if TYPE_CHECKING:
    from safelox.experiment import ExperimentRecord
    from safelox.experiment.plan.forecast import Forecast

_SHOWN = 12
"""Failures and missing things that are told in full."""


_METRICS = {"asr": "ASR", "refusal": "Refusals"}


def render_forecast(found: "Forecast", out: str) -> str:
    """What a run would do, and what it takes."""
    judged = f"{format_count(found.verdicts)} on them"
    if found.paid_verdicts:
        judged += f", {format_count(found.paid_verdicts)} by judges that are models"
        if found.largest_cost is not None:
            judged += f", at most ${found.largest_cost:.2f}"
    rows = [
        ("pairs", str(found.pairs)),
        ("defences", ", ".join(found.defences)),
        ("attacks", _counted(found.attacks)),
        ("models", f"{found.cells}, of which {found.hardened} are to be hardened or changed as controls"),
        ("results", f"{found.results}, of which {found.done} are done"),
        ("trainings", str(found.trainings)),
        ("replies", format_count(found.replies)),
        ("verdicts", judged),
        ("disk", _disk(found)),
        *(("not counted", f"{suite}: its prompts are not here yet") for suite in found.unknown),
        *(("missing", text) for text in found.missing[:_SHOWN]),
    ]
    head = f"{found.name}: {found.title}\nTo be done, into {out}:"
    return "\n".join([head, *labelled(*rows), "Nothing was touched."])


def render_experiment(record: "ExperimentRecord", out: Path) -> str:
    """A table for every suite and judge, of every attack the worst case, and where to find more."""
    measured = read_measured(out, record)
    blocks = [f"{record.title}"]
    for pair in record.pairs:
        own = [one for one in measured if one.cell.pair == pair.name]
        blocks += [block for key in figure_keys(own, "forbidden") for block in _safety(record, pair.name, own, key)]
        blocks += _utility(pair.name, own)
    found = states(record)
    rows = [
        ("results", f"{found['done']} done, {found['waiting']} waiting, {found['failed']} failed"),
        *(("failed", f"{where}: {why}") for where, why in list(failures(record).items())[:_SHOWN]),
        ("in", str(out)),
    ]
    if record.expected_from is not None:
        rows.insert(1, ("published", record.expected_from))
    return "\n\n".join([*blocks, "\n".join(labelled(*rows))])


def _safety(record: "ExperimentRecord", pair: str, measured: Sequence[Measured], key: FigureKey) -> Iterator[str]:
    """Rows are the attacks, columns the defences: the ASR with its interval, and the incoherent replies beside it."""
    cases = worst_cases(measured, key, each_setting=True)
    if not cases:
        return
    defences = _defences(record, cases)
    whole = worst_cases(measured, key)
    several = {case.attack for case in whole if case.variants > 1}
    worst = [case for case in whole if case.attack in several]
    metric = _METRICS[cases[0].figure.metric or "asr"]
    n = next((share.n for case in cases if (share := case.figure.headline) is not None), 0)
    system = next((case.figure.system for case in cases if case.figure.system), None)
    under = f', asked under "{_short(system)}"' if system else ""
    head = (
        f"{pair}: {key.suite}, judged by {key.judge} (evaluation {key.evaluation}, n = {n}{under}).\n"
        f"{metric} in % [95 % interval], incoherent replies in %, R; of several seeds the worst:"
    )
    rows = [("", *(text for name in defences for text in (name, "incoh.", "R")))]
    for label in dict.fromkeys(case.label for case in cases if case.defence is not None):
        rows.append((label or "before an attack", *_row(defences, [case for case in cases if case.label == label])))
    for attack in dict.fromkeys(case.attack for case in worst):
        rows.append((f"worst of {attack}", *_row(defences, [case for case in worst if case.attack == attack])))
    base = next((case for case in cases if case.defence is None), None)
    if base is not None:
        shown = _safety_cells(base)[:2]
        rows.insert(1, ("base", *shown, *[""] * (len(rows[0]) - 3)))
    yield "\n".join([head, *table(rows), *_notes(cases)])


def _row(defences: Sequence[str], cases: Sequence[WorstCase]) -> list[str]:
    cells: list[str] = []
    for name in defences:
        case = next((case for case in cases if case.defence == name), None)
        cells += ["", "", ""] if case is None else _safety_cells(case)
    return cells


def _safety_cells(case: WorstCase) -> list[str]:
    share, subspace = case.figure.headline, case.measured.subspace
    shown = "" if share is None else f"{100 * share.value:.1f} [{100 * share.low:.0f}, {100 * share.high:.0f}]"
    published = case.figure.expected.get(case.figure.metric or "")
    if published is not None:
        shown += f" (published {100 * published:.1f})"
    return [shown, _percent(case.figure.incoherent), "" if subspace is None else f"{subspace.r_ft:.2f}"]


def _notes(cases: Sequence[WorstCase]) -> Iterator[str]:
    """Of settings with several seeds, which one was the worst, and how far they lie apart."""
    for case in cases:
        attack = case.measured.cell.attack
        if attack is not None and case.planned > 1:
            some = f"{case.settings} of {case.planned}" if case.settings < case.planned else str(case.settings)
            yield (
                f"  {case.label}, {case.defence}: the worst of {some} seeds is {attack.seed}; "
                f"lowest {100 * case.lowest:.1f}, mean {100 * case.mean:.1f}"
            )


def _utility(pair: str, measured: Sequence[Measured]) -> Iterator[str]:
    """What models should do: one row a model and column a suite, the worst case of each attack by itself."""
    keys = figure_keys(measured, "permitted", "answer", "help")
    if not keys:
        return
    cases = {key: worst_cases(measured, key) for key in keys}
    names = [key.suite for key in keys]
    rows = [("", *(_head(key, names.count(key.suite) > 1) for key in keys))]
    models = dict.fromkeys((case.defence, case.attack) for key in keys for case in cases[key])
    for defence, attack in models:
        cells = []
        for key in keys:
            case = next((case for case in cases[key] if (case.defence, case.attack) == (defence, attack)), None)
            cells.append("" if case is None else _utility_cell(case.figure))
        rows.append((f"{defence or 'base'}, {attack or 'before an attack'}", *cells))
    yield "\n".join(
        [
            f"{pair}: harmless requests complied with, right answers, in %, or mean score; of each attack the least:",
            *table(rows),
        ]
    )


def _head(key: FigureKey, ambiguous: bool) -> str:
    return f"{key.suite} ({key.evaluation}, {key.judge})" if ambiguous else key.suite


def _utility_cell(figure: Figure) -> str:
    share = figure.headline
    if share is None:
        return "" if math.isnan(figure.mean_score) else f"{figure.mean_score:.2f}"
    published = figure.expected.get(figure.metric or "")
    told = " refused" if figure.metric == "over_refusal" else ""
    return f"{_percent(share)}{told}" + ("" if published is None else f" (published {100 * published:.1f})")


def _defences(record: "ExperimentRecord", cases: Sequence[WorstCase]) -> list[str]:
    there = {case.defence for case in cases}
    return [defence.name for defence in record.defences if defence.name in there]


def _percent(share: Rate | None) -> str:
    return "" if share is None or math.isnan(share.value) else f"{100 * share.value:.1f}"


def _short(text: str, width: int = 40) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"


def _counted(names: Sequence[str]) -> str:
    shown = "; ".join(names[:_SHOWN])
    return f"{len(names)}: {shown}{'; ...' if len(names) > _SHOWN else ''}" if names else "none"


def _disk(found: "Forecast") -> str:
    many = f"{found.models_on_disk} models at most"
    if found.disk_peak is None or found.disk_kept is None:
        return f"{many}, whose size is not known before they are here"
    return f"{many}, {format_bytes(found.disk_peak)}; {format_bytes(found.disk_kept)} if all are kept (--keep)"
