"""The safety subspace as a file: decompose once, then any rank up to that of the file, and any coefficient, at once.

The file is a safetensors file, so that anyone can read it. Per matrix, under the matrix's label:

    LABEL.spectrum  (3, k) fp64: singular values; and for the first i of the k directions, i = 1 to k, the bounds of the
                    energy lost and of the relative error of the update (NaN where the gap at the cut is too small)
    LABEL.left      (rows, k) fp32: U S
    LABEL.right     (k, columns) fp32: V^T

Its metadata hold one entry, a JSON object that says what was decomposed and how.

description.py     what the file says of itself, and where each tensor lies in it
content.py         by what a pair of models is known again, wherever its files lie
partial.py         the file while it grows
decomposition.py   decompose: writes the file
opened.py          Subspace: reads it for a pair of models
"""

from safelox.subspace.decomposition import decompose
from safelox.subspace.opened import Subspace

__all__ = ["Subspace", "decompose"]
