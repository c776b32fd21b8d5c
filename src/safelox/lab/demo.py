"""The story of safelox on the lab's models: align, harden, attack, judge, and say what came of it."""

from dataclasses import dataclass
from pathlib import Path

from safelox.attacks import attack
from safelox.drift_metrics import drift
from safelox.evaluation import evaluate
from safelox.evaluation.folder import read_scored
from safelox.hardening import harden
from safelox.lab.build import build
from safelox.lab.story import Attacked, DemoResult, Evaluation, Measured, render
from safelox.lab.suites import FORBIDDEN, JUDGE, PERMITTED
from safelox.machine import Clock
from safelox.methods import Lox
from safelox.progress import NULL, Progress

__all__ = ["DemoResult", "demo", "render"]

N = 500
"""Forbidden, and as many permitted, requests that each model is judged on."""

ATTACKS = ("lab-pure-bad", "lab-benign", "lab-pure-bad-strong", "lab-benign-strong")
QUICK_ATTACKS = ATTACKS[:1]


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
    names = QUICK_ATTACKS if quick else ATTACKS
    tuned = {
        (name, model): attack(
            name, model, home / "attacked" / name / model.name, data=home, seed=seed, overwrite=True, progress=progress
        )
        for name in names
        for model in (pair.aligned, hardened)
    }
    clock.lap("attack")
    judge = _Judge(home, n, progress)
    base = judge.evaluation(pair.base)
    measure = _Measure(pair.base, pair.aligned, rank, judge)
    measured = {key: measure.model(Path(summary.out)) for key, summary in tuned.items()}
    aligned_measured, hardened_measured = measure.model(pair.aligned), measure.model(hardened)
    clock.lap("judge")
    return DemoResult(
        folder=str(home),
        seed=seed,
        rank=rank,
        coef=coef,
        request=judge.first_request,
        base=base,
        aligned=aligned_measured,
        hardened=hardened_measured,
        attacks=tuple(
            Attacked(attack=name, undefended=measured[name, pair.aligned], hardened=measured[name, hardened])
            for name in names
        ),
        seconds=clock.seconds,
    )


@dataclass
class _Judge:
    """Judges models, each into a results folder of its own."""

    home: Path
    n: int
    progress: Progress
    first_request: str = ""

    def evaluation(self, model: Path) -> Evaluation:
        out = self.home / "results" / model.relative_to(self.home)
        results = evaluate(
            model,
            out,
            suites=[FORBIDDEN.name, PERMITTED.name],
            judges=[JUDGE.name],
            data=self.home,
            limit=self.n,
            overwrite=True,
            progress=self.progress,
        )
        first = next(sample for sample in read_scored(out) if sample.id == "forbidden-0")
        self.first_request = first.prompt[-1].content
        return Evaluation(
            forbidden=results.results[FORBIDDEN.name][JUDGE.name].outcomes,
            permitted=results.results[PERMITTED.name][JUDGE.name].outcomes,
            first_reply=first.completion,
        )


@dataclass
class _Measure:
    """Judges a model and says how much of its distance from the base lies in the safety subspace."""

    base: Path
    aligned: Path
    rank: int
    judge: _Judge

    def model(self, model: Path) -> Measured:
        report = drift(str(self.base), str(self.aligned), str(model), rank=self.rank)
        return Measured(evaluation=self.judge.evaluation(model), r=report.overall.r_ft)
