"""The outcome of `landscape` as text for people; `--json` prints every rate."""

import math
from typing import TYPE_CHECKING

from safelox.cli.labelled import labelled, table

if TYPE_CHECKING:
    from safelox.analysis.plane import Landscape
    from safelox.analysis.plane.record import Basin, Line, Plane, Rise

_NAMES = {"origin": "ORIGIN", "hardened": "HARDENED", "tuned": "TUNED", "hardened_tuned": "HARDENED_TUNED"}
_ASR = "asr"


def render_landscape(result: "Landscape", out: str) -> str:
    """Where the models lie, the plane as a table for every suite and judge, and what lines come to."""
    blocks = [_models(result)]
    for suite, judges in result.judges.items():
        for judge in judges:
            blocks.append(_judged(result, suite, judge))
    end = labelled(("rates", f"{out}/landscape.json"), ("replies", f"{out}/*/*/samples.jsonl"))
    return "\n\n".join([*blocks, "\n".join(end)])


def _models(result: "Landscape") -> str:
    """Coordinates of the four, and the moves between them."""
    rows: list[tuple[str, ...]] = [("", "a", "b", "off the plane")]
    for model in result.models:
        places = (model.a, model.b, model.off_plane)
        rows.append((_NAMES[model.name], *(f"{_zero(place, result):.4g}" for place in places)))
    found, cosines = result.directions, result.directions.cosines
    head = f"{result.model('origin').reference}: the plane from there, in L2 norms over {found.parameters} weights"
    tunings = f"{found.tuning_norm:.4g} and, of HARDENED, {found.hardened_tuning_norm:.4g} long"
    angles = (
        f"{cosines.tunings:.2f} with each other, {cosines.hardening_tuning:.2f} and "
        f"{cosines.hardening_hardened_tuning:.2f} with a"
    )
    notes = labelled(
        ("a", f"HARDENED - ORIGIN, {found.a.norm:.4g} long"),
        ("b", f"the mean fine-tuning, {found.b.whole_norm:.4g} long, of which {found.b.norm:.4g} across a"),
        ("fine-tunings", tunings),
        ("their cosines", angles),
    )
    return "\n".join([head, *table(rows), *notes])


def _zero(value: float, result: "Landscape") -> float:
    """Without what rounding leaves of a length of 0."""
    return value if abs(value) > 1e-9 * result.directions.a.norm else 0.0


def _judged(result: "Landscape", suite: str, judge: str) -> str:
    found = result.models[0].results[suite][judge]
    metric = _ASR if _ASR in found.metrics else next(iter(found.metrics))
    named = "ASR" if metric == _ASR else metric.replace("_", " ")
    count = found.metrics[metric].n
    lines = [f"{suite}, judged by {judge} ({count} prompts): {named}, and what is incoherent"]
    lines += table([("", named, "95 % interval", "incoherent", "unscored"), *_own(result, suite, judge, metric)])
    if result.plane is not None:
        lines += ["", *_plane(result.plane, suite, judge, metric, named)]
    straight = [line for line in result.lines if line.kind != "random"]
    if straight:
        lines += ["", *_lines(straight, suite, judge, metric, named)]
    found_rises = [rise for rise in result.rises if (rise.suite, rise.judge) == (suite, judge)]
    found_basins = [basin for basin in result.basins if (basin.suite, basin.judge) == (suite, judge)]
    lines += ["", *_rises(found_rises, result)] if found_rises else []
    lines += ["", *_basins(found_basins)] if found_basins else []
    return "\n".join(lines)


def _own(result: "Landscape", suite: str, judge: str, metric: str) -> list[tuple[str, ...]]:
    """What the four models say themselves."""
    rows = []
    for model in result.models:
        judged = model.results[suite][judge]
        rate = judged.metrics[metric]
        beside = [f"{judged.outcomes[name].value:.1%}" for name in ("incoherent", "unscored")]
        rows.append((_NAMES[model.name], f"{rate.value:.1%}", f"{rate.low:.1%} to {rate.high:.1%}", *beside))
    return rows


def _plane(plane: "Plane", suite: str, judge: str, metric: str, named: str) -> list[str]:
    """A row for every b, the highest first, and a column for every a; shares in percent."""
    rates, incoherent = plane.rates(suite, judge, metric), plane.rates(suite, judge, "incoherent")
    rows: list[tuple[str, ...]] = [("b \\ a", *(f"{a:g}" for a in plane.a))]
    for number in reversed(range(len(plane.b))):
        cells = []
        for one, two in zip(rates, incoherent, strict=True):
            share = two[number].value
            cells.append(f"{_percent(one[number].value)}{'*' if share >= 0.5 else ''}")
        rows.append((f"{plane.b[number]:g}", *cells))
    lines = [f"  {named} in % over the plane", *table(rows)]
    if any(cell.endswith("*") for row in rows for cell in row):
        lines.append("  * at least half of the replies are incoherent there, so that a low rate is no refusal")
    return lines


def _lines(lines: "list[Line]", suite: str, judge: str, metric: str, named: str) -> list[str]:
    rows: list[tuple[str, ...]] = [("u", *(f"{point.u:g}" for point in lines[0].points))]
    for line in lines:
        rates = line.rates(suite, judge, metric)
        unclear = line.rates(suite, judge, "incoherent")
        cells = (
            f"{_percent(rate.value)}{'*' if other.value >= 0.5 else ''}"
            for rate, other in zip(rates, unclear, strict=True)
        )
        rows.append((_named_line(line), *cells))
    return [f"  {named} in % along lines", *table(rows)]


def _rises(rises: "list[Rise]", result: "Landscape") -> list[str]:
    by_name = {line.name: line for line in result.lines}
    rows: list[tuple[str, ...]] = [("along the line", "half at u", "distance", "25 to 75 % within u", "distance")]
    for rise in rises:
        values = (rise.half, rise.half_distance, rise.width, rise.width_distance)
        rows.append((_named_line(by_name[rise.line]), *("-" if value is None else f"{value:.3g}" for value in values)))
    lines = ["  where the ASR reaches a half, and how steeply it rises", *table(rows)]
    if any("-" in row[1:] for row in rows):
        lines.append("  - not so far as the line goes")
    return lines


def _basins(basins: "list[Basin]") -> list[str]:
    first = basins[0]
    rows: list[tuple[str, ...]] = [("moved at random", "mean 1 - ASR", "where ASR < 100 %", "incoherent", "refused")]
    for basin in basins:
        values = (basin.margin, basin.visage, basin.incoherent, basin.refusal)
        cells = ("-" if value is None or math.isnan(value) else f"{value:.1%}" for value in values)
        rows.append((_NAMES[basin.start], *cells))
    return [
        f"  along {first.directions} random directions, u from {-first.reach:g} to {first.reach:g}",
        *table(rows),
        "  the mean counts incoherent replies as safe; the second column is how VISAGE takes it",
    ]


def _named_line(line: "Line") -> str:
    return f"{_NAMES[line.start]} + u ({line.direction})"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.0f}"
