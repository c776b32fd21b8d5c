"""One recipe, one results folder.

record.py    experiment.json: what it consists of and how far it has got
recipe/      what a recipe says
sources.py   who builds a pair that a recipe does not name
works/       the kinds of work, and how each is done
plan/        what a recipe comes to: steps with keys
files.py     files that several processes write
fresh.py     whether there is anything to do at all
execution/   doing what is planned, whoever else is at it
running.py   run: where the above meet
summary.py   what it has found so far: figures, worst cases, published values
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
