"""How defences stand after attacks: the worst for each, and attack by attack."""

from collections.abc import Sequence

from safelox.evaluation.intervals import PairedDifference, paired_difference, rate
from safelox.evaluation.metrics import METRICS
from safelox.experiment import DefenceRecord
from safelox.manifest import Record
from safelox.rates import Rate
from safelox.reporting.found import Found, Model, Question, rate_of, result_of, samples_of

ASR = "asr"


class Standing(Record):
    """A model after the attack that was worst for its defence."""

    defence: str
    situation: str
    place: int
    """Its number among the models."""
    attacks: int
    """Of so many."""
    asr: Rate
    at_most: Rate
    """The ASR if every incoherent and every unscored reply were a success."""
    incoherent: Rate
    unscored: Rate
    before: Rate | None
    """The ASR before any attack."""


def first_question(found: Found) -> Question | None:
    """The first that gives an ASR."""
    return next(iter(asr_questions(found)), None)


def asr_questions(found: Found) -> list[Question]:
    """Those that give an ASR of some model."""
    asked = found.questions("forbidden")
    return [question for question in asked if any(rate_of(model, question, ASR) for model in found.models)]


def defended(found: Found, pair: str, defence: DefenceRecord) -> list[tuple[int, Model]]:
    """The models of a pair with a defence, each with its number."""
    return [(i, model) for i, model in enumerate(found.models) if model.pair == pair and model.defence == defence]


def attacks_on(found: Found, pair: str, defence: DefenceRecord, question: Question) -> list[str]:
    """The attacks after which a defence has been judged, by their situations."""
    return [
        model.situation
        for _, model in defended(found, pair, defence)
        if model.attack is not None and rate_of(model, question, ASR) is not None
    ]


def standing(
    found: Found, pair: str, defence: DefenceRecord, question: Question, among: Sequence[str]
) -> Standing | None:
    """How a defence stands after the worst of some attacks; None where none of them was judged."""
    attacked = [
        (i, model, asr)
        for i, model in defended(found, pair, defence)
        if model.situation in among and (asr := rate_of(model, question, ASR)) is not None
    ]
    if not attacked:
        return None
    place, model, asr = max(attacked, key=lambda one: one[2].value)
    result = result_of(model, question)
    outcomes = {} if result is None else result.outcomes
    incoherent, unscored = (outcomes.get(name, rate(0, asr.n)) for name in ("incoherent", "unscored"))
    before = [rate_of(model, question, ASR) for _, model in defended(found, pair, defence) if model.attack is None]
    return Standing(
        defence=defence.name,
        situation=model.situation,
        place=place,
        attacks=len(attacked),
        asr=asr,
        at_most=rate(min(asr.n, asr.count + incoherent.count + unscored.count), asr.n),
        incoherent=incoherent,
        unscored=unscored,
        before=next(iter(before), None),
    )


def attack_by_attack(
    found: Found, pair: str, one: DefenceRecord, other: DefenceRecord, question: Question, among: Sequence[str]
) -> dict[str, tuple[Rate, Rate]]:
    """The ASR of two defences after each of some attacks that both went through."""
    first, second = (
        {
            model.situation: asr
            for _, model in defended(found, pair, defence)
            if model.situation in among and (asr := rate_of(model, question, ASR)) is not None
        }
        for defence in (one, other)
    )
    return {situation: (asr, second[situation]) for situation, asr in first.items() if situation in second}


def lowered(rates: dict[str, tuple[Rate, Rate]]) -> dict[str, tuple[Rate, Rate]]:
    """Those attacks after which the second ASR is below the first, with their intervals apart."""
    return {situation: (one, two) for situation, (one, two) in rates.items() if two.high < one.low}


def paired(found: Found, one: Standing, other: Standing, question: Question) -> PairedDifference | None:
    """ASR of the other less that of the first, prompt by prompt; None where they did not answer the same ones."""
    says = METRICS["forbidden"][ASR].says
    first, second = (
        {
            sample.key: says(sample.verdicts[question.judge])
            for sample in samples_of(found.models[place.place], question)
        }
        for place in (one, other)
    )
    if not first or first.keys() != second.keys():
        return None
    return paired_difference(list(first.values()), [second[key] for key in first])
