"""Works that measure one model: what it says, and how far it has drifted."""

from pathlib import Path
from typing import Any

from safelox.drift_metrics import drift
from safelox.evaluation import evaluate
from safelox.experiment.files import put
from safelox.experiment.recipe.entries import ComputeEntry, EvaluationEntry, JudgeEntry
from safelox.experiment.works.choices import backend_of, judges_of, machine, said, suites_of
from safelox.experiment.works.work import Data, Model, OfPair, Work
from safelox.progress import Progress


class Evaluate(Work):
    kind = "evaluate"
    places = frozenset({"model", "data", "judge"})  # what judges are is for the plan to say
    model: Model
    entry: EvaluationEntry
    compute: ComputeEntry
    judge: JudgeEntry
    seed: int
    data: Data

    @property
    def proof(self) -> str:
        return f"{self.target}/manifest.json"

    @property
    def models(self) -> int:
        return 1

    @property
    def suites(self) -> tuple[str, ...]:
        return self.entry.suites

    @property
    def limit(self) -> int | None:
        return self.entry.limit

    @property
    def asked(self) -> EvaluationEntry:
        return self.entry

    def decides(self) -> dict[str, Any]:
        return super().decides() | {"entry": said(self.entry), "compute": machine(self.compute)}

    def do(self, out: Path, *, resume: bool, progress: Progress) -> None:
        entry = self.entry
        evaluate(
            self.model.reference(out),
            out / self.target,
            suites=suites_of(entry),
            judges=judges_of(entry.judges, self.judge),
            data=self.data.folder(out),
            limit=entry.limit,
            system=entry.system,
            format=entry.format,
            max_new_tokens=entry.max_new_tokens,
            shots=entry.shots,
            paper_exact=entry.paper_exact,
            temperature=entry.temperature,
            top_p=entry.top_p,
            samples=entry.samples,
            seed=self.seed,
            backend=backend_of(self.compute),
            batch_size=self.compute.batch_size,
            overwrite=not resume,
            progress=progress,
        )


class Drift(OfPair):
    kind = "drift"
    places = frozenset({"base", "aligned", "subspace", "tuned", "hardened"})
    tuned: Model
    hardened: Model | None
    """That `tuned` was fine-tuned from, if it is none of the pair."""
    subspace: str
    rank: int
    overlap: bool
    seed: int
    device: str

    @property
    def proof(self) -> str:
        return self.target

    def do(self, out: Path, *, resume: bool, progress: Progress) -> None:  # noqa: ARG002 (it starts over)
        report = drift(
            self.base.reference(out),
            self.aligned.reference(out),
            self.tuned.reference(out),
            hardened=None if self.hardened is None else self.hardened.reference(out),
            rank=self.rank,
            subspace=out / self.subspace,
            overlap=self.overlap,
            device=self.device,
            seed=self.seed,
            progress=progress,
        )
        put(out / self.target, report.model_dump_json(indent=1) + "\n")
