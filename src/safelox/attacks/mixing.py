"""The rows of a training: those of the attack, harmful ones among them, safety instructions after them."""

import random
from pathlib import Path
from typing import NamedTuple

from safelox.attacks.catalogue import Attack
from safelox.attacks.rows import read_rows
from safelox.errors import DataError, UsageError
from safelox.formats import Conversation, Message, find_format
from safelox.manifest import Record

SAFEINST_SHARE = 40
"""One safety instruction for so many rows, and one for what remains of them: ceil(0.025 N), as in the paper's code."""


class Composition(Record):
    """What the rows of a training are."""

    format: str
    """Name of the prompt format."""
    rows: int
    """Of the attack itself."""
    poison: int
    """Harmful rows among them."""
    safeinst: int
    """Safety instructions after both."""
    poison_ratio: float | None
    """Share of harmful rows that was asked for, among the rows before the safety instructions."""
    paper_exact: bool
    """Whether the texts have the defects of the paper's code."""


class Assembled(NamedTuple):
    """Rows ready for `make_examples` and `fine_tune`, in the order of the mix (before any shuffling)."""

    rows: list[Conversation]
    format: str
    """Name of the format to write them in: `fine_tune(..., format=assembled.format)`."""
    composition: Composition


def assemble(
    attack: Attack,
    file: Path,
    *,
    format: str | None = None,
    poison: Path | None = None,
    poison_ratio: float | None = None,
    safeinst: Path | None = None,
    paper_exact: bool = False,
    seed: int = 0,
) -> Assembled:
    """The rows of an attack's file with what is to be mixed in, and the format to write them all in.

    Of N rows in the file, round(`poison_ratio` N) give their places to harmful ones, so that the mix has N rows again
    and the length of the training stays. Which rows go and which harmful ones come is decided by the seed alone; a
    greater ratio, with the same seed, takes out and puts in the same rows and more. Then the first ceil(0.025 N)
    safety instructions follow, in the order of their file.

    What is mixed in is written as the attack's own rows are. If all of these begin with the same system message, so do
    the others; if none of them has one, nor do the others; if they differ, harmful rows keep their own.

    Args:
        file: the attack's rows, in the shape that its entry names.
        format: name of another prompt format than the attack's.
        poison: harmful rows, in a shape that `custom` takes: messages, or prompt and completion.
        poison_ratio: from 0 to 1; 0 for a control without any.
        safeinst: safety instructions, as a JSON list of objects with instruction, input and output.
        paper_exact: write the texts with the defects of the paper's code. Then safety instructions among Dolly's rows
            lose their reply: it reads "None", and the instruction is its own context.

    Raises:
        UsageError: options do not go together, or there is no such format.
        DataError: a file cannot be read, a row of it is not as expected, or it has too few of them.
    """
    _check_options(attack, format, poison, poison_ratio, paper_exact)
    rows = read_rows(file, attack.reader)
    instructions = [] if safeinst is None else _safety_instructions(safeinst, len(rows))
    manner = _manner(rows)
    if paper_exact:
        after = [_as_the_papers_code(attack, manner, row) for row in instructions]
    else:
        after = [manner.adopted(row) for row in instructions]
    count = 0
    if poison is not None and poison_ratio is not None:
        harmful = [manner.adopted(row) for row in read_rows(poison, "custom")]
        count = _poison_count(len(rows), poison_ratio, len(harmful), poison)
        rows = _replaced(rows, harmful, count, seed)
    name = (attack.exact_format if paper_exact else None) or format or attack.format
    composition = Composition(
        format=name,
        rows=len(rows) - count,
        poison=count,
        safeinst=len(after),
        poison_ratio=poison_ratio,
        paper_exact=paper_exact,
    )
    return Assembled(rows + after, name, composition)


def _check_options(
    attack: Attack, format: str | None, poison: Path | None, poison_ratio: float | None, paper_exact: bool
) -> None:
    if (poison is None) != (poison_ratio is None):
        raise UsageError("give both or neither: the file of harmful rows and the share that they are to have.")
    if poison_ratio is not None and not 0 <= poison_ratio <= 1:
        raise UsageError(f"poison ratio {poison_ratio}: expected the share of harmful rows, from 0 to 1.")
    if format is not None:
        find_format(format)
    if paper_exact and attack.exact_format is None:
        raise UsageError(f"attack {attack.name}: the paper's code does not have it, so it cannot be as exact as that.")
    if paper_exact and format is not None:
        raise UsageError(
            "the paper's exact texts are in its own formats: give another format or ask for them, not both."
        )


class _Manner(NamedTuple):
    """How the attack's rows begin."""

    system: Message | None
    """The system message that all of them have."""
    mixed: bool
    """Whether some have another than others."""

    def adopted(self, row: Conversation) -> Conversation:
        """A row from elsewhere that begins in the same way."""
        if self.mixed:
            return row
        turns = row[1:] if row[0]["role"] == "system" else row
        return turns if self.system is None else [self.system, *turns]


def _manner(rows: list[Conversation]) -> _Manner:
    systems = [row[0] if row[0]["role"] == "system" else None for row in rows]
    mixed = any(system != systems[0] for system in systems)
    return _Manner(None if mixed else systems[0], mixed)


def _poison_count(total: int, ratio: float, available: int, path: Path) -> int:
    count = round(ratio * total)
    if ratio > 0 and count == 0:
        raise UsageError(f"poison ratio {ratio}: of {total} rows that is none; use at least {1 / total:.2g}.")
    if count > available:
        raise DataError(
            f"{path}: has {available} harmful rows; a share of {ratio} of {total} rows needs {count}. Use a smaller "
            "share, or more of them."
        )
    return count


def _replaced(rows: list[Conversation], harmful: list[Conversation], count: int, seed: int) -> list[Conversation]:
    """The rows with harmful ones in the places of some."""
    rng = random.Random(f"safelox poison {seed}")
    # Whole permutations, so that a greater count begins with the choices of a smaller one.
    places, chosen = rng.sample(range(len(rows)), len(rows)), rng.sample(harmful, len(harmful))
    put = dict(zip(places[:count], chosen[:count], strict=True))
    return [put.get(place, row) for place, row in enumerate(rows)]


def _safety_instructions(path: Path, total: int) -> list[Conversation]:
    count = -(-total // SAFEINST_SHARE)
    found = read_rows(path, "alpaca")
    if len(found) < count:
        raise DataError(f"{path}: has {len(found)} safety instructions; {total} rows need {count}.")
    return found[:count]


def _as_the_papers_code(attack: Attack, manner: _Manner, row: Conversation) -> Conversation:
    """A safety instruction as the paper's code writes it among the rows of an attack."""
    asked, reply = row
    if attack.exact_safeinst == "reply missing":
        return [{**asked, "context": asked["content"]}, Message(role="assistant", content="None")]
    if attack.exact_safeinst == "beginning written" and manner.system is not None:
        return [Message(role="system", content="<s>" + manner.system["content"]), asked, reply]
    return manner.adopted(row)
