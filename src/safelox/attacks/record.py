"""What an attack was, as a file: `attack.json` beside the weights that came of it."""

from typing import Literal

from safelox.attacks.catalogue import Attack, Training
from safelox.attacks.distribution import Kind
from safelox.attacks.lora import Lora
from safelox.attacks.mixing import Composition
from safelox.attacks.trainer import FineTuning
from safelox.manifest import Environment, FileRecord, Record, SourceRecord

RECORD = "attack.json"

DtypeName = Literal["bf16", "fp32"]


class Plan(Record):
    """What an attack is going to be: a training may only be resumed as the same."""

    attack: Attack
    """As in the catalogue; `training` says what is really done."""
    training: Training
    composition: Composition
    """What the rows are made of, and the format they are written in."""
    lora: Lora | None
    """None where all weights are trained."""
    merge: bool
    """Whether LoRA's factors are added to the weights in the end."""
    dtype: DtypeName
    """Of the weights, and of the computation."""
    seed: int
    model: SourceRecord
    data: FileRecord
    data_set: str
    """What the file of the rows is, by its checksum; its name alone where nothing is known of it."""
    original: bool | None
    """Whether it is the original of a known data set; None where there is no telling."""
    mixed_in: dict[str, FileRecord]
    """The files of poison and safety instructions, under these names."""
    device: Literal["cpu", "cuda"]
    distributed: Kind
    processes: int


class AttackRecord(Plan):
    """Contents of `attack.json`."""

    safelox: str
    created: str
    """UTC, ISO 8601."""
    command: str | None
    outcome: FineTuning
    checkpoints: tuple[str, ...]
    """Their folders inside the result, the oldest first."""
    files: dict[str, FileRecord]
    """Every file of the result but this one."""
    environment: Environment
    seconds: dict[str, float]
    """Wall time by phase; of a training that was resumed, what the last part took."""


class AttackSummary(Record):
    """What an attack did, and where."""

    out: str
    data: str
    """The file of the rows."""
    record: AttackRecord
