"""Ask the lab's models and judge them, all in the same way."""

from collections.abc import Sequence
from pathlib import Path

from safelox.evaluation import evaluate
from safelox.evaluation.outcomes import Outcome
from safelox.evaluation.suites import Suite
from safelox.lab.suites import JUDGE
from safelox.progress import NULL, Progress
from safelox.rates import Rate


def judge_model(
    model: Path,
    out: Path,
    suites: Sequence[Suite],
    *,
    home: Path,
    n: int,
    system: str | None = None,
    progress: Progress = NULL,
) -> dict[Suite, dict[Outcome, Rate]]:
    """The rates of every outcome, by the lab's judge, on the first `n` samples of each suite.

    Args:
        out: results folder; what stands there is replaced.
        home: the lab's folder, which holds the suites.
        system: a system message for every prompt.
    """
    results = evaluate(
        model,
        out,
        suites=[suite.name for suite in suites],
        judges=[JUDGE.name],
        data=home,
        limit=n,
        system=system,
        overwrite=True,
        progress=progress,
    ).results
    return {suite: results[suite.name][JUDGE.name].outcomes for suite in suites}
