"""`top_singular`: which route a matrix takes, and matrices of extreme scale."""

import hashlib
import math
from dataclasses import replace

import torch

from safelox.lowrank.blocks import IllScaledError, RowBlocks, Scaled, block_bounds
from safelox.lowrank.exact import gram_route, svd_route
from safelox.lowrank.krylov import MAX_RANK, Krylov
from safelox.lowrank.result import Certificate, LowRank, Remainder

SMALL = 128
"""Matrices whose smaller dimension is at most this take the plain SVD in fp64."""


def top_singular(matrix: RowBlocks, rank: int, *, name: str = "", seed: int = 0, every_rank: bool = False) -> LowRank:
    """The `rank` leading singular triplets of a matrix, certified.

    Args:
        matrix: (rows, columns), read block by block, one pass a step.
        rank: 1 <= rank <= min(rows, columns).
        name: with `seed` and the shape it seeds the random start, so that the result depends on nothing else.
        every_rank: whether the first k triplets have to meet the tolerances for every k up to the rank.

    Raises:
        ValueError: the rank is out of range, or a value is not finite.
    """
    rows, columns = matrix.shape
    if not 1 <= rank <= min(rows, columns):
        raise ValueError(f"rank must be 1 to {min(rows, columns)} for a {rows} x {columns} matrix, not {rank}")
    digest = hashlib.sha256(f"{seed}\n{name}\n{rows}x{columns}".encode()).digest()
    entropy = int.from_bytes(digest[:7], "little")
    try:
        return _decompose(matrix, rank, entropy, every_rank)
    except IllScaledError:
        extremes = [float(matrix.block(*bounds).abs().max()) for bounds in block_bounds(rows, columns)]
        if not all(math.isfinite(extreme) for extreme in extremes):
            raise ValueError("a value is not finite") from None
        largest = max(extremes)
        if largest == 0.0:
            return _zero(matrix, rank)
        exponent = math.frexp(largest)[1]
        result = _decompose(Scaled(matrix, -exponent), rank, entropy, every_rank)
        return _rescaled(result, exponent)


def _decompose(matrix: RowBlocks, rank: int, entropy: int, every_rank: bool) -> LowRank:
    smaller = min(matrix.shape)
    if smaller <= SMALL:
        return svd_route(matrix, rank)
    if 4 * rank >= smaller or rank > MAX_RANK:
        return gram_route(matrix, rank, sweeps=0)
    krylov = Krylov(matrix, rank, torch.Generator().manual_seed(entropy), every_rank=every_rank)
    result = krylov.run()
    if result is not None:
        return result
    sweeps = krylov.sweeps
    del krylov  # its space is of no more use, and the Gram matrix may be large
    return gram_route(matrix, rank, sweeps=sweeps)


def _rescaled(result: LowRank, exponent: int) -> LowRank:
    certificate = result.certificate
    energy_factor = 2.0 ** (2 * exponent)
    half = exponent // 2
    return LowRank(
        result.left * 2.0**half * 2.0 ** (exponent - half),
        result.singular_values * 2.0**exponent,
        result.right,
        replace(
            certificate,
            energy=certificate.energy * energy_factor,
            captured=certificate.captured * energy_factor,
            lost_bound=certificate.lost_bound * energy_factor,
        ),
        None if result.remainder is None else _rescaled_remainder(result.remainder, energy_factor),
    )


def _rescaled_remainder(remainder: Remainder, factor: float) -> Remainder:
    return Remainder(
        remainder.ritz_values * factor,
        remainder.residuals * factor**2,
        remainder.gains * factor,
        remainder.outside * factor,
    )


def _zero(matrix: RowBlocks, rank: int) -> LowRank:
    rows, columns = matrix.shape
    return LowRank(
        torch.zeros(rows, rank, device=matrix.device),
        torch.zeros(rank, dtype=torch.float64),
        torch.eye(rank, columns, device=matrix.device),
        Certificate("svd", 0.0, 0.0, 0.0, 0.0, 0.0, 1),
    )
