"""The choice of the rank and the coefficient, by trying: least ASR after an attack, most utility before it.

record.py     what tune.json holds
space.py      the points that may be tried
study.py      Optuna's study in a file: proposes points
prompts.py    the suites, split in a half to search on and one to confirm on
bounds.py     what a point must keep of the aligned model
bench.py      makes the model of a point, attacks it and asks it
choice.py     the Pareto set, and the point that is recommended
trying.py     the search itself, and the confirmation
settings.py   the folder of a search, and what decides that it is the same one
picture.py    draw_tuning: the same as a picture for print
run.py        tune: where the above meet
"""

from safelox.analysis.search.picture import draw_tuning
from safelox.analysis.search.prompts import named_suite
from safelox.analysis.search.record import Recommendation, Trial, Tuning
from safelox.analysis.search.run import tune

__all__ = ["Recommendation", "Trial", "Tuning", "draw_tuning", "named_suite", "tune"]
