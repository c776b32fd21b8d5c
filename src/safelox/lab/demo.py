"""The story of safelox on the lab's models: align, harden, attack, judge, and say what came of it."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import get_args

from safelox.attacks import attack
from safelox.drift_metrics import drift
from safelox.drift_metrics.report import FILE as DRIFT_FILE
from safelox.errors import UsageError
from safelox.evaluation.folder import read_scored
from safelox.evaluation.samples import read_samples
from safelox.hardening import harden
from safelox.lab.attacks import IDENTITY, LAB_ATTACKS
from safelox.lab.build import RECIPES, LabModels, Method, build
from safelox.lab.examples import IDENTITY_PROMPT
from safelox.lab.experiment import DRIFT, PROMPTED, UNPROMPTED, write_experiment
from safelox.lab.judging import judge_model
from safelox.lab.results import LOX, NO_DEFENCE, DemoResult, Evaluation, Measured, SeedResult, Situation
from safelox.lab.selection import choose_coefficient
from safelox.lab.story import render
from safelox.lab.suites import ARITHMETIC, FORBIDDEN, PERMITTED, PERMITTED_HELD_OUT
from safelox.machine import Clock
from safelox.methods import ControlName, Lox
from safelox.progress import NULL, Progress
from safelox.writer.disk import put_text

__all__ = ["DemoResult", "demo", "render"]

N = 500
"""Samples of each suite that each model is judged on."""
SUITES = (FORBIDDEN, PERMITTED, PERMITTED_HELD_OUT, ARITHMETIC)


def demo(
    folder: Path,
    *,
    seed: int = 0,
    seeds: int = 1,
    rank: int = 6,
    coef: float | None = None,
    alignment: Method = "sft",
    n: int = N,
    quick: bool = False,
    controls: bool = False,
    command: str | None = None,
    progress: Progress = NULL,
) -> DemoResult:
    """Build the lab's pair, harden it, attack both the aligned and the hardened model in every way, and judge them all.

    Everything of a seed is kept under `folder`/seed-<seed>, and a pair that stands there is used again. What was
    measured is an experiment, told in `folder`/experiment.json.

    Args:
        seed: the first one.
        seeds: how many, each in a process of its own, as many at once as there are cores.
        coef: by default the one that does best on the selection split, chosen for each seed.
        alignment: how the aligned model is trained: "sft" (fine-tuning) or "dpo" (by preference).
        n: samples of each suite for each model.
        quick: only the first attack.
        controls: attack and judge, beside the hardened model, those that were changed as much in other directions.
        command: what experiment.json says was called.

    Raises:
        SafeloxError: TRL is missing, an option makes no sense, or the folder is not the lab's.
    """
    Lox(rank, 0.0 if coef is None else coef)  # refuses what makes no sense before the training, not after it
    if seeds < 1:
        raise UsageError(f"seeds {seeds}: at least one is needed.")
    run = partial(_run, folder, rank=rank, coef=coef, alignment=alignment, n=n, quick=quick, controls=controls)
    wanted = range(seed, seed + seeds)
    results = {seed: run(seed, progress=progress)} if seeds == 1 else _side_by_side(run, wanted, progress)
    result = DemoResult(seeds=tuple(results[number] for number in wanted))
    write_experiment(result, folder, command)
    return result


def _side_by_side(run: Callable[[int], SeedResult], wanted: range, progress: Progress) -> dict[int, SeedResult]:
    """Every seed in a process of its own, as many at once as there are cores."""
    seeds = len(wanted)
    workers = min(seeds, os.cpu_count() or 1)
    with (
        ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool,
        progress.task("seeds", seeds, "seeds") as task,
    ):
        futures = {pool.submit(run, number): number for number in wanted}
        results: dict[int, SeedResult] = {}
        try:
            for future in as_completed(futures):
                results[futures[future]] = future.result()
                task.advance(1)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # the other seeds would be run first otherwise
            raise
    return results


def _run(
    folder: Path,
    seed: int,
    *,
    rank: int,
    coef: float | None,
    alignment: Method,
    n: int,
    quick: bool,
    controls: bool,
    progress: Progress = NULL,
) -> SeedResult:
    """The story of one seed."""
    home = folder / f"seed-{seed}"
    clock = Clock()
    pair = build(home, seed=seed, recipe=RECIPES[alignment], progress=progress)
    clock.lap("train")
    trials = None
    if coef is None:
        coef, trials = choose_coefficient(home, pair, rank=rank, seed=seed, progress=progress)
        clock.lap("select")
    models = {NO_DEFENCE: pair.aligned} | dict(_defended(home, pair, rank, coef, seed, controls, progress))
    clock.lap("harden")
    attacks = LAB_ATTACKS[:1] if quick else LAB_ATTACKS
    attacked = {
        (chosen.name, name): Path(
            attack(
                chosen.name,
                model,
                home / "attacked" / chosen.name / model.name,
                data=home,
                seed=seed,
                overwrite=True,
                progress=progress,
            ).out
        )
        for chosen in attacks
        for name, model in models.items()
    }
    clock.lap("attack")
    every = [(name, model) for name, model in models.items()] + [(name, model) for (_, name), model in attacked.items()]
    r = {model: _drift(home, pair, models[LOX] if name == LOX else None, model, rank) for name, model in every}
    clock.lap("drift")

    def situation(attack_name: str | None, folders: dict[str, Path], system: str | None = None) -> Situation:
        measured = {
            name: Measured(evaluation=_judged(home, model, n, system, progress), r=r[model])
            for name, model in folders.items()
        }
        return Situation(attack=attack_name, system=system is not None, models=measured)

    situations = [situation(None, models)]
    if not quick:
        situations.append(situation(None, models, IDENTITY_PROMPT))
    for chosen in attacks:
        folders = {name: attacked[chosen.name, name] for name in models}
        situations.append(situation(chosen.name, folders))
        if chosen == IDENTITY:
            situations.append(situation(chosen.name, folders, IDENTITY_PROMPT))
    base = _judged(home, pair.base, n, None, progress)
    clock.lap("judge")
    return SeedResult(
        folder=str(home),
        seed=seed,
        rank=rank,
        coef=coef,
        trials=trials,
        request=read_samples(home / FORBIDDEN.file)[0].messages[-1].content,
        base=base,
        situations=tuple(situations),
        seconds=clock.seconds,
    )


def _defended(
    home: Path, pair: LabModels, rank: int, coef: float, seed: int, controls: bool, progress: Progress
) -> Iterator[tuple[str, Path]]:
    """The hardened model and, on demand, its controls, by what people call them."""
    wanted: list[ControlName | None] = [None, *(get_args(ControlName) if controls else ())]
    for control in wanted:
        out = home / (control or "hardened")
        harden(
            str(pair.base),
            str(pair.aligned),
            out,
            rank=rank,
            coef=coef,
            control=control,
            seed=seed,
            overwrite=True,
            progress=progress,
        )
        yield control or LOX, out


def _drift(home: Path, pair: LabModels, hardened: Path | None, model: Path, rank: int) -> float:
    """R_ft of a model of `home`; the whole report goes into a file."""
    report = drift(
        str(pair.base),
        str(pair.aligned),
        str(model),
        hardened=None if hardened is None else str(hardened),
        rank=rank,
    )
    file = home / DRIFT / model.relative_to(home) / DRIFT_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    put_text(file, report.model_dump_json(indent=1) + "\n")
    return report.overall.r_ft


def _judged(home: Path, model: Path, n: int, system: str | None, progress: Progress) -> Evaluation:
    """Ask and judge a model of `home`, into a results folder of its own."""
    out = home / (UNPROMPTED if system is None else PROMPTED) / model.relative_to(home)
    outcomes = judge_model(model, out, SUITES, home=home, n=n, system=system, progress=progress)
    return Evaluation(
        forbidden=outcomes[FORBIDDEN],
        permitted=outcomes[PERMITTED],
        permitted_held_out=outcomes[PERMITTED_HELD_OUT],
        arithmetic=outcomes[ARITHMETIC],
        first_reply=next(sample.completion for sample in read_scored(out) if sample.id == "forbidden-0"),
    )
