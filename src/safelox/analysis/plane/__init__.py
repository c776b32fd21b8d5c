"""The plane through an aligned model, its hardened version, and both after fine-tuning, told by replies.

models.py    the four models, matched weight by weight
vectors.py   the moves between them as vectors: the two directions, and where each model lies
grid.py      which points of the plane are asked
noise.py     random directions
weights.py   one model in memory that gets the weights of one spot after another
spots.py     the models that are asked: the four, the grid, and lines
asking.py    asking them, one after the other
summary.py   where the ASR rises along lines, and how safe a model stays under random moves
record.py    the results
wanted.py    lines and random directions as they may be asked for
run.py       landscape: where the above meet
picture.py   draw_landscape: the same as a picture for print
"""

from safelox.analysis.plane.picture import draw_landscape
from safelox.analysis.plane.record import Landscape
from safelox.analysis.plane.run import landscape
from safelox.analysis.plane.wanted import Lines, Randoms

__all__ = ["Landscape", "Lines", "Randoms", "draw_landscape", "landscape"]
