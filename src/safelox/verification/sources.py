"""The two models that went in: whether they are still there, and whether they are what they were."""

from pathlib import Path

from safelox.checkpoint import Checkpoint, open_checkpoint
from safelox.checkpoint.hub import split_reference
from safelox.errors import CheckpointError
from safelox.hashing import hash_files, weight_files
from safelox.manifest import SourceRecord
from safelox.progress import Progress
from safelox.verification.report import Check, check


def open_source(side: str, recorded: SourceRecord, given: str | None) -> Checkpoint | Check:
    """The source, or a check that says why it could not be made.

    given: where the user says that it is. Otherwise it is looked for at its old place, if that is a local folder:
        nothing is downloaded that was not asked for.

    Raises:
        CheckpointError: what the user gave cannot be opened.
    """
    if given is not None:
        return open_checkpoint(given)
    option = f"--{side.lower()}"
    try:
        parts = [part for part in split_reference(recorded.reference) if part is not None]
        if all(Path(part).exists() for part in parts):
            return open_checkpoint(recorded.reference)
        reason = f"{recorded.reference} is not a folder here"
    except CheckpointError as error:
        reason = str(error)
    return Check(name=side, ok=None, detail=f"{reason}; give {option}")


def check_source(side: str, source: Checkpoint, recorded: SourceRecord, progress: Progress) -> Check:
    """Whether the source's weights have the hashes that were recorded."""
    if recorded.weights is None:
        return Check(name=side, ok=None, detail="its hashes were not recorded (--no-source-hashes)")
    files = weight_files(source)
    hashes = hash_files(files, f"hash {side}", progress)
    problems = [f"{name} is missing" for name in recorded.weights if name not in files]
    problems += [f"{name} was not there" for name in files if name not in recorded.weights]
    problems += [
        f"{name} has other contents than when it was read"
        for name, record in recorded.weights.items()
        if name in hashes and hashes[name] != record
    ]
    return check(side, problems, f"{source.reference} has the hashes that were recorded")
