"""The arguments and options that commands share, each with its help, in one place.

What a value may be is the library's to say: only what has to be read from text is checked here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypedDict

from typer import Argument, Option

from safelox.errors import UsageError
from safelox.methods import ControlName
from safelox.units import parse_bytes

if TYPE_CHECKING:
    from safelox.evaluation import Judge as AnyJudge

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
    Option(
        "--rank",
        "-k",
        metavar="N|full|auto",
        help="Singular directions to extrapolate; the whole delta; or as many as its spectra suggest.",
    ),
]
Coef = Annotated[float, Option("--coef", help="How far to extrapolate; 0 copies the aligned model.")]
Control = Annotated[
    ControlName | None,
    Option("--control", help="Write no hardened model: one changed as much as that would be, in another direction."),
]
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
ResultsFolder = Annotated[
    Path, Argument(metavar="OUT", help="Folder of the results; an unfinished one of the same call goes on.")
]
Subspace = Annotated[Path | None, Option("--subspace", metavar="FILE", help="Use the result of `safelox decompose`.")]
Plot = Annotated[
    list[Path] | None,
    Option("--plot", metavar="PICTURE", help="Draw it too, as .svg or .png; may be repeated."),
]
SavedIn = Annotated[
    Path | None,
    Option("--out", metavar="FOLDER", help="Keep what --json prints there, where `safelox report` finds it."),
]
Force = Annotated[bool, Option("--force", help="Go on although the models do not look like base and aligned.")]
AllowPickle = Annotated[bool, Option("--allow-pickle", help="Also read PyTorch .bin files, weights only.")]
NoSourceHashes = Annotated[bool, Option("--no-source-hashes", help="Do not hash the weights of BASE and ALIGNED.")]
Suite = Annotated[list[str], Option("--suite", "-s", metavar="NAME", help="What to ask; may be repeated.")]
Judge = Annotated[
    list[str] | None,
    Option("--judge", "-j", metavar="NAME", help="Who judges the replies; repeat for several side by side."),
]
Data = Annotated[
    Path | None,
    Option(
        "--data",
        metavar="PATH",
        help="Where to look first, before $SAFELOX_DATA and the cache; or one suite's file.",
    ),
]
SuiteFile = Annotated[
    Path | None,
    Option("--suite-file", metavar="FILE", help="The prompts of the suite custom: JSON Lines or CSV."),
]
SuiteAsks = Annotated[
    Literal["forbidden", "permitted", "help"] | None,
    Option("--suite-asks", help="What the suite custom asks for; else forbidden: refusing is right."),
]
Limit = Annotated[int | None, Option("--limit", "-n", metavar="N", help="Ask only the first N prompts of each suite.")]
System = Annotated[
    Path | None,
    Option("--system", metavar="FILE", help="Text file with a system message, in place of the prompts' own."),
]
PromptFormat = Annotated[
    str | None, Option("--format", metavar="NAME", help="How prompts are written: chat, plain, identity, ...")
]
PaperExact = Annotated[bool, Option("--paper-exact", help="Ask advbench and gsm8k as the paper's own scripts do.")]
MaxNewTokens = Annotated[
    int | None, Option("--max-new-tokens", metavar="N", help="Longest reply; else as the suite says.")
]
ModelDevice = Annotated[str | None, Option("--device", help="Where the model runs: cpu, cuda, cuda:1, ...")]
ModelDtype = Annotated[DtypeName | None, Option("--dtype", help="Of the weights; else fp32 on the CPU, bf16 on CUDA.")]
BatchSize = Annotated[
    int | None,
    Option(
        "--batch-size",
        metavar="N",
        help="Prompts at once, fewer where memory runs out; else 100, or a server's 8.",
    ),
]
JudgeModel = Annotated[
    str | None, Option("--judge-model", metavar="NAME", help="Model of the judges that are models; each has a default.")
]
JudgeUrl = Annotated[
    str | None, Option("--judge-url", metavar="URL", help="OpenAI-compatible server of the judges; else OpenAI's.")
]
JudgePrompt = Annotated[
    Path | None, Option("--judge-prompt", metavar="FILE", help="Wording of the judge's prompt, in place of its own.")
]
JudgeBudget = Annotated[
    float | None, Option("--judge-budget", metavar="USD", help="What the judges of this call may spend.")
]
JudgePrice = Annotated[
    tuple[float, float] | None,
    Option("--judge-price", metavar="IN OUT", help="US dollars for a million tokens read and written."),
]
JudgeConcurrency = Annotated[
    int, Option("--judge-concurrency", metavar="N", help="Requests to the judges' server under way at once.")
]
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


def build_judges(
    names: Sequence[str],
    model: str | None,
    url: str | None,
    prompt: Path | None,
    budget: float | None,
    price: tuple[float, float] | None,
    concurrency: int,
) -> "list[AnyJudge]":
    """The judges of these names, as the --judge options want them."""
    from safelox.evaluation import judges

    wanted = judges.JudgeOptions(
        model=model, url=url, prompt=prompt, budget=budget, price=price, concurrency=concurrency
    )
    return judges.build_judges(names, wanted)


def parse_rank(text: str) -> int | Literal["full", "auto"]:
    """`full`, `auto`, or the integer that the text stands for.

    Raises:
        UsageError: the text is none of them.
    """
    if text == "full":
        return "full"
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--rank: {text!r} is neither an integer nor `full` nor `auto`.") from None


def parse_ranks(text: str) -> tuple[int, ...]:
    """The integers that stand in the text with commas between.

    Raises:
        UsageError: it holds anything else.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--ranks: {text!r} is no list of integers with commas between, such as 0,1,2,4.") from None


def parse_every(text: str) -> int | Literal["epoch"]:
    """`epoch`, or the number of steps that the text stands for.

    Raises:
        UsageError: the text is neither.
    """
    if text == "epoch":
        return "epoch"
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--save-every: {text!r} is neither a number of steps nor `epoch`.") from None


def read_text(option: str, path: Path) -> str:
    """The text of the file that an option names, without the line ends at its end.

    Raises:
        UsageError: there is no such text file.
    """
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{option}: {path} cannot be read as UTF-8 text: {error}") from error
