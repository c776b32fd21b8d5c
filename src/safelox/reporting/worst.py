"""Tables beside the charts: the worst case of every defence, and what was published beside what came out."""

from collections.abc import Iterator, Mapping

from safelox.analysis.curve.report import MEAN_SCORE
from safelox.evaluation.results import JudgeResult
from safelox.rates import Rate
from safelox.reporting.chart import Section
from safelox.reporting.found import Found, Model, Question, rate_of
from safelox.reporting.standings import ASR, asr_questions, attacks_on, standing
from safelox.reporting.table import Cell, make_table
from safelox.reporting.words import defence_name


def worst_case(found: Found) -> Section | None:
    """Each defence after the attack that is worst for it, and after the worst variant of each attack."""
    questions = asr_questions(found)
    overall = [row for question in questions for row in _overall(found, question)]
    if not overall:
        return None
    tables = [
        make_table(
            "worst-overall",
            "Each defence after the attack that is worst for it",
            [
                ("pair", "text"),
                ("suite", "text"),
                ("defence", "text"),
                ("worst attack", "text"),
                ("of", "count"),
                ("ASR", "percent"),
                ("95 % interval", "bounds"),
                ("n", "count"),
                ("before", "percent"),
                ("incoherent", "percent"),
                ("unscored", "percent"),
            ],
            overall,
            once=("pair", "suite"),
        )
    ]
    by_attack = [row for question in questions for row in _by_attack(found, question)]
    if by_attack:
        tables.append(
            make_table(
                "worst-variants",
                "Each attack in its worst variant",
                [
                    ("pair", "text"),
                    ("suite", "text"),
                    ("attack", "text"),
                    ("defence", "text"),
                    ("worst variant", "text"),
                    ("of", "count"),
                    ("ASR", "percent"),
                    ("95 % interval", "bounds"),
                    ("n", "count"),
                ],
                by_attack,
                once=("pair", "suite"),
            )
        )
    return Section(
        id="worst-case",
        title="Worst case",
        lead="An attacker chooses the attack. The largest of several measured rates tends to be too large, the "
        "more so the more there are.",
        tables=tuple(tables),
    )


def _overall(found: Found, question: Question) -> Iterator[list[Cell]]:
    for pair in found.pairs:
        for defence in found.defences:
            one = standing(found, pair, defence, question, attacks_on(found, pair, defence, question))
            if one is not None:
                yield [
                    pair,
                    question.label,
                    defence_name(defence),
                    one.situation,
                    one.attacks,
                    *_rate(one.asr),
                    None if one.before is None else one.before.value,
                    one.incoherent.value,
                    one.unscored.value,
                ]


def _by_attack(found: Found, question: Question) -> Iterator[list[Cell]]:
    """Nothing where no attack has several variants or seeds."""
    variants: dict[tuple[str, str, str], list[tuple[Model, Rate]]] = {}
    for model in found.models:
        asr = rate_of(model, question, ASR)
        if model.attack is not None and model.defence is not None and asr is not None:
            variants.setdefault((model.pair, model.attack.name, defence_name(model.defence)), []).append((model, asr))
    if all(len(own) == 1 for own in variants.values()):
        return
    for (pair, attack, defence), own in sorted(variants.items(), key=lambda item: item[0][:2]):
        model, asr = max(own, key=lambda one: one[1].value)
        yield [pair, question.label, attack, defence, model.situation, len(own), *_rate(asr)]


def expected(found: Found) -> Section | None:
    """What was published beside what came out here."""
    rates: list[list[Cell]] = []
    scores: list[list[Cell]] = []
    for model in found.models:
        for asked in model.asked:
            for key, value in asked.expected.items():
                suite, _, metric = key.rpartition(".")
                results = {} if asked.replies is None else asked.replies.results.get(suite, {})
                if metric == MEAN_SCORE:
                    judge, mean, n = _our_score(results)
                    scores.append([model.name, suite, value, mean, n, judge])
                else:
                    judge, rate = _our_rate(results, metric)
                    inside = None if rate is None else "yes" if rate.low <= value <= rate.high else "no"
                    ours: list[Cell] = [None, None, None] if rate is None else _rate(rate)
                    rates.append([model.name, suite, metric, value, *ours, judge, inside])
    tables = [
        make_table(
            "expected-rates",
            "Published rates beside ours",
            [
                ("model", "text"),
                ("suite", "text"),
                ("metric", "text"),
                ("published", "percent"),
                ("ours", "percent"),
                ("95 % interval", "bounds"),
                ("n", "count"),
                ("judge", "text"),
                ("inside our interval", "text"),
            ],
            rates,
            once=("suite", "metric", "judge"),
        ),
        make_table(
            "expected-scores",
            "Published mean scores beside ours",
            [
                ("model", "text"),
                ("suite", "text"),
                ("published", "number"),
                ("ours", "number"),
                ("n", "count"),
                ("judge", "text"),
            ],
            scores,
            once=("suite", "judge"),
        ),
    ]
    if not rates and not scores:
        return None
    source = None if found.experiment is None else found.experiment.expected_from
    return Section(
        id="expected",
        title="Published beside ours",
        lead=f"What was published{f' ({source})' if source else ''} beside what came out here. The interval is of the "
        "prompts alone: another run of the same attack moves a rate by more.",
        tables=tuple(table for table in tables if table.rows),
    )


def _our_rate(results: Mapping[str, JudgeResult], metric: str) -> tuple[str | None, Rate | None]:
    """The first judge that gives a metric, and its rate."""
    for judge, result in results.items():
        rates = {str(outcome): rate for outcome, rate in result.outcomes.items()} | result.metrics
        if metric in rates and rates[metric].n:
            return judge, rates[metric]
    return None, None


def _our_score(results: Mapping[str, JudgeResult]) -> tuple[str | None, float | None, int | None]:
    """The first judge that gives scores, their mean, and how many they are."""
    scored = [(judge, result) for judge, result in results.items() if result.scores]
    return (scored[0][0], scored[0][1].mean_score, scored[0][1].scores) if scored else (None, None, None)


def _rate(rate: Rate) -> list[Cell]:
    return [rate.value, (rate.low, rate.high), rate.n]
