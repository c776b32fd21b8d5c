"""Models by their defences, and situations in their order, for charts of one pair."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from safelox.reporting.chart import Chart
from safelox.reporting.found import ALONE, BASE, BEFORE, Found, Model, Question, rate_of
from safelox.reporting.words import defence_name


@dataclass(frozen=True)
class Group:
    """Models with the same defence, which share a colour."""

    name: str
    colour: int
    symbol: int
    models: tuple[int, ...]
    """Their numbers in `Found.models`."""


def groups(found: Found, pair: str) -> list[Group]:
    """The models of a pair by their defences, in the recipe's order."""
    members: dict[str, list[int]] = {}
    for place, model in enumerate(found.models):
        if model.pair == pair:
            members.setdefault(_defence_name(found, model), []).append(place)
    colours = _colours(found)
    order = {name: place for place, name in enumerate(colours)}
    return [
        Group(name, *colours.get(name, (0, 0)), models=tuple(places))
        for name, places in sorted(members.items(), key=lambda item: order.get(item[0], -1))
    ]


def situations(found: Found, pair: str) -> list[str]:
    """What was done to the models of a pair: before any attack first, then the attacks in their order."""
    names = dict.fromkeys(model.situation for model in found.models if model.pair == pair)
    return sorted(names, key=lambda name: {BASE: 0, BEFORE: 1}.get(name, 2))


def _defence_name(found: Found, model: Model) -> str:
    if model.defence is not None:
        return defence_name(model.defence)
    return ALONE if found.experiment is None else BASE


def _colours(found: Found) -> dict[str, tuple[int, int]]:
    """Colour and symbol of every defence: no defence and LoX have theirs in every report."""
    spare = iter([(2, 2), (3, 3), (4, 4), (5, 5), (7, 6), (2, 7), (3, 0), (4, 1), (5, 2), (7, 3)] * 8)
    colours = {BASE: (6, 4)}
    lox = False
    for defence in found.defences:
        if defence.method == "none":
            colours[defence_name(defence)] = (1, 1)
        elif defence.method == "lox" and not lox:
            colours[defence.name], lox = (0, 0), True
        else:
            colours[defence.name] = next(spare)
    return colours


def each_chart(
    found: Found, questions: Sequence[Question], draw: Callable[[Found, str, Question, str, str], Chart | None]
) -> Iterator[Chart]:
    """A chart of every pair and question that has one."""
    several = len(found.pairs) > 1
    number_of = 0
    for pair in found.pairs:
        for question in questions:
            title = f"{question.label}, {pair}" if several else question.label
            chart = draw(found, pair, question, title, str(number_of))
            if chart is not None:
                number_of += 1
                yield chart


def has_rate(found: Found, question: Question, metric: str) -> bool:
    return any(rate_of(model, question, metric) for model in found.models)
