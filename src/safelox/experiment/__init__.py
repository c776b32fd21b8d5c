"""One recipe, one results folder.

record.py    experiment.json: what it consists of and how far it has got
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

__all__ = [
    "FILE",
    "AnalysisRecord",
    "AttackRecord",
    "CellRecord",
    "DefenceRecord",
    "ExperimentRecord",
    "JudgedRecord",
    "PairRecord",
]
