"""How much of a fine-tuned model's change lies in the safety subspace: R_align, R_ft and what explains them.

run.py          the function itself
triple.py       the models, opened and matched matrix by matrix
counterpart.py  where HARDENED or TUNED keeps what is measured of ALIGNED
deltas.py       their deltas, in the order of ALIGNED's rows
projection.py   projecting deltas on leading singular vectors, and principal angles
measure.py      one matrix
report.py       the results, their means, by layer and module
picture.py      draw_drift: the same as a picture for print
"""

from safelox.drift_metrics.picture import draw_drift
from safelox.drift_metrics.report import DriftGroup, DriftMeans, DriftReport, MatrixDrift
from safelox.drift_metrics.run import drift

__all__ = ["DriftGroup", "DriftMeans", "DriftReport", "MatrixDrift", "draw_drift", "drift"]
