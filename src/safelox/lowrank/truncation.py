"""Certificates of the first k of K directions, for every k, from what is known about the K.

In the terms of `certificate`, let V_k be the first k of the K Ritz vectors that were found and W the other K - k, R_k
and R_w their residuals, and t_K the bound of H on everything outside the K. As there, for every a, b > 0,

    H  <=  diag(Theta_k + R_k^T R_k / a,  Theta_w + R_w^T R_w / b,  t_K + a + b),

and with b(t) = sum_{i in W} ||r_i||^2 / (t - theta_i) the middle block is at most t > theta_{k+1}. Hence

    optimal energy - captured energy  <=  sum_{i <= k} max(0, t - theta_i)  +  ||R_k||_F^2 / (t - t_K - b(t))

wherever that denominator is positive, and the (k+1)-th eigenvalue of H is at most every t with t_K + b(t) <= t.
"""

import math
from dataclasses import replace
from itertools import pairwise

import torch

from safelox.lowrank.certificate import GAP, certify
from safelox.lowrank.result import Certificate, LowRank, Remainder

EPSILON = torch.finfo(torch.float32).eps
STEPS = torch.tensor([0.0, *(4.0**-i for i in range(25))], dtype=torch.float64)
"""Distances above theta_k or theta_{k+1}, as shares of theta_1, at which the bounds are tried."""


def truncation_certificates(result: LowRank) -> list[Certificate]:
    """The certificates of the first k directions of a decomposition, for k = 1 to its rank."""
    whole = result.certificate
    if result.remainder is not None:
        return [*certify_truncations(whole, result.remainder)[0], whole]
    values, captured = result.singular_values.tolist(), result.singular_values.square().cumsum(0).tolist()
    exact = [0.0 if after <= (1 - GAP) * value else None for value, after in pairwise(values)]
    return [*(replace(whole, captured=captured[i], update_error_bound=exact[i]) for i in range(len(exact))), whole]


def certify_truncations(whole: Certificate, remainder: Remainder) -> tuple[list[Certificate], bool]:
    """The certificates of the first k directions for k below the rank, and whether all of them meet the tolerances.

    Args:
        whole: certificate of all directions.
    """
    theta, gains = remainder.ritz_values, remainder.gains.cumsum(0).tolist()
    lost, following = _bounds(remainder, whole.energy)
    mixed = _mixing(theta, whole.energy)
    certificates, all_accepted = [], True
    for k in range(1, len(theta)):
        bounds = (float(lost[k - 1]), float(theta[k]), float(following[k - 1]))
        certificate, accepted = certify(
            whole.route,
            theta,
            bounds,
            k,
            whole.energy,
            whole.sweeps,
            failure_probability=whole.failure_probability,
            gain=gains[k - 1],
        )
        all_accepted &= accepted
        update = certificate.update_error_bound
        if update is not None:
            update += 4 * EPSILON + float(mixed[k - 1])
        certificates.append(replace(certificate, update_error_bound=update))
    return certificates, all_accepted


def _mixing(theta: torch.Tensor, energy: float) -> torch.Tensor:
    """How wrong the first k directions may be since rounding has turned them towards later ones of the K, as a share of
    the rank-k part, for k below K.

    The inner product of v_j with the image H v_i is off by some eps ||D||_F ||D v_i|| (see `certificate.ritz_bounds`),
    twice that is allowed for, so that v_i is turned towards v_j by that over theta_i - theta_j; this changes the rank-k
    part by the angle times sqrt(theta_i + theta_j). Residuals do not see it, since both lie in the space.
    """
    first, later = theta[:, None], theta[None, :]
    angles = 2 * EPSILON * (energy * first).sqrt() / (first - later).clamp(min=1e-300)
    changes = angles.square() * (first + later)
    # Over all pairs of a direction that is kept and one that is not.
    kept = torch.tensor([float(changes[:k, k:].sum()) for k in range(1, len(theta))], dtype=theta.dtype)
    return (kept / theta.cumsum(0)[:-1].clamp(min=1e-300)).sqrt()


def _bounds(remainder: Remainder, energy: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Upper bounds of the energy lost by D V_k V_k^T and of the (k+1)-th eigenvalue of H, for k below the rank.

    Products in fp32 are allowed for as in `certificate.ritz_bounds`, and as much again for vectors that are orthonormal
    up to their rounding only: leading directions are known so well that this is all there is.
    """
    theta = remainder.ritz_values
    rounding = 2 * EPSILON * math.sqrt(float(theta[0]) * energy)
    residuals, raised = remainder.residuals + rounding**2, theta + rounding
    numbers = torch.arange(len(theta))
    first = (numbers <= numbers[:-1, None])[:, None, :]  # (K - 1, 1, K): whether direction i is among the first k

    def room(t: torch.Tensor) -> torch.Tensor:
        """t - t_K - b(t), for t of shape (K - 1, number of steps)."""
        distance = (t[:, :, None] - raised).clamp(min=0)
        return t - remainder.outside - (residuals / distance).masked_fill(first, 0.0).sum(dim=2)

    steps = float(theta[0]) * STEPS
    t = theta[:-1, None] + steps
    left = room(t)
    excess = (t[:, :, None] - theta).clamp(min=0).masked_fill(~first, 0.0).sum(dim=2)
    lost = (excess + residuals.cumsum(0)[:-1, None] / left).masked_fill(left <= 0, math.inf)
    t = raised[1:, None] + steps
    following = t.masked_fill(room(t) < 0, math.inf)
    return lost.amin(dim=1), following.amin(dim=1)
