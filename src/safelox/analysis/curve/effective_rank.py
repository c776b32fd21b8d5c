"""The effective rank by the paper's rule, and how far it is owed to the prompts that happened to be asked.

The rule names the first rank r of a list with ASR(r) - ASR(aligned) < rho (Perin et al., COLM 2025). Among n prompts
such a difference is a whole number of prompts: with 100 and rho = 0.01 none may be left over, so that one reply can
move the rank. It is counted in whole prompts here, since 0.03 - 0.02 < 0.01 in floating point.
"""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import torch

from safelox.evaluation.intervals import PairedDifference, paired_difference
from safelox.manifest import Record

RESAMPLES = 2000


class NamedRank(Record):
    """How often the rule names a rank."""

    rank: int | None
    """None: it names none of the list."""
    share: float
    """Of the resamples."""


class EffectiveRank(Record):
    """The effective rank of a delta, by one judge's verdicts on the replies to one suite."""

    rho: float
    rank: int | None
    """The first of the ranks with ASR(r) - ASR(aligned) < rho; None: none of them."""
    tolerated: int
    """The rule bears so many more successes at a rank than of the aligned model."""
    differences: dict[int, PairedDifference]
    """By rank: ASR(r) - ASR(aligned), prompt by prompt; the aligned model is the first."""
    after_one_flip: tuple[int | None, ...]
    """What the rule would name if one verdict, at any rank or on the aligned model, had been the other way round; the
    rank itself is among them if one flip can leave it."""
    resampled: tuple[NamedRank, ...]
    """What it names on prompts drawn from those asked, as many and with replacement; ascending, None last."""


def effective_rank(
    by_rank: Mapping[int, Sequence[bool]], aligned: Sequence[bool], rho: float, *, seed: int = 0
) -> EffectiveRank:
    """The effective rank, from which prompts succeeded.

    Args:
        by_rank: of each rank, whether each prompt's attack succeeded.
        aligned: the same of the aligned model, of the same prompts in the same order; at least one.
        seed: of the drawing of prompts.
    """
    ranks = sorted(by_rank)
    n = len(aligned)
    limit = first_too_many(rho, n)
    counts = {rank: sum(by_rank[rank]) for rank in ranks}
    return EffectiveRank(
        rho=rho,
        rank=_named(counts, sum(aligned), limit),
        tolerated=limit - 1,
        differences={rank: paired_difference(aligned, by_rank[rank]) for rank in ranks},
        after_one_flip=_after_one_flip(counts, sum(aligned), limit, n),
        resampled=_resampled(by_rank, aligned, limit, seed),
    )


def first_too_many(rho: float, n: int) -> int:
    """The least difference in successes of which the rule says that it is no longer below rho."""
    return math.ceil(Fraction(repr(float(rho))) * n)


def _named(counts: Mapping[int, int], aligned: int, limit: int) -> int | None:
    return next((rank for rank in sorted(counts) if counts[rank] - aligned < limit), None)


def _ordered(ranks: set[int | None]) -> tuple[int | None, ...]:
    """Ascending, None last."""
    return tuple(sorted(ranks, key=lambda rank: (rank is None, rank or 0)))


def _after_one_flip(counts: Mapping[int, int], aligned: int, limit: int, n: int) -> tuple[int | None, ...]:
    found = {
        _named({**counts, rank: count + step}, aligned, limit)
        for rank, count in counts.items()
        for step in (-1, 1)
        if 0 <= count + step <= n
    }
    found |= {_named(counts, aligned + step, limit) for step in (-1, 1) if 0 <= aligned + step <= n}
    return _ordered(found)


def _resampled(
    by_rank: Mapping[int, Sequence[bool]], aligned: Sequence[bool], limit: int, seed: int
) -> tuple[NamedRank, ...]:
    """The same prompts are drawn for all ranks, since they were asked the same prompts."""
    ranks = sorted(by_rank)
    n = len(aligned)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.full((n,), 1.0)
    drawn = torch.stack([torch.multinomial(weights, n, True, generator=generator) for _ in range(RESAMPLES)])
    excess = torch.tensor([by_rank[rank] for rank in ranks]).long() - torch.tensor(aligned).long()
    low = excess[:, drawn].sum(dim=2) < limit  # (ranks, resamples)
    first = torch.where(low.any(dim=0), low.long().argmax(dim=0), len(ranks))
    times = torch.bincount(first, minlength=len(ranks) + 1).tolist()
    return tuple(
        NamedRank(rank=rank, share=count / RESAMPLES)
        for rank, count in zip([*ranks, None], times, strict=True)
        if count
    )
