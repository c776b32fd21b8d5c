"""Commands that tell something of weights: `drift`, `spectrum`."""

from pathlib import Path
from typing import Annotated

import typer

from safelox.cli import options
from safelox.cli.progress import open_progress
from safelox.cli.session import Session, check_saved, save, show


def drift(
    context: typer.Context,
    base: options.Base,
    aligned: options.Aligned,
    tuned: Annotated[
        str, typer.Argument(metavar="TUNED", help="What ALIGNED, hardened or not, became by fine-tuning, likewise.")
    ],
    hardened: Annotated[
        str | None,
        typer.Option("--hardened", metavar="MODEL", help="The hardened model, where TUNED was fine-tuned from that."),
    ] = None,
    rank: Annotated[int, typer.Option("--rank", "-k", metavar="N", help="Directions of the safety subspace.")] = 100,
    subspace: options.Subspace = None,
    no_overlap: Annotated[
        bool, typer.Option("--no-overlap", help="Leave out the overlap of the leading spaces, which halves the time.")
    ] = False,
    include: options.Include = None,
    exclude: options.Exclude = None,
    no_embeddings: options.NoEmbeddings = False,
    vocab: options.Vocab = "error",
    device: options.Device = "cpu",
    workers: options.Workers = None,
    max_memory: options.MaxMemory = None,
    allow_pickle: options.AllowPickle = False,
    out: options.SavedIn = None,
    plot: options.Plot = None,
    overwrite: options.Overwrite = False,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure R_align and R_ft.

    R_align says how much of ALIGNED - BASE lies in the safety subspace, R_ft how much of TUNED - BASE does: where R_ft
    is lower, fine-tuning has moved the weights away from it. Per matrix, by layer and module, and as means.
    """
    from safelox.cli.render_drift import render_drift
    from safelox.drift_metrics import draw_drift
    from safelox.drift_metrics import drift as measure_drift
    from safelox.drift_metrics.report import FILE
    from safelox.pictures import check_picture

    session: Session = context.obj
    saved = check_saved(out, FILE, overwrite=overwrite)
    for picture in plot or ():
        check_picture(picture, overwrite=overwrite)
    common = options.common(include, exclude, no_embeddings, vocab, device, workers, max_memory, allow_pickle)
    with open_progress(quiet) as progress:
        report = measure_drift(
            base,
            aligned,
            tuned,
            hardened=hardened,
            rank=rank,
            subspace=subspace,
            overlap=not no_overlap,
            seed=seed,
            command=session.command,
            progress=progress,
            **common,
        )
    save(report, saved)
    for picture in plot or ():
        draw_drift(report, picture, overwrite=overwrite)
    show(report, render_drift(report), as_json=as_json, quiet=quiet)


def spectrum(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `safelox decompose` wrote.")],
    rank: Annotated[
        list[int] | None,
        typer.Option("--rank", "-k", metavar="N", help="Show the energy of the N leading directions; may be repeated."),
    ] = None,
    out: options.SavedIn = None,
    plot: options.Plot = None,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Show how few directions hold the alignment.

    Energy at k, stable rank and entropy rank of every ALIGNED - BASE in FILE, as means by module and by layer; --json
    prints every singular value. Neither model is needed.
    """
    from safelox.cli.render_spectrum import render_spectrum
    from safelox.pictures import check_picture
    from safelox.spectra import draw_spectrum
    from safelox.spectra import spectrum as read_spectrum
    from safelox.spectra.report import FILE

    session: Session = context.obj
    saved = check_saved(out, FILE, overwrite=overwrite)
    for picture in plot or ():
        check_picture(picture, overwrite=overwrite)
    report = read_spectrum(file, ranks=rank or (), command=session.command)
    save(report, saved)
    for picture in plot or ():
        draw_spectrum(report, picture, overwrite=overwrite)
    show(report, render_spectrum(report), as_json=as_json, quiet=quiet)
