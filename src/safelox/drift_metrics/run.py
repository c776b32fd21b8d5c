"""`drift`: R_align and R_ft of a base, an aligned and a fine-tuned model, matrix by matrix and overall."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from safelox.delta import prefetch
from safelox.drift_metrics.measure import measure
from safelox.drift_metrics.report import DriftReport, Kind, MatrixDrift, by_layer, by_module, means
from safelox.drift_metrics.triple import open_triple
from safelox.engine import run_side_by_side, worker_count
from safelox.errors import UsageError
from safelox.machine import Clock, MemoryWatch, chosen_device, process_age
from safelox.manifest import CarriedRecord
from safelox.pairing import Matrix, Wish
from safelox.progress import NULL, Progress


def drift(
    base: str,
    aligned: str,
    tuned: str,
    *,
    hardened: str | None = None,
    rank: int = 100,
    subspace: str | Path | None = None,
    overlap: bool = True,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    embeddings: bool = True,
    vocab: Literal["error", "common"] = "error",
    device: str = "cpu",
    workers: int | None = None,
    max_memory: int | None = None,
    allow_pickle: bool = False,
    seed: int = 0,
    command: str | None = None,
    progress: Progress = NULL,
) -> DriftReport:
    """Measure how much of the alignment, and of what fine-tuning left of it, lies in the safety subspace.

    With D_align = W_aligned - W_base, D_ft = W_tuned - W_base and the `rank` leading left singular vectors U of
    D_align, per weight matrix: R_align = ||U U^T D_align|| / ||D_align|| and R_ft = ||U U^T D_ft|| / ||D_ft||. R_ft
    below R_align means that fine-tuning moved the weights away from that subspace. The overall figures are unweighted
    means over linear layers, the output head among them and once if it is tied; embedding tables are not measured.
    Matrices that are no linear layers are averaged apart; all are taken as they are stored. Nothing is written.

    What explains these figures stands beside them: the norms of the deltas; the share of the tuning's energy inside
    the safety subspace; the principal angles between U and the `rank` leading left singular vectors of D_ft.

    Args:
        base, aligned, tuned: model references as in `harden`. TUNED was fine-tuned from ALIGNED, or from a hardened
            ALIGNED; it has ALIGNED's tensors in the same shapes, except that an output head of more or fewer rows is
            matched by token, and rows that not all models have count for nothing.
        hardened: the hardened model, where TUNED was fine-tuned from that. Its R_align, with the same U, stands beside
            ALIGNED's, and the tuning is what became of it.
        rank: directions of the safety subspace; of a matrix that has fewer, all.
        subspace: a file of `decompose`, made from BASE and ALIGNED with at least this rank, that the safety subspace
            is read from; one of more directions than the rank finds the cut between close singular values better.
        overlap: whether to compare U with the leading directions of D_ft too, which takes about as long as all else.
        include, exclude, vocab: as in `harden`.
        embeddings: False leaves out the output head too.
        device, workers, max_memory, allow_pickle, seed: as in `harden`; workers do not change a figure.
        command: what the report says was called.

    Raises:
        UsageError: an argument makes no sense.
        CheckpointError: a model cannot be read, or a value is not finite.
        PairingError: the models, or they and the subspace file, do not belong together.
    """
    if rank < 1:
        raise UsageError(f"the rank must be an integer from 1, not {rank}.")
    clock = Clock(startup=process_age())
    torch_device = chosen_device(device)
    wish = Wish(include, exclude, embeddings, vocab)
    with (
        MemoryWatch() as memory,
        open_triple(
            base,
            aligned,
            tuned,
            hardened,
            wish,
            subspace=None if subspace is None else Path(subspace),
            rank=rank,
            allow_pickle=allow_pickle,
        ) as triple,
    ):
        models = triple.models
        matrices = models.pairing.matrices
        team = worker_count(models, workers, max_memory)
        clock.lap("plan")
        found: dict[str, MatrixDrift] = {}
        with progress.task("drift", sum(matrix.rows * matrix.columns for matrix in matrices), "parameters") as task:

            def work(matrix: Matrix) -> None:
                found[matrix.label] = measure(triple, matrix, rank, seed, torch_device, overlap=overlap)
                task.advance(matrix.rows * matrix.columns, matrix.label)

            def prepare(matrix: Matrix) -> None:
                prefetch(models.base, models.aligned, matrix)
                for later in triple.counterparts:
                    if matrix.name not in later.row_maps:
                        later.checkpoint.prefetch(later.names[matrix.name], matrix.start, matrix.stop)

            run_side_by_side(matrices, work, team, prepare)
        clock.lap("work")
    records = tuple(found[matrix.label] for matrix in matrices)
    others: tuple[Kind, ...] = ("conv1d", "experts", "other")
    return DriftReport(
        base=base,
        aligned=aligned,
        hardened=hardened,
        tuned=tuned,
        rank=rank,
        subspace=None if subspace is None else str(subspace),
        command=command,
        overall=means([record for record in records if record.kind == "linear"]),
        apart={
            kind: means(chosen) for kind in others if (chosen := [record for record in records if record.kind == kind])
        },
        by_layer=by_layer(records),
        by_module=by_module(records),
        matrices=records,
        carried=tuple(CarriedRecord(name=item.name, reason=item.reason) for item in models.pairing.carried),
        notes=models.pairing.notes,
        seconds=clock.seconds,
        peak_memory_bytes=memory.peak_anonymous,
    )
