"""Read a folder of results: an experiment's, or any that holds what the commands write."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from safelox.analysis.curve.report import FILE as RANK_CURVE
from safelox.analysis.curve.report import RankCurve
from safelox.analysis.plane.record import FILE as LANDSCAPE
from safelox.analysis.plane.record import Landscape
from safelox.analysis.search.record import FILE as TUNING
from safelox.analysis.search.record import Tuning
from safelox.drift_metrics.report import FILE as DRIFT
from safelox.drift_metrics.report import DriftReport
from safelox.errors import TargetError
from safelox.evaluation.folder import CONFIG, MANIFEST, RESULTS, SAMPLES, read_config, read_scored
from safelox.evaluation.results import (
    EvaluationConfig,
    EvaluationManifest,
    JudgeResult,
    Results,
    ScoredSample,
    summarise,
)
from safelox.experiment import FILE, AnalysisRecord, CellRecord, DefenceRecord, ExperimentRecord, JudgedRecord
from safelox.manifest import Record
from safelox.reporting.found import BASE, BEFORE, Asked, Found, Model, Replies
from safelox.reporting.words import defence_name
from safelox.spectra.report import FILE as SPECTRUM
from safelox.spectra.report import SpectrumReport

FILES = {"rank-curve": RANK_CURVE, "landscape": LANDSCAPE, "tune": TUNING, "spectrum": SPECTRUM}
"""By the kind of the analysis."""

_R = TypeVar("_R", bound=Record)


def read_folder(folder: Path) -> Found:
    """All results in a folder. What is missing or cannot be read is said in `missing`, and the rest is there.

    Raises:
        TargetError: there is no such folder, it holds no results at all, or experiment.json cannot be read.
    """
    if not folder.is_dir():
        raise TargetError(f"{folder}: no such folder. Name one that `safelox run` or `safelox evaluate` wrote.")
    reader = _Reader(folder)
    found = reader.experiment() if (folder / FILE).is_file() else reader.anything()
    if found.experiment is None and not (found.models or found.analyses):
        raise TargetError(
            f"{folder}: no results here: neither {FILE} nor {', '.join((RESULTS, *FILES.values()))} or {DRIFT} in it "
            f"or in a folder of it.{''.join(f' {text}' for text in found.missing)}"
        )
    return found


@dataclass
class _Reader:
    """Reads one folder, and gathers what it finds and misses on the way."""

    folder: Path
    several_evaluations: bool = False
    replies: dict[Path, Replies | None] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    rank_curves: dict[str, RankCurve] = field(default_factory=dict)
    landscapes: dict[str, Landscape] = field(default_factory=dict)
    tunings: dict[str, Tuning] = field(default_factory=dict)
    spectra: dict[str, SpectrumReport] = field(default_factory=dict)
    drifts: dict[str, DriftReport] = field(default_factory=dict)

    def experiment(self) -> Found:
        record = _parse(self.folder / FILE, ExperimentRecord)
        defences = {defence.name: defence for defence in record.defences}
        several = len({cell.pair for cell in record.cells}) > 1
        self.several_evaluations = len({judged.evaluation for cell in record.cells for judged in cell.judged}) > 1
        seeds = len({cell.attack.seed for cell in record.cells if cell.attack is not None}) > 1
        models = tuple(self._cell(cell, defences, several, seeds) for cell in record.cells)
        for analysis in record.analyses:
            own = analysis.name or analysis.kind
            self._analysis(analysis, f"{own}, {analysis.pair}" if several else own)
        return self._found(record.title or record.name, models, record, self._recipe(record.recipe))

    def anything(self) -> Found:
        """Whatever there is, by the names of its files."""
        models: list[Model] = []
        for path in _walk(self.folder):
            name = self._name(path.parent)
            if path.name == CONFIG:
                replies = self._replies(path.parent)
                if replies is not None:
                    models.append(_bare(name, replies))
                    self._say_unfinished(name, replies)
            else:
                self._take(name, path)
        return self._found(self.folder.resolve().name, tuple(models), None, None)

    def _found(
        self, title: str, models: tuple[Model, ...], experiment: ExperimentRecord | None, recipe: str | None
    ) -> Found:
        return Found(
            title=title,
            experiment=experiment,
            recipe=recipe,
            models=models,
            rank_curves=self.rank_curves,
            landscapes=self.landscapes,
            tunings=self.tunings,
            spectra=self.spectra,
            drifts=self.drifts,
            missing=tuple(self.missing),
        )

    def _analysis(self, analysis: AnalysisRecord, name: str) -> None:
        what = name if name.startswith(analysis.kind) else f"{analysis.kind} {name}"
        if analysis.error is not None or analysis.state == "failed":
            self.missing.append(f"{what} failed: {analysis.error or 'it does not say why'}")
        elif analysis.state == "waiting":
            self.missing.append(f"{what} is not there yet.")
        else:
            self._take(name, self.folder / analysis.folder / FILES[analysis.kind])

    def _take(self, name: str, path: Path) -> None:
        """Read one file by its name."""
        if path.name == RANK_CURVE:
            self.rank_curves |= self._one(name, path, RankCurve)
        elif path.name == LANDSCAPE:
            self.landscapes |= self._one(name, path, Landscape)
        elif path.name == TUNING:
            self.tunings |= self._one(name, path, Tuning)
        elif path.name == SPECTRUM:
            self.spectra |= self._one(name, path, SpectrumReport)
        else:
            own = name if path.name == DRIFT else f"{name}/{path.name.removesuffix(f'.{DRIFT}')}"
            self.drifts |= self._one(own, path, DriftReport)

    def _cell(self, cell: CellRecord, defences: Mapping[str, DefenceRecord], several: bool, seeds: bool) -> Model:
        defence = None if cell.defence is None else defences.get(cell.defence)
        situation = BASE if cell.defence is None else BEFORE
        if cell.attack is not None:
            situation = f"{cell.attack.label}, seed {cell.attack.seed}" if seeds else cell.attack.label
        own = None if defence is None else defence_name(defence)
        name = " · ".join(part for part in (cell.pair if several else None, own, situation) if part)
        if cell.error is not None:
            self.missing.append(f"{name} failed: {cell.error}")
        return Model(
            name=name,
            situation=situation,
            pair=cell.pair,
            defence=defence,
            attack=cell.attack,
            asked=tuple(self._asked(record, name) for record in cell.judged),
            drift=self._drift(cell, name),
            error=cell.error,
        )

    def _drift(self, cell: CellRecord, name: str) -> DriftReport | None:
        if cell.drift is None:
            return None
        if (self.folder / cell.drift).is_file():
            return self._one(name, self.folder / cell.drift, DriftReport).get(name)
        if cell.error is None:
            self.missing.append(f"{name}: its drift has not been measured.")
        return None

    def _asked(self, record: JudgedRecord, name: str) -> Asked:
        folder = self.folder / record.folder
        replies = None
        if (folder / CONFIG).is_file():
            replies = self._replies(folder)
            if replies is not None:
                self._say_unfinished(f"{name}, {record.evaluation}", replies)
        else:
            state = "it could not be judged" if record.state == "failed" else "it has not been asked yet"
            self.missing.append(f"{name}, {record.evaluation}: {state}.")
        shown = record.evaluation if self.several_evaluations else ""
        return Asked(evaluation=shown, expected=record.expected, replies=replies)

    def _replies(self, folder: Path) -> Replies | None:
        """Read once, although several models may share them: safety instructions change no model before an attack."""
        if folder not in self.replies:
            self.replies[folder] = self._read_replies(folder)
        return self.replies[folder]

    def _read_replies(self, folder: Path) -> Replies | None:
        try:
            config = read_config(folder)
            samples = read_scored(folder)
            finished = (folder / MANIFEST).is_file() and (folder / RESULTS).is_file()
            manifest = _parse(folder / MANIFEST, EvaluationManifest) if finished else None
            results = _parse(folder / RESULTS, Results).results if finished else _so_far(config, samples)
        except TargetError as error:
            self.missing.append(str(error))
            return None
        return Replies(self._name(folder), config, manifest, results, tuple(samples))

    def _say_unfinished(self, name: str, replies: Replies) -> None:
        if replies.manifest is None:
            self.missing.append(
                f"{name}: not finished; its rates are those of {len(replies.samples):,} replies so far."
            )

    def _one(self, name: str, path: Path, kind: type[_R]) -> dict[str, _R]:
        try:
            return {name: _parse(path, kind)}
        except TargetError as error:
            self.missing.append(str(error))
            return {}

    def _recipe(self, name: str | None) -> str | None:
        if name is None:
            return None
        try:
            return (self.folder / name).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            self.missing.append(f"the copy of the recipe, {name}, cannot be read: {error.strerror}.")
            return None

    def _name(self, path: Path) -> str:
        relative = path.relative_to(self.folder).as_posix()
        return self.folder.resolve().name if relative == "." else relative


def _bare(name: str, replies: Replies) -> Model:
    asked = Asked(evaluation="", expected={}, replies=replies)
    return Model(name=name, situation=name, pair="", defence=None, attack=None, asked=(asked,), drift=None, error=None)


def _so_far(config: EvaluationConfig, samples: list[ScoredSample]) -> dict[str, dict[str, JudgeResult]]:
    """The rates of an unfinished folder."""
    return {
        suite: {
            judge: summarise(
                [sample.verdicts[judge] for sample in samples if sample.suite == suite],
                own.asks,
                decides=config.decides.get(judge),
                paper_exact=config.paper_exact,
            )
            for judge in own.judges
        }
        for suite, own in config.suites.items()
    }


def _walk(folder: Path) -> Iterator[Path]:
    """The files that say what a folder holds, in the order of their paths. What lies below an analysis or below replies
    belongs to these.

    Raises:
        TargetError: an experiment is in one of its folders.
    """
    for place, folders, files in os.walk(folder):
        names = set(files)
        path = Path(place)
        if FILE in names:
            raise TargetError(f"{folder}: there is an experiment in it: name its own folder, {path}.")
        own = [name for name in (RANK_CURVE, LANDSCAPE, TUNING) if name in names]
        if own or {CONFIG, SAMPLES} <= names:
            folders.clear()
        folders.sort()
        if not own and {CONFIG, SAMPLES} <= names:
            own = [CONFIG]
        own += [name for name in sorted(names) if name in (SPECTRUM, DRIFT) or name.endswith(f".{DRIFT}")]
        yield from (path / name for name in own)


def _parse(path: Path, kind: type[_R]) -> _R:
    """
    Raises:
        TargetError: the file cannot be read, or is not of this kind.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise TargetError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise TargetError(
            f"{path}: not written by this version of safelox: {where}: {first['msg']}. Run what wrote it again."
        ) from error
