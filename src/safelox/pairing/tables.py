"""Pairing the rows of embeddings and heads, by the user's policy for vocabularies that differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from safelox.errors import PairingError
from safelox.pairing.naming import count, some
from safelox.pairing.vocabulary import (
    Comparison,
    RowMap,
    Tokens,
    compare,
    has_chat_template,
    match_rows,
    read_tokens,
)

VocabularyPolicy = Literal["error", "common"]
"""What to do where the vocabularies differ: refuse, or extrapolate the rows of the tokens that both have."""


@dataclass(frozen=True)
class Tokenizer:
    """What could be learnt about one side's tokenizer."""

    side: str
    tokens: Tokens | None
    """None where there is no tokenizer or where it cannot be read."""
    problem: str | None
    """Why it cannot be read."""
    chat_template: bool | None
    """Whether there is one; None where that cannot be told."""

    @property
    def lack(self) -> str:
        """What is wrong where there are no tokens."""
        return self.problem or f"{self.side} has no tokenizer"


@dataclass(frozen=True)
class Table:
    """An embedding or head of ALIGNED with its counterpart in BASE."""

    name: str
    rows: int
    base_rows: int


@dataclass
class TableMatch:
    """How the rows of all tables are paired."""

    maps: dict[str, RowMap] = field(default_factory=dict)
    """Table -> its row map; a table that is not here is paired row by row."""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def row_map(self, name: str) -> torch.Tensor | None:
        """BASE's row for every row of a tensor, None where it is paired row by row."""
        return self.maps[name].rows if name in self.maps else None


def read_tokenizer(side: str, files: Mapping[str, Path]) -> Tokenizer:
    """Look for a tokenizer among a model's files, by their names."""
    try:
        return Tokenizer(side, read_tokens(files), None, has_chat_template(files))
    except PairingError as error:
        return Tokenizer(side, None, f"{side}'s {error}", None)


def match_tables(tables: Sequence[Table], base: Tokenizer, aligned: Tokenizer, policy: VocabularyPolicy) -> TableMatch:
    """Pair the rows of every table."""
    match = TableMatch()
    if not tables:
        return match
    resized = [table for table in tables if table.rows != table.base_rows]
    if base.tokens is None or aligned.tokens is None:
        match_without_tokens(match, tables, resized, [side for side in (base, aligned) if side.tokens is None], policy)
        return match
    difference = compare(base.tokens, aligned.tokens)
    if difference.same and not resized:
        return match
    if policy == "common":
        match_common(match, tables, base.tokens, aligned.tokens)
    elif resized or difference.moved:
        found = "; ".join(differences(resized, difference, base.tokens, aligned.tokens))
        match.problems.append(
            f"the vocabularies differ: {found}. With --vocab common, the rows of common tokens are extrapolated, "
            f"matched by token, and all others stay as aligned; --no-embeddings leaves these tensors out"
        )
    else:
        found = "; ".join(differences([], difference, base.tokens, aligned.tokens))
        match.notes.append(
            f"the vocabularies differ ({found}), but no common token has moved, so rows are paired by their place; "
            f"with --vocab common, the rows of tokens that BASE does not know would stay as aligned"
        )
    return match


def match_without_tokens(
    match: TableMatch,
    tables: Sequence[Table],
    resized: Sequence[Table],
    lacking: Sequence[Tokenizer],
    policy: VocabularyPolicy,
) -> None:
    """Where a tokenizer is missing or unreadable, rows can only be paired by their place, if at all."""
    why = "; ".join(side.lack for side in lacking)
    if resized:
        match.problems.append(
            f"the vocabularies differ ({'; '.join(map(size_difference, resized))}), and rows are never "
            f"matched by their place: {why}. Put the tokenizer's files into the model's folder and say "
            f"--vocab common, or leave these tensors out with --no-embeddings"
        )
    elif policy == "common" and any(side.problem for side in lacking):
        match.problems.append(f"--vocab common cannot match tokens: {why}")
    else:
        names = some(table.name for table in tables)
        match.notes.append(f"the rows of {names} are paired by their place, which no tokenizer confirms: {why}")


def match_common(match: TableMatch, tables: Sequence[Table], base: Tokens, aligned: Tokens) -> None:
    """Pair rows by token string."""
    for table in tables:
        rows = match_rows(base, aligned, table.base_rows, table.rows)
        if not rows.matched:
            match.problems.append(f"{table.name}: BASE and ALIGNED have no token in common, so no row can be paired")
            continue
        match.maps[table.name] = rows
        match.notes.append(f"{table.name}: {rows}")


def size_difference(table: Table) -> str:
    return f"{table.name} has {table.base_rows} rows in BASE and {table.rows} in ALIGNED"


def differences(resized: Sequence[Table], difference: Comparison, base: Tokens, aligned: Tokens) -> list[str]:
    """In words, how two vocabularies differ."""
    found = [size_difference(table) for table in resized]
    for side, only in (("ALIGNED", difference.only_aligned), ("BASE", difference.only_base)):
        if only:
            found.append(f"{count(len(only), 'token')} only {side} knows ({some(only)})")
    if difference.moved:
        token = difference.moved[0]
        ids = [" and ".join(map(str, tokens.ids[token])) for tokens in (base, aligned)]
        found.append(
            f"{count(len(difference.moved), 'common token')} with other ids (such as {token!r}: {ids[0]} in "
            f"BASE, {ids[1]} in ALIGNED)"
        )
    return found
