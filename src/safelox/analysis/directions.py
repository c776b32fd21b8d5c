"""The leading directions of all deltas of a pair, in memory: thin factors that serve every rank."""

from pathlib import Path

import torch

from safelox.delta import DeltaRows
from safelox.engine import Pair
from safelox.lowrank import LowRank
from safelox.methods import Lox
from safelox.pairing import Wish
from safelox.progress import Progress
from safelox.subspace import Subspace, decompose
from safelox.subspace.description import read_description


def read_directions(models: Pair, file: Path, rank: int) -> dict[str, LowRank]:
    """The `rank` leading directions of every matrix, by its label, from a subspace file.

    Raises:
        CheckpointError, UsageError, PairingError: as `Subspace.open` and `Subspace.decompose`.
    """
    factors = {}
    with Subspace.open(file, models, Lox(rank=rank, coef=0.0)) as opened:
        for matrix in models.pairing.matrices:
            delta = DeltaRows(models.base, models.aligned, matrix, torch.device("cpu"))
            factors[matrix.label], _ = opened.decompose(delta, rank)
            delta.release()
    return factors


def make_file(
    base: str,
    aligned: str,
    wish: Wish,
    file: Path,
    rank: int,
    *,
    seed: int,
    overwrite: bool = False,
    force: bool,
    progress: Progress,
) -> None:
    """Decompose a pair into a file, unless an earlier call did, with enough directions.

    Raises:
        SafeloxError: as `decompose`.
    """
    if file.exists() and not overwrite and read_description(file)[0].options.rank >= rank:
        return
    decompose(
        base,
        aligned,
        file,
        rank=rank,
        include=wish.include,
        exclude=wish.exclude,
        embeddings=wish.embeddings,
        vocab=wish.vocab,
        overwrite=True,
        force=force,
        hash_sources=False,
        seed=seed,
        progress=progress,
    )
