"""What the library's functions return about their work, for people and for programs."""

from typing import Literal

from safelox.manifest import CarriedRecord, Manifest, Record, Route


class Summary(Record):
    """The outcome of `harden`."""

    out: str
    kind: Literal["model", "adapter"]
    manifest: Manifest
    seconds: dict[str, float]
    """Wall time of `plan`, `hash_sources`, `work` (read, decompose, write and hash the result) and `finish`; first of
    `find_rank`, where the rank was to be found."""
    peak_memory_bytes: int
    """Anonymous resident memory."""
    peak_mapped_bytes: int
    """Resident pages of mapped files, which the system takes back when it needs them."""
    bytes_written: int
    resumed_items: int
    """Matrices and tensors that an earlier, interrupted run had finished."""


class HardenPlan(Record):
    """What `harden` would do."""

    matrices: int
    carried: tuple[CarriedRecord, ...]
    notes: tuple[str, ...]
    parameters_touched: int
    parameters_total: int
    peak_memory_bytes: int
    """Estimate of anonymous memory."""
    disk_bytes: int
    workers: int


class SpectrumRecord(Record):
    """One decomposed matrix."""

    name: str
    expert: int | None
    rows: int
    columns: int
    route: Route
    delta_norm: float
    weight_norm: float
    singular_values: tuple[float, ...]
    energy_kept: float


class DecomposeSummary(Record):
    """The outcome of `decompose`."""

    file: str
    rank: int
    command: str | None = None
    """What was called, where the caller said so."""
    matrices: tuple[SpectrumRecord, ...]
    carried: tuple[CarriedRecord, ...]
    notes: tuple[str, ...]
    seconds: dict[str, float]
    peak_memory_bytes: int
    bytes_written: int
