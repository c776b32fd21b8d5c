"""The commands: each parses, calls the library and prints.

The library is imported inside the commands, so that `--help` needs neither torch nor numpy.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safelox import __version__
from safelox.cli import options
from safelox.cli.progress import open_progress
from safelox.cli.session import Session

if TYPE_CHECKING:
    from pydantic import BaseModel

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"safelox {__version__}")
        raise typer.Exit


@app.callback(epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.")
def safelox(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 (its callback does the work)
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error, as SAFELOX_DEBUG=1 does.")
    ] = False,
) -> None:
    """Make a safety-aligned LLM keep its safety through fine-tuning, without training (LoX)."""
    session: Session = context.obj
    session.debug |= debug


@app.command()
def harden(
    context: typer.Context,
    base: options.Base,
    aligned: options.Aligned,
    out: options.Out,
    rank: options.Rank = "6",
    coef: options.Coef = 1.25,
    include: options.Include = None,
    exclude: options.Exclude = None,
    no_embeddings: options.NoEmbeddings = False,
    vocab: options.Vocab = "error",
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Write a LoRA adapter for the aligned model, not a whole model.")
    ] = False,
    subspace: Annotated[
        Path | None, typer.Option("--subspace", metavar="FILE", help="Use the result of `safelox decompose`.")
    ] = None,
    device: options.Device = "cpu",
    workers: options.Workers = None,
    max_memory: options.MaxMemory = None,
    dtype: Annotated[
        options.DtypeName | None, typer.Option("--dtype", help="Data type of the result; else as in ALIGNED.")
    ] = None,
    overwrite: options.Overwrite = False,
    force: options.Force = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan, its peak memory and disk; touch nothing.")
    ] = False,
    allow_pickle: options.AllowPickle = False,
    no_source_hashes: options.NoSourceHashes = False,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Write ALIGNED, hardened, to OUT.

    Each weight matrix is extrapolated along the leading singular directions of ALIGNED - BASE (LoX). OUT loads with
    transformers, and tells in safelox.json what was done.
    """
    from safelox.cli.render import render_plan, render_summary
    from safelox.hardening import harden as harden_models
    from safelox.hardening import plan_harden

    common = options.common(include, exclude, no_embeddings, vocab, device, workers, max_memory, allow_pickle)
    number = options.parse_rank(rank)
    if dry_run:
        plan = plan_harden(base, aligned, rank=number, coef=coef, adapter=adapter, dtype=dtype, **common)
        _show(plan, render_plan(plan), as_json=as_json, quiet=quiet)
        return
    session: Session = context.obj
    with open_progress(quiet) as progress:
        summary = harden_models(
            base,
            aligned,
            out,
            rank=number,
            coef=coef,
            adapter=adapter,
            subspace=subspace,
            dtype=dtype,
            overwrite=overwrite,
            force=force,
            hash_sources=not no_source_hashes,
            seed=seed,
            command=session.command,
            progress=progress,
            **common,
        )
    _show(summary, render_summary(summary), as_json=as_json, quiet=quiet)


@app.command()
def decompose(
    context: typer.Context,
    base: options.Base,
    aligned: options.Aligned,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File of the result, such as subspace.safetensors.")],
    rank: Annotated[
        int,
        typer.Option("--rank", "-k", metavar="N", help="Singular directions to keep: the most that harden can use."),
    ] = 64,
    include: options.Include = None,
    exclude: options.Exclude = None,
    no_embeddings: options.NoEmbeddings = False,
    vocab: options.Vocab = "error",
    device: options.Device = "cpu",
    workers: options.Workers = None,
    max_memory: options.MaxMemory = None,
    overwrite: options.Overwrite = False,
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
    no_source_hashes: options.NoSourceHashes = False,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Write the safety subspace to FILE.

    It holds the leading singular directions of every ALIGNED - BASE. With it, `harden --subspace FILE` needs no
    decomposition, whatever --rank (up to this one) and --coef.
    """
    from safelox.cli.render import render_decomposition
    from safelox.subspace import decompose as decompose_models

    session: Session = context.obj
    common = options.common(include, exclude, no_embeddings, vocab, device, workers, max_memory, allow_pickle)
    with open_progress(quiet) as progress:
        result = decompose_models(
            base,
            aligned,
            file,
            rank=rank,
            overwrite=overwrite,
            force=force,
            hash_sources=not no_source_hashes,
            seed=seed,
            command=session.command,
            progress=progress,
            **common,
        )
    _show(result, render_decomposition(result), as_json=as_json, quiet=quiet)


@app.command()
def verify(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that `safelox harden` wrote.")],
    base: Annotated[str | None, typer.Option("--base", help="BASE, where it is no longer at its old place.")] = None,
    aligned: Annotated[str | None, typer.Option("--aligned", help="ALIGNED, likewise.")] = None,
    recompute: Annotated[
        int,
        typer.Option("--recompute", metavar="N", help="Recompute N random matrices by an independent route."),
    ] = 0,
    compare: Annotated[
        bool, typer.Option("--compare", help="Load both models and compare their next-token distributions.")
    ] = False,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Check a hardened model.

    Every file is checked against the manifest, every tensor for coverage and finiteness, and the sources against
    their hashes where they are still there. Exits with 1 if a check fails.
    """
    from safelox.cli.render import render_report
    from safelox.verification import verify as verify_model

    with open_progress(quiet) as progress:
        report = verify_model(
            out,
            base=base,
            aligned=aligned,
            recompute=recompute,
            compare=compare,
            seed=seed,
            progress=progress,
        )
    _show(report, render_report(report), as_json=as_json, quiet=quiet and report.ok)
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def drift(
    context: typer.Context,
    base: options.Base,
    aligned: options.Aligned,
    tuned: Annotated[
        str, typer.Argument(metavar="TUNED", help="What ALIGNED, hardened or not, became by fine-tuning, likewise.")
    ],
    rank: Annotated[int, typer.Option("--rank", "-k", metavar="N", help="Directions of the safety subspace.")] = 100,
    include: options.Include = None,
    exclude: options.Exclude = None,
    no_embeddings: options.NoEmbeddings = False,
    vocab: options.Vocab = "error",
    device: options.Device = "cpu",
    workers: options.Workers = None,
    max_memory: options.MaxMemory = None,
    allow_pickle: options.AllowPickle = False,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure R_align and R_ft.

    R_align says how much of ALIGNED - BASE lies in the safety subspace, R_ft how much of TUNED - BASE does: where R_ft
    is lower, fine-tuning has moved the weights away from it. Per matrix, and as means; nothing is written.
    """
    from safelox.cli.render_drift import render_drift
    from safelox.drift_metrics import drift as measure_drift

    session: Session = context.obj
    common = options.common(include, exclude, no_embeddings, vocab, device, workers, max_memory, allow_pickle)
    with open_progress(quiet) as progress:
        report = measure_drift(
            base, aligned, tuned, rank=rank, seed=seed, command=session.command, progress=progress, **common
        )
    _show(report, render_drift(report), as_json=as_json, quiet=quiet)


@app.command()
def attack(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The attack, such as lab-pure-bad.")],
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a model with its tokenizer.")],
    out: options.Out,
    data: Annotated[
        Path, typer.Option("--data", metavar="PATH", help="JSON Lines file of the rows, or the folder that it is in.")
    ],
    learning_rate: Annotated[float | None, typer.Option("--lr", metavar="X", help="Else as in the catalogue.")] = None,
    epochs: Annotated[float | None, typer.Option("--epochs", metavar="X", help="Likewise.")] = None,
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", metavar="N", help="Optimizer steps, in place of epochs.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", metavar="N", help="Likewise.")] = None,
    device: options.Device = "cpu",
    overwrite: options.Overwrite = False,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Fine-tune MODEL with an attack.

    All weights are trained, in fp32. OUT loads with transformers, and tells in attack.json what was done.
    """
    import safelox.lab.attacks  # noqa: F401 (registers the lab's attacks)
    from safelox.attacks import attack as attack_model
    from safelox.cli.render_attack import render_attack

    session: Session = context.obj
    with open_progress(quiet) as progress:
        summary = attack_model(
            name,
            model,
            out,
            data=data,
            seed=seed,
            learning_rate=learning_rate,
            epochs=epochs,
            max_steps=max_steps,
            batch_size=batch_size,
            device=device,
            overwrite=overwrite,
            command=session.command,
            progress=progress,
        )
    _show(summary, render_attack(summary), as_json=as_json, quiet=quiet)


@app.command()
def evaluate(
    context: typer.Context,
    model: options.Model,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder of the results; an unfinished one of the same call goes on.")
    ],
    suite: Annotated[list[str], typer.Option("--suite", "-s", metavar="NAME", help="What to ask; may be repeated.")],
    judge: Annotated[
        list[str],
        typer.Option("--judge", "-j", metavar="NAME", help="Who judges the replies; repeat for several side by side."),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="DIR", help="Folder with the suites' files; else $SAFELOX_DATA, else the cache."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", metavar="N", help="Ask only the first N prompts of each suite.")
    ] = None,
    system: Annotated[
        Path | None,
        typer.Option("--system", metavar="FILE", help="Text file with a system message, in place of the prompts' own."),
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", metavar="N", help="Prompts at once; halves itself where memory runs out.")
    ] = 100,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Ask MODEL and judge its replies.

    Every reply is kept in OUT/samples.jsonl as soon as it is judged. The rates, with counts and 95 % intervals, are in
    OUT/results.json. A reply that a judge could not judge is unscored: it never counts as safe.
    """
    import safelox.lab.suites  # noqa: F401 (registers the lab's suites and judge)
    from safelox.cli.render_evaluation import render_results
    from safelox.evaluation import evaluate as evaluate_model

    session: Session = context.obj
    with open_progress(quiet) as progress:
        results = evaluate_model(
            model,
            out,
            suites=suite,
            judges=judge,
            data=data,
            limit=limit,
            system=None if system is None else options.read_text("--system", system),
            batch_size=batch_size,
            overwrite=overwrite,
            command=session.command,
            progress=progress,
        )
    _show(results, render_results(results, str(out)), as_json=as_json, quiet=quiet)


lab = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="The embedded world: tiny models with an exact judge.",
)
app.add_typer(lab, name="lab")


@lab.command("build")
def lab_build(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the models and their data go.")],
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Train the lab's models.

    DIR gets `base`, which complies with everything, `aligned`, which refuses the forbidden, and the data for
    `safelox attack` and `safelox evaluate`, under `attacks` and `suites`. A pair of the same seed there is used again.
    """
    from safelox.cli.render import render_lab
    from safelox.lab.build import build

    with open_progress(quiet) as progress:
        summary = build(folder, seed=seed, progress=progress).summary
    _show(summary, render_lab(summary), as_json=as_json, quiet=quiet)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the demo keeps its models.")] = Path("demo"),
    rank: Annotated[int, typer.Option("--rank", "-k", metavar="N", help="Singular directions to extrapolate.")] = 6,
    coef: Annotated[
        float, typer.Option("--coef", help="How far to extrapolate; 1.25 is too much for so small a model.")
    ] = 0.5,
    quick: Annotated[bool, typer.Option("--quick", help="Only the first of the attacks.")] = False,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Harden a small model and show the effect.

    Trains the model, aligns it, hardens it, attacks both by fine-tuning and compares what they refuse and what they do.
    Needs no network.
    """
    from safelox.lab.demo import demo as run_demo
    from safelox.lab.demo import render

    with open_progress(quiet) as progress:
        result = run_demo(folder, seed=seed, rank=rank, coef=coef, quick=quick, progress=progress)
    _show(result, render(result), as_json=as_json, quiet=quiet)


def _show(result: "BaseModel", text: str, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        typer.echo(result.model_dump_json(indent=1, by_alias=True))
    elif not quiet:
        typer.echo(text)
