"""The kinds of work that an experiment consists of: each knows what decides its result, and how it is done.

Models and files of the experiment itself are named by their paths inside its folder.

work.py      what every kind of work is
choices.py   what the library's functions take, from what a recipe says
models.py    pairs, their subspaces, hardened and attacked models
measures.py  what one model says, and how far it has drifted
analyses.py  spectra, rank curves, landscapes, searches
"""

from safelox.experiment.works.analyses import Curve, Plane, Search, Spectrum
from safelox.experiment.works.choices import SAFEINST, find_safeinst, judges_of, suites_of
from safelox.experiment.works.measures import Drift, Evaluate
from safelox.experiment.works.models import Attacked, BuildPair, Decompose, Harden
from safelox.experiment.works.work import Data, Model, Work

__all__ = [
    "SAFEINST",
    "Attacked",
    "BuildPair",
    "Curve",
    "Data",
    "Decompose",
    "Drift",
    "Evaluate",
    "Harden",
    "Model",
    "Plane",
    "Search",
    "Spectrum",
    "Work",
    "find_safeinst",
    "judges_of",
    "suites_of",
]
