"""The command `tune`."""

from pathlib import Path
from typing import Annotated

import typer

from safelox.cli import options
from safelox.cli.progress import open_progress
from safelox.cli.session import Session, show
from safelox.errors import UsageError


def tune(
    context: typer.Context,
    base: options.Base,
    aligned: options.Aligned,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder of the search; an unfinished one of the same call goes on.")
    ],
    attack: Annotated[
        str, typer.Option("--attack", metavar="NAME", help="The attack that stands for those to come; see `attack`.")
    ],
    suite: Annotated[
        str | None, typer.Option("--suite", "-s", metavar="NAME", help="Forbidden requests, for the ASR.")
    ] = None,
    suite_file: Annotated[
        Path | None, typer.Option("--suite-file", metavar="FILE", help="These from a file of prompts.")
    ] = None,
    utility_suite: Annotated[
        str | None,
        typer.Option("--utility-suite", metavar="NAME", help="Permitted requests, or questions with one right answer."),
    ] = None,
    utility_file: Annotated[
        Path | None, typer.Option("--utility-file", metavar="FILE", help="Permitted requests from a file of prompts.")
    ] = None,
    over_refusal_suite: Annotated[
        str | None,
        typer.Option(
            "--over-refusal-suite", metavar="NAME", help="Permitted requests, where those of the utility are none."
        ),
    ] = None,
    judge: options.Judge = None,
    trials: Annotated[
        int, typer.Option("--trials", metavar="N", help="Points to try, those of earlier runs among them.")
    ] = 20,
    ranks: Annotated[
        str,
        typer.Option(
            "--ranks", "-k", metavar="LO:HI|N,N,...", help="Ranks that may be tried; LO:HI steps by about 1.4."
        ),
    ] = "2:32",
    coefs: Annotated[
        str, typer.Option("--coefs", metavar="LO:HI", help="The least and the greatest coefficient.")
    ] = "0.25:2",
    coef_step: Annotated[float, typer.Option("--coef-step", metavar="X", help="Between two of them.")] = 0.05,
    min_utility: Annotated[
        float, typer.Option("--min-utility", metavar="X", help="The least utility, as a share of ALIGNED's.")
    ] = 0.95,
    max_over_refusal: Annotated[
        float, typer.Option("--max-over-refusal", metavar="X", help="The most over-refusal, beyond ALIGNED's share.")
    ] = 0.05,
    max_incoherent: Annotated[
        float,
        typer.Option(
            "--max-incoherent", metavar="X", help="The most replies that make no sense, beyond ALIGNED's share."
        ),
    ] = 0.05,
    attack_data: Annotated[
        Path | None,
        typer.Option("--attack-data", metavar="PATH", help="File of the attack's rows, or a folder; else as --data."),
    ] = None,
    attack_steps: Annotated[
        int | None, typer.Option("--attack-steps", metavar="N", help="Its optimizer steps; else as in the catalogue.")
    ] = None,
    attack_lr: Annotated[
        float | None, typer.Option("--attack-lr", metavar="X", help="Its highest learning rate; likewise.")
    ] = None,
    attack_lora: Annotated[
        bool, typer.Option("--attack-lora", help="Attack by LoRA factors, not with all weights.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="FOLDER", help="Where to look first, before $SAFELOX_DATA and the cache."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", metavar="N", help="The most prompts of a suite in each half.")
    ] = None,
    system: options.System = None,
    prompt_format: options.PromptFormat = None,
    max_new_tokens: options.MaxNewTokens = None,
    include: options.Include = None,
    exclude: options.Exclude = None,
    no_embeddings: options.NoEmbeddings = False,
    vocab: options.Vocab = "error",
    subspace: options.Subspace = None,
    plot: options.Plot = None,
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
    """Find the rank and the coefficient to harden with, by trying.

    Every point is hardened and asked; what keeps the bounds is attacked and asked again. Optuna chooses the points, for
    little ASR after the attack and much utility before it. The recommended one is attacked anew and asked the half of
    the prompts that the search has not seen. OUT/tune.json has all of it.
    """
    import safelox.lab.attacks
    import safelox.lab.suites  # noqa: F401 (both register what is the lab's)
    from safelox.analysis.search import named_suite
    from safelox.analysis.search import tune as search
    from safelox.cli.render_tune import render_tuning
    from safelox.evaluation.generation import find_backend

    session: Session = context.obj
    with open_progress(quiet) as progress:
        result = search(
            base,
            aligned,
            out,
            attack=attack,
            suite=named_suite("suite", suite, suite_file, "forbidden"),
            utility_suite=named_suite("utility suite", utility_suite, utility_file, "permitted"),
            over_refusal_suite=over_refusal_suite,
            judges=options.build_judges(
                judge or [], judge_model, judge_url, judge_prompt, judge_budget, judge_price, judge_concurrency
            ),
            trials=trials,
            ranks=_parse_ranks(ranks),
            coefs=_parse_coefs(coefs),
            coef_step=coef_step,
            min_utility=min_utility,
            max_over_refusal=max_over_refusal,
            max_incoherent=max_incoherent,
            attack_data=attack_data,
            attack_steps=attack_steps,
            attack_lr=attack_lr,
            attack_lora=attack_lora,
            data=data,
            limit=limit,
            system=None if system is None else options.read_text("--system", system),
            format=prompt_format,
            max_new_tokens=max_new_tokens,
            include=include or (),
            exclude=exclude or (),
            embeddings=not no_embeddings,
            vocab=vocab,
            subspace=subspace,
            backend=find_backend(device=device, dtype=dtype),
            batch_size=batch_size,
            plots=plot or (),
            overwrite=overwrite,
            force=force,
            seed=seed,
            command=session.command,
            progress=progress,
        )
    show(result, render_tuning(result, str(out)), as_json=as_json, quiet=quiet)


def _parse_ranks(text: str) -> tuple[int, ...]:
    """The ranks of a list N,N,..., or those that stand for a range LO:HI.

    Raises:
        UsageError: it is neither.
    """
    from safelox.analysis.search.space import spread_ranks

    low, colon, high = text.partition(":")
    if not colon:
        return options.parse_ranks(text)
    try:
        ends = int(low), int(high)
    except ValueError:
        raise UsageError(f"--ranks: {text!r} is no range of integers, such as 2:32.") from None
    return spread_ranks(*ends)


def _parse_coefs(text: str) -> tuple[float, float]:
    """The ends of a range LO:HI.

    Raises:
        UsageError: it is none.
    """
    low, _, high = text.partition(":")
    try:
        return float(low), float(high)
    except ValueError:
        raise UsageError(f"--coefs: {text!r} is no range of numbers, such as 0.25:2.") from None
