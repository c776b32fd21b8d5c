"""What a Krylov space proves about the singular values that it has not seen.

Let H = D^T D, and let V (n x k) hold the k Ritz vectors of largest Ritz values theta_1 >= ... >= theta_k, E the other
Ritz vectors of the space, R_k and R_e their residuals H v - theta v, and mu an upper bound of the largest eigenvalue of
H on the complement of the space. In the basis (V, E, complement), for every a, b > 0 (Loewner order),

    H  <=  diag(Theta_k + R_k^T R_k / a,  Theta_e + R_e^T R_e / b,  mu + a + b).

With b(t) = || R_e (t - Theta_e)^(-1/2) ||_2^2 the middle block is at most t, so with a = t - mu - b(t) > 0, by Ky Fan,

    optimal energy - captured energy  <=  sum_{i <= k} max(0, t - theta_i)  +  ||R_k||_F^2 / (t - mu - b(t))      (1)

and the (k+1)-th eigenvalue of H is at most every t with mu + b(t) <= t.                                           (2)

With P_k the projector on the true top k, the part found and the best one, D_k, differ by
||D V V^T - D_k||_F^2 = lost + 2 ||D (1 - P_k) V||_F^2, and lost >= (lambda_k - lambda_{k+1}) ||(1 - P_k) V||_F^2, so

    || D V V^T - D_k ||_F^2  <=  min(lost (theta_k + t) / (theta_k - t),  lost + 2 k t)       for t from (2).       (3)
"""

import math
from functools import cache

import torch

from safelox.lowrank.result import Certificate, Route

FAILURE_PROBABILITY = 1e-9
"""Chance that one draw of probes misleads."""
CLOSE = 0.005
"""How far above the next Ritz value the next eigenvalue is first looked for,"""
BISECTIONS = 8
"""and how often the distance is halved where it is not there."""
ENERGY_TOLERANCE_TOTAL = 1e-4
"""Largest energy lost, as a share of ||D||_F^2 ..."""
ENERGY_TOLERANCE_KEPT = 1e-3
"""... and as a share of the energy of the rank-k part; both hold."""
UPDATE_TOLERANCE = 1e-3
"""Largest bound of the relative Frobenius error of the rank-k part (the error itself is some ten times smaller),
wherever the gap makes that part well defined:"""
GAP = 0.05
"""(s_k - s_{k+1}) / s_k from which on it counts as well defined."""


@cache
def smallest_probe_weight(width: int) -> float:
    """The value that a chi-squared variable with `width` degrees of freedom stays below with FAILURE_PROBABILITY."""
    half = torch.tensor(width / 2, dtype=torch.float64)
    low, high = 0.0, float(width)
    for _ in range(200):
        middle = (low + high) / 2
        probability = float(torch.special.gammainc(half, torch.tensor(middle / 2, dtype=torch.float64)))
        low, high = (middle, high) if probability < FAILURE_PROBABILITY else (low, middle)
    return low


def eigenvalue_bound(powered_norm: float, power: int, width: int) -> float:
    """Upper bound of the largest eigenvalue of a positive operator from Gaussian probes.

    || A^j G ||_2 >= mu^j |g|, where g, the component of G (n x width) along the top eigenvector, has |g|^2 chi-squared.

    Args:
        powered_norm: || A^power G ||_2.
    """
    return float((powered_norm / math.sqrt(smallest_probe_weight(width))) ** (1 / power))


def lost_energy_bounds(theta: torch.Tensor, residual_gram: torch.Tensor, rank: int, mu: float) -> tuple[float, float]:
    """The bounds (1) and (2).

    Args:
        theta: (p,), fp64, descending Ritz values of D^T D, p >= rank.
        residual_gram: (p, p), fp64, inner products of the residuals.
        mu: bound of the largest eigenvalue on the complement of the Krylov space.

    Returns:
        Upper bounds of the energy lost and of the (rank + 1)-th eigenvalue; inf where nothing is known.
    """
    outer_theta, outer_gram = theta[rank:], residual_gram[rank:, rank:]
    residual = float(torch.diagonal(residual_gram)[:rank].sum().clamp(min=0))

    def coupling(t: float) -> float:
        if not len(outer_theta):
            return 0.0
        scale = (t - outer_theta).clamp(min=1e-300).rsqrt()
        return float(torch.linalg.eigvalsh(outer_gram * scale[:, None] * scale[None, :])[-1].clamp(min=0))

    low = max(mu, float(outer_theta[0]) if len(outer_theta) else 0.0)
    next_eigenvalue = low * (1 + CLOSE)
    if mu + coupling(next_eigenvalue) > next_eigenvalue:
        next_eigenvalue = low + float(torch.linalg.eigvalsh(outer_gram)[-1].clamp(min=0).sqrt())
        for _ in range(BISECTIONS):
            middle = (low + next_eigenvalue) / 2
            if mu + coupling(middle) <= middle:
                next_eigenvalue = middle
            else:
                low = middle

    lost = math.inf
    for t in (float(theta[rank - 1]), *(next_eigenvalue * (1 + 4.0**-i) for i in range(6))):
        room = t - mu - coupling(t) if t > next_eigenvalue else 0.0
        if room > 0:
            excess = float((t - theta[:rank]).clamp(min=0).sum())
            lost = min(lost, excess + residual / room)
        if lost < math.inf and t <= theta[rank - 1]:
            break  # a larger t has more room, but counts the excess over theta_k
    return lost, next_eigenvalue


def update_error_bound(lost: float, next_eigenvalue: float, theta_k: float, rank: int) -> float:
    """The bound (3), as an absolute Frobenius norm; inf where `lost` is."""
    bound = lost + 2 * rank * next_eigenvalue
    if theta_k > next_eigenvalue:
        bound = min(bound, lost * (theta_k + next_eigenvalue) / (theta_k - next_eigenvalue))
    return math.sqrt(bound)


def ritz_bounds(
    theta: torch.Tensor, residual_gram: torch.Tensor, rank: int, mu: float, energy: float
) -> tuple[float, float]:
    """`lost_energy_bounds` with room for the rounding of products in fp32.

    An image H v carries an error of about eps ||D||_F ||D v||_2 (measured on many shapes: 0.01 to 0.8 of that), which
    moves Ritz values and residuals.
    """
    rounding = torch.finfo(torch.float32).eps * math.sqrt(float(theta[0]) * energy)
    raised = torch.cat([theta[:rank], theta[rank:] + rounding])
    padding = torch.zeros_like(theta)
    padding[:rank] = rounding**2
    return lost_energy_bounds(raised, residual_gram + torch.diag(padding), rank, mu)


def certify(
    route: Route,
    theta: torch.Tensor,
    bounds: tuple[float, float, float],
    rank: int,
    energy: float,
    sweeps: int,
    *,
    failure_probability: float,
    gain: float = 0.0,
) -> tuple[Certificate, bool]:
    """The certificate, and whether it meets the tolerances.

    Args:
        bounds: upper bound of the energy lost by D V V^T; lower and upper bound of the (rank + 1)-th eigenvalue.
        gain: energy that the part returned holds beyond that of D V V^T.
    """
    captured, theta_k = float(theta[:rank].sum()), float(theta[rank - 1])
    lost, next_low, next_high = bounds
    lost, captured = max(0.0, lost - gain), captured + gain
    update = update_error_bound(lost, next_high, theta_k, rank) / math.sqrt(captured) if captured else math.inf
    gap_too_small = next_low > (1 - GAP) ** 2 * (theta_k + lost)
    accepted = lost <= min(ENERGY_TOLERANCE_TOTAL * energy, ENERGY_TOLERANCE_KEPT * captured) and (
        gap_too_small or update <= UPDATE_TOLERANCE
    )
    reported = None if gap_too_small else update
    return Certificate(route, energy, captured, lost, reported, failure_probability, sweeps), accepted
