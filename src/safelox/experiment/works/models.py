"""Works that make models: pairs, their subspaces, hardened and attacked models."""

import shutil
from pathlib import Path
from typing import Any, Literal

from safelox.attacks import attack
from safelox.attacks.log import LOG_NAME
from safelox.attacks.record import RECORD
from safelox.experiment.recipe.entries import AttackEntry, ComputeEntry
from safelox.experiment.sources import find_source
from safelox.experiment.works.choices import find_safeinst
from safelox.experiment.works.work import Data, Model, OfPair, Work
from safelox.hardening import harden
from safelox.methods import ControlName
from safelox.progress import Progress
from safelox.subspace import decompose


class BuildPair(Work):
    kind = "pair"
    source: str
    seed: int
    options: dict[str, Any]

    @property
    def proof(self) -> str:
        return f"{self.target}/aligned"

    @property
    def trainings(self) -> int:
        return find_source(self.source).trainings

    def do(self, out: Path, *, resume: bool, progress: Progress) -> None:  # noqa: ARG002 (sources look for themselves)
        folder = out / self.target
        folder.mkdir(parents=True, exist_ok=True)
        find_source(self.source).build(folder, self.seed, self.options, progress)


class Decompose(OfPair):
    kind = "decompose"
    rank: int
    seed: int
    device: str

    @property
    def proof(self) -> str:
        return self.target

    def do(self, out: Path, *, resume: bool, progress: Progress) -> None:  # noqa: ARG002 (it starts over)
        file = out / self.target
        file.parent.mkdir(parents=True, exist_ok=True)
        decompose(
            self.base.reference(out),
            self.aligned.reference(out),
            file,
            rank=self.rank,
            seed=self.seed,
            device=self.device,
            overwrite=True,
            progress=progress,
        )


class Harden(OfPair):
    kind = "harden"
    subspace: str | None
    rank: int | Literal["full"]
    coef: float
    control: ControlName | None
    seed: int
    device: str

    @property
    def proof(self) -> str:
        return f"{self.target}/safelox.json"

    def do(self, out: Path, *, resume: bool, progress: Progress) -> None:  # noqa: ARG002 (harden knows by itself)
        harden(
            self.base.reference(out),
            self.aligned.reference(out),
            out / self.target,
            rank=self.rank,
            coef=self.coef,
            control=self.control,
            subspace=None if self.subspace is None else out / self.subspace,
            seed=self.seed,
            device=self.device,
            overwrite=True,
            progress=progress,
        )


class Attacked(Work):
    kind = "attack"
    places = frozenset({"model", "data", "record"})
    model: Model
    entry: AttackEntry
    learning_rate: float
    seed: int
    poison_ratio: float | None
    safeinst: str | None
    """File of safety instructions; "" for the known data set."""
    compute: ComputeEntry
    data: Data
    record: str
    """Folder that keeps the record of the attack when the model is gone."""

    @property
    def proof(self) -> str:
        return f"{self.target}/{RECORD}"

    @property
    def trainings(self) -> int:
        return 1

    def decides(self) -> dict[str, Any]:
        # How it is called, and where the file of harmful rows is, change nothing.
        entry = self.entry.model_dump(mode="json", exclude={"variant": True, "poison": {"file"}})
        return super().decides() | {"entry": entry}

    def do(self, out: Path, *, resume: bool, progress: Progress) -> None:
        entry, lora, data = self.entry, self.entry.lora, self.data.folder(out)
        attack(
            entry.name,
            self.model.reference(out),
            out / self.target,
            data=data,
            format=entry.format,
            poison=None if entry.poison is None else entry.poison.file,
            poison_ratio=self.poison_ratio,
            safeinst=None if self.safeinst is None else find_safeinst(self.safeinst, data),
            paper_exact=entry.paper_exact,
            lora=lora is not None,
            lora_rank=None if lora is None else lora.rank,
            lora_alpha=None if lora is None else lora.alpha,
            lora_targets=None if lora is None else lora.targets,
            merge=lora is not None and lora.merge,
            dtype=self.compute.dtype,
            save_every=entry.save_every,
            keep=None if entry.save_every is None else 1,
            resume=resume,
            seed=self.seed,
            device=self.compute.device,
            overwrite=True,
            progress=progress,
            **(entry.training.changes | {"learning_rate": self.learning_rate}),
        )
        kept = out / self.record
        kept.mkdir(parents=True, exist_ok=True)
        for name in (RECORD, LOG_NAME):
            shutil.copyfile(out / self.target / name, kept / name)
