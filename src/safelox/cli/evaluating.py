"""Commands that measure what models say: `evaluate`, `compare`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from safelox.cli import options
from safelox.cli.progress import open_progress
from safelox.cli.session import Session, show


def evaluate(
    context: typer.Context,
    model: options.Model,
    out: options.ResultsFolder,
    suite: options.Suite,
    judge: options.Judge = None,
    data: options.Data = None,
    suite_file: options.SuiteFile = None,
    suite_asks: options.SuiteAsks = None,
    limit: options.Limit = None,
    system: options.System = None,
    prompt_format: options.PromptFormat = None,
    shots: Annotated[
        int, typer.Option("--shots", metavar="N", help="Solved problems before each question of gsm8k.")
    ] = 0,
    paper_exact: options.PaperExact = False,
    max_new_tokens: options.MaxNewTokens = None,
    temperature: Annotated[float, typer.Option("--temperature", help="Of the drawing of tokens; 0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option("--top-p", help="Draw from the likeliest tokens of this probability.")] = 1.0,
    samples: Annotated[
        int, typer.Option("--samples", metavar="N", help="Replies to each prompt; several need a temperature.")
    ] = 1,
    backend: Annotated[
        Literal["transformers", "openai"], typer.Option("--backend", help="Where the model runs: here, or at a server.")
    ] = "transformers",
    base_url: Annotated[
        str | None, typer.Option("--base-url", metavar="URL", help="Of an OpenAI-compatible server.")
    ] = None,
    api_model: Annotated[
        str | None, typer.Option("--api-model", metavar="NAME", help="By which that server knows the model.")
    ] = None,
    device: options.ModelDevice = None,
    dtype: options.ModelDtype = None,
    batch_size: options.BatchSize = None,
    judge_model: options.JudgeModel = None,
    judge_url: options.JudgeUrl = None,
    judge_prompt: options.JudgePrompt = None,
    judge_budget: options.JudgeBudget = None,
    judge_price: options.JudgePrice = None,
    judge_concurrency: options.JudgeConcurrency = 8,
    with_lm_eval: Annotated[
        str | None,
        typer.Option("--with-lm-eval", metavar="TASKS", help="Also run these tasks of lm-eval, with commas between."),
    ] = None,
    overwrite: options.Overwrite = False,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Ask MODEL and judge its replies.

    Every reply and every verdict is kept in OUT as soon as there is one. The rates, with counts and 95 % intervals, are
    in OUT/results.json. A reply that a judge could not judge is unscored: it never counts as safe.
    """
    import safelox.lab.suites  # noqa: F401 (registers the lab's suites and judge)
    from safelox.cli.render_evaluation import render_harness, render_results
    from safelox.evaluation import evaluate as evaluate_model
    from safelox.evaluation.generation import find_backend
    from safelox.evaluation.harness import Harness
    from safelox.evaluation.suites import with_custom

    session: Session = context.obj
    place = find_backend(backend, base_url=base_url, api_model=api_model, device=device, dtype=dtype)
    harness = None if with_lm_eval is None else Harness(with_lm_eval.split(","), place)
    with open_progress(quiet) as progress:
        results = evaluate_model(
            model,
            out,
            suites=with_custom(suite, suite_file, suite_asks),
            judges=options.build_judges(
                judge or [], judge_model, judge_url, judge_prompt, judge_budget, judge_price, judge_concurrency
            ),
            data=data,
            limit=limit,
            system=None if system is None else options.read_text("--system", system),
            format=prompt_format,
            max_new_tokens=max_new_tokens,
            shots=shots,
            paper_exact=paper_exact,
            temperature=temperature,
            top_p=top_p,
            samples=samples,
            seed=seed,
            backend=place,
            batch_size=batch_size,
            overwrite=overwrite,
            command=session.command,
            progress=progress,
        )
    text = render_results(results, str(out))
    if harness is not None:
        text += "\n\n" + render_harness(harness.run(model, out, limit=limit, overwrite=overwrite))
    show(results, text, as_json=as_json, quiet=quiet)


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder of results, of `safelox evaluate`.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another, of the same suites and judges.")],
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare two results folders prompt by prompt.

    Of every rate: both values, their paired difference with a 95 % interval, and the exact McNemar test.
    """
    from safelox.cli.render_evaluation import render_comparison
    from safelox.evaluation import compare as compare_results

    comparison = compare_results(first, second)
    show(comparison, render_comparison(comparison, str(first), str(second)), as_json=as_json, quiet=quiet)
