"""What `attack` did, as text for people."""

from typing import TYPE_CHECKING

from safelox.cli.labelled import labelled

if TYPE_CHECKING:
    from safelox.attacks import AttackRecord, AttackSummary


def render_attack(summary: "AttackSummary") -> str:
    """The model, the rows, the hyperparameters and how the loss went."""
    record, outcome = summary.record, summary.record.outcome
    rows = [
        ("result", summary.out),
        ("attack", f"{record.attack.name}: {record.attack.title}"),
        ("rows", _rows_used(record)),
        *_mixed_in(record),
        ("format", record.composition.format + (" (as in the paper's code)" if record.composition.paper_exact else "")),
        ("trained", _trained(record)),
        ("training", _training(record)),
        ("loss", f"{outcome.losses[0]:.3f} at the first step, {outcome.losses[-1]:.3f} at the last"),
        *([("checkpoints", ", ".join(record.checkpoints))] if record.checkpoints else []),
        ("time", f"{sum(record.seconds.values()):.1f} s"),
    ]
    return "\n".join([f"Attacked {record.model.reference}", *labelled(*rows)])


def _rows_used(record: "AttackRecord") -> str:
    outcome = record.outcome
    text = f"{outcome.rows} of {record.data_set}"
    if outcome.rows_cut or outcome.rows_left_out:
        text += (
            f"; longer than {outcome.longest} tokens: {outcome.rows_cut} cut, of which {outcome.rows_left_out} left out"
        )
    return text


def _mixed_in(record: "AttackRecord") -> list[tuple[str, str]]:
    counts = {"harmful": record.composition.poison, "safety instructions": record.composition.safeinst}
    text = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return [("mixed in", text)] if text else []


def _trained(record: "AttackRecord") -> str:
    lora = record.lora
    if lora is None:
        what = "all weights"
    else:
        targets = "all linear layers" if lora.targets is None else ", ".join(lora.targets)
        what = f"LoRA of rank {lora.rank}, alpha {lora.alpha:g}, on {targets}"
        what += ", merged into the weights" if record.merge else "; the result is an adapter"
    return f"{what}; {record.dtype}, {record.device}" + (
        f", {record.distributed} with {record.processes} processes" if record.processes > 1 else ""
    )


def _training(record: "AttackRecord") -> str:
    training, outcome = record.training, record.outcome
    text = (
        f"{outcome.steps} steps of {training.batch_size * training.accumulation} rows, "
        f"learning rate {training.learning_rate:g}, {training.schedule}"
    )
    return text if outcome.resumed_from is None else f"{text}; resumed after step {outcome.resumed_from}"
