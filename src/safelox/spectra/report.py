"""What `spectrum` returns: a record of every matrix, and their means by layer and module.

Of a delta D with singular values s_1 >= s_2 >= ..., p_i = s_i^2 / ||D||_F^2 is the share of its energy in direction i.
A subspace file holds the K leading values and ||D||_F, and these give

    energy at k    p_1 + ... + p_k, for every k up to K
    stable rank    ||D||_F^2 / s_1^2 = 1 / p_1
    entropy rank   exp(-sum p_i ln p_i) over all i: how many directions of equal energy would be as spread out

exactly, up to the certified error of the decomposition, but for the entropy rank where K is below the number of
singular values. Then it is bounded from both sides: the energy that is left, in values of at most s_K each, has the
least entropy in as few of them as can hold it, and the most when it is spread evenly over all that there are.
"""

import math
from collections.abc import Mapping, Sequence

from safelox.manifest import Record

FILE = "spectrum.json"
"""What it is kept as in a folder of results."""


class MatrixSpectrum(Record):
    """One matrix; NaN in what a delta of zero leaves undefined."""

    name: str
    expert: int | None
    layer: int | None
    """Number of its layer, from 0; None outside all layers."""
    module: str
    """What it is in its layer, such as `self_attn.q_proj`."""
    rows: int
    columns: int
    delta_norm: float
    """||D||_F."""
    weight_norm: float
    """||W_aligned||_F."""
    singular_values: tuple[float, ...]
    """The K leading ones, descending."""
    energy: tuple[float, ...]
    """Energy at k, for k = 1 to K."""
    stable_rank: float
    entropy_rank_low: float
    """Lower bound of the entropy rank;"""
    entropy_rank_high: float
    """and upper bound: the same where the K values are all that there are."""

    @property
    def label(self) -> str:
        """The tensor's name, with the expert's number where there is one."""
        return self.name if self.expert is None else f"{self.name}[{self.expert}]"

    def energy_at(self, rank: int) -> float:
        """Energy of the `rank` leading directions, or of all that are known where the matrix has fewer."""
        return self.energy[min(rank, len(self.energy)) - 1]


class SpectrumMeans(Record):
    """Some matrices together: unweighted means over those with a delta, NaN where there are none."""

    matrices: int
    zero_deltas: int
    """Left out of the means."""
    relative_norm: float
    """||D|| / ||W_aligned||, each over all matrices as one vector."""
    energy_at: Mapping[int, float]
    """Rank -> energy of so many leading directions."""
    stable_rank: float
    entropy_rank_low: float
    entropy_rank_high: float


class SpectrumGroup(Record):
    """The matrices of one layer, or of one module in all layers."""

    layer: int | None
    """None for matrices outside all layers, and for those of one module."""
    module: str | None
    """None for all of a layer."""
    means: SpectrumMeans


class SpectrumReport(Record):
    """The outcome of `spectrum`."""

    file: str
    base: str
    aligned: str
    rank: int
    """Directions that the file holds of every matrix that has so many."""
    ranks: tuple[int, ...]
    """At which the means give the energy, ascending."""
    command: str | None
    """What was called, where the caller said so."""
    overall: SpectrumMeans
    by_layer: tuple[SpectrumGroup, ...]
    """In the order of the layers; what is outside all layers comes last."""
    by_module: tuple[SpectrumGroup, ...]
    """In the order in which the file first names them."""
    matrices: tuple[MatrixSpectrum, ...]


def entropy_rank_bounds(energies: Sequence[float], total: float, count: int) -> tuple[float, float]:
    """Bounds of the entropy rank of a spectrum of which only the leading values are known.

    Args:
        energies: squares of these, descending.
        total: sum of the squares of all; what rounding leaves it below the sum of `energies` is no energy.
        count: how many singular values there are.
    """
    known = math.fsum(energies)
    rest = max(0.0, total - known)
    others = count - len(energies)
    if not others:
        rest = 0.0
    whole = known + rest
    head = math.fsum(_term(energy / whole) for energy in energies)
    if not rest:
        return math.exp(head), math.exp(head)
    largest = min(energies[-1], rest) or rest / others
    full = min(int(rest / largest), others)
    fewest = full * _term(largest / whole) + _term(max(0.0, rest - full * largest) / whole)
    most = others * _term(rest / others / whole)
    return math.exp(head + min(fewest, most)), math.exp(head + most)


def means(matrices: Sequence[MatrixSpectrum], ranks: Sequence[int]) -> SpectrumMeans:
    """The means over some matrices."""
    changed = [matrix for matrix in matrices if matrix.delta_norm]
    delta = math.hypot(*(matrix.delta_norm for matrix in matrices))
    weight = math.hypot(*(matrix.weight_norm for matrix in matrices))
    return SpectrumMeans(
        matrices=len(changed),
        zero_deltas=len(matrices) - len(changed),
        relative_norm=delta / weight if weight else math.nan,
        energy_at={rank: _mean([matrix.energy_at(rank) for matrix in changed]) for rank in ranks},
        stable_rank=_mean([matrix.stable_rank for matrix in changed]),
        entropy_rank_low=_mean([matrix.entropy_rank_low for matrix in changed]),
        entropy_rank_high=_mean([matrix.entropy_rank_high for matrix in changed]),
    )


def by_layer(matrices: Sequence[MatrixSpectrum], ranks: Sequence[int]) -> tuple[SpectrumGroup, ...]:
    """The layers in their order; what is outside all layers comes last."""
    layers = sorted({matrix.layer for matrix in matrices}, key=lambda layer: (layer is None, layer or 0))
    return tuple(
        SpectrumGroup(layer=layer, module=None, means=means([m for m in matrices if m.layer == layer], ranks))
        for layer in layers
    )


def by_module(matrices: Sequence[MatrixSpectrum], ranks: Sequence[int]) -> tuple[SpectrumGroup, ...]:
    """What the matrices are in their layers, in the order of the matrices."""
    return tuple(
        SpectrumGroup(layer=None, module=module, means=means([m for m in matrices if m.module == module], ranks))
        for module in dict.fromkeys(matrix.module for matrix in matrices)
    )


def _term(share: float) -> float:
    return -share * math.log(share) if share > 0 else 0.0


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
