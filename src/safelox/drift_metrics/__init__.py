"""How much of a fine-tuned model's change lies in the safety subspace: R_align, R_ft and what explains them.

drift.py     the function itself
triple.py    BASE, ALIGNED and TUNED, opened and matched matrix by matrix
measure.py   one matrix
report.py    the results and their means
"""

from safelox.drift_metrics.drift import drift
from safelox.drift_metrics.report import DriftMeans, DriftReport, MatrixDrift

__all__ = ["DriftMeans", "DriftReport", "MatrixDrift", "drift"]
