"""What a call of evaluate comes to: which prompts of which suites are asked, how, and who judges the replies."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from safelox.errors import UsageError
from safelox.evaluation.generation.settings import GenerationSettings
from safelox.evaluation.judges import known_judges
from safelox.evaluation.readers import read_suite, with_examples, worked_examples
from safelox.evaluation.results import SuiteConfig
from safelox.evaluation.samples import Sample
from safelox.evaluation.suites import PaperExact, Suite
from safelox.formats import find_format
from safelox.known_data import find

DEFAULT_FORMAT = "chat"


class Asking(NamedTuple):
    """How suites are to be asked; None leaves it to the suite."""

    limit: int | None
    format: str | None
    max_new_tokens: int | None
    shots: int
    paper_exact: bool
    temperature: float
    top_p: float
    samples: int
    seed: int


class Planned(NamedTuple):
    """A suite that will be asked."""

    config: SuiteConfig
    samples: list[Sample]
    """Those that are asked."""
    original: int
    """How many the file holds."""


def plan_suites(
    suites: Sequence[Suite], asking: Asking, judges: Sequence[str], place: Path | None
) -> dict[str, Planned]:
    """What is asked of each suite, by its name.

    Args:
        judges: who judges the suites that have no judges of their own.
        place: where to look for the suites' files first.

    Raises:
        UsageError: a number makes no sense, a suite has no exact form or no solved problems, nobody would judge it,
            or a judge would have nothing to judge.
        DataError: a suite's data is missing or is not what it should be.
    """
    if asking.limit is not None and asking.limit < 1:
        raise UsageError(f"limit {asking.limit}: at least one prompt of each suite has to be asked.")
    if asking.shots < 0:
        raise UsageError(f"shots {asking.shots}: the number of solved problems cannot be negative.")
    if place is not None and place.is_file() and len(suites) > 1:
        raise UsageError(f"{place} is one file, which cannot hold {len(suites)} suites; name a folder.")
    if judges and all(suite.judges for suite in suites):
        names = ", ".join(suite.name for suite in suites)
        raise UsageError(f"{', '.join(judges)} would have nothing to judge: {names} comes with judges of its own.")
    for suite in suites:
        _check(suite, asking, judges)
    return {suite.name: _planned(suite, asking, judges, place) for suite in suites}


def _check(suite: Suite, asking: Asking, judges: Sequence[str]) -> None:
    if asking.paper_exact and suite.paper is None:
        raise UsageError(f"suite {suite.name} has no exact form: the paper does not ask it.")
    if asking.shots and suite.examples is None:
        raise UsageError(f"suite {suite.name} has no solved problems to show before its prompts; leave shots at 0.")
    if not judges and not suite.judges:
        raise UsageError(f"suite {suite.name} has no judges of its own: name one of {', '.join(known_judges())}.")
    if asking.format is not None:
        find_format(asking.format)


def _planned(suite: Suite, asking: Asking, judges: Sequence[str], place: Path | None) -> Planned:
    exact = suite.paper if asking.paper_exact else None
    found = find(suite.source, suite.file, place)
    every = read_suite(suite.reader, found.path)
    limit = asking.limit if asking.limit is not None or exact is None else exact.limit
    samples, examples = every[:limit], None
    if suite.examples is not None and asking.shots:
        solved = find(suite.examples.source, suite.examples.file, None if place and place.is_file() else place)
        text, examples = worked_examples(solved.path, asking.shots), solved.record
        samples = [with_examples(sample, text) for sample in samples]
    config = SuiteConfig(
        asks=suite.asks,
        version=suite.version,
        data=found.record,
        called=found.label,
        judges=suite.judges or tuple(judges),
        generation=_settings(suite, exact, asking),
        limit=limit,
        shots=asking.shots,
        examples=examples,
        empty_reply=None if exact is None else exact.empty_reply,
    )
    return Planned(config, samples, len(every))


def _settings(suite: Suite, exact: PaperExact | None, asking: Asking) -> GenerationSettings:
    own = (exact or suite).max_new_tokens
    return GenerationSettings(
        max_new_tokens=own if asking.max_new_tokens is None else asking.max_new_tokens,
        format=asking.format or (DEFAULT_FORMAT if exact is None else exact.format),
        temperature=asking.temperature,
        top_p=asking.top_p,
        samples=asking.samples,
        seed=asking.seed,
    )
