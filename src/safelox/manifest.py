"""What was done, as a file: `safelox.json` beside the weights of a hardened model."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from safelox.errors import CheckpointError
from safelox.methods import ControlName

MANIFEST_NAME = "safelox.json"
FORMAT = 1

Route = Literal["krylov", "gram", "svd", "factors", "full", "zero", "whole", "subspace"]
"""How a matrix was decomposed: the certified block Krylov iteration; an exact eigendecomposition of the Gram matrix or
an exact SVD; exactly, through the factors of a LoRA; not at all, because the rank is `full`, the delta is zero or the
matrix is no larger than the rank (taken whole); or read from a subspace file."""


class Record(BaseModel):
    """A frozen piece of the manifest; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True, ser_json_inf_nan="strings")


class FileRecord(Record):
    bytes: int
    sha256: str


class SourceRecord(Record):
    """One of the two models that went in."""

    reference: str
    commit: str | None
    """Commit on the hub, where the reference is a hub id."""
    weights: dict[str, FileRecord] | None
    """Weight files by name (an adapter's as `+name`); None where hashing of the sources was turned off."""


class MatrixRecord(Record):
    """One extrapolated matrix and the certificate of its decomposition."""

    name: str
    expert: int | None
    rows: int
    columns: int
    route: Route
    rank: int | None
    """Number of singular directions extrapolated; None where the whole delta was."""
    singular_values: tuple[float, ...]
    """Of the directions extrapolated, descending."""
    delta_norm: float
    """Frobenius norm of W_aligned - W_base."""
    weight_norm: float
    """Frobenius norm of W_aligned."""
    energy_kept: float
    """Share of ||delta||_F^2 inside the extrapolated directions; NaN for a zero delta."""
    energy_lost_bound: float
    """Upper bound of (optimal - captured) energy, as a share of ||delta||_F^2."""
    update_error_bound: float | None
    """Upper bound of the relative Frobenius error against the exact rank-k part; None where the singular values at the
    cut are too close for the rank-k part to be well defined."""
    failure_probability: float
    """Probability that a bound is wrong (0 for exact routes)."""
    sweeps: int
    """Passes over the matrix that the decomposition took."""
    entries: int
    entries_changed: int
    """Entries whose stored value differs from ALIGNED's, after rounding to the stored dtype."""


class CarriedRecord(Record):
    """One tensor that was kept as it is in ALIGNED."""

    name: str
    reason: str


class AutoRank(Record):
    """A rank that was not given but found from the spectra of the deltas."""

    rule: str
    """In words."""
    value: float
    """What the rule gave, before it was made a rank."""
    rank: int


class MethodRecord(Record):
    name: Literal["lox"]
    rank: int | Literal["full"]
    coef: float
    seed: int
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    embeddings: bool
    vocab: Literal["error", "common"]
    dtype: str | None
    subspace: FileRecord | None
    control: ControlName | None = None
    """Set where the result is no hardened model but a control: a step as long as LoX's, in another direction. The
    records of the matrices then describe the step of LoX that the control's is as long as, and `entries_changed` what
    the control has changed."""
    auto_rank: AutoRank | None = None
    """How `rank` was found; None where it was given."""


class Environment(Record):
    """What the bytes of the result depend on, besides the inputs."""

    device: str
    instruction_set: str
    libraries: dict[str, str]
    python: str
    platform: str


class Manifest(Record):
    """Contents of `safelox.json`."""

    format: int
    safelox: str
    created: str
    """UTC, ISO 8601."""
    command: str
    kind: Literal["model", "adapter"]
    method: MethodRecord
    base: SourceRecord
    aligned: SourceRecord
    matrices: tuple[MatrixRecord, ...]
    carried: tuple[CarriedRecord, ...]
    notes: tuple[str, ...]
    files: dict[str, FileRecord]
    """Every file of the result but this one, by its path inside the folder."""
    environment: Environment

    def write(self, folder: Path) -> None:
        (folder / MANIFEST_NAME).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a hardened model.

    Raises:
        CheckpointError: there is none, or it is not one that this version reads.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise CheckpointError(f"{folder}: no {MANIFEST_NAME} here, so this is not a model that safelox wrote.")
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise CheckpointError(f"{path}: not a manifest of this version of safelox: {where}: {first['msg']}") from error
