"""Where a model reference points: a local folder, or a model on the Hugging Face hub that is downloaded first.

The hub's own library does the work, so its settings hold: HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_CACHE,
HF_HUB_OFFLINE. Files that are already in its cache are not downloaded again.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from safelox.checkpoint.folder import ASIDE, OTHER_SAFETENSORS, OTHER_WEIGHTS, why_no_weights
from safelox.errors import CheckpointError

HUB_REFERENCE = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[^\s@+]+))?", re.ASCII)
"""org/name[@revision], where the revision is a branch, a tag or a commit."""

NOT_DOWNLOADED = (
    *OTHER_WEIGHTS,
    *OTHER_SAFETENSORS,
    "*/*.safetensors",
    *(f"{folder}/*" for folder in ASIDE),
)


class Location(NamedTuple):
    """Where the files of a reference are."""

    folder: Path
    commit: str | None
    """Full commit hash on the hub; None for a local folder."""


def split_reference(reference: str) -> tuple[str, str | None]:
    """BASE and ADAPTER of BASE+ADAPTER; no adapter where there is none, or the whole is the path of something.

    Raises:
        CheckpointError: no reading of the reference gives two existing folders or hub ids.
    """
    if "+" not in reference or _exists(reference):
        return reference, None
    cuts = [i for i, character in enumerate(reference) if character == "+"]
    for cut in cuts:
        base, adapter = reference[:cut], reference[cut + 1 :]
        if _is_known(base) and _is_known(adapter):
            return base, adapter
    parts = " and ".join(repr(part) for part in (reference[: cuts[0]], reference[cuts[0] + 1 :]))
    raise CheckpointError(
        f"{reference}: neither a folder of that name nor BASE+ADAPTER: {parts} are not both existing folders "
        "or hub ids (org/name)"
    )


def locate(reference: str, *, allow_pickle: bool) -> Location:
    """The folder with the files of a reference, downloaded if it is a hub id.

    Raises:
        CheckpointError: it is neither, or the hub does not give it.
    """
    if _exists(reference):
        return Location(Path(reference), None)
    match = HUB_REFERENCE.fullmatch(reference)
    if match is None:
        raise CheckpointError(
            f"{reference or 'an empty reference'}: no such folder, and not a model on the Hugging Face hub either, "
            "which would be written org/name or org/name@revision"
        )
    return _download(match["id"], match["revision"], allow_pickle)


def _is_known(part: str) -> bool:
    return _exists(part) or HUB_REFERENCE.fullmatch(part) is not None


def _exists(path: str) -> bool:
    """Whether there is something at this path, be it a link that leads nowhere."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null character
        return False
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    return True


def _download(repository: str, revision: str | None, allow_pickle: bool) -> Location:
    from huggingface_hub import snapshot_download

    with _readable_errors(repository, revision):
        names = _list_files(repository, revision)
        if names is not None:
            _check_weights(repository, names, allow_pickle)
        folder = Path(snapshot_download(repository, revision=revision, ignore_patterns=list(NOT_DOWNLOADED)))
        if allow_pickle and not any(folder.glob("*.safetensors")):
            skipped = [pattern for pattern in NOT_DOWNLOADED if pattern != "*.bin"]
            folder = Path(snapshot_download(repository, revision=revision, ignore_patterns=skipped))
    return Location(folder, folder.name)


def _list_files(repository: str, revision: str | None) -> list[str] | None:
    """Paths of the files in the repository; None where the hub cannot be reached, so that the cache has to do."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    unreachable: tuple[type[Exception], ...] = (OfflineModeIsEnabled, *connection_errors())
    try:
        files = HfApi().model_info(repository, revision=revision).siblings
    except HfHubHTTPError as error:
        if error.response.status_code < 500:
            raise
        return None
    except unreachable:
        return None
    return [file.rfilename for file in files or []]


def _check_weights(repository: str, names: list[str], allow_pickle: bool) -> None:
    """Refuse before anything is downloaded where the repository has no weights that can be read."""
    top = sorted(name for name in names if "/" not in name)
    wanted = ("*.safetensors", "pytorch_model*.bin", "adapter_model.bin") if allow_pickle else ("*.safetensors",)
    if not any(_matches(name, wanted) and not _matches(name, OTHER_SAFETENSORS) for name in top):
        raise CheckpointError(f"{repository} on the hub: {why_no_weights(top)}")


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def connection_errors() -> tuple[type[Exception], ...]:
    """What the hub's library raises where a connection fails: the base class of its HTTP client's errors.

    Which client that is depends on the version, but its errors are the parents of the library's own.
    """
    from huggingface_hub.errors import HfHubHTTPError

    return tuple(base for base in HfHubHTTPError.__bases__ if base is not OSError)


@contextmanager
def _readable_errors(repository: str, revision: str | None) -> Iterator[None]:
    """Turn what the hub's library raises into what the user can do about it."""
    from huggingface_hub import constants, errors

    where = f"{repository}@{revision}" if revision else repository
    # OSError includes a full disk and the hub's own HTTP errors.
    failures: tuple[type[Exception], ...] = (OSError, *connection_errors())
    try:
        yield
    except errors.HFValidationError as error:
        raise CheckpointError(f"{where}: no such folder here, and no hub id either: {error}") from error
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{where}: access is restricted; accept its terms at {constants.ENDPOINT}/{repository} "
            "and set HF_TOKEN, or run `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{where}: no such folder here, and no such model on the hub at {constants.ENDPOINT}; check the "
            "spelling, or, if the model is private, set HF_TOKEN or run `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(
            f"{where}: the model has no branch, tag or commit {revision}; see {constants.ENDPOINT}/{repository}"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise CheckpointError(f"{where}: {_why_unreachable(error)}") from error
    except failures as error:
        raise CheckpointError(f"{where}: the download failed: {error}; run it again to go on with it") from error


def _why_unreachable(error: Exception) -> str:
    from huggingface_hub import constants

    reason = str(error.__cause__ or error).splitlines()[0]
    if constants.HF_HUB_OFFLINE:
        return (
            f"not (or not completely) in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set; "
            f"unset it to download, or give the path of a local folder ({reason})"
        )
    return (
        f"no such folder here, not (or not completely) in the cache {constants.HF_HUB_CACHE}, and the hub at "
        f"{constants.ENDPOINT} cannot be reached; check the network and HF_ENDPOINT, or give the path of a "
        f"local folder ({reason})"
    )
