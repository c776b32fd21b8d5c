"""An experiment that has something to do: from the order to the steps, and to the processes that do them."""

import importlib
import time
from pathlib import Path
from typing import NamedTuple

from safelox.errors import TargetError, UsageError
from safelox.experiment.execution.collecting import RECIPE_COPY, Header, write_record
from safelox.experiment.execution.marks import Marks, look
from safelox.experiment.execution.side_by_side import work_side_by_side
from safelox.experiment.execution.working import Job, clean, work
from safelox.experiment.files import delete_leftovers, put
from safelox.experiment.fresh import forget_finished, note_finished
from safelox.experiment.plan.digests import Hashes
from safelox.experiment.plan.forecast import Forecast, forecast
from safelox.experiment.plan.making import make_plan
from safelox.experiment.plan.prerequisites import Checked, check
from safelox.experiment.plan.references import not_here
from safelox.experiment.plan.steps import Plan
from safelox.experiment.recipe.entries import Recipe
from safelox.experiment.recipe.reading import Source, read_recipe
from safelox.experiment.record import FILE, ExperimentRecord
from safelox.experiment.running import Order
from safelox.progress import NULL, Progress


class Ready(NamedTuple):
    """An order that was looked at."""

    plan: Plan
    source: Source
    checked: Checked
    hashes: Hashes


def carry_out(
    order: Order, *, jobs: int, part: tuple[int, int] | None, keep: bool, command: str | None, progress: Progress
) -> ExperimentRecord:
    """Do what is not done yet; as `run`."""
    started = time.time()
    ready = prepare(order, progress, fetch=True)
    _check_out(order.out, ready.plan.recipe)
    plan, header = ready.plan, Header(order.text, command)
    put(order.out / RECIPE_COPY, order.text)
    ready.hashes.keep()
    job = Job(order.out, plan, goals_of(plan, part), started, keep)
    write_record(order.out, plan, job.marks, header)

    def record() -> None:
        write_record(order.out, plan, job.marks, header)

    if look(plan.steps, plan.by_id, job.goals, job.marks).ready:
        forget_finished(order.out)
        if jobs == 1:
            work(job, progress, record)
        else:
            work_side_by_side(job, jobs, order.imports, record, progress)
    clean(job)
    delete_leftovers(order.out / "models")
    found = write_record(order.out, plan, job.marks, header)
    goals = [step for step in plan.steps if step.goal]
    if all(job.marks.done(step) for step in goals):
        note_finished(order.out, order.asked, ready.hashes.used, [step.work.proof for step in goals])
    return found


def look_ahead(order: Order, *, jobs: int) -> Forecast:
    """What there is to do; as `plan_run`."""
    ready = prepare(order, NULL, fetch=False)
    told = tuple(f"line {ready.source.line(key)}: {text}" for key, text in ready.checked.missing)
    return forecast(ready.plan, ready.checked, Marks(order.out, time.time()), jobs=jobs, missing=told)


def goals_of(plan: Plan, part: tuple[int, int] | None) -> frozenset[str]:
    """The goals of one part of the plan: cells that stand side by side, so that parts share few hardened models."""
    goals = [step for step in plan.steps if step.goal]
    if part is None:
        return frozenset(step.id for step in goals)
    number, parts = part
    cells = list(dict.fromkeys(step.cell for step in goals))
    mine = set(cells[len(cells) * (number - 1) // parts : len(cells) * number // parts])
    return frozenset(step.id for step in goals if step.cell in mine)


def prepare(order: Order, progress: Progress, *, fetch: bool) -> Ready:
    """Read the recipe, look up all that it names, and plan the steps.

    Args:
        fetch: whether models may be fetched, and files hashed.

    Raises:
        UsageError: something is wrong with the recipe, or, if `fetch`, something is missing.
    """
    for module in order.imports:
        importlib.import_module(module)
    recipe, source = read_recipe(order.recipe)
    recipe = _with_models(recipe, order)
    hashes = Hashes(order.out, work_out=fetch)
    checked = check(recipe, hashes, progress, fetch=fetch)
    source.fail(checked.wrong + (checked.missing if fetch else []))
    assert checked.grid is not None, "nothing is wrong, so the recipe was written out"
    found = {pair.name: not_here(pair) for pair in recipe.pairs if pair.source is None} | checked.found
    return Ready(make_plan(recipe, checked.grid, found, hashes), source, checked, hashes)


def _with_models(recipe: Recipe, order: Order) -> Recipe:
    """The recipe with other models in the place of its one pair's."""
    given = {name: value for name, value in (("base", order.base), ("aligned", order.aligned)) if value is not None}
    if not given:
        return recipe
    if len(recipe.pairs) != 1 or recipe.pairs[0].source is not None:
        raise UsageError(
            f"{order.recipe}: {' and '.join(given)} can only be given for a recipe with one pair that is no source's."
        )
    return recipe.model_copy(update={"pairs": (recipe.pairs[0].model_copy(update=given),)})


def _check_out(out: Path, recipe: Recipe) -> None:
    """
    Raises:
        TargetError: the folder holds something else than this experiment.
    """
    if out.exists() and not out.is_dir():
        raise TargetError(f"{out}: is a file; OUT has to be a folder.")
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / RECIPE_COPY).is_file():
        raise TargetError(
            f"{out}: holds something else than an experiment; OUT has to be a new or an empty folder, or one of the "
            "same experiment."
        )
    if (out / FILE).is_file():
        there = ExperimentRecord.model_validate_json((out / FILE).read_bytes()).name
        if there != recipe.name:
            raise TargetError(f"{out}: holds the experiment {there}, not {recipe.name}. Choose another OUT.")
