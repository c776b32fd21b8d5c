"""The models that a recipe names: where they are, what is in them, and how large they are."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from safelox.checkpoint.hub import HUB_REFERENCE, Location, locate, split_reference
from safelox.errors import CheckpointError
from safelox.evaluation.running import MODEL_FILES
from safelox.experiment.plan.digests import Hashes
from safelox.experiment.plan.grid import ALIGNED, BASE
from safelox.experiment.recipe.entries import PairEntry
from safelox.experiment.works import Model
from safelox.progress import Progress


class Found(NamedTuple):
    """A pair that a recipe names."""

    base: Model
    aligned: Model
    content: dict[str, str]
    """Hashes of their files; commits of those on the hub, which say as much."""
    bytes: int | None
    """Of ALIGNED's weights; None where it is not here yet."""


def find_pair(entry: PairEntry, hashes: Hashes, progress: Progress, *, fetch: bool) -> Found:
    """The models of a pair; a model on the hub stays at the commit that was found there first.

    Args:
        fetch: whether what is on the hub may be asked for there.

    Raises:
        CheckpointError: a reference points nowhere, or to what holds no weights in safetensors.
    """
    content: dict[str, str] = {}
    models: list[Model] = []
    size: int | None = None
    for side, reference in ((BASE, entry.base), (ALIGNED, entry.aligned)):
        assert reference is not None, "a pair that no source builds names both"
        pinned: list[str] = []
        size = 0
        for number, part in enumerate(filter(None, split_reference(reference))):
            place = _locate(hashes.pins.get(part, part), fetch=fetch)
            if place is None:
                size = None
                pinned.append(part)
                continue
            if place.commit is not None:
                hashes.pins[part] = f"{part.partition('@')[0]}@{place.commit}"
            pinned.append(hashes.pins.get(part, part))
            files = dict(_files(place.folder))
            weights = [path for name, path in files.items() if name.endswith(".safetensors")]
            if not weights:
                raise CheckpointError(f"{part}: no file *.safetensors there, so it is no model that can be used.")
            size = None if size is None else size + sum(path.stat().st_size for path in weights)
            if place.commit is not None:
                content[f"{side}{number}"] = pinned[-1]
            else:
                named = {f"{side}{number}/{name}": path for name, path in files.items()}
                content |= hashes.of(named, progress)
        models.append(Model(path="+".join(pinned), inside=False))
    return Found(models[0], models[1], content, size)


def not_here(entry: PairEntry) -> Found:
    """What is known of a pair whose models are not here."""
    return Found(Model(path=entry.base or "", inside=False), Model(path=entry.aligned or "", inside=False), {}, None)


def _locate(reference: str, *, fetch: bool) -> Location | None:
    if fetch or Path(reference).exists() or HUB_REFERENCE.fullmatch(reference) is None:
        return locate(reference, allow_pickle=False)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    match = HUB_REFERENCE.fullmatch(reference)
    assert match is not None, "what is no hub reference was located above"
    try:
        folder = Path(snapshot_download(match["id"], revision=match["revision"], local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return Location(folder, folder.name)


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for pattern in MODEL_FILES:
        yield from ((path.name, path) for path in sorted(folder.glob(pattern)))
