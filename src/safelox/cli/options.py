"""The arguments and options that commands share, each with its help, in one place.

What a value may be is the library's to say: only what has to be read from text is checked here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypedDict

from typer import Argument, Option

from safelox.errors import UsageError
from safelox.units import parse_bytes

DtypeName = Literal["bf16", "fp16", "fp32"]

Base = Annotated[
    str,
    Argument(
        metavar="BASE",
        help="The model before alignment: a folder, or org/name[@revision] on the hub; +ADAPTER adds a LoRA.",
    ),
]
Aligned = Annotated[str, Argument(metavar="ALIGNED", help="The safety-aligned model, likewise.")]
Model = Annotated[
    str,
    Argument(metavar="MODEL", help="A folder, or org/name[@revision] on the hub; +ADAPTER adds a LoRA."),
]
Out = Annotated[Path, Argument(metavar="OUT", help="Folder of the result: a new or an empty one.")]
Rank = Annotated[
    str,
    Option("--rank", "-k", metavar="N|full", help="Singular directions to extrapolate, or the whole delta."),
]
Coef = Annotated[float, Option("--coef", help="How far to extrapolate; 0 copies the aligned model.")]
Include = Annotated[
    list[str] | None,
    Option("--include", metavar="GLOB", help="Take only tensors whose name matches; may be repeated."),
]
Exclude = Annotated[
    list[str] | None,
    Option("--exclude", metavar="GLOB", help="Leave out tensors whose name matches; may be repeated."),
]
NoEmbeddings = Annotated[bool, Option("--no-embeddings", help="Leave out embeddings and output head.")]
Vocab = Annotated[
    Literal["error", "common"],
    Option("--vocab", help="Where the vocabularies differ: stop, or take the tokens that both have."),
]
Device = Annotated[str, Option("--device", help="Where to compute: cpu, cuda, cuda:1, ...")]
Workers = Annotated[int | None, Option("--workers", metavar="N", help="Parallel workers; else as many as fit.")]
MaxMemory = Annotated[
    str | None, Option("--max-memory", metavar="SIZE", help="Memory to stay within, such as 2GB or 512MiB.")
]
Overwrite = Annotated[bool, Option("--overwrite", help="Replace a result that is already there.")]
Force = Annotated[bool, Option("--force", help="Go on although the models do not look like base and aligned.")]
AllowPickle = Annotated[bool, Option("--allow-pickle", help="Also read PyTorch .bin files, weights only.")]
NoSourceHashes = Annotated[bool, Option("--no-source-hashes", help="Do not hash the weights of BASE and ALIGNED.")]
Seed = Annotated[int, Option("--seed", help="Seed of everything random.")]
AsJson = Annotated[bool, Option("--json", help="Print one JSON document, and nothing else, on stdout.")]
Quiet = Annotated[bool, Option("--quiet", "-q", help="No progress and no summary; --json still prints.")]


class Common(TypedDict):
    """What `harden`, `plan_harden`, `decompose` and `drift` all take, under the library's names."""

    include: Sequence[str]
    exclude: Sequence[str]
    embeddings: bool
    vocab: Literal["error", "common"]
    device: str
    workers: int | None
    max_memory: int | None
    allow_pickle: bool


def common(
    include: list[str] | None,
    exclude: list[str] | None,
    no_embeddings: bool,
    vocab: Literal["error", "common"],
    device: str,
    workers: int | None,
    max_memory: str | None,
    allow_pickle: bool,
) -> Common:
    """The options as the library takes them.

    Raises:
        UsageError: `max_memory` is not a size.
    """
    return Common(
        include=include or (),
        exclude=exclude or (),
        embeddings=not no_embeddings,
        vocab=vocab,
        device=device,
        workers=workers,
        max_memory=None if max_memory is None else parse_bytes(max_memory),
        allow_pickle=allow_pickle,
    )


def parse_rank(text: str) -> int | Literal["full"]:
    """`full`, or the integer that the text stands for.

    Raises:
        UsageError: the text is neither.
    """
    if text == "full":
        return "full"
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--rank: {text!r} is neither an integer nor `full`.") from None


def read_text(option: str, path: Path) -> str:
    """The text of the file that an option names, without the line ends at its end.

    Raises:
        UsageError: there is no such text file.
    """
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{option}: {path} cannot be read as UTF-8 text: {error}") from error
