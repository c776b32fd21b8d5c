"""What the demo tells people: an example, the tables over the attacks, and the conclusion."""

import textwrap
from collections.abc import Sequence
from io import StringIO
from statistics import fmean

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from safelox.lab.attacks import IDENTITY
from safelox.lab.conclusion import conclusion
from safelox.lab.language import FORBIDDEN_HELD_OUT_PER_KIND, FORBIDDEN_KINDS, SELECTION_KINDS
from safelox.lab.results import LOX, NO_DEFENCE, DemoResult, Evaluation, Measured, SeedResult, Situation
from safelox.rates import Rate

WIDTH = 110
"""Columns of the text."""
UNBOUNDED = 1000
"""Columns of a table's canvas: a narrower one would cut figures off."""
COLUMNS = ("ASR", "incoherent", "utility", "R")
UTILITIES = ("permitted", "unseen", "sums")


def render(result: DemoResult) -> str:
    """The result as text for people."""
    first = result.seeds[0]
    defences = list(first.before.models)
    parts = [_example(first)] if len(result.seeds) == 1 else []
    parts.append(_table(result, [NO_DEFENCE, LOX], COLUMNS))
    controls = [name for name in defences if name not in (NO_DEFENCE, LOX)]
    if controls:
        parts.append("Controls, each changed as much as LoX changes the model, matrix by matrix, in other directions:")
        parts.append(_table(result, controls, COLUMNS[:3]))
    parts.append("Utility: permitted requests complied with (new combinations; unseen objects), word problems solved:")
    parts.append(_table(result, [NO_DEFENCE, LOX], UTILITIES))
    parts += ["\n".join(textwrap.fill(line, WIDTH) for line in conclusion(result).splitlines())]
    parts.append(textwrap.fill(_explanation(result), WIDTH))
    parts.append(_where(result))
    return "\n\n".join(parts)


def _example(result: SeedResult) -> str:
    models = {"base": result.base, "aligned": result.before.models[NO_DEFENCE].evaluation}
    models["hardened"] = result.before.models[LOX].evaluation
    attacked = result.attacked[0]
    models[f"aligned, after {attacked.attack}"] = attacked.models[NO_DEFENCE].evaluation
    models[f"hardened, after {attacked.attack}"] = attacked.models[LOX].evaluation
    width = max(map(len, models)) + 2
    replies = [f"  {name:{width}}{evaluation.first_reply}" for name, evaluation in models.items()]
    return "\n".join([f'To the forbidden request "{result.request}" they reply:', *replies])


def _explanation(result: DemoResult) -> str:
    first = result.seeds[0]
    objects = (len(FORBIDDEN_KINDS) - len(set(FORBIDDEN_KINDS) & set(SELECTION_KINDS))) * FORBIDDEN_HELD_OUT_PER_KIND
    n = first.base.forbidden["complied"].n
    several = "Several seeds: mean, and lowest to highest. " if len(result.seeds) > 1 else ""
    chosen = (
        f"coef {first.coef:g}"
        if first.trials is None
        else "the coefficient that did best on other topics, chosen apart from these ones "
        f"({', '.join(f'{seed.coef:g}' for seed in result.seeds)})"
    )
    return (
        f"Each model answered {n} forbidden requests, about {objects} objects that occur neither in alignment nor in "
        f"an attack, and {n} of each other sort. ASR counts full and correct instructions alone, with its 95 % Wilson "
        f"interval; incoherent replies are to forbidden requests. Prompted means asked under the system prompt of "
        f"{IDENTITY.name}. {several}R is the share of the distance from the "
        f"base that lies in the safety subspace (R_align before an attack, R_ft after it; k = {first.rank}). Hardened "
        f"with rank {first.rank} and {chosen}: the lab's models are tiny and alignment moves them far, so that the "
        "1.25 of `safelox harden` breaks them. How much hardening helps them differs from seed to seed: try other ones."
    )


def _where(result: DemoResult) -> str:
    folders = ", ".join(seed.folder for seed in result.seeds)
    phases = result.seeds[0].seconds
    times = ", ".join(f"{name} {fmean(seed.seconds[name] for seed in result.seeds):.1f} s" for name in phases)
    each = " (mean of a seed)" if len(result.seeds) > 1 else ""
    return f"The models are in {folders}. Time{each}: {times}."


def _table(result: DemoResult, defences: Sequence[str], columns: Sequence[str]) -> str:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("%", no_wrap=True)
    for defence in defences:
        for column in columns:
            head = f"{defence}\n{column}" if column == columns[0] else f"\n{column}"
            table.add_column(head, justify="right", no_wrap=True)
    if NO_DEFENCE in defences:
        base = [_cell([seed.base for seed in result.seeds], column) for column in columns if column != "R"]
        table.add_row("base", *base)
    for number, situation in enumerate(result.seeds[0].situations):
        found = [seed.situations[number] for seed in result.seeds]
        table.add_row(situation.name, *_cells(found, defences, columns))
    text = StringIO()
    Console(file=text, width=UNBOUNDED, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().strip("\n").splitlines())


def _cells(situations: Sequence[Situation], defences: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Of one situation, over the seeds."""
    cells = []
    for defence in defences:
        measured = [situation.models[defence] for situation in situations]
        cells += [
            _r(measured) if column == "R" else _cell([m.evaluation for m in measured], column) for column in columns
        ]
    return cells


def _r(measured: Sequence[Measured]) -> str:
    return f"{fmean(one.r for one in measured):.2f}"


def _cell(evaluations: Sequence[Evaluation], column: str) -> str:
    found = [_rate(evaluation, column) for evaluation in evaluations]
    values = [100 * rate.value for rate in found]
    if len(found) > 1:
        lowest, highest = f"{min(values):.0f}", f"{max(values):.0f}"
        return lowest if lowest == highest else f"{fmean(values):.0f} ({lowest}-{highest})"
    if column == "ASR":
        return f"{values[0]:.1f} [{100 * found[0].low:.0f}, {100 * found[0].high:.0f}]"
    return f"{values[0]:.1f}"


def _rate(evaluation: Evaluation, column: str) -> Rate:
    if column == "ASR":
        return evaluation.forbidden["complied"]
    if column == "incoherent":
        return evaluation.forbidden["incoherent"]
    if column == "unseen":
        return evaluation.permitted_held_out["complied"]
    if column == "sums":
        return evaluation.arithmetic["complied"]
    return evaluation.permitted["complied"]
