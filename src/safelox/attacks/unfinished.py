"""The folder of an attack that is not finished: OUT.partial, which is kept where there is something to go on from."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from safelox.attacks.checkpoints import FOLDER, resumable
from safelox.attacks.log import LOG_NAME
from safelox.attacks.record import Plan
from safelox.errors import TargetError
from safelox.writer.disk import explained, sync_tree
from safelox.writer.place import Place

KEPT = (FOLDER, LOG_NAME, "runs")
"""What a training that is resumed goes on with; the last is TensorBoard's."""


@contextlib.contextmanager
def unfinished(place: Place, sources: Sequence[Path]) -> Iterator[None]:
    """OUT.partial, locked, which becomes OUT at the end. After an error it is gone, unless it holds a checkpoint.

    Raises:
        TargetError: the result cannot be written there, or another run is writing it.
    """
    with explained(place.out):
        place.open(0, sources)
    try:
        place.recover()
        yield
        with explained(place.out):
            sync_tree(place.folder)
            place.rename()
    except BaseException:
        if resumable(place.folder) is None:
            place.remove()
        raise
    finally:
        place.close()


def begin(place: Place, plan: Plan, *, resume: bool, overwrite: bool) -> None:
    """Clear the folder for a new attack, or of all that the one to be resumed does not need.

    Raises:
        TargetError: an attack with checkpoints is there that is neither to be resumed nor to be overwritten, or that is
            another one than is to be resumed. It stays as it is.
    """
    found = resumable(place.folder)
    if found is not None and resume:
        _check_same(place, plan)
        place.clear(keep=[place.folder / name for name in KEPT])
        return
    if found is not None and not overwrite:
        raise TargetError(
            f"{place.folder}: an unfinished attack is there, with the checkpoint {found.name}. Go on from it with "
            "--resume, or start over with --overwrite."
        )
    place.clear()
    place.journal.restart()
    place.journal.append([plan.model_dump_json()])


@contextlib.contextmanager
def saying_how_to_go_on(folder: Path) -> Iterator[None]:
    """Add to an error of the block that there is a checkpoint, if there is one."""
    try:
        yield
    except Exception as error:
        found = resumable(folder)
        if found is not None:
            error.add_note(f"The checkpoint {found.name} is kept in {folder}: --resume goes on from it.")
        raise


def _check_same(place: Place, plan: Plan) -> None:
    line = place.journal.path.read_text(encoding="utf-8").partition("\n")[0]
    try:
        there = Plan.model_validate_json(line)
    except ValidationError as error:
        raise TargetError(
            f"{place.folder}: an unfinished attack of another version of safelox is there, which cannot be resumed. "
            "Start over with --overwrite, or choose another place."
        ) from error
    differing = [name for name in Plan.model_fields if _essence(there, name) != _essence(plan, name)]
    if differing:
        raise TargetError(
            f"{place.folder}: the unfinished attack that is there is another one; different are: "
            f"{', '.join(name.replace('_', ' ') for name in differing)}. Resume it with its own options, start over "
            "with --overwrite, or choose another place."
        )


def _essence(plan: Plan, name: str) -> object:
    # A model may be called by another path than before.
    return plan.model.weights if name == "model" else getattr(plan, name)
