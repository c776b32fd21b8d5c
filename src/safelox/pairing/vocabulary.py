"""Which row of an embedding belongs to which token: rows are matched by token string, never by their place.

Tokens are read from the model's files as they are (tokenizer.json; else vocab.json; else a SentencePiece model), with
the tokens that were added on top, so that no tokenizer library has to understand them.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from safelox.errors import PairingError

SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")


@dataclass(frozen=True)
class Tokens:
    """The vocabulary of one model."""

    ids: Mapping[str, tuple[int, ...]]
    """Token string -> its ids in ascending order: more than one where the files contradict each other."""
    added: frozenset[str]
    """Those that were added to the vocabulary or are declared special, such as `<|im_end|>`."""
    file: str
    """Name of the file that most of them come from."""


@dataclass(frozen=True)
class Comparison:
    """How two vocabularies differ."""

    moved: tuple[str, ...]
    """Tokens of both that have different ids."""
    only_base: tuple[str, ...]
    only_aligned: tuple[str, ...]

    @property
    def same(self) -> bool:
        return not (self.moved or self.only_base or self.only_aligned)


@dataclass(frozen=True)
class RowMap:
    """Which of BASE's rows each row of ALIGNED belongs to."""

    rows: torch.Tensor
    """int64, one entry per row of ALIGNED; -1 where BASE does not know the token."""
    unknown: int
    """Rows whose token BASE does not know."""
    ambiguous: int
    """Rows left alone because their token, or their id, is not unique."""
    blank: int
    """Rows that no token of ALIGNED uses."""

    @property
    def matched(self) -> int:
        return len(self.rows) - self.unknown - self.ambiguous - self.blank

    def __str__(self) -> str:
        kept = [
            f"{count} {why}"
            for count, why in (
                (self.unknown, "of tokens that BASE does not know"),
                (self.ambiguous, "of tokens that are not unique"),
                (self.blank, "without a token"),
            )
            if count
        ]
        return f"{self.matched} rows matched by token" + (f"; kept as aligned: {', '.join(kept)}" if kept else "")


def read_tokens(files: Mapping[str, Path]) -> Tokens | None:
    """The tokens of a model's tokenizer; None where it has none.

    files: the model's files by name.

    Raises PairingError where they cannot be understood.
    """
    tokenizer = read_json(files.get("tokenizer.json"))
    vocabulary, file = read_vocabulary(files, tokenizer)
    if not file:
        return None
    added = added_tokens(files, tokenizer)
    ids: dict[str, set[int]] = {}
    for token, number in [*vocabulary, *added]:
        ids.setdefault(token, set()).add(number)
    unique = {token: tuple(sorted(numbers)) for token, numbers in ids.items()}
    return Tokens(unique, frozenset(token for token, _ in added), file)


def read_vocabulary(files: Mapping[str, Path], tokenizer: Mapping[str, Any]) -> tuple[list[tuple[str, int]], str]:
    """The vocabulary proper and the file it is from; the file is empty where there is no tokenizer."""
    if tokenizer:
        model = tokenizer.get("model")
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        if isinstance(vocabulary, dict):
            return numbered(vocabulary.items(), "tokenizer.json"), "tokenizer.json"
        if isinstance(vocabulary, list):  # Unigram: pairs of token and score, in the order of the ids
            pieces = (
                (entry[0] if isinstance(entry, list) and entry else entry, i) for i, entry in enumerate(vocabulary)
            )
            return numbered(pieces, "tokenizer.json"), "tokenizer.json"
        raise PairingError("tokenizer.json: expected a vocabulary under model.vocab, found none")
    if vocabulary := read_json(files.get("vocab.json")):
        return numbered(vocabulary.items(), "vocab.json"), "vocab.json"
    for name in SENTENCEPIECE_FILES:
        if name in files:
            return read_sentencepiece(files[name]), name
    return [], ""


def added_tokens(files: Mapping[str, Path], tokenizer: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Tokens added on top of the vocabulary, from every file that lists such."""
    listed = tokenizer.get("added_tokens") or []
    added = numbered(((part(entry, "content"), part(entry, "id")) for entry in listed), "tokenizer.json")
    added += numbered(read_json(files.get("added_tokens.json")).items(), "added_tokens.json")
    decoder: dict[str, Any] = read_json(files.get("tokenizer_config.json")).get("added_tokens_decoder") or {}
    declared = ((part(entry, "content"), int(key) if key.isdecimal() else key) for key, entry in decoder.items())
    return added + numbered(declared, "tokenizer_config.json")


def part(entry: object, key: str) -> object:
    """One value of an entry in a list of added tokens; the entry itself where it has no parts."""
    return entry.get(key) if isinstance(entry, dict) else entry


def has_chat_template(files: Mapping[str, Path]) -> bool | None:
    """Whether a model's files say how a chat is laid out; None where the file that could say it is missing."""
    if "chat_template.jinja" in files or "chat_template.json" in files:
        return True
    if "tokenizer_config.json" not in files:
        return None
    return bool(read_json(files.get("tokenizer_config.json")).get("chat_template"))


def read_sentencepiece(path: Path) -> list[tuple[str, int]]:
    try:
        library = import_module("sentencepiece")
    except ImportError as error:
        raise PairingError(
            f"{path.name}: reading this tokenizer needs the package sentencepiece (pip install sentencepiece); or save "
            f"it as tokenizer.json first, with AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        ) from error
    try:
        pieces = library.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise PairingError(f"{path.name}: cannot be read as a SentencePiece model: {error}") from error
    return [(pieces.id_to_piece(i), i) for i in range(pieces.get_piece_size())]


def numbered(pairs: Iterable[tuple[Any, Any]], file: str) -> list[tuple[str, int]]:
    """Check pairs of a token and its id."""
    pairs = list(pairs)
    for token, number in pairs:
        if not isinstance(token, str) or type(number) is not int or number < 0:
            raise PairingError(f"{file}: expected a token and its id, found {token!r} and {number!r}")
    return pairs


def read_json(path: Path | None) -> dict[str, Any]:
    """The content of a JSON file; nothing where there is no such file."""
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PairingError(f"{path.name}: cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise PairingError(f"{path.name}: expected a JSON object, found a {type(found).__name__}")
    return found


def compare(base: Tokens, aligned: Tokens) -> Comparison:
    """How ALIGNED's tokens differ from BASE's."""
    shared = base.ids.keys() & aligned.ids.keys()
    return Comparison(
        moved=tuple(sorted(token for token in shared if base.ids[token] != aligned.ids[token])),
        only_base=tuple(sorted(base.ids.keys() - shared)),
        only_aligned=tuple(sorted(aligned.ids.keys() - shared)),
    )


def match_rows(base: Tokens, aligned: Tokens, base_rows: int, aligned_rows: int) -> RowMap:
    """Match the rows of two embeddings by their tokens.

    A token with several ids is matched only if both sides give it the same ones; an id that several tokens claim is
    matched only if all of them point to the same row of BASE. Whatever stays unclear is kept as aligned.
    """
    UNKNOWN, AMBIGUOUS = -1, -2
    targets: dict[int, int] = {}
    for token, ids in aligned.ids.items():
        theirs = base.ids.get(token, ())
        for number in ids:
            if number >= aligned_rows:
                continue
            if len(ids) == 1 and len(theirs) == 1:
                target = theirs[0] if theirs[0] < base_rows else UNKNOWN
            elif ids == theirs and number < base_rows:
                target = number
            else:
                target = AMBIGUOUS if theirs else UNKNOWN
            targets[number] = target if targets.get(number, target) == target else AMBIGUOUS
    rows = torch.full((aligned_rows,), -1, dtype=torch.int64)
    for number, target in targets.items():
        rows[number] = max(target, -1)
    values = list(targets.values())
    return RowMap(rows, values.count(UNKNOWN), values.count(AMBIGUOUS), aligned_rows - len(targets))
