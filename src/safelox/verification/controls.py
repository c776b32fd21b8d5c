"""What a control should have been changed by: its random numbers once more, and from there on by a plain route."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from safelox.lowrank import block_bounds
from safelox.manifest import MethodRecord
from safelox.steps import normals
from safelox.verification.reference import Reference, Sides


def control_reference(sides: Sides, method: MethodRecord, reference: Reference) -> Reference:
    """The part that the control has in place of LoX's, as long as that.

    reference: of the part that LoX would extrapolate.
    """
    direction = _direction(sides, method)
    norm = float(direction.norm())
    scale = math.sqrt(reference.energy) / norm if norm else 0.0
    return replace(
        reference,
        route=f"the control {method.control}; its length by {reference.route}",
        basis=None,
        dense=direction * scale,
        gap=1.0,  # of the length, which is well defined whatever the gap
    )


def _direction(sides: Sides, method: MethodRecord) -> Tensor:
    """Where the step of the control leads: (rows, columns), fp64, of any length."""
    matrix = sides.matrix
    _, delta = sides.read(0, matrix.rows)
    if method.control == "full-rank":
        return delta
    unknown = slice(0, 0) if matrix.row_map is None else matrix.row_map < 0
    if method.control == "noise":
        noise = torch.cat(
            [
                normals(matrix, method.control, method.seed, (stop - start, matrix.columns), start)
                for start, stop in block_bounds(matrix.rows, matrix.columns)
            ]
        ).to(torch.float64)
        noise[unknown] = 0.0
        return noise
    assert method.control is not None
    assert method.rank != "full"
    draw = normals(matrix, method.control, method.seed, (min(method.rank, matrix.rows), matrix.rows))
    columns = draw.T.to(torch.float64)
    columns[unknown] = 0.0
    basis = torch.linalg.qr(columns).Q
    projected: Tensor = basis @ (basis.T @ delta)
    return projected
