"""An adapter that `harden` wrote, seen as what it adds to the model that it belongs to."""

from pathlib import Path

from safelox.checkpoint import Checkpoint, open_checkpoint
from safelox.checkpoint.header import read_header
from safelox.checkpoint.values import Values
from safelox.manifest import Manifest
from safelox.progress import Progress
from safelox.verification.report import Check, check
from safelox.verification.tensors import check_finite

ADAPTER_WEIGHTS = "adapter_model.safetensors"


def open_over(aligned: Checkpoint, folder: Path) -> Checkpoint:
    """The model with the adapter over it.

    The adapter belongs to ALIGNED; where ALIGNED is a model with an adapter itself, it belongs to that model and takes
    the place of that adapter.

    Raises:
        CheckpointError: the adapter cannot be read, or does not fit the model.
    """
    return open_checkpoint(f"{aligned.folder}+{folder}")


def check_adapter_finite(folder: Path, progress: Progress) -> Check:
    """Whether every value of the factors is finite.

    Raises:
        CheckpointError: the file cannot be read.
    """
    tensors, values = read_header(folder / ADAPTER_WEIGHTS).tensors, Values()
    return check_finite(tensors, values.rows, values.release, progress)


def check_adapter_coverage(over: Checkpoint, aligned: Checkpoint, manifest: Manifest) -> Check:
    """Whether the adapter changes exactly the recorded matrices, and those by factors only.

    Where it takes the place of ALIGNED's own adapter, it also keeps that one's factors of matrices that were left out.
    """
    assert over.adapter is not None
    own = set(aligned.adapter.factors) if aligned.adapter is not None else set()
    changed = set(over.adapter.factors) - (own & {record.name for record in manifest.carried})
    recorded = {record.name for record in manifest.matrices}
    nothing_to_add = {record.name for record in manifest.matrices if record.route == "zero"}
    problems = [f"{name} has factors but is not in the manifest" for name in sorted(changed - recorded)]
    problems += [f"{name} has no factors" for name in sorted(recorded - changed - nothing_to_add)]
    problems += [f"{name} is replaced as a whole" for name in sorted(over.adapter.replaced)]
    return check("coverage", problems, f"factors of {len(changed)} matrices, as recorded")
