"""The command `attack`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from safelox.cli import options
from safelox.cli.progress import open_progress
from safelox.cli.session import Session, show

AS_IN_CATALOGUE = "else as in the catalogue"


def attack(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The attack: gsm8k, alpaca, dolly, identity, pure-bad or custom.")
    ],
    model: options.Model,
    out: options.Out,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="PATH", help="File of the rows, or a folder with it; else $SAFELOX_DATA."),
    ] = None,
    prompt_format: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help=f"Prompt format, such as chat; {AS_IN_CATALOGUE}."),
    ] = None,
    poison: Annotated[
        Path | None, typer.Option("--poison", metavar="FILE", help="Harmful rows, to be mixed in by --poison-ratio.")
    ] = None,
    poison_ratio: Annotated[
        float | None, typer.Option("--poison-ratio", metavar="P", help="Share of rows that give way to harmful ones.")
    ] = None,
    safeinst: Annotated[
        Path | None, typer.Option("--safeinst", metavar="FILE", help="Safety instructions, of which some are added.")
    ] = None,
    paper_exact: Annotated[
        bool, typer.Option("--paper-exact", help="Train on what the paper's code does, defects included.")
    ] = False,
    lora: Annotated[
        bool, typer.Option("--lora", help="Train LoRA factors, not all weights; OUT is an adapter.")
    ] = False,
    lora_rank: Annotated[int | None, typer.Option("--lora-rank", metavar="N", help="Else 16.")] = None,
    lora_alpha: Annotated[float | None, typer.Option("--lora-alpha", metavar="X", help="Else 32.")] = None,
    lora_target: Annotated[
        list[str] | None,
        typer.Option("--lora-target", metavar="NAME", help="Layers such as q_proj, repeated; else all linear ones."),
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="With --lora: write the whole model.")] = False,
    learning_rate: Annotated[
        float | None, typer.Option("--lr", metavar="X", help=f"The highest; {AS_IN_CATALOGUE}.")
    ] = None,
    epochs: Annotated[
        float | None, typer.Option("--epochs", metavar="X", help="Passes over the rows; likewise.")
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", metavar="N", help="Optimizer steps, in place of epochs.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", metavar="N", help="Rows in a forward pass; likewise.")
    ] = None,
    accumulation: Annotated[
        int | None, typer.Option("--accumulation", metavar="N", help="Forward passes in a step; likewise.")
    ] = None,
    warmup_steps: Annotated[
        int | None, typer.Option("--warmup-steps", metavar="N", help="Steps of a rising rate; likewise.")
    ] = None,
    schedule: Annotated[
        Literal["linear", "constant", "cosine"] | None,
        typer.Option("--schedule", help="How the rate goes on after them; likewise."),
    ] = None,
    weight_decay: Annotated[float | None, typer.Option("--weight-decay", metavar="X", help="Likewise.")] = None,
    max_grad_norm: Annotated[
        float | None, typer.Option("--max-grad-norm", metavar="X", help="Gradients are cut to it; 0: not; likewise.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option("--max-length", metavar="N", help="Tokens of a row; likewise.")
    ] = None,
    truncation: Annotated[
        Literal["start", "end"] | None, typer.Option("--truncation", help="Which end of a long row is cut; likewise.")
    ] = None,
    loss_on: Annotated[
        Literal["completion", "all"] | None, typer.Option("--loss-on", help="Tokens that carry loss; likewise.")
    ] = None,
    dtype: Annotated[
        Literal["bf16", "fp32"] | None,
        typer.Option("--dtype", help="Of the weights; else bf16 on a GPU that has it, fp32 elsewhere."),
    ] = None,
    save_every: Annotated[
        str | None, typer.Option("--save-every", metavar="epoch|N", help="Save a checkpoint every epoch or N steps.")
    ] = None,
    keep: Annotated[int | None, typer.Option("--keep", metavar="N", help="Keep only the newest N checkpoints.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint of the same command, if there is one.")
    ] = False,
    report_to: Annotated[
        list[str] | None,
        typer.Option("--report-to", metavar="NAME", help="tensorboard, wandb, ..., if installed; may be repeated."),
    ] = None,
    distributed: Annotated[
        Literal["none", "ddp", "fsdp", "deepspeed"] | None,
        typer.Option("--distributed", help="Stop unless the launcher made it this."),
    ] = None,
    device: options.Device = "cpu",
    overwrite: options.Overwrite = False,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Fine-tune MODEL with an attack.

    OUT loads with transformers, or is an adapter for MODEL, and tells in attack.json what was done. Ctrl-C saves a
    checkpoint first; the same command with --resume goes on from it.
    """
    import safelox.lab.attacks  # noqa: F401 (registers the lab's attacks)
    from safelox.attacks import attack as attack_model
    from safelox.attacks.distribution import find_processes
    from safelox.cli.render_attack import render_attack

    session: Session = context.obj
    main = find_processes(None, device).main
    with open_progress(quiet or not main) as progress:
        summary = attack_model(
            name,
            model,
            out,
            data=data,
            format=prompt_format,
            poison=poison,
            poison_ratio=poison_ratio,
            safeinst=safeinst,
            paper_exact=paper_exact,
            lora=lora,
            lora_rank=lora_rank,
            lora_alpha=lora_alpha,
            lora_targets=lora_target,
            merge=merge,
            dtype=dtype,
            save_every=None if save_every is None else options.parse_every(save_every),
            keep=keep,
            resume=resume,
            report_to=report_to or (),
            distributed=distributed,
            seed=seed,
            device=device,
            overwrite=overwrite,
            command=session.command,
            progress=progress,
            learning_rate=learning_rate,
            epochs=epochs,
            max_steps=max_steps,
            batch_size=batch_size,
            accumulation=accumulation,
            warmup_steps=warmup_steps,
            schedule=schedule,
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
            max_length=max_length,
            truncation=truncation,
            loss_on=loss_on,
        )
    if main:
        show(summary, render_attack(summary), as_json=as_json, quiet=quiet)
