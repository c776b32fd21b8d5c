"""What a subspace file tells about the spectra of the deltas: how few directions hold how much of the alignment.

reading.py   spectrum: the singular values of a file, and what follows from them
report.py    the results and their means, by layer and module
picture.py   draw_spectrum: the same as a picture for print
auto.py      find_rank: a rank for the extrapolation, from the spectra of a pair
"""

from safelox.spectra.picture import draw_spectrum
from safelox.spectra.reading import spectrum
from safelox.spectra.report import MatrixSpectrum, SpectrumGroup, SpectrumMeans, SpectrumReport

__all__ = [
    "MatrixSpectrum",
    "SpectrumGroup",
    "SpectrumMeans",
    "SpectrumReport",
    "draw_spectrum",
    "spectrum",
]
