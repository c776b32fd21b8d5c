"""One matrix to extrapolate, and cutting a tensor into such."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch

from safelox.checkpoint import TensorInfo
from safelox.pairing.naming import FLOATING, Anatomy, count, is_fused_experts, some


@dataclass(frozen=True)
class Matrix:
    """Some rows of a tensor of ALIGNED, and the rows of BASE that they are compared with."""

    name: str
    """Tensor in ALIGNED."""
    expert: int | None
    """Number of the expert, from 0, where the tensor holds several; else None."""
    start: int
    """First row in ALIGNED's tensor, seen as a matrix (`TensorInfo.matrix_shape`)."""
    stop: int
    """One past the last row."""
    columns: int
    base_name: str
    """Tensor in BASE; its name differs from ALIGNED's only where a weight is tied."""
    base_start: int
    """First row in BASE's tensor."""
    row_map: torch.Tensor | None = field(compare=False)
    """int64, one entry per row: the row of BASE's tensor, or -1 for a row that stays as aligned since BASE does not
    know its token. None where the rows lie in the same order."""

    @property
    def rows(self) -> int:
        return self.stop - self.start

    @property
    def label(self) -> str:
        """The tensor's name, with the expert's number where there is one: `name` or `name[3]`."""
        return numbered(self.name, self.expert)

    @property
    def seed_name(self) -> str:
        """What the random start of a decomposition should be drawn from.

        The two copies of a tied weight that is stored twice share it, so that they come out equal to the last bit:
        a loader would otherwise take them for two different weights.
        """
        return numbered(self.base_name, self.expert)


def numbered(name: str, expert: int | None) -> str:
    return name if expert is None else f"{name}[{expert}]"


@dataclass(frozen=True)
class Link:
    """A tensor of ALIGNED with its counterpart in BASE."""

    aligned: TensorInfo
    base: TensorInfo


def cut(link: Link, experts: int | None, row_map: torch.Tensor | None) -> Iterator[Matrix]:
    """The matrices that a tensor consists of: one per expert, or the whole.

    Which of an expert's dimensions is the input makes no difference to its singular values, so nobody asks.
    """
    rows, columns = link.aligned.matrix_shape
    height = rows // (experts or 1)
    for number in range(experts or 1):
        start, stop = number * height, (number + 1) * height
        expert = None if experts is None else number
        yield Matrix(link.aligned.name, expert, start, stop, columns, link.base.name, start, row_map)


def shape_problems(links: Iterable[Link], anatomy: Anatomy) -> list[str]:
    """Counterparts that cannot be subtracted: other shapes or numbers of experts, or no floating-point values.

    Rows of token tables may differ in number: those are paired by token.
    """
    shapes: list[str] = []
    experts: list[str] = []
    dtypes: list[str] = []
    unknown: list[str] = []
    for link in links:
        ours, theirs = link.base, link.aligned
        name = theirs.name
        if ours.dtype not in FLOATING:
            dtypes.append(f"{name} ({ours.dtype})")
        if anatomy.stacked_experts(theirs) == 0:
            unknown.append(name)
        if ours.shape == theirs.shape or (name in anatomy.token_tables and ours.shape[1:] == theirs.shape[1:]):
            continue
        difference = f"{name} ({by(ours)} in BASE, {by(theirs)} in ALIGNED)"
        fused = is_fused_experts(theirs) and ours.shape[1:] == theirs.shape[1:]
        (experts if fused else shapes).append(difference)
    problems = []
    if shapes:
        problems.append(f"the shapes of {count(len(shapes), 'tensor')} differ: {some(shapes)}")
    if experts:
        problems.append(f"the number of experts differs in {count(len(experts), 'tensor')}: {some(experts)}")
    if dtypes:
        problems.append(f"BASE has no floating-point values in {count(len(dtypes), 'tensor')}: {some(dtypes)}")
    if unknown:
        problems.append(
            f"{some(unknown, limit=2)} hold several experts one above the other, but ALIGNED's config.json "
            f"does not say how many: expected ffn_config.moe_num_experts, a divisor of the rows"
        )
    return problems


def by(tensor: TensorInfo) -> str:
    """A shape for a person: `4096 x 11008`."""
    return " x ".join(map(str, tensor.shape)) or "scalar"
