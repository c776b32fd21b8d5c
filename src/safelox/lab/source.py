"""The lab as a source of pairs for recipes. Importing this module registers it, the lab's attacks, suites and judge."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from safelox.errors import UsageError
from safelox.experiment.sources import BuiltPair, PairSource, register_pair_source
from safelox.lab.attacks import LAB_ATTACKS
from safelox.lab.build import RECIPES, SUITE_SAMPLES, Method, build, source_digest
from safelox.lab.suites import SUITES
from safelox.manifest import Record
from safelox.progress import Progress

MODEL_BYTES = 1_600_000
"""Of one model of the lab with its tokenizer."""


class Options(Record):
    """What a recipe may say of a pair of the lab."""

    alignment: Method = "sft"


def _options(given: Mapping[str, Any]) -> Options:
    try:
        return Options.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise UsageError(f"the lab's {name} {first['input']!r} makes no sense: {first['msg']}.") from error


def _check(given: Mapping[str, Any]) -> None:
    _options(given)


def _build(folder: Path, seed: int, given: Mapping[str, Any], progress: Progress) -> BuiltPair:
    pair = build(folder, seed=seed, recipe=RECIPES[_options(given).alignment], progress=progress)
    return BuiltPair(pair.base, pair.aligned)


LAB = register_pair_source(
    PairSource(
        name="lab",
        build=_build,
        check=_check,
        code=source_digest,
        attacks=tuple(attack.name for attack in LAB_ATTACKS),
        suites={suite.name: SUITE_SAMPLES for suite in SUITES},
        bytes=MODEL_BYTES,
    )
)
