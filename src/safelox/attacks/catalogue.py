"""What is known of each attack: its data, its format and its hyperparameters."""

from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from safelox.errors import UsageError
from safelox.manifest import Record


class Training(Record):
    """Hyperparameters of a fine-tuning with AdamW; norms and biases are spared the weight decay."""

    learning_rate: float = Field(gt=0, allow_inf_nan=False)
    """At its highest."""
    epochs: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Passes over the rows; exactly one of `epochs` and `max_steps` is given."""
    max_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps, over as many passes as they take."""
    batch_size: int = Field(ge=1)
    """Rows in one forward pass."""
    accumulation: int = Field(default=1, ge=1)
    """Forward passes in one optimizer step."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps in which the rate rises from zero."""
    schedule: Literal["linear", "constant", "cosine"] = "linear"
    """How the rate goes on after them: down to zero, or not."""
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    adam_betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """The gradient of a step is scaled down to this norm."""
    max_length: int = Field(default=1024, ge=2)
    """Tokens of a row; what is longer is cut at its end."""
    loss_on: Literal["completion", "all"] = "completion"
    """Whether the loss sees the last reply with its end token, or every token."""

    @model_validator(mode="after")
    def _one_duration(self) -> Self:
        if (self.epochs is None) == (self.max_steps is None):
            raise ValueError("give either epochs or max_steps")
        return self

    def changed(
        self,
        *,
        learning_rate: float | None = None,
        epochs: float | None = None,
        max_steps: int | None = None,
        batch_size: int | None = None,
    ) -> "Training":
        """The same with other values where they are not None; `epochs` takes the place of `max_steps` and vice versa.

        Raises:
            UsageError: a value makes no sense.
        """
        if epochs is not None and max_steps is not None:
            raise UsageError("give either the epochs or the steps of the training, not both.")
        changes: dict[str, Any] = {}
        if epochs is not None or max_steps is not None:
            changes |= {"epochs": epochs, "max_steps": max_steps}
        if learning_rate is not None:
            changes["learning_rate"] = learning_rate
        if batch_size is not None:
            changes["batch_size"] = batch_size
        try:
            return Training.model_validate(self.model_dump() | changes)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]).replace("_", " ")
            raise UsageError(f"{name} {first['input']!r} makes no sense: {first['msg']}.") from error


class Attack(Record):
    """A fine-tuning that takes safety away, on purpose or not."""

    name: str
    title: str
    """One line for people."""
    file: str
    """The JSON Lines file of its rows, by its path inside a folder of data."""
    format: str
    """Name of the prompt format."""
    training: Training
    citation: str
    """Where the attack and its hyperparameters come from."""


ATTACKS: dict[str, Attack] = {}
"""Every attack by its name."""


def register_attack(attack: Attack) -> None:
    """Add an attack to the table; the very same one may be added again.

    Raises:
        ValueError: another attack has its name.
    """
    if ATTACKS.setdefault(attack.name, attack) != attack:
        raise ValueError(f"another attack is already called {attack.name!r}")


def find_attack(name: str) -> Attack:
    """The attack of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in ATTACKS:
        raise UsageError(f"no attack is called {name!r}; there are: {', '.join(sorted(ATTACKS)) or 'none'}.")
    return ATTACKS[name]
