"""The command `judge-check`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from safelox.cli import options
from safelox.cli.progress import open_progress
from safelox.cli.session import show


def judge_check(
    judge: Annotated[str, typer.Argument(metavar="JUDGE", help="As in `evaluate`; a model may follow as JUDGE=MODEL.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV with prompt, completion and final_label or label.")],
    on: Annotated[
        Literal["refused", "complied"], typer.Option("--on", help="Compare whether a reply is labelled this or not.")
    ] = "refused",
    half: Annotated[
        Literal["tuning", "reporting"] | None,
        typer.Option("--half", help="Use one half of the prompts: choose on the one, report on the other."),
    ] = None,
    judge_model: options.JudgeModel = None,
    judge_url: options.JudgeUrl = None,
    judge_prompt: options.JudgePrompt = None,
    judge_budget: options.JudgeBudget = None,
    judge_price: options.JudgePrice = None,
    judge_concurrency: options.JudgeConcurrency = 8,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure how far a judge agrees with people.

    A reply that the judge cannot judge counts against it. Where the people's labels know only refusal, as XSTest's do,
    nothing is said of harm that the judge misses.
    """
    from safelox.cli.render_judging import render_check
    from safelox.evaluation.judge_check import check_judge

    [built] = options.build_judges(
        [judge], judge_model, judge_url, judge_prompt, judge_budget, judge_price, judge_concurrency
    )
    with open_progress(quiet) as progress:
        check = check_judge(built, file, on=on, half=half, progress=progress)
    show(check, render_check(check), as_json=as_json, quiet=quiet)
