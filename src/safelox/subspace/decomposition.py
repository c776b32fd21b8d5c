"""`decompose`: write the leading singular directions of every delta of a pair of models to a file."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

import safelox
from safelox.delta import DeltaRows, exact_factors, prefetch
from safelox.engine import Pair, check_kinship, decompose_matrix, open_pair, run_side_by_side, worker_count
from safelox.errors import UsageError
from safelox.hashing import source_records
from safelox.lowrank import Certificate, truncation_certificates
from safelox.machine import Clock, MemoryWatch, chosen_device, environment, process_age
from safelox.manifest import CarriedRecord
from safelox.pairing import Matrix, Wish
from safelox.progress import NULL, Progress
from safelox.subspace.content import norms, row_map_hash, sample, sampled_rows
from safelox.subspace.description import (
    FORMAT,
    Description,
    Entry,
    Layout,
    Options,
    Outcome,
    padded_header,
    payload_bytes,
    plan_layout,
    widest_outcome,
)
from safelox.subspace.partial import PartialFile
from safelox.summary import DecomposeSummary, SpectrumRecord


def decompose(
    base: str,
    aligned: str,
    file: str | Path,
    *,
    rank: int = 64,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    embeddings: bool = True,
    vocab: Literal["error", "common"] = "error",
    device: str = "cpu",
    workers: int | None = None,
    max_memory: int | None = None,
    overwrite: bool = False,
    force: bool = False,
    allow_pickle: bool = False,
    hash_sources: bool = True,
    seed: int = 0,
    command: str | None = None,
    progress: Progress = NULL,
) -> DecomposeSummary:
    """Write the safety subspace to `file`: the leading singular directions of W_aligned - W_base, matrix by matrix.

    `harden(..., subspace=file)` then needs no decomposition, for any rank up to this one and any coefficient. The file
    appears under its name once it is whole. Its bytes depend on the models and on the arguments that are said to be
    recorded in it, not on the number of workers or threads.

    Args:
        base, aligned, include, exclude, embeddings, vocab: as in `harden`; recorded.
        file: a safetensors file, described in `safelox.subspace`; its folder has to exist.
        rank: directions to keep of every matrix that has so many; recorded.
        workers: matrices worked on at once; the number of cores by default.
        max_memory: bytes of anonymous memory that must do; by default 1 GB and twice the largest tensor in fp32.
        overwrite: whether a subspace file that is there may be replaced.
        force: go on although the delta is zero, or as large as the weights.
        hash_sources: record the hashes of the weights, by which `harden` knows the models again without reading BASE.
        seed: of the random starts; recorded.
        command: what the summary says was called.

    Raises:
        SafeloxError: one of its kinds; nothing then stands under the file's name that was not there before.
    """
    if rank < 1:
        raise UsageError(f"the rank must be an integer from 1, not {rank}. Rank `full` needs no subspace file.")
    clock = Clock(startup=process_age())
    torch_device = chosen_device(device)
    options = Options(
        rank=rank, include=tuple(include), exclude=tuple(exclude), embeddings=embeddings, vocab=vocab, seed=seed
    )
    wish = Wish(include, exclude, embeddings, vocab)
    with MemoryWatch() as memory, open_pair(base, aligned, wish, allow_pickle=allow_pickle) as models:
        team = worker_count(models, workers, max_memory)
        if not force:
            check_kinship(models)
        entries = [_planned(models, matrix, rank) for matrix in models.pairing.matrices]
        with PartialFile(Path(file), payload_bytes(entries), overwrite=overwrite, sources=models.folders) as partial:
            clock.lap("plan")
            sources = source_records(models.base, models.aligned, hash_sources, progress)
            clock.lap("hash_sources")
            description = Description(
                format=FORMAT,
                safelox=safelox.__version__,
                options=options,
                environment=environment(torch_device),
                base=sources[0],
                aligned=sources[1],
                matrices=tuple(entries),
            )
            layout = plan_layout(description)
            writer = _Writer(models, seed, torch_device, layout, partial)
            entries = writer.run(entries, team, progress)
            clock.lap("work")
            description = description.model_copy(update={"matrices": tuple(entries)})
            partial.finish(padded_header(description, layout.header_size))
            clock.lap("finish")
    return DecomposeSummary(
        file=str(file),
        rank=rank,
        command=command,
        matrices=tuple(map(writer.spectrum_record, entries)),
        carried=tuple(CarriedRecord(name=item.name, reason=item.reason) for item in models.pairing.carried),
        notes=models.pairing.notes,
        seconds=clock.seconds,
        peak_memory_bytes=memory.peak_anonymous,
        bytes_written=layout.size,
    )


def _planned(models: Pair, matrix: Matrix, rank: int) -> Entry:
    """The entry of a matrix before the work."""
    factors = exact_factors(models.base, models.aligned, matrix)
    return Entry(
        name=matrix.name,
        expert=matrix.expert,
        rows=matrix.rows,
        columns=matrix.columns,
        base_name=matrix.base_name,
        row_map=row_map_hash(matrix),
        kept=min(rank, matrix.rows, matrix.columns, rank if factors is None else len(factors.a)),
        outcome=widest_outcome(len(sampled_rows(matrix.rows))),
    )


@dataclass
class _Writer:
    """Decomposes matrices and writes their directions where they belong."""

    models: Pair
    seed: int
    device: torch.device
    layout: Layout
    file: PartialFile
    singular_values: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """By label."""

    def run(self, entries: Sequence[Entry], workers: int, progress: Progress) -> list[Entry]:
        """The entries with their outcomes."""
        finished: dict[str, Entry] = {}
        matrices = {matrix.label: matrix for matrix in self.models.pairing.matrices}
        with progress.task("decompose", sum(entry.rows * entry.columns for entry in entries), "parameters") as task:

            def work(entry: Entry) -> None:
                finished[entry.label] = entry.model_copy(update={"outcome": self._write(entry, matrices[entry.label])})
                task.advance(entry.rows * entry.columns, entry.label)

            def prepare(entry: Entry) -> None:
                prefetch(self.models.base, self.models.aligned, matrices[entry.label])

            run_side_by_side(entries, work, workers, prepare)
        return [finished[entry.label] for entry in entries]

    def spectrum_record(self, entry: Entry) -> SpectrumRecord:
        outcome = entry.outcome
        return SpectrumRecord(
            name=entry.name,
            expert=entry.expert,
            rows=entry.rows,
            columns=entry.columns,
            route=outcome.route if outcome.energy else "zero",
            delta_norm=outcome.delta_norm,
            weight_norm=outcome.weight_norm,
            singular_values=self.singular_values[entry.label],
            energy_kept=outcome.captured / outcome.energy if outcome.energy else math.nan,
        )

    def _write(self, entry: Entry, matrix: Matrix) -> Outcome:
        delta = DeltaRows(self.models.base, self.models.aligned, matrix, self.device)
        result, route = decompose_matrix(self.models, self.seed, delta, entry.kept, every_rank=True)
        certificates = truncation_certificates(result)
        digest = hashlib.sha256()
        for part, values in (
            ("spectrum", _spectrum(result.singular_values, certificates)),
            ("left", result.left),
            ("right", result.right),
        ):
            data = values.cpu().contiguous().numpy().data
            digest.update(data)
            self.file.write(self.layout.starts[f"{entry.label}.{part}"], data)
        self.singular_values[entry.label] = tuple(result.singular_values.tolist())
        delta_norm, weight_norm = norms(delta)
        whole = result.certificate
        outcome = Outcome(
            route="factors" if route == "factors" else whole.route,
            energy=whole.energy,
            captured=whole.captured,
            lost_bound=whole.lost_bound,
            update_error_bound=whole.update_error_bound,
            failure_probability=whole.failure_probability,
            sweeps=whole.sweeps,
            delta_norm=delta_norm,
            weight_norm=weight_norm,
            sample=sample(delta),
            sha256=digest.hexdigest(),
        )
        delta.release()
        return outcome


def _spectrum(singular_values: torch.Tensor, certificates: Sequence[Certificate]) -> torch.Tensor:
    """(3, k), fp64: singular values, bounds of the energy lost, bounds of the update's error or NaN."""
    updates = [certificate.update_error_bound for certificate in certificates]
    rows = [
        singular_values.tolist(),
        [certificate.lost_bound for certificate in certificates],
        [math.nan if update is None else update for update in updates],
    ]
    return torch.tensor(rows, dtype=torch.float64)
