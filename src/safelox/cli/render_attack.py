"""What `attack` did, as text for people."""

from typing import TYPE_CHECKING

from safelox.cli.labelled import labelled

if TYPE_CHECKING:
    from safelox.attacks import AttackSummary


def render_attack(summary: "AttackSummary") -> str:
    """The model, the rows, the hyperparameters and how the loss went."""
    record, training, outcome = summary.record, summary.record.training, summary.record.outcome
    rows = [
        ("result", summary.out),
        ("attack", f"{record.attack.name}: {record.attack.title}"),
        ("rows", _rows_used(summary)),
        (
            "training",
            f"{outcome.steps} steps of {training.batch_size * training.accumulation} rows, "
            f"learning rate {training.learning_rate:g}, {training.schedule}",
        ),
        ("loss", f"{outcome.losses[0]:.3f} at the first step, {outcome.losses[-1]:.3f} at the last"),
        ("time", f"{sum(record.seconds.values()):.1f} s"),
    ]
    return "\n".join([f"Attacked {record.model.reference}", *labelled(*rows)])


def _rows_used(summary: "AttackSummary") -> str:
    outcome = summary.record.outcome
    text = f"{outcome.rows} of {summary.data}"
    if outcome.rows_cut or outcome.rows_left_out:
        longest = summary.record.training.max_length
        text += f"; longer than {longest} tokens: {outcome.rows_cut} cut, of which {outcome.rows_left_out} left out"
    return text
