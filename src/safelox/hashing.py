"""SHA-256 of files, several at a time, and the record of a model that went in."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from safelox.checkpoint import Checkpoint
from safelox.errors import CheckpointError
from safelox.manifest import FileRecord, SourceRecord
from safelox.progress import NULL, Progress, Task

PIECE_BYTES = 8 << 20
THREADS = 4


def hash_files(
    files: Mapping[str, Path], description: str = "hash", progress: Progress = NULL
) -> dict[str, FileRecord]:
    """Size and SHA-256 of every file, by the names that are given.

    Raises:
        CheckpointError: a file cannot be read.
    """
    try:
        total = sum(path.stat().st_size for path in files.values())
        with progress.task(description, total, "B") as task, ThreadPoolExecutor(THREADS) as pool:
            futures = {name: pool.submit(_hash_file, name, path, task) for name, path in files.items()}
            return {name: future.result() for name, future in futures.items()}
    except OSError as error:
        raise CheckpointError(f"{error.filename}: cannot be read: {error.strerror or error}") from error


def _hash_file(name: str, path: Path, task: Task) -> FileRecord:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(PIECE_BYTES))
    size = 0
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            digest.update(buffer[:count])
            size += count
            task.advance(count, name)
    return FileRecord(bytes=size, sha256=digest.hexdigest())


def weight_files(checkpoint: Checkpoint) -> dict[str, Path]:
    """The files that hold a model's weights, an adapter's as `+name`."""
    files = {shard.path.name: shard.path for shard in checkpoint.shards}
    if checkpoint.adapter is not None:
        files[f"+{checkpoint.adapter.file.name}"] = checkpoint.adapter.file
    return files


def source_records(
    base: Checkpoint, aligned: Checkpoint, hashed: bool, progress: Progress
) -> tuple[SourceRecord, SourceRecord]:
    """The records of the two models that go in, with the hashes of their weights if `hashed`."""
    sides = {"base": base, "aligned": aligned}
    files = {f"{side}/{name}": path for side, model in sides.items() for name, path in weight_files(model).items()}
    hashes = hash_files(files, "hash the sources", progress) if hashed else None
    records = []
    for side, model in sides.items():
        weights = None
        if hashes is not None:
            weights = {name: hashes[f"{side}/{name}"] for name in weight_files(model)}
        records.append(SourceRecord(reference=model.reference, commit=model.commit, weights=weights))
    return records[0], records[1]
