"""Which model of an experiment a folder holds, and what of the experiment is not done."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from safelox.errors import TargetError
from safelox.evaluation.folder import CONFIG, read_config
from safelox.experiment.record import (
    FILE,
    AttackRecord,
    CellRecord,
    DefenceRecord,
    ExperimentRecord,
    PairRecord,
)
from safelox.hashing import hash_files
from safelox.manifest import FileRecord, Manifest
from safelox.progress import Progress


@dataclass(frozen=True)
class Subject:
    """The hardened model in the experiment."""

    folder: Path
    """Of the experiment."""
    experiment: ExperimentRecord
    pair: PairRecord
    defence: DefenceRecord

    def cells(self) -> Iterator[tuple[CellRecord | None, CellRecord | None]]:
        """The model that was not hardened and this one, before an attack and after each; None where there is none."""
        plain = next((one.name for one in self.experiment.defences if one.method == "none"), None)
        sides = {
            name: {_setting(cell.attack): cell for cell in self.experiment.cells if self._is_own(cell, name)}
            for name in (plain, self.defence.name)
            if name is not None
        }
        own, other = sides[self.defence.name], sides.get(plain or "", {})
        for setting in dict.fromkeys([*other, *own]):
            yield other.get(setting), own.get(setting)

    def _is_own(self, cell: CellRecord, defence: str) -> bool:
        return cell.pair == self.pair.name and cell.defence == defence


def read_experiment(folder: Path) -> ExperimentRecord:
    """
    Raises:
        TargetError: there is no experiment in the folder, or not one of this version.
    """
    path = folder / FILE
    try:
        return ExperimentRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise TargetError(f"{path}: not the record of an experiment by this version of safelox.") from error


def find_subject(
    folder: Path, experiment: ExperimentRecord, hardened: Path, manifest: Manifest, progress: Progress
) -> Subject:
    """The hardened model in the experiment: the one whose replies were judged had these weights, to the byte.

    Raises:
        TargetError: the folder's weights are not those of its manifest, it is a control, or the experiment has asked no
            model with these weights.
    """
    if manifest.method.control is not None:
        raise TargetError(f"{hardened}: this is a control ({manifest.method.control}), not a hardened model.")
    weights = {name: hardened / name for name in manifest.files if name.endswith(".safetensors")}
    missing = [name for name, path in weights.items() if not path.is_file()]
    if missing:
        raise TargetError(f"{hardened}: {', '.join(missing)} of its manifest is missing, so nothing can be said of it.")
    found = hash_files(weights, "hash the model", progress)
    for name, record in found.items():
        if record != manifest.files[name]:
            raise TargetError(
                f"{hardened / name}: other contents than its manifest says, so it is no longer what safelox wrote. "
                "`safelox verify` tells more."
            )
    asked = []
    for cell in experiment.cells:
        defence = next((one for one in experiment.defences if one.name == cell.defence), None)
        if defence is None or defence.method != "lox" or cell.attack is not None:
            continue
        for judged in cell.judged:
            config = folder / judged.folder / CONFIG
            if not config.is_file():
                continue
            if _same_weights(read_config(config.parent).model.files, found, manifest):
                return Subject(folder, experiment, _pair(experiment, cell), defence)
            asked.append(f"{cell.pair}, {defence.name}")
    known = ", ".join(dict.fromkeys(asked)) or "none yet"
    raise TargetError(
        f"{hardened}: the experiment in {folder} has asked no hardened model with these weights. It has asked, before "
        f"any attack: {known}."
    )


def undone(experiment: ExperimentRecord) -> list[str]:
    """What is not done, in words; nothing where all is."""
    found = []
    for cell in experiment.cells:
        label = (
            f"{cell.pair}, {cell.defence or 'base model'}, {'no attack' if cell.attack is None else cell.attack.label}"
        )
        if cell.attack is not None:
            label += f", seed {cell.attack.seed}"
        found += [f"{label}: {one.evaluation} is {one.state}" for one in cell.judged if one.state != "done"]
        if cell.drift is not None and cell.drift_state != "done":
            found.append(f"{label}: drift is {cell.drift_state}")
        if cell.error is not None and all(one.state == "done" for one in cell.judged):
            found.append(f"{label}: {cell.error}")
    return found + [f"{one.kind} {one.name}: {one.state}" for one in experiment.analyses if one.state != "done"]


def _same_weights(asked: dict[str, FileRecord], found: dict[str, FileRecord], manifest: Manifest) -> bool:
    # An adapter was asked on top of ALIGNED, whose weights are those of its sources then.
    mark = "+" if manifest.kind == "adapter" else ""
    sought = {f"{mark}{name}": record for name, record in found.items()}
    own = {name: record for name, record in asked.items() if name.endswith(".safetensors") and name.startswith(mark)}
    return own == sought


def _pair(experiment: ExperimentRecord, cell: CellRecord) -> PairRecord:
    return next(pair for pair in experiment.pairs if pair.name == cell.pair)


def _setting(attack: AttackRecord | None) -> tuple[str, str, int] | None:
    return None if attack is None else (attack.name, attack.variant, attack.seed)
