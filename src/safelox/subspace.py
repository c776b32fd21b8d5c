"""The safety subspace as a file: decompose once, then any (rank, coefficient) costs no decomposition."""

from pathlib import Path
from types import TracebackType
from typing import Self

from safelox.delta import DeltaRows
from safelox.engine import Pair
from safelox.errors import CheckpointError
from safelox.lowrank import LowRank
from safelox.manifest import Route
from safelox.methods import Lox


class Subspace:
    """A subspace file, opened for one pair of models."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, path: Path, models: Pair, method: Lox) -> Self:
        return cls(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def decompose(self, delta: DeltaRows, rank: int) -> tuple[LowRank, Route]:
        raise CheckpointError(f"{self.path}: subspace files are not read yet")
