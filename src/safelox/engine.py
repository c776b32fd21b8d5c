"""Opening a pair of models, judging whether they belong together, and working on their matrices side by side."""

import math
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from safelox.checkpoint import Checkpoint, open_checkpoint
from safelox.delta import DeltaRows, exact_factors, prefetch
from safelox.errors import CheckpointError, PairingError, UsageError
from safelox.lowrank import LowRank, block_bounds, top_singular
from safelox.lowrank.decomposition import SMALL
from safelox.lowrank.exact import GRAM_ROWS, LARGE, factored_svd
from safelox.lowrank.krylov import MAX_KRYLOV_COLUMNS
from safelox.lowrank.krylov import SAMPLE_ROWS as START_ROWS
from safelox.machine import resident_memory
from safelox.manifest import Route
from safelox.pairing import Matrix, Pairing, Wish, pair
from safelox.units import format_bytes

T = TypeVar("T")

SAMPLE_ROWS = 16
"""Rows of each matrix that are compared before the work begins."""
LARGEST_RATIO = 0.5
"""Median of ||delta|| / ||W|| above which BASE is taken for another model."""
SMALLEST_RATIO = 1e-6
"""||delta|| / ||W|| below which a matrix counts as unchanged."""
SCRATCH_BYTES = 48 << 20
"""Buffers of one worker, besides what grows with the matrix."""


@dataclass(frozen=True)
class Pair:
    """Two opened models and what is to be done with each tensor of ALIGNED."""

    base: Checkpoint
    aligned: Checkpoint
    pairing: Pairing

    @property
    def folders(self) -> list[Path]:
        """Where the files of both models lie, adapters included."""
        sides = self.base, self.aligned
        return [side.folder for side in sides] + [side.adapter.folder for side in sides if side.adapter is not None]


@contextmanager
def open_pair(base: str, aligned: str, wish: Wish, *, allow_pickle: bool) -> Iterator[Pair]:
    """Open and pair two models; every problem that the headers show is raised here."""
    with (
        open_checkpoint(base, allow_pickle=allow_pickle) as opened_base,
        open_checkpoint(aligned, allow_pickle=allow_pickle) as opened_aligned,
    ):
        yield Pair(opened_base, opened_aligned, pair(opened_base, opened_aligned, wish))


def check_kinship(models: Pair) -> None:
    """Refuse a BASE that ALIGNED can hardly come from, or is a copy of, by a look at some rows of each matrix.

    Raises:
        PairingError: the deltas are zero everywhere, or of the size of the weights.
        CheckpointError: a sampled value is not finite.
    """
    cpu = torch.device("cpu")
    for matrix in models.pairing.matrices:
        prefetch(models.base, models.aligned, matrix, *_sampled(matrix))
    ratios = [
        _ratio(DeltaRows(models.base, models.aligned, matrix, cpu), *_sampled(matrix))
        for matrix in models.pairing.matrices
    ]
    middle = statistics.median(ratios)
    if middle > LARGEST_RATIO:
        raise PairingError(
            "the difference between ALIGNED and BASE is about as large as the weights: the median of "
            f"||delta|| / ||W|| is {middle:.2f} (at most {LARGEST_RATIO} was expected). Is "
            f"{models.base.reference} the model that {models.aligned.reference} was aligned from? If you are sure, "
            "use --force."
        )
    if max(ratios) < SMALLEST_RATIO and not _differs_anywhere(models):
        raise PairingError(
            f"ALIGNED ({models.aligned.reference}) does not differ from BASE ({models.base.reference}) in any selected "
            f"matrix: ||delta|| / ||W|| is below {SMALLEST_RATIO:g} everywhere, so there is no safety subspace to "
            "extrapolate. Are they the same model? If you want that anyway, use --force."
        )


def _sampled(matrix: Matrix) -> tuple[int, int]:
    """The rows that are looked at: some in the middle, since the first of an embedding are of special tokens."""
    start = max(0, (matrix.rows - SAMPLE_ROWS) // 2)
    return start, min(matrix.rows, start + SAMPLE_ROWS)


def _differs_anywhere(models: Pair) -> bool:
    cpu = torch.device("cpu")
    for matrix in models.pairing.matrices:
        delta = DeltaRows(models.base, models.aligned, matrix, cpu)
        if any(_ratio(delta, *bounds) >= SMALLEST_RATIO for bounds in block_bounds(*delta.shape)):
            return True
    return False


def _ratio(delta: DeltaRows, start: int, stop: int) -> float:
    weight = float(torch.linalg.vector_norm(delta.aligned(start, stop), dtype=torch.float64))
    change = float(torch.linalg.vector_norm(delta.block(start, stop), dtype=torch.float64))
    if not (weight < float("inf") and change < float("inf")):
        raise not_finite(delta.matrix.label)
    return change / weight if weight else float(change > 0)


def not_finite(label: str) -> CheckpointError:
    return CheckpointError(
        f"tensor {label}: a value of BASE or ALIGNED is NaN or infinite, so that its delta has no singular values. "
        f"Mend the model, or leave the tensor out with --exclude."
    )


Decompose = Callable[[DeltaRows, int], tuple[LowRank, Route]]
"""Gives the leading directions of a delta, as many as asked for, and the route by which they were found."""


def decompose_matrix(
    models: Pair, seed: int, delta: DeltaRows, rank: int, *, every_rank: bool = False
) -> tuple[LowRank, Route]:
    """The leading `rank` directions of a delta, and the route by which they were found: a `Decompose` once bound.

    Args:
        every_rank: whether the first k directions have to meet the tolerances for every k up to the rank.

    Raises:
        CheckpointError: a value is not finite.
    """
    factors = exact_factors(models.base, models.aligned, delta.matrix)
    if factors is not None:
        if not bool(factors.a.isfinite().all() & factors.b.isfinite().all()):
            raise not_finite(delta.matrix.label)
        kept = min(rank, len(factors.a))
        left, right = (factors.b * factors.scale).to(delta.device), factors.a.to(delta.device)
        return factored_svd(left, right, kept), "factors"
    try:
        result = top_singular(delta, rank, name=delta.matrix.seed_name, seed=seed, every_rank=every_rank)
    except ValueError:
        raise not_finite(delta.matrix.label) from None
    return result, result.certificate.route


def memory_of(matrix: Matrix) -> int:
    """Bytes of anonymous memory that the decomposition of a matrix takes at the worst."""
    smaller = min(matrix.rows, matrix.columns)
    if smaller <= SMALL:  # the matrix, two copies for the solver and the singular vectors, in fp64
        return 32 * matrix.rows * matrix.columns + SCRATCH_BYTES
    # Per direction: its image on the left; basis and images in fp32, both in fp64 and three more of that size.
    krylov = MAX_KRYLOV_COLUMNS * (4 * matrix.rows + 48 * matrix.columns)
    # The Gram matrix, its eigenvectors, and twice that for the solver; of a large one, itself and a copy.
    gram = (8 if smaller > LARGE else 16) * smaller**2
    slab = 12 * GRAM_ROWS * matrix.columns if matrix.rows < matrix.columns else 0
    sample = 12 * START_ROWS * matrix.columns
    # Of the smaller pieces some more, since the allocator does not give back all that is freed.
    return (krylov + slab + sample) * 7 // 5 + gram + SCRATCH_BYTES


def memory_limit(models: Pair) -> int:
    """What is promised where no limit is asked for: 1 GB and twice the largest tensor in fp32."""
    largest = max(4 * math.prod(models.aligned.tensors[matrix.name].shape) for matrix in models.pairing.matrices)
    return 10**9 + 2 * largest


def worker_count(models: Pair, workers: int | None, max_memory: int | None) -> int:
    """How many matrices may be worked on at once.

    Raises:
        UsageError: not even one fits.
    """
    wanted = len(os.sched_getaffinity(0)) if workers is None else workers
    if wanted < 1:
        raise UsageError(f"the number of workers must be at least 1, not {wanted}.")
    hungriest = max(models.pairing.matrices, key=memory_of)
    present = resident_memory()[0]
    limit = memory_limit(models) if max_memory is None else max_memory
    fitting = (limit - present) // memory_of(hungriest)
    if fitting < 1 and max_memory is not None:
        raise UsageError(
            f"--max-memory of {format_bytes(max_memory)} is too little: {hungriest.label} ({hungriest.rows} x "
            f"{hungriest.columns}) needs {format_bytes(present + memory_of(hungriest))}."
        )
    return max(1, min(wanted, fitting))


def run_side_by_side(
    items: Sequence[T], work: Callable[[T], None], workers: int, prepare: Callable[[T], None] | None = None
) -> None:
    """Call `work` on every item, in order, `workers` at a time; the first error ends it once running items are done.

    Each worker computes with one thread: so the result does not depend on the number of threads, and several
    matrices side by side use the cores better than one matrix does. `prepare` is called with an item some time before
    its turn, to start reading it from the disk.
    """

    def work_ahead(index: int) -> None:
        if prepare is not None and index + workers < len(items):
            prepare(items[index + workers])
        work(items[index])

    threads_before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(workers, "safelox", initializer=torch.set_num_threads, initargs=(1,)) as pool:
            futures = [pool.submit(work_ahead, index) for index in range(len(items))]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            finally:
                for future in futures:
                    future.cancel()
    finally:
        torch.set_num_threads(threads_before)
