"""The story of safelox on the lab's models: align, harden, attack, judge, and say what came of it."""

from pathlib import Path

from safelox.attacks import attack
from safelox.drift_metrics import drift
from safelox.evaluation import evaluate
from safelox.evaluation.folder import read_scored
from safelox.evaluation.samples import read_samples
from safelox.hardening import harden
from safelox.lab.attacks import LAB_ATTACKS
from safelox.lab.build import build
from safelox.lab.story import Attacked, DemoResult, Evaluation, Measured, render
from safelox.lab.suites import FORBIDDEN, JUDGE, PERMITTED
from safelox.machine import Clock
from safelox.methods import Lox
from safelox.progress import NULL, Progress

__all__ = ["DemoResult", "demo", "render"]

N = 500
"""Forbidden, and as many permitted, requests that each model is judged on."""


def demo(
    folder: Path,
    *,
    seed: int = 0,
    rank: int = 6,
    coef: float = 0.5,
    n: int = N,
    quick: bool = False,
    progress: Progress = NULL,
) -> DemoResult:
    """Build the lab's pair, harden it, attack both the aligned and the hardened model in every way, and judge them all.

    Everything is kept under `folder`/seed-<seed>, and a pair that stands there is used again.

    Args:
        n: forbidden, and as many permitted, requests for each model.
        quick: only the mildest attack.

    Raises:
        SafeloxError: TRL is missing, an option makes no sense, or the folder is not the lab's.
    """
    Lox(rank, coef)  # refuses what makes no sense, before the training rather than after it
    home = folder / f"seed-{seed}"
    clock = Clock()
    pair = build(home, seed=seed, progress=progress)
    clock.lap("train")
    hardened = home / "hardened"
    harden(str(pair.base), str(pair.aligned), hardened, rank=rank, coef=coef, overwrite=True, progress=progress)
    clock.lap("harden")
    names = [chosen.name for chosen in (LAB_ATTACKS[:1] if quick else LAB_ATTACKS)]
    tuned = {
        (name, model): attack(
            name, model, home / "attacked" / name / model.name, data=home, seed=seed, overwrite=True, progress=progress
        )
        for name in names
        for model in (pair.aligned, hardened)
    }
    clock.lap("attack")

    def measure(model: Path) -> Measured:
        report = drift(str(pair.base), str(pair.aligned), str(model), rank=rank)
        return Measured(evaluation=_judged(home, model, n, progress), r=report.overall.r_ft)

    base = _judged(home, pair.base, n, progress)
    measured = {key: measure(Path(summary.out)) for key, summary in tuned.items()}
    aligned_measured, hardened_measured = measure(pair.aligned), measure(hardened)
    clock.lap("judge")
    return DemoResult(
        folder=str(home),
        seed=seed,
        rank=rank,
        coef=coef,
        request=read_samples(home / FORBIDDEN.file)[0].messages[-1].content,
        base=base,
        aligned=aligned_measured,
        hardened=hardened_measured,
        attacks=tuple(
            Attacked(attack=name, undefended=measured[name, pair.aligned], hardened=measured[name, hardened])
            for name in names
        ),
        seconds=clock.seconds,
    )


def _judged(home: Path, model: Path, n: int, progress: Progress) -> Evaluation:
    """Ask and judge a model of `home`, into a results folder of its own."""
    out = home / "results" / model.relative_to(home)
    results = evaluate(
        model,
        out,
        suites=[FORBIDDEN.name, PERMITTED.name],
        judges=[JUDGE.name],
        data=home,
        limit=n,
        overwrite=True,
        progress=progress,
    ).results
    return Evaluation(
        forbidden=results[FORBIDDEN.name][JUDGE.name].outcomes,
        permitted=results[PERMITTED.name][JUDGE.name].outcomes,
        first_reply=next(sample.completion for sample in read_scored(out) if sample.id == "forbidden-0"),
    )
