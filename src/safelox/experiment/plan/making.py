"""From a recipe to its plan."""

from collections.abc import Mapping

from safelox.experiment.plan.digests import Hashes
from safelox.experiment.plan.grid import Grid
from safelox.experiment.plan.pair_steps import PairSteps
from safelox.experiment.plan.references import Found
from safelox.experiment.plan.steps import Analysis, Cell, Plan, Steps
from safelox.experiment.recipe.entries import Recipe


def make_plan(recipe: Recipe, grid: Grid, found: Mapping[str, Found], hashes: Hashes) -> Plan:
    """The steps of a recipe.

    Args:
        found: the pairs that the recipe names, by name.
        hashes: of the files that are read.
    """
    steps = Steps()
    cells: list[Cell] = []
    analyses: list[Analysis] = []
    for pair in grid.pairs:
        own = PairSteps(steps, recipe, grid, pair, found.get(pair.name), hashes)
        cells.append(own.cell(None, None))
        for defence in grid.defences:
            cells += [own.cell(defence, attack) for attack in (None, *grid.attacks)]
        analyses += own.analyses()
    return Plan(recipe, grid, found, steps.all, tuple(cells), tuple(analyses))
