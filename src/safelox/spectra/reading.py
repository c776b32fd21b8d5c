"""`spectrum`: what a subspace file tells about the spectra of the deltas, without any model."""

import math
from collections.abc import Sequence
from contextlib import closing
from itertools import accumulate
from pathlib import Path

from safelox.checkpoint import TensorInfo
from safelox.checkpoint.values import Values
from safelox.errors import CheckpointError, UsageError
from safelox.pairing.naming import place
from safelox.spectra.report import MatrixSpectrum, SpectrumReport, by_layer, by_module, entropy_rank_bounds, means
from safelox.subspace.description import Entry, read_description

RANKS = (1, 6, 16, 64, 256)
"""At which the energy is shown unless others are asked for: those below the file's rank, and that."""


def spectrum(file: str | Path, *, ranks: Sequence[int] = (), command: str | None = None) -> SpectrumReport:
    """Read the singular values of a subspace file, and say how the energy of the deltas is spread over them.

    Per matrix, by layer, by module and overall: energy at k, stable rank and entropy rank, as `safelox.spectra.report`
    defines them. Takes a moment: neither the models nor the directions themselves are read.

    Args:
        file: what `decompose` wrote.
        ranks: at which the means give the energy; 1, 6, 16, 64, 256 as far as the file goes, and its own, by default.
        command: what the report says was called.

    Raises:
        CheckpointError: it is no subspace file, or it is damaged.
        UsageError: a rank is not one from 1 to that of the file.
    """
    path = Path(file)
    description, tensors = read_description(path)
    stored = description.options.rank
    for rank in ranks:
        if not 1 <= rank <= stored:
            raise UsageError(
                f"the energy at rank {rank} was asked for, but {path} holds {stored} directions: ask for ranks from 1 "
                f"to {stored}, or decompose with --rank {rank}."
            )
    chosen = tuple(sorted(set(ranks))) or (*(rank for rank in RANKS if rank < stored), stored)
    with closing(Values()) as values:
        matrices = tuple(_matrix(path, entry, values, tensors) for entry in description.matrices)
    return SpectrumReport(
        file=str(file),
        base=description.base.reference,
        aligned=description.aligned.reference,
        rank=stored,
        ranks=chosen,
        command=command,
        overall=means(matrices, chosen),
        by_layer=by_layer(matrices, chosen),
        by_module=by_module(matrices, chosen),
        matrices=matrices,
    )


def _matrix(path: Path, entry: Entry, values: Values, tensors: dict[str, TensorInfo]) -> MatrixSpectrum:
    found = values.rows(tensors[f"{entry.label}.spectrum"], 0, 1)[0].tolist()
    if not all(math.isfinite(value) and value >= 0 for value in found) or found != sorted(found, reverse=True):
        raise CheckpointError(
            f"{path}: the singular values of {entry.label} are damaged, since they do not descend. Copy the file "
            "again, or decompose again."
        )
    energies = [value**2 for value in found]
    total = max(entry.outcome.delta_norm**2, math.fsum(energies))
    changed = total > 0 and energies[0] > 0
    low, high = entropy_rank_bounds(energies, total, min(entry.rows, entry.columns)) if changed else (math.nan,) * 2
    layer, module = place(entry.name)
    return MatrixSpectrum(
        name=entry.name,
        expert=entry.expert,
        layer=layer,
        module=module,
        rows=entry.rows,
        columns=entry.columns,
        delta_norm=entry.outcome.delta_norm,
        weight_norm=entry.outcome.weight_norm,
        singular_values=tuple(found),
        energy=tuple(part / total if changed else math.nan for part in accumulate(energies)),
        stable_rank=total / energies[0] if changed else math.nan,
        entropy_rank_low=low,
        entropy_rank_high=high,
    )
