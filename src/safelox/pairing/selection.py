"""What the user wants extrapolated, and why each of the other tensors is carried."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import get_args

from safelox.checkpoint import TensorInfo
from safelox.errors import UsageError
from safelox.pairing.naming import Anatomy, some, unselectable
from safelox.pairing.tables import VocabularyPolicy

WILDCARDS = re.compile(r"[][*?]")
NUMBERS = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class Carried:
    """A tensor that is kept byte for byte."""

    name: str
    reason: str
    """Why, in words for a person."""


@dataclass(frozen=True)
class Selection:
    """ALIGNED's tensors, parted; both in the order of ALIGNED's files."""

    chosen: tuple[TensorInfo, ...]
    carried: tuple[Carried, ...]


@dataclass(frozen=True)
class Wish:
    """What the user asked for.

    Raises:
        UsageError: an argument makes no sense.
    """

    include: Sequence[str] = ()
    """Globs on ALIGNED's tensor names (case matters); none means everything that is extrapolated by default. A tensor
    of more than two dimensions that is asked for and holds no experts is taken as one matrix, its leading dimensions
    together."""
    exclude: Sequence[str] = ()
    """Globs on the same names; these win over `include`."""
    embeddings: bool = True
    """Whether the tables of tokens, positions and token types, and the output head, take part."""
    vocab: VocabularyPolicy = "error"
    """What to do where the vocabularies differ; "common" pairs the rows of common tokens, by token."""

    def __post_init__(self) -> None:
        for option, patterns in (("include", self.include), ("exclude", self.exclude)):
            if isinstance(patterns, str):  # its characters would be taken for patterns
                raise UsageError(f"{option}={patterns!r}: expected a list of globs, such as [{patterns!r}]")
        if self.vocab not in get_args(VocabularyPolicy):
            raise UsageError(f"vocab={self.vocab!r}: expected one of {', '.join(get_args(VocabularyPolicy))}")

    def refusal(self, tensor: TensorInfo, anatomy: Anatomy) -> str | None:
        """Why a tensor is carried, None for one that is extrapolated."""
        asked_for = matches(tensor.name, self.include)
        exemption = anatomy.exemption(tensor)
        if exemption is not None and not (exemption.selectable and asked_for):
            return exemption.reason
        if self.include and not asked_for:
            return "not among the tensors of --include"
        if matches(tensor.name, self.exclude):
            return "left out by --exclude"
        if not self.embeddings and tensor.name in anatomy.tables:
            return "an embedding or the output head: left out by --no-embeddings"
        return None


def select(anatomy: Anatomy, wish: Wish) -> Selection:
    """Part ALIGNED's tensors into those that are extrapolated and those that are carried."""
    refusals = {tensor.name: wish.refusal(tensor, anatomy) for tensor in anatomy.tensors.values()}
    return Selection(
        chosen=tuple(tensor for tensor in anatomy.tensors.values() if refusals[tensor.name] is None),
        carried=tuple(Carried(name, reason) for name, reason in refusals.items() if reason is not None),
    )


def matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def wish_problems(anatomy: Anatomy, wish: Wish) -> list[str]:
    """Patterns that cannot mean what the user wants."""
    problems = []
    for option, patterns in (("--include", wish.include), ("--exclude", wish.exclude)):
        for pattern in patterns:
            matched = [tensor for name, tensor in anatomy.tensors.items() if fnmatchcase(name, pattern)]
            if not matched:
                problems.append(no_match(option, pattern, anatomy.tensors))
            elif option == "--include":
                problems += in_vain(pattern, matched, anatomy, wish)
    return problems


def no_match(option: str, pattern: str, names: Collection[str]) -> str:
    """The problem of a pattern that no tensor has."""
    near = nearest(pattern, names)
    hint = f"; the nearest are {', '.join(near)}" if near else ""
    if fnmatchcase("lm_head.weight", pattern):
        hint += "; where the output head is tied, it is stored as the input embedding alone"
    return f"{option} {pattern!r} matches no tensor of ALIGNED{hint}"


def nearest(pattern: str, names: Collection[str]) -> list[str]:
    """Names like a pattern that matches none of them; for a glob, parts of names like its piece that is in none."""
    if WILDCARDS.search(pattern):
        parts = {part for name in names for part in name.split(".")}
        pieces = [piece for piece in re.split(r"[][*?.]+", pattern) if not any(piece in part for part in parts)]
        return get_close_matches(pieces[0], parts) if pieces else []
    # The same layer and expert, where there are such: the others differ from it by their numbers only.
    alike = [name for name in names if NUMBERS.findall(name) == NUMBERS.findall(pattern)]
    return get_close_matches(pattern, alike or names, cutoff=0.4)


def in_vain(pattern: str, matched: Sequence[TensorInfo], anatomy: Anatomy, wish: Wish) -> list[str]:
    """The problem of a pattern all of whose tensors are carried anyway."""
    reasons = {unselectable(tensor) for tensor in matched}
    if None not in reasons:
        names = some((tensor.name for tensor in matched), limit=2)
        return [f"--include {pattern!r} asks for {names}, never extrapolated: {some(r for r in reasons if r)}"]
    if not wish.embeddings and all(tensor.name in anatomy.tables for tensor in matched):
        return [f"--include {pattern!r} asks for what --no-embeddings leaves out: give one of the two"]
    return []
