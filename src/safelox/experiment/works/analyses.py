"""Works that look at a pair from more than one model."""

from abc import ABC
from pathlib import Path
from typing import Any, ClassVar

from safelox.analysis.curve import rank_curve
from safelox.analysis.curve.report import FILE as RANK_CURVE
from safelox.analysis.plane import Lines, landscape
from safelox.analysis.plane.record import FILE as LANDSCAPE
from safelox.analysis.plane.wanted import LINE_POINTS
from safelox.analysis.search import tune
from safelox.analysis.search.record import FILE as TUNING
from safelox.experiment.files import put
from safelox.experiment.recipe.analysis_entries import LandscapeEntry, RankCurveEntry, TuneEntry
from safelox.experiment.recipe.entries import ComputeEntry, EvaluationEntry, JudgeEntry
from safelox.experiment.works.choices import backend_of, judges_of, machine, said, suites_of
from safelox.experiment.works.work import Data, Model, OfPair, Work
from safelox.progress import Progress
from safelox.spectra import spectrum
from safelox.spectra.report import FILE as SPECTRUM

CORNERS = 4
"""Models that a landscape is made of, which are asked besides its points."""
CONFIRMED = 2
"""Models that a search attacks and asks at last, on prompts of their own."""


class Spectrum(Work):
    kind = "spectrum"
    places = frozenset({"subspace"})
    subspace: str
    ranks: tuple[int, ...]

    @property
    def proof(self) -> str:
        return f"{self.target}/{SPECTRUM}"

    def do(self, out: Path, *, resume: bool, progress: Progress) -> None:  # noqa: ARG002 (it takes a moment)
        report = spectrum(out / self.subspace, ranks=self.ranks)
        put(out / self.proof, report.model_dump_json(indent=1) + "\n")


class Analysis(Work, ABC):
    """Work that asks several models as an evaluation says, with what its own entry says in that one's place."""

    unsaid: ClassVar[frozenset[str]] = frozenset({"name", "evaluation"})
    """Keys of the entry that change nothing of the result, or that others tell."""
    entry: RankCurveEntry | LandscapeEntry | TuneEntry
    asked: EvaluationEntry
    compute: ComputeEntry
    judge: JudgeEntry
    data: Data
    seed: int

    @property
    def limit(self) -> int | None:
        return self.entry.limit or self.asked.limit

    def decides(self) -> dict[str, Any]:
        entry = self.entry.model_dump(mode="json", exclude=set(self.unsaid))
        return super().decides() | {"entry": entry, "asked": said(self.asked), "compute": machine(self.compute)}


class Curve(Analysis, OfPair):
    kind = "rank-curve"
    places = frozenset({*OfPair.places, "judge"})
    entry: RankCurveEntry
    subspace: str

    @property
    def proof(self) -> str:
        return f"{self.target}/{RANK_CURVE}"

    @property
    def models(self) -> int:
        return len(self.entry.ranks) + 1

    @property
    def suites(self) -> tuple[str, ...]:
        return self.entry.suites or self.asked.suites

    def do(self, out: Path, *, resume: bool, progress: Progress) -> None:
        entry, asked = self.entry, self.asked
        rank_curve(
            self.base.reference(out),
            self.aligned.reference(out),
            out / self.target,
            suites=suites_of(asked, entry.suites),
            judges=judges_of(asked.judges, self.judge, models=self.models),
            ranks=entry.ranks,
            modules=entry.modules,
            rho=entry.rho,
            data=self.data.folder(out),
            limit=self.limit,
            system=asked.system,
            format=asked.format,
            max_new_tokens=asked.max_new_tokens,
            paper_exact=asked.paper_exact,
            backend=backend_of(self.compute),
            batch_size=self.compute.batch_size,
            subspace=out / self.subspace,
            seed=self.seed,
            overwrite=not resume,
            progress=progress,
        )


class Plane(Analysis):
    kind = "landscape"
    places = frozenset({"origin", "hardened", "tuned", "hardened_tuned", "judge", "data"})
    unsaid = frozenset({"name", "evaluation", "defence", "attack", "variant", "seed"})
    """Which models it is of is for the steps to say that made them."""
    entry: LandscapeEntry
    origin: Model
    hardened: Model
    tuned: Model
    hardened_tuned: Model

    @property
    def proof(self) -> str:
        return f"{self.target}/{LANDSCAPE}"

    @property
    def models(self) -> int:
        return self.entry.points**2 + CORNERS + 2 * LINE_POINTS * len(self.entry.lines)

    @property
    def suites(self) -> tuple[str, ...]:
        return self.entry.suites or self.asked.suites

    def do(self, out: Path, *, resume: bool, progress: Progress) -> None:
        entry, asked = self.entry, self.asked
        landscape(
            self.origin.reference(out),
            self.hardened.reference(out),
            self.tuned.reference(out),
            self.hardened_tuned.reference(out),
            out / self.target,
            suites=suites_of(asked, entry.suites),
            judges=judges_of(asked.judges, self.judge, models=self.models),
            points=entry.points,
            range_a=entry.range_a,
            range_b=entry.range_b,
            lines=Lines(entry.lines) if entry.lines else None,
            data=self.data.folder(out),
            limit=self.limit,
            system=asked.system,
            format=asked.format,
            max_new_tokens=asked.max_new_tokens,
            backend=backend_of(self.compute),
            batch_size=self.compute.batch_size,
            overwrite=not resume,
            seed=self.seed,
            progress=progress,
        )


class Search(Analysis, OfPair):
    kind = "tune"
    places = frozenset({*OfPair.places, "judge", "attack_data"})
    entry: TuneEntry
    subspace: str
    attack_data: Data

    @property
    def proof(self) -> str:
        return f"{self.target}/{TUNING}"

    @property
    def trainings(self) -> int:
        return self.entry.trials + CONFIRMED

    @property
    def models(self) -> int:
        return 2 * (self.entry.trials + CONFIRMED)

    @property
    def suites(self) -> tuple[str, ...]:
        entry = self.entry
        named = (entry.suite, entry.utility_suite, entry.over_refusal_suite)
        return tuple(dict.fromkeys(name for name in named if name is not None))

    def do(self, out: Path, *, resume: bool, progress: Progress) -> None:
        entry, asked = self.entry, self.asked
        tune(
            self.base.reference(out),
            self.aligned.reference(out),
            out / self.target,
            attack=entry.attack,
            suite=entry.suite,
            utility_suite=entry.utility_suite,
            over_refusal_suite=entry.over_refusal_suite,
            judges=judges_of(asked.judges, self.judge, models=self.models),
            trials=entry.trials,
            ranks=entry.ranks,
            coefs=entry.coefs,
            coef_step=entry.coef_step,
            attack_data=self.attack_data.folder(out),
            attack_steps=entry.attack_steps,
            attack_lr=entry.attack_lr,
            attack_lora=entry.attack_lora,
            data=self.data.folder(out),
            limit=self.limit,
            system=asked.system,
            format=asked.format,
            max_new_tokens=asked.max_new_tokens,
            subspace=out / self.subspace,
            backend=backend_of(self.compute),
            batch_size=self.compute.batch_size,
            overwrite=not resume,
            seed=self.seed,
            progress=progress,
        )
