"""Commands that look at models around others: `landscape`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from safelox.cli import options
from safelox.cli.progress import open_progress
from safelox.cli.session import Session, show
from safelox.errors import UsageError

if TYPE_CHECKING:
    from safelox.analysis.plane import Lines, Randoms


def landscape(
    context: typer.Context,
    origin: Annotated[
        str,
        typer.Argument(
            metavar="ORIGIN",
            help="The aligned model: a folder, or org/name[@revision] on the hub; +ADAPTER adds a LoRA.",
        ),
    ],
    hardened: Annotated[str, typer.Argument(metavar="HARDENED", help="What was made of ORIGIN, likewise.")],
    tuned: Annotated[str, typer.Argument(metavar="TUNED", help="ORIGIN after fine-tuning, likewise.")],
    hardened_tuned: Annotated[
        str, typer.Argument(metavar="HARDENED_TUNED", help="HARDENED after the same fine-tuning, likewise.")
    ],
    out: options.ResultsFolder,
    suite: options.Suite,
    judge: options.Judge = None,
    points: Annotated[
        str | None,
        typer.Option(
            "--points", metavar="N|NxM", help="Points of the grid along both directions, or along each; else 7."
        ),
    ] = None,
    range_a: Annotated[
        str | None,
        typer.Option("--range-a", metavar="LO:HI", help="Along hardening, in L2; else so that all models lie inside."),
    ] = None,
    range_b: Annotated[
        str | None, typer.Option("--range-b", metavar="LO:HI", help="Along fine-tuning, likewise.")
    ] = None,
    no_plane: Annotated[bool, typer.Option("--no-plane", help="Ask no grid, but lines alone.")] = False,
    line: Annotated[
        list[str] | None,
        typer.Option(
            "--line",
            metavar="tuned|crossed|hardened",
            help="Ask along lines too: tuned, each start along its own fine-tuning; crossed, along the other's; "
            "hardened, from ORIGIN to HARDENED. May be repeated.",
        ),
    ] = None,
    line_points: Annotated[
        int | None, typer.Option("--line-points", metavar="N", help="Points of each line; else 9.")
    ] = None,
    line_reach: Annotated[
        float | None, typer.Option("--line-reach", metavar="U", help="Lines go from 0 to U times the move; else 2.")
    ] = None,
    random: Annotated[
        int | None,
        typer.Option("--random", metavar="N", help="Ask along N random directions too, from ORIGIN and from HARDENED."),
    ] = None,
    random_points: Annotated[
        int | None, typer.Option("--random-points", metavar="N", help="Points along each; else 11.")
    ] = None,
    random_reach: Annotated[
        float | None, typer.Option("--random-reach", metavar="U", help="They go from -U to U; else 0.5.")
    ] = None,
    random_norm: Annotated[
        str | None,
        typer.Option(
            "--random-norm",
            metavar="L2|tensors",
            help="Length of a random direction; else that of each tensor's weights.",
        ),
    ] = None,
    plot: options.Plot = None,
    data: options.Data = None,
    suite_file: options.SuiteFile = None,
    suite_asks: options.SuiteAsks = None,
    limit: options.Limit = None,
    system: options.System = None,
    prompt_format: options.PromptFormat = None,
    paper_exact: Annotated[
        bool,
        typer.Option("--paper-exact", help="The paper's grid, from -10 to 30, and its script's way to ask advbench."),
    ] = False,
    max_new_tokens: options.MaxNewTokens = None,
    device: options.ModelDevice = None,
    dtype: options.ModelDtype = None,
    batch_size: options.BatchSize = None,
    judge_model: options.JudgeModel = None,
    judge_url: options.JudgeUrl = None,
    judge_prompt: options.JudgePrompt = None,
    judge_budget: options.JudgeBudget = None,
    judge_price: options.JudgePrice = None,
    judge_concurrency: options.JudgeConcurrency = 8,
    overwrite: options.Overwrite = False,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Map how safe models are around ORIGIN and HARDENED.

    ORIGIN plus a times the direction of hardening plus b times that of fine-tuning is asked and judged for a grid of
    (a, b), and the four models too; all are built in memory. OUT gets a results folder for each, and landscape.json.
    """
    import safelox.lab.suites  # noqa: F401 (registers the lab's suites and judge)
    from safelox.analysis.plane import landscape as map_landscape
    from safelox.cli.render_landscape import render_landscape
    from safelox.evaluation.generation import find_backend
    from safelox.evaluation.suites import with_custom

    session: Session = context.obj
    with open_progress(quiet) as progress:
        result = map_landscape(
            origin,
            hardened,
            tuned,
            hardened_tuned,
            out,
            suites=with_custom(suite, suite_file, suite_asks),
            judges=options.build_judges(
                judge or [], judge_model, judge_url, judge_prompt, judge_budget, judge_price, judge_concurrency
            ),
            plane=not no_plane,
            points=None if points is None else _parse_points(points),
            range_a=None if range_a is None else _parse_range("--range-a", range_a),
            range_b=None if range_b is None else _parse_range("--range-b", range_b),
            lines=_lines(line, line_points, line_reach),
            randoms=_randoms(random, random_points, random_reach, random_norm),
            data=data,
            limit=limit,
            system=None if system is None else options.read_text("--system", system),
            format=prompt_format,
            max_new_tokens=max_new_tokens,
            paper_exact=paper_exact,
            backend=find_backend(device=device, dtype=dtype),
            batch_size=batch_size,
            plots=plot or (),
            overwrite=overwrite,
            seed=seed,
            command=session.command,
            progress=progress,
        )
    show(result, render_landscape(result, str(out)), as_json=as_json, quiet=quiet)


def _parse_points(text: str) -> int | tuple[int, int]:
    """
    Raises:
        UsageError: it is neither N nor NxM.
    """
    try:
        if "x" not in text:
            return int(text)
        one, two = text.split("x")
        return int(one), int(two)
    except ValueError:
        raise UsageError(f"--points: {text!r} is neither a number, such as 7, nor two, such as 9x5.") from None


def _parse_range(option: str, text: str) -> tuple[float, float]:
    """
    Raises:
        UsageError: it is not LO:HI.
    """
    try:
        low, high = text.split(":")
        return float(low), float(high)
    except ValueError:
        raise UsageError(f"{option}: {text!r} is no range, such as -10:30.") from None


def _lines(kinds: list[str] | None, points: int | None, reach: float | None) -> "Lines | None":
    from safelox.analysis.plane import Lines

    given = _given(points=points, reach=reach)
    if not kinds:
        _refuse_alone("line", given)
        return None
    return Lines(tuple(kinds), **given)


def _randoms(directions: int | None, points: int | None, reach: float | None, norm: str | None) -> "Randoms | None":
    """
    Raises:
        UsageError: `norm` is neither a number nor "tensors".
    """
    from safelox.analysis.plane import Randoms

    given = _given(points=points, reach=reach, norm=norm)
    if directions is None:
        _refuse_alone("random", given)
        return None
    if norm is not None and norm != "tensors":
        try:
            given["norm"] = float(norm)
        except ValueError:
            raise UsageError(f"--random-norm: {norm!r} is neither a length, such as 0.5, nor `tensors`.") from None
    return Randoms(directions, **given)


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given; the library has defaults for the others."""
    return {name: value for name, value in options.items() if value is not None}


def _refuse_alone(option: str, given: dict[str, Any]) -> None:
    """
    Raises:
        UsageError: something is said of what is not asked for.
    """
    if given:
        raise UsageError(f"--{option}-{next(iter(given))} goes with --{option}, which is not there.")
