"""Truncated singular value decomposition with an error certificate. Pure maths: matrices in, thin factors out."""

from safelox.lowrank.blocks import DenseRows, RowBlocks, block_bounds
from safelox.lowrank.decomposition import top_singular
from safelox.lowrank.result import Certificate, LowRank
from safelox.lowrank.truncation import truncation_certificates

__all__ = [
    "Certificate",
    "DenseRows",
    "LowRank",
    "RowBlocks",
    "block_bounds",
    "top_singular",
    "truncation_certificates",
]
