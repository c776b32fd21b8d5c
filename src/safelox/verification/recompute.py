"""Some matrices once more, by a plain route of their own: what should have been written, and what was."""

import random

import torch
from torch import Tensor

from safelox.checkpoint import DTYPES, Checkpoint
from safelox.manifest import Manifest
from safelox.pairing import Matrix, Wish, pair
from safelox.progress import Progress
from safelox.verification.agreement import Written, compare
from safelox.verification.controls import control_reference
from safelox.verification.reference import Sides, find_reference
from safelox.verification.report import Check, check


def check_recomputed(
    result: Checkpoint,
    base: Checkpoint,
    aligned: Checkpoint,
    manifest: Manifest,
    count: int,
    seed: int,
    progress: Progress,
) -> Check:
    """Whether `count` of the matrices, drawn at random, are what an independent decomposition gives.

    result: the hardened model, or the model under the adapter with the adapter over it.
    """
    method = manifest.method
    pairing = pair(base, aligned, Wish(method.include, method.exclude, method.embeddings, method.vocab))
    paired = {(matrix.name, matrix.expert): matrix for matrix in pairing.matrices}
    records = random.Random(seed).sample(manifest.matrices, min(count, len(manifest.matrices)))
    problems, remarks = [], []
    with progress.task("recompute matrices", len(records), "matrices") as task:
        for record in records:
            matrix = paired.get((record.name, record.expert))
            if matrix is None:
                problems.append(f"{record.name} is not extrapolated by the recorded options")
                continue
            sides = Sides(base, aligned, matrix)
            reference = find_reference(sides, record.rank, seed)
            if method.control is not None:
                reference = control_reference(sides, method, reference)
            agreement = compare(sides, reference, method.coef, _written(result, aligned, matrix, manifest.kind))
            problem = agreement.problem()
            problems += [f"{matrix.label} {problem}"] if problem else []
            remarks.append(f"{matrix.label} ({reference.route}): {agreement}")
            task.advance(1, matrix.label)
    return check("recomputed", problems, "\n".join(remarks))


def _written(result: Checkpoint, aligned: Checkpoint, matrix: Matrix, kind: str) -> Written:
    name, first = matrix.name, matrix.start
    if kind == "model":
        return Written(
            DTYPES[result.tensors[name].dtype], lambda start, stop: result.rows(name, first + start, first + stop)
        )
    assert result.adapter is not None
    dtype = DTYPES[result.adapter.factors[name].right.dtype] if name in result.adapter.factors else torch.float32

    def product(start: int, stop: int) -> Tensor:
        factors = result.lora(name, first + start, first + stop)
        if factors is None:  # a delta of zero needs none
            return torch.zeros(stop - start, matrix.columns, dtype=torch.float64)
        return factors.scale * factors.b.to(torch.float64) @ factors.a.to(torch.float64)

    return Written(dtype, product, "update" if aligned.adapter is None else "delta and update")
