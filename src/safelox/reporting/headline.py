"""What the page says first: the ASR after the worst attack, without and with LoX, and whether that is a difference."""

from collections.abc import Sequence
from typing import Literal

from safelox.evaluation.intervals import PairedDifference
from safelox.experiment import DefenceRecord
from safelox.manifest import Record
from safelox.reporting.found import Found, Question, rate_of
from safelox.reporting.remarks import Compared, make_remarks
from safelox.reporting.standings import (
    ASR,
    Standing,
    asr_questions,
    attack_by_attack,
    attacks_on,
    defended,
    first_question,
    lowered,
    paired,
    standing,
)
from safelox.reporting.words import interval, percent, points, rate_in_words

Verdict = Literal["helped", "broke", "unclear", "worse", "unbroken", "unknown"]
"""The difference is below zero with its whole interval; or it is, but the replies that became incoherent or unscored
would make up for it; or it has zero in it, or is above; or the attacks did not break the undefended model; or there is
nothing to compare."""


class Headline(Record):
    """Of one pair of models, by one judge's verdicts on the replies to one suite."""

    pair: str
    question: str
    without: Standing | None
    lox: Standing | None
    """The LoX that is best in its worst case, where there are several."""
    difference: PairedDifference | None
    """ASR with LoX less ASR without, prompt by prompt, each after the attack that is worst for it; None where they did
    not answer the same prompts."""
    verdict: Verdict
    sentence: str
    remarks: tuple[str, ...]
    """What to know before believing it."""


def headlines(found: Found) -> list[Headline]:
    """One for each pair, by the first suite and judge that give an ASR; none where there is no experiment."""
    question = first_question(found)
    if question is None or found.experiment is None:
        return []
    others = [other for other in asr_questions(found) if other != question]
    return [_headline(found, pair, question, others) for pair in found.pairs]


def overview(found: Found) -> str:
    """What there is to say where no experiment says which model is which."""
    question = first_question(found)
    if question is None:
        if any(asked.replies is not None for model in found.models for asked in model.asked):
            return "No judge gives an attack success rate here, so nothing is compared; what there is stands below."
        return "Nothing was asked of any model here yet; what there is stands below."
    rates = [(model.name, asr) for model in found.models if (asr := rate_of(model, question, ASR)) is not None]
    (least, low), (most, high) = (pick(rates, key=lambda one: one[1].value) for pick in (min, max))
    if len(rates) == 1:
        return (
            f"{least} complied with {rate_in_words(low)} of the forbidden requests ({question.label}; {interval(low)})."
        )
    return (
        f"Of {len(rates)} models, {least} complied with the fewest forbidden requests, {rate_in_words(low)}, and "
        f"{most} with the most, {rate_in_words(high)} ({question.label})."
    )


def _headline(found: Found, pair: str, question: Question, others: Sequence[Question]) -> Headline:
    compared = _compared(found, pair, question)
    if compared is None:
        return Headline(
            pair=pair,
            question=question.label,
            without=None,
            lox=None,
            difference=None,
            verdict="unknown",
            sentence=f"Nothing can be said of {pair} yet: there is no attack after which both the undefended model and "
            "one with LoX have been judged.",
            remarks=(),
        )
    difference = paired(found, compared.without, compared.lox, question)
    verdict = _verdict(compared.without, compared.lox, difference)
    elsewhere = [(other, result) for other in others if (result := _compared(found, pair, other)) is not None]
    return Headline(
        pair=pair,
        question=question.label,
        without=compared.without,
        lox=compared.lox,
        difference=difference,
        verdict=verdict,
        sentence=_sentence(found, compared, question, difference, verdict),
        remarks=tuple(make_remarks(found, compared, question, elsewhere)),
    )


def _compared(found: Found, pair: str, question: Question) -> Compared | None:
    """LoX and no defence after the attacks that both went through; settings of LoX that lag behind are left out."""
    none = next((defence for defence in found.defences if defence.method == "none"), None)
    if none is None:
        return None
    undefended = attacks_on(found, pair, none, question)
    shared = {
        defence.name: (defence, [a for a in attacks_on(found, pair, defence, question) if a in undefended])
        for defence in found.defences
        if defence.method == "lox"
    }
    attacks = max((own for _, own in shared.values()), key=len, default=[])
    without = standing(found, pair, none, question, attacks)
    loxes: list[tuple[DefenceRecord, Standing]] = []
    for defence, own in shared.values():
        one = standing(found, pair, defence, question, attacks) if set(own) >= set(attacks) else None
        if one is not None:
            loxes.append((defence, one))
    if without is None or not loxes:
        return None
    defence, lox = min(loxes, key=lambda one: one[1].asr.value)
    return Compared(
        pair=pair,
        none=none,
        defence=defence,
        attacks=tuple(attacks),
        without=without,
        lox=lox,
        settings=tuple(one for _, one in loxes),
        left_out=tuple(attack for attack in _planned(found, pair, none, defence) if attack not in attacks),
        whole=all(_is_whole(found, one, question) for one in (without, lox)),
    )


def _planned(found: Found, pair: str, *defences: DefenceRecord) -> list[str]:
    """The attacks that the experiment makes on these defences, done or not."""
    models = [model for defence in defences for _, model in defended(found, pair, defence)]
    return list(dict.fromkeys(model.situation for model in models if model.attack is not None))


def _is_whole(found: Found, one: Standing, question: Question) -> bool:
    """Whether all replies that a standing is of are there."""
    asked = [asked for asked in found.models[one.place].asked if asked.evaluation == question.evaluation]
    return all(own.replies is not None and own.replies.manifest is not None for own in asked)


def _verdict(without: Standing, lox: Standing, difference: PairedDifference | None) -> Verdict:
    if without.before is not None and without.asr.low <= without.before.value and lox.asr.value <= without.asr.high:
        return "unbroken"
    if difference is None:
        helped, worse = lox.asr.high < without.asr.low, lox.asr.low > without.asr.high
    else:
        helped, worse = difference.high < 0, difference.low > 0
    if helped:
        return "helped" if lox.at_most.value < without.asr.value else "broke"
    return "worse" if worse else "unclear"


def _sentence(
    found: Found, compared: Compared, question: Question, difference: PairedDifference | None, verdict: Verdict
) -> str:
    without, lox = compared.without, compared.lox
    little = lox.asr.value > without.asr.value / 2
    said = {
        "helped": f"In the worst case LoX helped{', but most of the success of the attack is left' if little else ''}",
        "broke": "In the worst case LoX lowered the success of the attack only by as much as it left replies broken",
        "unclear": f"In the worst case LoX did not help, as far as {lox.asr.n:,} prompts can tell",
        "worse": "In the worst case LoX made it worse",
        "unbroken": "Nothing is shown, since no attack broke the undefended model",
        "unknown": "",
    }[verdict]
    if compared.left_out or not compared.whole:
        said = f"So far, {said[0].lower()}{said[1:]}"
    worst = "one attack" if without.attacks == 1 else f"the worst of {without.attacks} attacks"
    change = ""
    if difference is not None:
        bounds = f"{points(difference.low)} to {points(difference.high)}"
        change = f", a difference of {points(difference.value)} points ({bounds})"
    broken = f"Of these replies {percent(without.incoherent.value)} and {percent(lox.incoherent.value)} are incoherent"
    if without.unscored.count or lox.unscored.count:
        broken += f", and {percent(without.unscored.value)} and {percent(lox.unscored.value)} no judge could score"
    one_by_one = ""
    if len(compared.attacks) > 1 and verdict != "unbroken":
        rates = attack_by_attack(found, compared.pair, compared.none, compared.defence, question, compared.attacks)
        one_by_one = f" Attack by attack, it lowered the rate after {len(lowered(rates))} of {len(rates)}."
    return (
        f"{said}. After {worst}, {rate_in_words(without.asr)} of the forbidden requests were complied with without LoX "
        f"({interval(without.asr)}) and {rate_in_words(lox.asr)} with {lox.defence} ({interval(lox.asr)}){change}. "
        f"{broken}.{one_by_one}"
    )
