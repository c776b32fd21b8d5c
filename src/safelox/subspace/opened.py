"""`Subspace`: a subspace file, opened for a pair of models, gives the directions that `harden` asks for."""

import hashlib
import math
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from safelox.checkpoint import TensorInfo
from safelox.checkpoint.header import listed
from safelox.checkpoint.values import Values
from safelox.delta import DeltaRows
from safelox.engine import Pair
from safelox.errors import CheckpointError, PairingError, UsageError
from safelox.lowrank import Certificate, LowRank
from safelox.manifest import Route, SourceRecord
from safelox.methods import Lox
from safelox.pairing import Matrix
from safelox.subspace.content import row_map_hash, same_norm, same_sample
from safelox.subspace.description import Description, Entry, read_description


class Subspace:
    """A subspace file that belongs to a pair of models. `decompose` may be called from several threads."""

    def __init__(self, path: Path, models: Pair, description: Description, tensors: dict[str, TensorInfo]) -> None:
        self.path = path
        self.description = description
        self._models = models
        self._tensors = tensors
        self._values = Values()
        self._entries = {entry.label: entry for entry in description.matrices}
        self._same_files = False

    @classmethod
    def open(cls, path: Path, models: Pair, method: Lox) -> Self:
        """Open a file, and check that it holds what is asked for and that it was made from these models.

        Raises:
            CheckpointError: it is no subspace file, or it is damaged.
            UsageError: it holds fewer directions than the method asks for.
            PairingError: it was made from other models, or with other options; all differences are named.
        """
        description, tensors = read_description(path)
        stored = description.options.rank
        if method.rank == "full":
            raise UsageError(
                f"{path} holds the {stored} leading directions of every delta, and rank `full` asks for all: leave "
                f"--subspace out, or use a rank up to {stored}."
            )
        if method.rank > stored:
            raise UsageError(
                f"rank {method.rank} was asked for, but {path} holds {stored} directions: use a rank up to {stored}, "
                f"or decompose again with --rank {method.rank}."
            )
        subspace = cls(path, models, description, tensors)
        problems = subspace._differences()
        if problems:
            sources = f"{description.base.reference} and {description.aligned.reference}"
            raise PairingError(
                f"{path} was decomposed from {sources}, and does not fit BASE {models.base.reference} and ALIGNED "
                f"{models.aligned.reference}:" + "".join(f"\n- {problem}" for problem in problems)
            )
        return subspace

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._values.close()

    def compare_sources(self, base: SourceRecord, aligned: SourceRecord) -> None:
        """Note whether the weights files are the very ones of the decomposition. If not, `decompose` compares norms."""
        recorded = self.description.base, self.description.aligned
        pairs = zip(recorded, (base, aligned), strict=True)
        self._same_files = all(_hashes(one) is not None and _hashes(one) == _hashes(other) for one, other in pairs)

    def decompose(self, delta: DeltaRows, rank: int) -> tuple[LowRank, Route]:
        """The leading `rank` directions of a delta, with their own certificate: an `engine.Decompose`.

        Raises:
            CheckpointError: the directions in the file are damaged.
            PairingError: the delta is not the one that was decomposed.
        """
        entry = self._entries[delta.matrix.label]
        outcome = entry.outcome
        if not self._same_files and not same_norm(
            delta, outcome.delta_norm, outcome.weight_norm, multiplied=self._multiplied(delta.matrix)
        ):
            raise PairingError(
                f"{self.path} was not decomposed from these models: the delta of {entry.label} has changed since. "
                "Decompose again."
            )
        self._check(entry)
        kept = min(rank, entry.kept)
        spectrum = self._read(entry, "spectrum")
        values = spectrum[0, :kept].clone()
        update_error = float(spectrum[2, kept - 1])
        certificate = Certificate(
            route="svd" if outcome.route == "factors" else outcome.route,
            energy=outcome.energy,
            captured=min(outcome.energy, float(values.square().sum())),
            lost_bound=float(spectrum[1, kept - 1]),
            update_error_bound=None if math.isnan(update_error) else update_error,
            failure_probability=outcome.failure_probability,
            sweeps=outcome.sweeps,
        )
        left = self._read(entry, "left")[:, :kept].clone(memory_format=torch.contiguous_format).to(delta.device)
        right = self._read(entry, "right")[:kept].clone().to(delta.device)
        for part in ("left", "right"):
            self._values.release(self._tensors[f"{entry.label}.{part}"])
        return LowRank(left, values, right, certificate), "subspace"

    def _read(self, entry: Entry, part: str) -> torch.Tensor:
        return self._values.rows(self._tensors[f"{entry.label}.{part}"])

    def _check(self, entry: Entry) -> None:
        digest = hashlib.sha256()
        for part in ("spectrum", "left", "right"):
            digest.update(self._values.bytes(self._tensors[f"{entry.label}.{part}"]).numpy().data)
        if digest.hexdigest() != entry.outcome.sha256:
            raise CheckpointError(
                f"{self.path}: the directions of {entry.label} are damaged, since their hash is not the recorded one. "
                "Copy the file again, or decompose again."
            )

    def _differences(self) -> list[str]:
        """What keeps the file from being used for these models, in words."""
        missing, shapes, others, changed = [], [], [], []
        for matrix in self._models.pairing.matrices:
            entry = self._entries.get(matrix.label)
            if entry is None:
                missing.append(matrix.label)
            elif (entry.rows, entry.columns) != (matrix.rows, matrix.columns):
                here = f"{matrix.rows} x {matrix.columns}"
                shapes.append(f"{matrix.label} ({entry.rows} x {entry.columns} in the file, {here} now)")
            elif (entry.base_name, entry.row_map) != (matrix.base_name, row_map_hash(matrix)):
                others.append(matrix.label)
            elif not self._looks_alike(matrix, entry):
                changed.append(matrix.label)
        problems = []
        if missing:
            problems.append(
                f"it does not hold {listed(missing)}: decompose again with the same --include and --exclude as now, "
                "or leave them out here too"
            )
        if shapes:
            problems.append(f"the shapes differ of {listed(shapes)}")
        if others:
            problems.append(
                f"other rows of BASE belong to the rows of {listed(others)}: the vocabularies are paired otherwise"
            )
        if changed:
            problems.append(f"ALIGNED - BASE is another one in {listed(changed)}")
        return problems

    def _looks_alike(self, matrix: Matrix, entry: Entry) -> bool:
        delta = DeltaRows(self._models.base, self._models.aligned, matrix, torch.device("cpu"))
        alike = same_sample(delta, entry.outcome.sample, multiplied=self._multiplied(matrix))
        delta.release()
        return alike

    def _multiplied(self, matrix: Matrix) -> bool:
        """Whether an adapter is multiplied out in the delta of a matrix."""
        sides = (self._models.aligned, matrix.name), (self._models.base, matrix.base_name)
        return any(side.adapter is not None and name in side.adapter.factors for side, name in sides)


def _hashes(source: SourceRecord) -> list[str] | None:
    return None if source.weights is None else sorted(file.sha256 for file in source.weights.values())
