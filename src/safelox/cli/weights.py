"""Commands that write and check weights: `harden`, `decompose`, `verify`."""

from pathlib import Path
from typing import Annotated

import typer

from safelox.cli import options
from safelox.cli.progress import open_progress
from safelox.cli.session import Session, show


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
    subspace: options.Subspace = None,
    control: options.Control = None,
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
        plan = plan_harden(
            base, aligned, rank=number, coef=coef, adapter=adapter, control=control, dtype=dtype, **common
        )
        show(plan, render_plan(plan), as_json=as_json, quiet=quiet)
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
            control=control,
            dtype=dtype,
            overwrite=overwrite,
            force=force,
            hash_sources=not no_source_hashes,
            seed=seed,
            command=session.command,
            progress=progress,
            **common,
        )
    show(summary, render_summary(summary), as_json=as_json, quiet=quiet)


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
    show(result, render_decomposition(result), as_json=as_json, quiet=quiet)


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
    show(report, render_report(report), as_json=as_json, quiet=quiet and report.ok)
    if not report.ok:
        raise typer.Exit(1)
