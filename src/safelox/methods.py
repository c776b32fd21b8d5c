"""What to do with the delta of a matrix: LoX, and the controls that it is to be held against."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from safelox.errors import UsageError

LARGEST_COEFFICIENT = (2 - 2**-23) * 2.0**127
"""The largest number of fp32, in which sums are formed."""

ControlName = Literal["full-rank", "random-subspace", "noise"]

CONTROLS: Mapping[ControlName, str] = {
    "full-rank": "along the whole difference from the base model",
    "random-subspace": "along the difference from the base model, projected onto a random subspace",
    "noise": "of Gaussian noise",
}
"""Where the step of each control leads."""


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
        if not abs(self.coef) <= LARGEST_COEFFICIENT:
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


@dataclass(frozen=True)
class Control(Lox):
    """A step that is as long as LoX's in every matrix, in Frobenius norm, but leads elsewhere.

    What a control does to a model as well as LoX does is owed to the length of the step and not to its direction.

    full-rank        the whole delta D, scaled
    random-subspace  Q Q^T D, scaled, with Q (rows, rank) orthonormal and random; D where there are no more rows
    noise            a Gaussian matrix, scaled

    Raises:
        UsageError: as Lox; there is no such control; or it would be LoX itself.
    """

    name: ControlName
    seed: int
    """Of what is random; the name and the shape of the tensor go in as well."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name not in CONTROLS:
            raise UsageError(f"control {self.name!r}: expected one of {', '.join(CONTROLS)}.")
        if self.rank == "full" and self.name != "noise":
            raise UsageError(
                f"at rank `full`, LoX takes the whole delta itself, so that the control {self.name} would be no other "
                "step. Give the rank of the hardening that it is to be held against."
            )


def chosen_method(rank: int | Literal["full"], coef: float, control: ControlName | None, seed: int) -> Lox:
    """LoX, or a control in its place.

    Raises:
        UsageError: it makes no sense.
    """
    return Lox(rank, coef) if control is None else Control(rank, coef, control, seed)
