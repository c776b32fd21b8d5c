"""Pairing: which matrices of ALIGNED are extrapolated against which rows of BASE.

Everything is decided from headers, configs and tokenizers, and every problem is reported together, before any work.

pairs.py       the decision as a whole
naming.py      what a tensor's name tells about its part in the model
screening.py   whether two models can belong together at all
selection.py   what the user wants extrapolated, and why the rest is carried
tying.py       input embedding and head: one weight or two
missing.py     why BASE lacks what ALIGNED has
tables.py      the rows of embeddings, where the vocabularies differ
vocabulary.py  tokens of a model, and matching rows by them
matrices.py    one matrix to extrapolate
"""

from safelox.pairing.matrices import Matrix
from safelox.pairing.pairs import Pairing, pair
from safelox.pairing.selection import Carried, Wish
from safelox.pairing.tables import VocabularyPolicy

__all__ = ["Carried", "Matrix", "Pairing", "VocabularyPolicy", "Wish", "pair"]
