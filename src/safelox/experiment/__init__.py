"""One recipe, one results folder.

record.py            experiment.json: what it consists of and how far it has got
fields.py            the values that keys of a recipe may have
recipe.py            what a recipe may say
analysis_entries.py  what it may say of analyses
reading.py           recipes from YAML, with the line of whatever is wrong
shipped.py           the recipes that come with safelox
sources.py           who builds a pair that a recipe does not name
works/               the kinds of work, and how each is done
references.py        the models that a recipe names
grid.py              its grids, written out
prerequisites.py     whether all that it names is known and here
digests.py           what the key of a step is made of
inputs.py            what steps read besides models
plan.py              the steps, each with its key and what it needs
pair_steps.py        the steps of one pair
planning.py          from a recipe to its plan
forecast.py          what a plan comes to: trainings, replies, disk
files.py             files that several processes write
marks.py             what is done, and what is to be done
claims.py            who works on what
working.py           the loop that every process goes through
side_by_side.py      several processes
collecting.py        experiment.json from the marks
fresh.py             whether there is anything to do at all
carrying.py          an experiment that has something to do
running.py           run: where the above meet
summary.py           what it has found so far: figures, worst cases, published values
"""

from safelox.experiment.record import (
    FILE,
    AnalysisRecord,
    AttackRecord,
    CellRecord,
    DefenceRecord,
    ExperimentRecord,
    JudgedRecord,
    PairRecord,
)
from safelox.experiment.running import plan_run, run

__all__ = [
    "FILE",
    "AnalysisRecord",
    "AttackRecord",
    "CellRecord",
    "DefenceRecord",
    "ExperimentRecord",
    "JudgedRecord",
    "PairRecord",
    "plan_run",
    "run",
]
