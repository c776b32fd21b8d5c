"""`--rank auto`: a rank from the spectra alone, without any evaluation.

The stable rank of a delta, ||D||_F^2 / s_1^2, is how many directions as strong as its strongest would hold its energy.
The rule takes the median over the matrices that have a delta, rounded up; all of them get this one rank. It needs one
singular value of each matrix, which is found to a certified error, and says nothing of safety: docs/tune.md holds it
against ranks that were found by asking models.
"""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from safelox.delta import DeltaRows, prefetch
from safelox.engine import Pair, decompose_matrix, run_side_by_side
from safelox.manifest import AutoRank
from safelox.pairing import Matrix
from safelox.progress import Progress
from safelox.spectra.reading import spectrum

RULE = "the median over the matrices of ||D||_F^2 / s_1^2 (stable rank), rounded up"
PLANNED = f"rank auto is found when the weights are read, in a pass of its own: {RULE}"
"""What there is to say before."""


def find_rank(
    models: Pair, subspace: str | Path | None, seed: int, device: torch.device, workers: int, progress: Progress
) -> AutoRank:
    """The rank for a pair, from a subspace file of it, or else by a pass over all its matrices.

    Args:
        seed: of the random starts.
        workers: matrices worked on at once.

    Raises:
        CheckpointError: a value is not finite, or the file is no subspace file or damaged.
    """
    if subspace is None:
        return auto_rank(_measured(models, seed, device, workers, progress))
    labels = {matrix.label for matrix in models.pairing.matrices}
    return auto_rank([matrix.stable_rank for matrix in spectrum(subspace).matrices if matrix.label in labels])


def _measured(models: Pair, seed: int, device: torch.device, workers: int, progress: Progress) -> list[float]:
    """The stable rank of every matrix; NaN for a delta of zero."""
    matrices = models.pairing.matrices
    found: list[float] = []
    with progress.task("find the rank", sum(m.rows * m.columns for m in matrices), "parameters") as task:

        def work(matrix: Matrix) -> None:
            delta = DeltaRows(models.base, models.aligned, matrix, device)
            largest, _ = decompose_matrix(models, seed, delta, 1)
            delta.release()
            strongest = float(largest.singular_values[0]) ** 2
            found.append(largest.certificate.energy / strongest if strongest > 0 else math.nan)
            task.advance(matrix.rows * matrix.columns, matrix.label)

        def prepare(matrix: Matrix) -> None:
            prefetch(models.base, models.aligned, matrix)

        run_side_by_side(matrices, work, workers, prepare)
    return found


def auto_rank(stable_ranks: Sequence[float]) -> AutoRank:
    """The rank for deltas of these stable ranks, NaN for those that are zero."""
    known = [value for value in stable_ranks if not math.isnan(value)]
    middle = statistics.median(known) if known else 1.0
    # Rounding must not make 2 of a stable rank of 1, which a delta of one direction has.
    return AutoRank(rule=RULE, value=middle, rank=max(1, math.ceil(middle - 1e-3)))
