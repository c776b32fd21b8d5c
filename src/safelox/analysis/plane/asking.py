"""Asking the models at all spots, one after the other, and putting what they say where it belongs."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from safelox.analysis.plane.models import FourModels
from safelox.analysis.plane.noise import RandomDirections
from safelox.analysis.plane.record import Line, LinePoint, ModelName, PlacedModel, PlanePoint
from safelox.analysis.plane.spots import Asked, PlannedLine, model_spot
from safelox.analysis.plane.vectors import PLACES, Frame
from safelox.analysis.plane.weights import MovingModel, Spot
from safelox.evaluation import Backend, Results, evaluate
from safelox.evaluation.generation.local import DTYPES
from safelox.evaluation.results import ModelRecord
from safelox.evaluation.running import ModelInMemory, model_record
from safelox.language_models import LanguageModel, load_language_model
from safelox.machine import chosen_device
from safelox.progress import Progress


class LoadedModel:
    """HARDENED, loaded when the first reply is needed that is not there yet, and given the weights of the spots."""

    def __init__(self, models: FourModels, directions: RandomDirections, backend: Backend) -> None:
        self._models, self._directions, self._backend = models, directions, backend

    def at(self, spot: Spot) -> LanguageModel:
        return self._moving.at(spot)

    @cached_property
    def _moving(self) -> MovingModel:
        dtype = DTYPES[self._backend.dtype or "fp32"]
        reference = self._models.checkpoints["hardened"].reference
        model, tokenizer = load_language_model(reference, merge=True, dtype=dtype)
        loaded = LanguageModel(model.to(chosen_device(self._backend.device or "cpu")), tokenizer)
        return MovingModel(self._models, loaded, self._directions)


def ask_all(
    wanted: Sequence[Asked],
    loaded: LoadedModel,
    record: ModelRecord,
    folder: Path,
    asking: Mapping[str, Any],
    progress: Progress,
) -> dict[str, Results]:
    """What the models at these spots say, by their folders, each asked once."""
    distinct = {asked.folder: asked for asked in wanted}
    results: dict[str, Results] = {}
    with progress.task("landscape", len(distinct), "models") as task:
        for name, asked in distinct.items():
            model = ModelInMemory(record.model_copy(update={"change": asked.change}), partial(loaded.at, asked.spot))
            results[name] = evaluate(model, folder / name, **asking)
            task.advance(1, name)
    return results


def placed(name: ModelName, reference: str, frame: Frame, results: Mapping[str, Results]) -> PlacedModel:
    a, b, off_plane = frame.coordinates(PLACES[name])
    folder = model_spot(name).folder
    return PlacedModel(
        name=name,
        reference=reference,
        a=a,
        b=b,
        off_plane=off_plane,
        distance=frame.norm(PLACES[name]),
        folder=folder,
        results=results[folder].results,
    )


def plane_points(spots: Sequence[tuple[float, float, Asked]], results: Mapping[str, Results]) -> Iterator[PlanePoint]:
    for a, b, asked in spots:
        yield PlanePoint(a=a, b=b, folder=asked.folder, results=results[asked.folder].results)


def answered_line(line: PlannedLine, results: Mapping[str, Results]) -> Line:
    points = tuple(
        LinePoint(u=u, distance=abs(u) * line.norm, folder=asked.folder, results=results[asked.folder].results)
        for u, asked in line.points
    )
    return Line(**line._asdict() | {"points": points})


def four_records(references: Mapping[ModelName, str], backend: Backend, progress: Progress) -> ModelRecord:
    """Of ORIGIN, with the files of the others beside its own."""
    records = {name: model_record(reference, backend, progress) for name, reference in references.items()}
    files = {f"{name}/{file}": found for name, record in records.items() for file, found in record.files.items()}
    return records["origin"].model_copy(update={"files": files})
