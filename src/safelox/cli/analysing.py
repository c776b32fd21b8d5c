"""Commands that tell from replies what part of a delta does what: `rank-curve`."""

from typing import Annotated

import typer

from safelox.cli import options
from safelox.cli.progress import open_progress
from safelox.cli.session import Session, show


def rank_curve(
    context: typer.Context,
    base: options.Base,
    aligned: options.Aligned,
    out: options.ResultsFolder,
    suite: options.Suite,
    judge: options.Judge = None,
    ranks: Annotated[
        str,
        typer.Option("--ranks", "-k", metavar="N,N,...", help="Directions of the delta to keep; 0 is BASE itself."),
    ] = "0,1,2,3,4,6,8",
    modules: Annotated[
        list[str] | None,
        typer.Option(
            "--modules",
            metavar="GLOB",
            help="Cut the delta of matching tensors only, others keep all of theirs; may be repeated.",
        ),
    ] = None,
    rho: Annotated[
        float, typer.Option("--rho", help="The effective rank is the first with an ASR less than this above ALIGNED's.")
    ] = 0.01,
    subspace: options.Subspace = None,
    plot: options.Plot = None,
    data: options.Data = None,
    suite_file: options.SuiteFile = None,
    suite_asks: options.SuiteAsks = None,
    limit: options.Limit = None,
    system: options.System = None,
    prompt_format: options.PromptFormat = None,
    paper_exact: options.PaperExact = False,
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
    force: options.Force = False,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Find how many directions make ALIGNED safe.

    BASE plus the leading directions of ALIGNED - BASE is asked and judged for every rank, and with all of it; the
    models are built in memory, from one decomposition. OUT gets a results folder for each, and rank_curve.json with the
    curves and the effective rank.
    """
    import safelox.lab.suites  # noqa: F401 (registers the lab's suites and judge)
    from safelox.analysis.curve import rank_curve as measure_rank_curve
    from safelox.cli.render_analysis import render_rank_curve
    from safelox.evaluation.generation import find_backend
    from safelox.evaluation.suites import with_custom

    session: Session = context.obj
    with open_progress(quiet) as progress:
        result = measure_rank_curve(
            base,
            aligned,
            out,
            suites=with_custom(suite, suite_file, suite_asks),
            judges=options.build_judges(
                judge or [], judge_model, judge_url, judge_prompt, judge_budget, judge_price, judge_concurrency
            ),
            ranks=options.parse_ranks(ranks),
            modules=modules or (),
            rho=rho,
            data=data,
            limit=limit,
            system=None if system is None else options.read_text("--system", system),
            format=prompt_format,
            max_new_tokens=max_new_tokens,
            paper_exact=paper_exact,
            backend=find_backend(device=device, dtype=dtype),
            batch_size=batch_size,
            subspace=subspace,
            plots=plot or (),
            overwrite=overwrite,
            force=force,
            seed=seed,
            command=session.command,
            progress=progress,
        )
    show(result, render_rank_curve(result, str(out)), as_json=as_json, quiet=quiet)
