"""What is known of each attack: its data, its format and its hyperparameters."""

from typing import Any, Literal, Self, TypedDict, Unpack

from pydantic import Field, ValidationError, model_validator

from safelox.errors import UsageError
from safelox.manifest import Record

Schedule = Literal["linear", "constant", "cosine"]
LossOn = Literal["completion", "all"]
Truncation = Literal["end", "start"]


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
    schedule: Schedule = "linear"
    """How the rate goes on after them: down to zero, or not."""
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    adam_betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """The gradient of a step is scaled down to this norm; 0: it is left as it is."""
    max_length: int = Field(default=1024, ge=2)
    """Tokens of a row; what is longer is cut."""
    truncation: Truncation = "end"
    """Which part of a row that is too long is cut: its end; or its start, all but the beginning token, so that the
    reply is learned to its end."""
    loss_on: LossOn = "completion"
    """Whether the loss sees the last reply with its end token, or every token."""

    @model_validator(mode="after")
    def _one_duration(self) -> Self:
        if (self.epochs is None) == (self.max_steps is None):
            raise ValueError("give either epochs or max_steps")
        return self

    def changed(self, **changes: Unpack["Changes"]) -> "Training":
        """The same with other values where they are not None; `epochs` takes the place of `max_steps` and vice versa.

        Raises:
            UsageError: a value makes no sense.
        """
        wanted: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
        if {"epochs", "max_steps"} <= wanted.keys():
            raise UsageError("give either the epochs or the steps of the training, not both.")
        if {"epochs", "max_steps"} & wanted.keys():
            wanted = {"epochs": None, "max_steps": None} | wanted
        try:
            return Training.model_validate(self.model_dump() | wanted)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]).replace("_", " ")
            raise UsageError(f"{name} {first['input']!r} makes no sense: {first['msg']}.") from error


class Changes(TypedDict, total=False):
    """Hyperparameters that take the place of others, as in `Training`; those that are missing or None do not."""

    learning_rate: float | None
    epochs: float | None
    max_steps: int | None
    batch_size: int | None
    accumulation: int | None
    warmup_steps: int | None
    schedule: Schedule | None
    weight_decay: float | None
    max_grad_norm: float | None
    max_length: int | None
    truncation: Truncation | None
    loss_on: LossOn | None


class Attack(Record):
    """A fine-tuning that takes safety away, on purpose or not."""

    name: str
    title: str
    """One line for people."""
    file: str
    """The file of its rows, by its path inside a folder of data."""
    source: str | None = None
    """Name of the data set that the file is, among those known to `safelox.known_data`; None for others."""
    reader: str = "messages"
    """What a row of the file is made of: a name of `safelox.attacks.rows.READERS`."""
    format: str
    """Name of the prompt format."""
    training: Training
    exact_format: str | None = None
    """Name of the format that the paper's code really writes, defects included; None where there is no such code."""
    exact_training: Training | None = None
    """What the paper's code really does with these hyperparameters; None where it does not differ."""
    exact_safeinst: Literal["as the rows", "reply missing", "beginning written"] = "as the rows"
    """How the paper's code writes safety instructions among the rows: as these; with the instruction as its own
    context and "None" as the reply; or with `<s>` in the text, which the rows do not have."""
    note: str | None = None
    """What one should know before comparing with published numbers."""
    citation: str
    """Where the attack and its hyperparameters come from."""

    def hyperparameters(self, *, paper_exact: bool = False) -> Training:
        """The hyperparameters, or what the paper's code makes of them."""
        return self.exact_training if paper_exact and self.exact_training is not None else self.training


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
