"""What the library's functions take, from what a recipe says."""

from pathlib import Path
from typing import Any

from safelox.evaluation import Backend, Judge
from safelox.evaluation.generation import find_backend
from safelox.evaluation.judges import MODEL_JUDGES, JudgeOptions, build_judges
from safelox.evaluation.suites import CUSTOM, Suite, with_custom
from safelox.experiment.recipe.entries import ComputeEntry, EvaluationEntry, JudgeEntry
from safelox.known_data import find

SAFEINST = "safeinst"


def suites_of(entry: EvaluationEntry, names: tuple[str, ...] = ()) -> list[str | Suite]:
    """The suites of an evaluation, or those of them that are named.

    Raises:
        SafeloxError: the file of the suite custom is not there, or not asked for.
    """
    wanted = names or entry.suites
    file = entry.suite_file if CUSTOM in wanted or not names else None
    return with_custom(wanted, file, entry.suite_asks if file is not None or not names else None)


def judges_of(names: tuple[str, ...], entry: JudgeEntry, *, models: int = 1) -> list[Judge]:
    """The judges of these names; what is said of models is for those that are models.

    Args:
        models: that they are to judge, each within the budget of one.

    Raises:
        SafeloxError: as `build_judges`.
    """
    if not any(name.partition("=")[0] in MODEL_JUDGES for name in names):
        return build_judges(names)
    budget = None if entry.budget is None else entry.budget * models
    return build_judges(names, JudgeOptions(**dict(entry) | {"budget": budget}))


def find_safeinst(file: str, data: Path | None) -> Path:
    """The file of safety instructions.

    Raises:
        DataError: it is not there.
    """
    return find(SAFEINST, file or "safety_only_data_Instructions.json", Path(file) if file else data).path


def said(entry: EvaluationEntry) -> dict[str, Any]:
    """What of an evaluation decides its outcome: names, and which models are asked, change nothing about one model."""
    return entry.model_dump(mode="json", exclude={"name", "after", "suite_file"})


def machine(compute: ComputeEntry) -> dict[str, Any]:
    return compute.model_dump(mode="json", exclude={"batch_size"})


def backend_of(compute: ComputeEntry) -> Backend:
    return find_backend(device=compute.device, dtype=compute.dtype)
