"""Make a safety-aligned LLM keep its safety through fine-tuning, without training (LoX), and measure it.

The public names below are imported when they are first used, so that importing safelox costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from safelox.errors import (
    CheckpointError,
    DataError,
    PairingError,
    PrerequisiteError,
    SafeloxError,
    TargetError,
    UsageError,
)

if TYPE_CHECKING:
    from safelox.analysis.curve import rank_curve
    from safelox.analysis.plane import landscape
    from safelox.analysis.search import tune
    from safelox.attacks import attack
    from safelox.checkpoint import open_checkpoint
    from safelox.drift_metrics import drift
    from safelox.evaluation import compare, evaluate
    from safelox.evaluation.exports import export
    from safelox.experiment import plan_run, run
    from safelox.hardening import harden, plan_harden
    from safelox.manifest import read_manifest
    from safelox.publication import document
    from safelox.reporting import report
    from safelox.spectra import spectrum
    from safelox.subspace import decompose
    from safelox.verification import verify

__version__ = "0.1.0.dev0"

__all__ = [
    "CheckpointError",
    "DataError",
    "PairingError",
    "PrerequisiteError",
    "SafeloxError",
    "TargetError",
    "UsageError",
    "__version__",
    "attack",
    "compare",
    "decompose",
    "document",
    "drift",
    "evaluate",
    "export",
    "harden",
    "landscape",
    "open_checkpoint",
    "plan_harden",
    "plan_run",
    "rank_curve",
    "read_manifest",
    "report",
    "run",
    "spectrum",
    "tune",
    "verify",
]

_HOMES = {
    "attack": "safelox.attacks",
    "compare": "safelox.evaluation",
    "decompose": "safelox.subspace",
    "document": "safelox.publication",
    "drift": "safelox.drift_metrics",
    "evaluate": "safelox.evaluation",
    "export": "safelox.evaluation.exports",
    "harden": "safelox.hardening",
    "landscape": "safelox.analysis.plane",
    "open_checkpoint": "safelox.checkpoint",
    "plan_harden": "safelox.hardening",
    "plan_run": "safelox.experiment",
    "rank_curve": "safelox.analysis.curve",
    "read_manifest": "safelox.manifest",
    "report": "safelox.reporting",
    "run": "safelox.experiment",
    "spectrum": "safelox.spectra",
    "tune": "safelox.analysis.search",
    "verify": "safelox.verification",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
