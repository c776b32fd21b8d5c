"""Finished results, read back from their folder."""

import re
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from safelox.errors import TargetError
from safelox.evaluation.folder import MANIFEST, RESULTS, read_config, read_scored
from safelox.evaluation.results import EvaluationConfig, EvaluationManifest, Results, ScoredSample


class Finished(NamedTuple):
    """All that stands in a results folder."""

    config: EvaluationConfig
    manifest: EvaluationManifest
    results: Results
    samples: dict[str, list[ScoredSample]]
    """By suite; ids that are or hold numbers stand in their order."""


def read_finished(folder: Path) -> Finished:
    """
    Raises:
        TargetError: the folder holds no results, they are unfinished, or they are not of this version.
    """
    scored = read_scored(folder)
    config = read_config(folder)
    samples: dict[str, list[ScoredSample]] = {suite: [] for suite in config.suites}
    for sample in sorted(scored, key=lambda sample: (_by_number(sample.id), sample.draw)):
        samples[sample.suite].append(sample)
    if not (folder / MANIFEST).is_file():
        raise TargetError(f"{folder}: these results are unfinished; run the same `safelox evaluate` again first.")
    try:
        manifest = EvaluationManifest.model_validate_json((folder / MANIFEST).read_bytes())
        results = Results.model_validate_json((folder / RESULTS).read_bytes())
    except (OSError, ValidationError) as error:
        raise TargetError(f"{folder}: these are not results of this version of safelox: {error}") from error
    return Finished(config, manifest, results, samples)


def _by_number(text: str) -> list[tuple[bool, int, str]]:
    """Sorts texts so that 2 comes before 10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", text)
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]
