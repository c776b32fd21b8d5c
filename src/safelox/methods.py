"""What to do with the delta of a matrix. Pure maths: numbers in, tensors out."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch

from safelox.errors import UsageError

COLUMN_MULTIPLE = 8
"""Thin products are fastest with a multiple of so many columns; others are filled up with zeros, which add nothing."""


@dataclass(frozen=True)
class Lox:
    """Low-Rank Extrapolation: W_aligned + coef * U_k S_k V_k^T, with U S V^T = SVD(W_aligned - W_base).

    Perin et al., "LoX: Low-Rank Extrapolation Robustifies LLM Safety Against Fine-tuning", COLM 2025, section 4.

    Raises:
        UsageError: the rank or the coefficient makes no sense.
    """

    rank: int | Literal["full"]
    """Number of leading singular directions to extrapolate, or "full" for the whole delta (the official k = 0)."""
    coef: float
    """The paper's alpha: the leading directions end up (1 + coef) times as large."""

    def __post_init__(self) -> None:
        if self.rank == 0:
            raise UsageError(
                "rank 0 would extrapolate nothing. The paper's code takes k=0 for the whole delta: "
                "if you mean that, ask for rank `full`."
            )
        if self.rank != "full" and (type(self.rank) is not int or self.rank < 0):
            raise UsageError(f"the rank must be an integer from 1, or `full`, not {self.rank!r}.")
        if not abs(self.coef) <= torch.finfo(torch.float32).max:
            raise UsageError(f"the coefficient must be a finite number, not {self.coef}.")
        if self.coef < 0:
            raise UsageError(
                f"the coefficient must not be negative, but is {self.coef}: extrapolating away from the aligned model "
                "would weaken its safety, which safelox does not do."
            )

    def takes_whole(self, rows: int, columns: int) -> bool:
        """Whether a matrix is extrapolated as a whole, since it has no more directions than asked for."""
        return self.rank == "full" or min(rows, columns) <= self.rank

    def check_rank(self, shapes: Iterable[tuple[int, int]]) -> None:
        """Refuse a rank at which every one of these matrices would be taken whole.

        Raises:
            UsageError: no matrix has more directions than asked for.
        """
        largest = max(min(shape) for shape in shapes)
        if self.rank != "full" and largest <= self.rank:
            raise UsageError(
                f"rank {self.rank} is not below the smaller dimension of any selected matrix, at most {largest}: "
                "all would be taken whole. Use a smaller rank, or rank `full` if you mean the whole delta."
            )


def padded(factors: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, k) and (k, columns) with k filled up to a multiple of COLUMN_MULTIPLE by zeros."""
    left, right = factors
    missing = -left.shape[1] % COLUMN_MULTIPLE
    if not missing:
        return left, right
    return (
        torch.nn.functional.pad(left, (0, missing)),
        torch.nn.functional.pad(right, (0, 0, 0, missing)),
    )
