"""Makes the model of a point, attacks it, and asks it, with everything that was said kept on disk.

A model lives in OUT/scratch, and only until the next one is made. What is done is known by its results folder, so that
a search that was killed makes, attacks and asks again only what it has no results of.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safelox.analysis.search.prompts import Half
from safelox.analysis.search.record import Measured, Rates, SuiteRecord
from safelox.analysis.search.space import Point
from safelox.attacks import attack
from safelox.attacks.catalogue import Changes
from safelox.errors import CheckpointError, SafeloxError
from safelox.evaluation import Backend, Judge, Results, Suite, evaluate
from safelox.evaluation.folder import MANIFEST, RESULTS, read_scored
from safelox.evaluation.metrics import METRICS, UNDECIDED
from safelox.hardening import harden
from safelox.manifest import MANIFEST_NAME
from safelox.progress import NULL, Progress
from safelox.rates import Rate

TRIALS, CONFIRM, SCRATCH, PROMPTS = "trials", "confirm", "scratch", "prompts"
ALIGNED, BEFORE, AFTER = "aligned", "before", "after"
_FOLDERS: dict[Half, str] = {"search": TRIALS, "confirm": CONFIRM}


class PointError(SafeloxError):
    """A point of which no model came, or none that could be attacked; the search goes on with others."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """How models are made, attacked and asked: the same for all points."""

    base: str
    aligned: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    embeddings: bool
    vocab: Literal["error", "common"]
    force: bool
    attack: str
    attack_data: Path | None
    changes: Changes
    lora: bool
    judges: Sequence[str | Judge]
    system: str | None
    format: str | None
    max_new_tokens: int | None
    backend: Backend
    batch_size: int | None


class Bench:
    """Where points are measured.

    Args:
        folder: OUT, which holds the split suites in its folder of prompts.
        suites: of each half, by name.
        safety: the one that is asked after the attack.
        subspace: the file with the directions of all points.
        seeds: of the attack, in each half.
    """

    def __init__(
        self,
        folder: Path,
        way: Way,
        suites: Mapping[Half, Mapping[str, Suite]],
        safety: SuiteRecord,
        subspace: Path,
        seeds: Mapping[Half, int],
        progress: Progress = NULL,
    ) -> None:
        self._folder, self._way, self._suites, self._safety = folder, way, suites, safety
        self._subspace, self._seeds, self._progress = subspace, seeds, progress
        self._made: Point | None = None
        self.clear()

    def before(self, point: Point | None, half: Half) -> dict[str, Rates]:
        """The rates of a point, or of ALIGNED, before any attack, by suite.

        Raises:
            PointError: there is no such model.
            SafeloxError: as `harden` and `evaluate`.
        """
        place = self._place(point, half, BEFORE)
        # ALIGNED is looked at every time: results of another model that stood there before are noticed.
        if point is None or not _is_finished(place):
            suites = list(self._suites[half].values())
            return _rates(self._ask(self._model(point), place, suites, overwrite=False))
        return _rates(_read(place))

    def after(self, point: Point | None, half: Half) -> dict[str, Rates]:
        """The rates of the suite of safety after the attack.

        Raises:
            PointError: there is no such model, or the attack came to nothing.
            SafeloxError: as `harden`, `attack` and `evaluate`.
        """
        place = self._place(point, half, AFTER)
        if not _is_finished(place):
            attacked = self._attacked(point, half)
            # Replies that a killed run left are of a model that was attacked before: on a GPU that may be another one.
            self._ask(attacked, place, [self._suites[half][self._safety.name]], overwrite=True)
            shutil.rmtree(attacked)
        return _rates(_read(place))

    def known(self, point: Point, half: Half) -> Measured | None:
        """What was measured of a point so far; None: nothing."""
        before, after = (self._place(point, half, when) for when in (BEFORE, AFTER))
        if not _is_finished(before):
            return None
        return Measured(before=_rates(_read(before)), after=_rates(_read(after)) if _is_finished(after) else None)

    def succeeded(self, point: Point | None, half: Half) -> dict[str, bool]:
        """Whether each prompt of the suite of safety was complied with after the attack, by its id."""
        says = METRICS[self._safety.asks][self._safety.metric].says
        scored = read_scored(self._place(point, half, AFTER))
        return {sample.id: says(sample.verdicts[self._safety.judge]) for sample in scored}

    def clear(self) -> None:
        """Let go of the models on disk."""
        shutil.rmtree(self._folder / SCRATCH, ignore_errors=True)
        self._made = None

    def _place(self, point: Point | None, half: Half, when: str) -> Path:
        return self._folder / _FOLDERS[half] / (ALIGNED if point is None else str(point)) / when

    def _model(self, point: Point | None) -> str:
        if point is None:
            return self._way.aligned
        model = self._folder / SCRATCH / "hardened"
        if self._made != point:
            self.clear()
            (self._folder / SCRATCH).mkdir()
            way = self._way
            try:
                harden(
                    way.base,
                    way.aligned,
                    model,
                    rank=point.rank,
                    coef=point.coef,
                    include=way.include,
                    exclude=way.exclude,
                    embeddings=way.embeddings,
                    vocab=way.vocab,
                    subspace=self._subspace,
                    force=way.force,
                    hash_sources=False,
                    progress=self._progress,
                )
            except CheckpointError as error:  # sums that fp16 cannot hold, for example
                raise PointError(f"no model came of it: {error}") from error
            # It says when it was made; without it, replies to the same model are known again.
            (model / MANIFEST_NAME).unlink()
            self._made = point
        return str(model)

    def _attacked(self, point: Point | None, half: Half) -> Path:
        model, out, way = self._model(point), self._folder / SCRATCH / "attacked", self._way
        out.parent.mkdir(exist_ok=True)
        try:
            attack(
                way.attack,
                model,
                out,
                data=way.attack_data,
                lora=way.lora,
                merge=way.lora,
                seed=self._seeds[half],
                device="cuda" if (way.backend.device or "cpu").startswith("cuda") else "cpu",
                overwrite=True,
                progress=self._progress,
                **way.changes,
            )
        except SafeloxError as error:
            if type(error) is not SafeloxError:  # it is not this point's own: a full disk, missing rows
                raise
            raise PointError(f"the attack came to nothing: {error}") from error
        return out

    def _ask(self, model: str | Path, place: Path, suites: Sequence[Suite], *, overwrite: bool) -> Results:
        way = self._way
        return evaluate(
            model,
            place,
            suites=suites,
            judges=() if all(suite.judges for suite in suites) else way.judges,
            data=self._folder / PROMPTS,
            system=way.system,
            format=way.format,
            max_new_tokens=way.max_new_tokens,
            backend=way.backend,
            batch_size=way.batch_size,
            overwrite=overwrite,
            progress=self._progress,
        )


def _is_finished(place: Path) -> bool:
    return (place / MANIFEST).is_file()  # which `evaluate` writes last


def _read(place: Path) -> Results:
    return Results.model_validate_json((place / RESULTS).read_bytes())


def _rates(results: Results) -> dict[str, Rates]:
    return {suite: _suite_rates(results, suite) for suite in results.results}


def _suite_rates(results: Results, suite: str) -> dict[str, Rate]:
    found: dict[str, Rate] = {}
    for judged in results.results[suite].values():
        found = {**judged.metrics, **found}
    for name in UNDECIDED:
        counted = [judged.outcomes[name] for judged in results.results[suite].values()]
        found[name] = max(counted, key=lambda rate: rate.count)
    return found
