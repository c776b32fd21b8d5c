"""Truncated singular value decomposition of a matrix that is read in blocks of rows, with an error certificate.

A block Krylov iteration on H = D^T D (of the family that Halko, Martinsson and Tropp 2011 and Musco and Musco 2015
describe) from a start that a sample of the rows suggests. It does not stop after a fixed number of steps: it stops
when `certificate` proves the result good enough, and gives way to an exact route where that does not come to pass.

The certificate needs a bound of what lies outside the space. It comes from fresh Gaussian probes, which ride along in
the same passes and never enter the space that they judge; residuals alone cannot show that nothing larger was missed.
"""

import math

import torch

from safelox.lowrank.algebra import complement, left_projection, orthonormal_rows, rayleigh_ritz
from safelox.lowrank.blocks import IllScaledError, RowBlocks, sweep
from safelox.lowrank.certificate import FAILURE_PROBABILITY, certify, eigenvalue_bound, ritz_bounds
from safelox.lowrank.result import LowRank, Remainder
from safelox.lowrank.truncation import certify_truncations

MORE_DIRECTIONS = 24
"""The start has at least this many directions more than are asked for: fewer, wider passes are faster."""
FEWER_DIRECTIONS = 8
"""Later passes take the residuals of at least this many Ritz vectors more than are asked for."""
PROBES = 16
"""Width of the probe block; thin products are fastest at multiples of 16."""
MAX_KRYLOV_COLUMNS = 256
"""Size of the Krylov space at which the iteration gives way to an exact route."""
MAX_RANK = MAX_KRYLOV_COLUMNS // 32 * 16 - MORE_DIRECTIONS
"""Largest rank at which the space has room for more than the start: beyond it, the iteration would be in vain."""
MAX_SWEEPS = 16
"""Passes after which it does so."""
SAMPLE_ROWS = 512
"""Most rows that the start looks at; every other row where that is fewer."""
SMALLEST_REFINED = 1e-8
"""Smallest theta_k / theta_1 at which D V is known well enough in fp32 for its directions to be used."""
PROBE_POWER = 2
"""Passes after which probes join the space and fresh ones replace them,"""
MORE_PATIENCE = 1.5
"""each time after so many times as many passes, if"""
MU_IN_THE_WAY = 0.8
"""their bound is still above this share of the k-th Ritz value: a large direction was missed, or the tail is flat."""


class Krylov:
    """The block Krylov iteration. Bases are kept as rows: (p, columns)."""

    def __init__(self, matrix: RowBlocks, rank: int, generator: torch.Generator, *, every_rank: bool = False) -> None:
        """With `every_rank`, the first k directions have to meet the tolerances for every k up to the rank."""
        self.matrix = matrix
        self.rank = rank
        self.every_rank = every_rank
        self.generator = generator
        self.sweeps = 0
        self.energy = 0.0
        self.basis = torch.empty(0, matrix.shape[1], device=matrix.device)
        self.images = self.basis
        self.left = torch.empty(0, matrix.shape[0], device=matrix.device)
        self.probes = self.basis
        self.power = 0
        self.draws = 0

    def run(self) -> LowRank | None:
        """The certified result, or None where the space grew too large without one."""
        block = self._start()
        self._extend(block)  # without probes: they tell more once the space is good
        patience = PROBE_POWER / MORE_PATIENCE
        while len(self.basis) + len(block) <= MAX_KRYLOV_COLUMNS and self.sweeps < MAX_SWEEPS:
            # What the next pass is best spent on.
            block = self.ritz.residuals[: 16 * math.ceil((self.rank + FEWER_DIRECTIONS) / 16)]
            if self.power == 0 or (self.power >= patience and self.mu > MU_IN_THE_WAY * self.theta_k):
                patience *= MORE_PATIENCE
                block = orthonormal_rows(torch.cat([block, self.probes]), self.basis)
                self._draw_probes(torch.cat([self.basis, block]))
            else:
                block = orthonormal_rows(block, self.basis)
            self._extend(block)
            result = self._certified()
            if result is not None:
                return result
        return None

    def _gaussian(self, count: int) -> torch.Tensor:
        values = torch.randn(count, self.matrix.shape[1], generator=self.generator)
        return values.to(self.matrix.device)

    def _start(self) -> torch.Tensor:
        """About the leading right singular vectors of a sample of the rows, as orthonormal rows."""
        rows, _ = self.matrix.shape
        width = 16 * math.ceil((self.rank + MORE_DIRECTIONS) / 16)
        step = max(1, rows // max(8 * width, min(SAMPLE_ROWS, rows // 2)))
        sample = self.matrix.block(0, rows, step)
        if not math.isfinite(float(torch.linalg.vector_norm(sample))):
            raise IllScaledError
        mixture = torch.randn(width, len(sample), generator=self.generator).to(sample) @ sample
        block = orthonormal_rows((mixture @ sample.T) @ sample)
        if len(block) < width:  # a sample of few directions, or of none, says nothing of the other rows
            block = torch.cat([block, orthonormal_rows(self._gaussian(width - len(block)), block)])
        return block

    def _draw_probes(self, space: torch.Tensor) -> None:
        """Fresh probes for the complement of `space`, which the basis will hold after the next pass."""
        self.judged = space
        self.probes = complement(self._gaussian(PROBES), space)
        self.probe_factor = torch.eye(PROBES, dtype=torch.float64)
        self.power = 0
        self.draws += 1

    def _extend(self, block: torch.Tensor) -> None:
        """One pass: the block joins the space, the probes are multiplied by the part of H that `judged` leaves."""
        first = self.sweeps == 0
        image, left, energy = sweep(self.matrix, torch.cat([block, self.probes]), len(block), measure=first)
        self.energy = energy if first else self.energy
        self.sweeps += 1
        self.basis = torch.cat([self.basis, block])
        self.images = torch.cat([self.images, image[: len(block)]])
        self.left = torch.cat([self.left, left])
        self.ritz = rayleigh_ritz(self.basis, self.images)
        if not len(self.probes):
            return
        self.power += 1
        powered = complement(image[len(block) :], self.judged).double()
        gram = powered @ powered.T
        values, vectors = torch.linalg.eigh(gram.cpu())
        # powered = factor^T @ (orthonormal rows): the factors of all powers multiply to the whole norm
        root = values.clamp(min=0).sqrt()
        self.probe_factor = self.probe_factor @ (vectors * root) @ vectors.T
        inverse = torch.where(root > root[-1] * 1e-6, 1 / root, 0.0)
        self.probes = ((vectors * inverse) @ vectors.T).to(powered) @ powered
        self.probes = self.probes.float()

    def _certified(self) -> LowRank | None:
        rank = self.rank
        theta, turned, _, residual_gram = self.ritz
        self.theta_k = float(theta[rank - 1])
        self.mu = eigenvalue_bound(float(torch.linalg.matrix_norm(self.probe_factor, 2)), self.power, PROBES)
        lost, following = ritz_bounds(theta, residual_gram, rank, self.mu, self.energy)
        bounds = (lost, float(theta[rank]) if rank < len(theta) else 0.0, following)
        # D V V^T would do, but U U^T D with U = orth(D V) costs no pass and keeps what the residuals hold as well.
        refined = float(theta[rank - 1]) > SMALLEST_REFINED * float(theta[0])
        residuals = torch.diagonal(residual_gram)[:rank]
        gains = residuals / theta[:rank] if refined else torch.zeros_like(residuals)
        certificate, accepted = certify(
            "krylov",
            theta,
            bounds,
            rank,
            self.energy,
            self.sweeps,
            failure_probability=self.draws * FAILURE_PROBABILITY,
            gain=float(gains.sum()),
        )
        remainder = Remainder(theta[:rank], residuals, gains, following)
        if not accepted or (self.every_rank and not certify_truncations(certificate, remainder)[1]):
            return None
        leading = turned[:rank].float()
        left = leading @ self.left
        if not refined:
            return LowRank(left.T.contiguous(), theta[:rank].sqrt(), leading @ self.basis, certificate, remainder)
        left, values, right = left_projection(left, leading @ self.images)
        return LowRank(left.T.contiguous(), values, right, certificate, remainder)
