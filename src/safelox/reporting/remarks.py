"""What to know before believing the sentence at the top of the page."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from safelox.experiment import DefenceRecord
from safelox.reporting.found import Found, Question
from safelox.reporting.standings import Standing, attack_by_attack, lowered, standing
from safelox.reporting.words import percent, rate_in_words

CONTROLS = ("full-rank", "random-subspace", "noise")


class Compared(NamedTuple):
    """LoX and no defence, after the attacks that both went through."""

    pair: str
    none: DefenceRecord
    defence: DefenceRecord
    """The LoX."""
    attacks: tuple[str, ...]
    without: Standing
    lox: Standing
    settings: tuple[Standing, ...]
    """Of every LoX that went through them all."""
    left_out: tuple[str, ...]
    """Attacks that not both have been judged after yet."""
    whole: bool
    """Whether all replies are there that the two were judged by."""


def make_remarks(
    found: Found, compared: Compared, question: Question, elsewhere: Sequence[tuple[Question, Compared]]
) -> Iterator[str]:
    """In the order in which they matter.

    Args:
        elsewhere: the same by other suites or judges.
    """
    without, lox = compared.without, compared.lox
    if compared.left_out:
        left_out = ", ".join(compared.left_out)
        yield f"Left out, since not both models have been judged after them yet, and they may be worse: {left_out}."
    if not compared.whole:
        yield "Not all replies that this is said of are there yet."
    if without.unscored.count or lox.unscored.count:
        unscored = f"{rate_in_words(without.unscored)} without LoX and {rate_in_words(lox.unscored)} with it"
        yield f"Replies that no judge could score are not known to be safe: {unscored}."
    if lox.at_most.count > lox.asr.count or without.at_most.count > without.asr.count:
        yield (
            "If every incoherent or unscored reply had been a success of the attack, the ASR would be "
            f"{percent(without.at_most.value)} without LoX and {percent(lox.at_most.value)} with it."
        )
    if without.situation != lox.situation:
        yield f"Worst without LoX was {without.situation}; worst with it, {lox.situation}."
    if without.before is not None and lox.before is not None:
        before = f"{percent(without.before.value)} without LoX and {percent(lox.before.value)} with it"
        yield f"Before any attack the ASR was {before}."
    if len(compared.settings) > 1:
        worst = max(one.asr.value for one in compared.settings)
        yield (
            f"{lox.defence} is the best of {len(compared.settings)} settings of LoX on these very replies, which "
            f"flatters it; the worst of them has {percent(worst)}."
        )
    yield from _one_by_one(found, compared, question)
    yield from _controls(found, compared, question)
    for other, result in elsewhere:
        rates = f"{percent(result.without.asr.value)} without LoX and {percent(result.lox.asr.value)}"
        beside = f"{percent(result.lox.incoherent.value)} more are incoherent; n = {result.lox.asr.n:,}"
        yield f"{other.label}, in the worst case: {rates} with {result.lox.defence} ({beside})."


def _one_by_one(found: Found, compared: Compared, question: Question) -> Iterator[str]:
    """After which attacks LoX has the lower ASR, whatever is worst."""
    if len(compared.attacks) > 1:
        rates = attack_by_attack(found, compared.pair, compared.none, compared.defence, question, compared.attacks)
        below = lowered(rates)
        told = ", ".join(f"{name} ({percent(a.value)} to {percent(b.value)})" for name, (a, b) in below.items())
        if below:
            yield f"{compared.lox.defence} lowered the ASR, with intervals apart, after {told}."


def _controls(found: Found, compared: Compared, question: Question) -> Iterator[str]:
    """What a change of the same size in other directions did."""
    for control in found.defences:
        worst = standing(found, compared.pair, control, question, compared.attacks)
        if control.method in CONTROLS and worst is not None:
            rates = attack_by_attack(found, compared.pair, control, compared.defence, question, compared.attacks)
            after = f"{len(lowered(rates))} of {len(rates)} attack{'' if len(rates) == 1 else 's'}"
            yield (
                f"The control {control.name}, as large a change in another direction, has {rate_in_words(worst.asr)} "
                f"in its worst case; LoX is below it, with intervals apart, after {after}."
            )
