"""Searches for rank and coefficient."""

from collections.abc import Iterator, Sequence
from typing import Literal

from safelox.analysis.search.record import Trial, Tuning
from safelox.reporting.chart import Chart, Figure, Section, Series, number, share_axis
from safelox.reporting.found import Found
from safelox.reporting.table import Cell, Table, make_table
from safelox.reporting.words import percent


def tunings(found: Found) -> Section | None:
    charts = [_tuning_chart(name, result, i) for i, (name, result) in enumerate(found.tunings.items())]
    if not charts:
        return None
    said = " ".join(f"{name}: {result.recommendation.reason}" for name, result in found.tunings.items())
    return Section(
        id="tune",
        title="The search for rank and coefficient",
        lead=f"Every point tried, by what it keeps before an attack and what is left of it afterwards. {said}",
        figures=(Figure(id="pareto", title="Pareto front", charts=tuple(charts)),),
        tables=tuple(
            table for i, (name, result) in enumerate(found.tunings.items()) for table in _confirmation(name, result, i)
        ),
    )


def _confirmation(name: str, result: Tuning, i: int) -> Iterator[Table]:
    """The recommended point and no hardening, on prompts that the search has not seen."""
    recommended = result.recommendation
    confirmation = recommended.confirmation
    if confirmation is not None:
        point = f"rank {recommended.rank}, coef {recommended.coef:g}"
        rows: list[list[Cell]] = [
            [
                label,
                found.asr_after.value,
                (found.asr_after.low, found.asr_after.high),
                found.utility_before.value,
                (found.utility_before.low, found.utility_before.high),
                found.asr_after.n,
            ]
            for label, found in ((point, confirmation.objectives), ("not hardened", confirmation.aligned_objectives))
        ]
        yield make_table(
            f"confirmation-{i}",
            f"{name}: the recommended point on prompts that the search has not seen, after an attack with another seed",
            [
                ("model", "text"),
                ("ASR after", "percent"),
                ("95 % interval of the ASR", "bounds"),
                ("utility before", "percent"),
                ("95 % interval of the utility", "bounds"),
                ("n", "count"),
            ],
            rows,
        )


def _tuning_chart(name: str, result: Tuning, i: int) -> Chart:
    measured = [trial for trial in result.trials if trial.objectives is not None]
    front = sorted((t for t in measured if t.pareto), key=_asr)
    chosen = result.recommendation.trial
    aligned = result.aligned_objectives
    series = [
        _trials("breaks a bound", [t for t in measured if t.state == "infeasible"], 6, 4, hollow=True),
        _trials("keeps all bounds", [t for t in measured if t.state == "done" and not t.pareto], 5, 5),
        _trials("Pareto front", front, 0, 0, mode="line+marks"),
        _trials("recommended", [t for t in measured if t.number == chosen], 2, 9, labelled=True),
    ]
    if aligned is not None:
        series.append(
            Series(
                name="aligned, not hardened",
                mode="marks",
                colour=1,
                symbol=1,
                x=(number(aligned.asr_after.value),),
                y=(number(aligned.utility_before.value),),
                texts=(f"not hardened: ASR {percent(aligned.asr_after.value)} after the attack",),
            )
        )
    rows: list[list[Cell]] = [
        [
            trial.number,
            trial.rank,
            trial.coef,
            trial.state,
            None if trial.objectives is None else number(trial.objectives.asr_after.value),
            None if trial.objectives is None else number(trial.objectives.utility_before.value),
            trial.relative_change,
            "yes" if trial.pareto else "no",
        ]
        for trial in result.trials
    ]
    return Chart(
        id=f"pareto-{i}",
        title=name,
        caption="Across: ASR after the short attack. Upwards: utility before it. The best corner is the upper left.",
        x=share_axis("ASR after the attack"),
        y=share_axis("utility before the attack"),
        series=tuple(one for one in series if one.x),
        height=440,
        table=make_table(
            f"pareto-{i}",
            f"Points tried: {name}",
            [
                ("trial", "count"),
                ("rank", "count"),
                ("coef", "number"),
                ("state", "text"),
                ("ASR after", "percent"),
                ("utility before", "percent"),
                ("relative change", "percent"),
                ("Pareto", "text"),
            ],
            rows,
        ),
    )


def _trials(
    name: str,
    trials: Sequence[Trial],
    colour: int,
    symbol: int,
    *,
    hollow: bool = False,
    labelled: bool = False,
    mode: Literal["marks", "line+marks"] = "marks",
) -> Series:
    return Series(
        name=name,
        mode=mode,
        colour=colour,
        symbol=symbol,
        hollow=hollow,
        labelled=labelled,
        x=tuple(map(_asr, trials)),
        y=tuple(0.0 if t.objectives is None else number(t.objectives.utility_before.value) for t in trials),
        texts=tuple(
            f"rank {t.rank}, coef {t.coef:g}: ASR {percent(_asr(t))}"
            f"{''.join(f'; breaks {v.bound} on {v.suite}' for v in t.violations)}"
            for t in trials
        ),
    )


def _asr(trial: Trial) -> float:
    return 0.0 if trial.objectives is None else number(trial.objectives.asr_after.value) or 0.0
