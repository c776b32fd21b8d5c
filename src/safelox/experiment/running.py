"""`run`: an experiment from its recipe to its results. Imports nothing heavy where all is done already."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safelox.errors import UsageError
from safelox.experiment.fresh import finished_record, source_hash
from safelox.experiment.recipe.shipped import find_recipe
from safelox.experiment.record import ExperimentRecord
from safelox.progress import NULL, Progress

if TYPE_CHECKING:
    from safelox.experiment.plan.forecast import Forecast


class Order(NamedTuple):
    """What is to be run, as it was asked for."""

    recipe: Path
    text: str
    out: Path
    base: str | None
    aligned: str | None
    imports: tuple[str, ...]

    @property
    def asked(self) -> dict[str, Any]:
        """Whatever decides what there is to do, but for the files that are read."""
        return {
            "recipe": self.text,
            "base": self.base,
            "aligned": self.aligned,
            "imports": list(self.imports),
            "data": os.environ.get("SAFELOX_DATA"),
            "code": source_hash(),
        }


def run(
    recipe: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    base: str | None = None,
    aligned: str | None = None,
    jobs: int = 1,
    slice: tuple[int, int] | None = None,
    keep: bool = False,
    imports: Sequence[str] = (),
    command: str | None = None,
    progress: Progress = NULL,
) -> ExperimentRecord:
    """Carry out a recipe: build or find its pairs, harden them, attack, judge and measure every model; all in `out`.

    Every step has a key, made of its parameters, of the keys and hashes of what it reads, and of the code that does it.
    What was done under the same key is not done again: the same call goes on where a run was killed, does nothing where
    all is done, and after a change of the recipe does what hangs on the change. A step that fails holds up only what
    needs it; the record says why, and the next call tries it again.

    Args:
        recipe: a YAML file, or the name of a recipe that comes with safelox.
        out: a new or an empty folder, or one of the same experiment. `experiment.json` in it says how far all is.
        base, aligned: references in place of those of the recipe's one pair.
        jobs: processes that work side by side; with several GPUs each has one of them.
        slice: (i, n), the i-th of n parts, counted from 1: several calls, on several machines too, share one `out`.
        keep: attacked models are not deleted when all that needs them is done.
        imports: modules that register what the recipe names (suites, judges, attacks, pair sources); they are imported
            in every process.
        command: what the record says was called.

    Raises:
        UsageError: the recipe or an argument is wrong, or something that it names is not here; it tells all of that.
        TargetError: `out` holds something else.
    """
    order = _order(recipe, out, base, aligned, imports)
    if jobs < 1:
        raise UsageError(f"jobs {jobs}: at least one process has to work.")
    if slice is not None and not 1 <= slice[0] <= slice[1]:
        raise UsageError(f"slice {slice[0]}/{slice[1]}: expected i/n with i from 1 to n.")
    finished = finished_record(order.out, order.asked)
    if finished is not None:
        progress.message(f"nothing to do: all results are in {out}")
        return finished
    from safelox.experiment.execution.carrying import carry_out

    return carry_out(order, jobs=jobs, part=slice, keep=keep, command=command, progress=progress)


def plan_run(
    recipe: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    base: str | None = None,
    aligned: str | None = None,
    jobs: int = 1,
    imports: Sequence[str] = (),
) -> "Forecast":
    """What `run` would do with the same arguments: nothing is fetched, loaded or written.

    Raises:
        UsageError: the recipe or an argument is wrong. What is merely not here is told in the forecast.
    """
    from safelox.experiment.execution.carrying import look_ahead

    return look_ahead(_order(recipe, out, base, aligned, imports), jobs=jobs)


def _order(
    recipe: str | os.PathLike[str],
    out: str | os.PathLike[str],
    base: str | None,
    aligned: str | None,
    imports: Sequence[str],
) -> Order:
    path = find_recipe(Path(recipe))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}.") from error
    return Order(path, text, Path(out), base, aligned, tuple(imports))
