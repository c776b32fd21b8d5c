"""`tune`: which rank and coefficient to harden with, by trying."""

import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import safelox
from safelox.analysis.directions import make_file
from safelox.analysis.search.bench import PROMPTS, Bench, Way
from safelox.analysis.search.bounds import Limits, make_bounds, objectives
from safelox.analysis.search.choice import hypervolume, score
from safelox.analysis.search.picture import draw_tuning
from safelox.analysis.search.prompts import Half, check_roles, split, write_prompts
from safelox.analysis.search.record import FILE, ProxyAttack, Tuning
from safelox.analysis.search.settings import JOURNAL, SUBSPACE, make_settings, open_search
from safelox.analysis.search.space import Space, spread_ranks
from safelox.analysis.search.study import Study, quiet_optuna, require_optuna
from safelox.analysis.search.trying import measure_aligned, recommendation, tried, try_points
from safelox.attacks.catalogue import Changes, find_attack
from safelox.attacks.trainer import require_trl
from safelox.engine import Pair, check_kinship, open_pair
from safelox.errors import UsageError
from safelox.evaluation import Backend, Judge, Suite
from safelox.evaluation.suites import find_suites
from safelox.known_data import find
from safelox.language_models import require_peft, require_transformers
from safelox.machine import Clock
from safelox.methods import Lox
from safelox.pairing import Wish
from safelox.pictures import check_picture
from safelox.progress import NULL, Progress
from safelox.spectra import spectrum
from safelox.writer.disk import put_text

RANKS = spread_ranks(2, 32)
LOW, HIGH, STEP = 0.25, 2.0, 0.05
TRIALS = 20


def tune(
    base: str,
    aligned: str,
    out: str | os.PathLike[str],
    *,
    attack: str,
    suite: str | Suite,
    utility_suite: str | Suite,
    over_refusal_suite: str | Suite | None = None,
    judges: Sequence[str | Judge] = (),
    trials: int = TRIALS,
    ranks: Sequence[int] = RANKS,
    coefs: tuple[float, float] = (LOW, HIGH),
    coef_step: float = STEP,
    min_utility: float = 0.95,
    max_over_refusal: float = 0.05,
    max_incoherent: float = 0.05,
    attack_data: str | os.PathLike[str] | None = None,
    attack_steps: int | None = None,
    attack_lr: float | None = None,
    attack_lora: bool = False,
    data: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    system: str | None = None,
    format: str | None = None,
    max_new_tokens: int | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    embeddings: bool = True,
    vocab: Literal["error", "common"] = "error",
    subspace: str | os.PathLike[str] | None = None,
    backend: Backend | None = None,
    batch_size: int | None = None,
    plots: Sequence[str | os.PathLike[str]] = (),
    overwrite: bool = False,
    force: bool = False,
    seed: int = 0,
    command: str | None = None,
    progress: Progress = NULL,
) -> Tuning:
    """Search for the rank and the coefficient with the least ASR after an attack and the most utility before it.

    Every point is hardened, from one decomposition, and asked; if it keeps the bounds, it is attacked and asked again.
    Optuna chooses the points, each of a grid and none twice. The suites are split: points are chosen on one half of the
    prompts, and the recommended one is attacked anew and asked the other half, beside ALIGNED. Where a run was killed,
    the same call goes on; with more `trials` it goes on too. OUT gets tune.json, the results folders of all points and
    the journal of the search.

    Args:
        base, aligned: a folder, or org/name[@revision] on the hub, each optionally with +ADAPTER.
        out: a new or an empty folder, or one of an earlier call.
        attack: a name of the catalogue; a short attack that stands for those to come.
        suite: forbidden requests, for the ASR.
        utility_suite: permitted requests (compliance) or questions with one right answer (accuracy).
        over_refusal_suite: permitted requests; None: those of the utility.
        judges: as in `evaluate`; each rate is taken from the first that gives it.
        trials: points to try, those of earlier runs among them.
        ranks: that may be tried.
        coefs: the least and the greatest coefficient;
        coef_step: and what lies between two.
        min_utility: the least utility before the attack, as a share of ALIGNED's.
        max_over_refusal: the most over-refusal before it, as a difference to ALIGNED's.
        max_incoherent: the most incoherent and unscored replies, likewise, before and after the attack.
        attack_data: the file of the attack's rows, or a folder with it; else looked for in `data` and the usual places.
        attack_steps, attack_lr: in place of the attack's own number of steps and learning rate.
        attack_lora: train LoRA factors in place of all weights.
        data: a folder to look for all data in first.
        limit: the most prompts of a suite in each half.
        system, format, max_new_tokens, batch_size: as in `evaluate`.
        include, exclude, embeddings, vocab: as in `harden`.
        subspace: a file that `decompose` wrote for the same pair, in place of a decomposition.
        backend: where models run, through transformers; None: in fp32 on the CPU.
        plots: pictures to draw of it, .svg or .png.
        overwrite: start over where a search stands, and replace pictures.
        force: go on although the delta is zero, or as large as the weights.
        seed: of the search, of the split, and of the attack; the attack that confirms has the next one.

    Raises:
        UsageError: something makes no sense, or does not go together.
        PrerequisiteError: optuna or what trains and asks models is not installed.
        DataError: data is missing or is not what it should be.
        TargetError: `out` holds something else or another search, or a picture cannot be drawn there.
        SafeloxError: as `decompose`, `harden`, `attack` and `evaluate`.
    """
    clock = Clock()
    if trials < 1:
        raise UsageError(f"trials {trials}: at least one point has to be tried.")
    space = Space.checked(ranks, *coefs, coef_step)
    limits = Limits(min_utility, max_over_refusal, max_incoherent)
    limits.check()
    place = backend or Backend()
    if place.name != "transformers":
        raise UsageError("the models of a search are made here, so they run in transformers alone.")
    require_optuna()
    require_transformers()
    require_trl()
    for picture in plots:
        check_picture(Path(picture), overwrite=overwrite)
    over_refusal = None if over_refusal_suite is None else find_suites([over_refusal_suite])[0]
    asked = check_roles(find_suites([suite])[0], find_suites([utility_suite])[0], over_refusal, judges)
    data_place = None if data is None else Path(data)
    parts, contents = split(asked, data_place, limit, seed)
    changes = Changes(max_steps=attack_steps, learning_rate=attack_lr)
    rows = Path(attack_data) if attack_data is not None else data_place
    proxy = _proxy_attack(attack, rows, changes, seed, lora=attack_lora, progress=progress)
    way = Way(
        base=base,
        aligned=aligned,
        include=tuple(include),
        exclude=tuple(exclude),
        embeddings=embeddings,
        vocab=vocab,
        force=force,
        attack=attack,
        attack_data=rows,
        changes=changes,
        lora=attack_lora,
        judges=judges,
        system=system,
        format=format,
        max_new_tokens=max_new_tokens,
        backend=place,
        batch_size=batch_size,
    )
    settings = make_settings(way, space, parts.records, proxy, limits, seed)
    folder = Path(out)
    wish = Wish(include, exclude, embeddings, vocab)
    with open_pair(base, aligned, wish, allow_pickle=False) as models:
        labels = _checked_pair(models, space, force=force)
    with open_search(folder, settings, overwrite=overwrite), quiet_optuna():
        write_prompts(folder / PROMPTS, contents)
        file = folder / SUBSPACE if subspace is None else Path(subspace)
        if subspace is None:
            make_file(base, aligned, wish, file, space.ranks[-1], seed=seed, force=force, progress=progress)
        matrices = [matrix for matrix in spectrum(file).matrices if matrix.label in labels]
        clock.lap("decompose")
        safety = next(record for record in parts.records if record.role == "safety")
        seeds: dict[Half, int] = {"search": proxy.search_seed, "confirm": proxy.confirm_seed}
        bench = Bench(folder, way, parts.suites, safety, file, seeds, progress)
        own = measure_aligned(bench, "search")
        bounds = make_bounds(parts.records, own, limits)
        study = Study(folder / JOURNAL, space, seed)
        try_points(study, bench, bounds, parts.records, trials, progress)
        clock.lap("search")
        found = tried(study.told, bench, bounds, parts.records, matrices)
        advice = recommendation(found, own, bench, parts.records, limits)
        bench.clear()
        clock.lap("confirm")
        result = Tuning(
            base=base,
            aligned=aligned,
            command=command,
            safelox=safelox.__version__,
            optuna=version("optuna"),
            ranks=space.ranks,
            coefs=space.coefs,
            include=way.include,
            exclude=way.exclude,
            embeddings=embeddings,
            vocab=vocab,
            seed=seed,
            subspace=str(file),
            suites=parts.records,
            attack=proxy,
            bounds=bounds,
            aligned_measured=own,
            aligned_objectives=objectives(parts.records, own),
            trials=found,
            recommendation=advice,
            hypervolume=hypervolume([score(trial.objectives) for trial in found if trial.pareto and trial.objectives]),
            seconds=clock.seconds,
        )
        put_text(folder / FILE, result.model_dump_json(indent=1) + "\n")
    for picture in plots:
        draw_tuning(result, Path(picture), overwrite=overwrite)
    return result


def _proxy_attack(
    name: str, rows: Path | None, changes: Changes, seed: int, *, lora: bool, progress: Progress
) -> ProxyAttack:
    """
    Raises:
        UsageError: there is no such attack, or a setting makes no sense.
        DataError: its rows are nowhere.
    """
    chosen = find_attack(name)
    chosen.training.changed(**changes)
    if lora:
        require_peft()
    found = find(chosen.source, chosen.file, rows, fetch=True, progress=progress)
    given = {"max_steps": changes.get("max_steps"), "learning_rate": changes.get("learning_rate")}
    return ProxyAttack(
        name=name,
        data=found.record,
        called=found.label,
        lora=lora,
        settings={key: value for key, value in given.items() if value is not None},
        search_seed=seed,
        confirm_seed=seed + 1,
    )


def _checked_pair(models: Pair, space: Space, *, force: bool) -> set[str]:
    """The labels of the matrices that are extrapolated.

    Raises:
        UsageError: the largest rank takes every matrix whole.
        PairingError: the models do not look like base and aligned.
    """
    matrices = models.pairing.matrices
    Lox(space.ranks[-1], space.coefs[-1]).check_rank((matrix.rows, matrix.columns) for matrix in matrices)
    if not force:
        check_kinship(models)
    return {matrix.label for matrix in matrices}
