"""Fetch a data set into the user's cache: from GitHub, or through huggingface_hub, and only the bytes that are known.

The hub's own settings hold (HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE); the last one also for what comes from GitHub.
"""

import http.client
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from safelox.checkpoint.hub import connection_errors
from safelox.errors import DataError
from safelox.known_data.checksums import digest
from safelox.known_data.places import cache_folder
from safelox.known_data.table import KnownData, Source
from safelox.progress import NULL, Progress
from safelox.writer.disk import explained, sync

GITHUB = "https://raw.githubusercontent.com"
TIMEOUT_SECONDS = 30
PIECE_BYTES = 1 << 16


def fetch(known: KnownData, *, progress: Progress = NULL) -> Path:
    """Fetch the original of a data set into the cache, unless it is there; returns where it is.

    The file takes its name in the cache when it is complete and its checksum is the one that is known.

    Raises:
        DataError: it may not or cannot be fetched, its bytes are not those of the original, or another file has its
            name in the cache.
        TargetError: it cannot be written.
    """
    if known.source is None:
        raise DataError(f"data set {known.name}: {known.how_to_get}")
    target = cache_folder() / known.file
    if target.exists():
        if digest(target).match_any(known.originals):
            return target
        raise DataError(
            f"{target}: something else than the original of {known.name} has its name. Move it and try again."
        )
    _refuse_offline(known)
    with explained(target):
        cache_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache_folder()) as scratch:
            fetched = _download(known.name, known.source, Path(scratch), progress)
            _check(known, known.source, fetched)
            sync(fetched)
            target.parent.mkdir(parents=True, exist_ok=True)
            fetched.rename(target)
        sync(target.parent)
    return target


def address(source: Source) -> str:
    """The URL of a source's file."""
    file = quote(source.file)
    if source.kind == "github":
        return f"{GITHUB}/{source.repository}/{source.revision}/{file}"
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/datasets/{source.repository}/resolve/{source.revision}/{file}"


def _refuse_offline(known: KnownData) -> None:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise DataError(
            f"data set {known.name}: not in the cache, and HF_HUB_OFFLINE is set. Unset it to fetch, or put the file "
            f"at {cache_folder() / known.file}."
        )


def _download(name: str, source: Source, folder: Path, progress: Progress) -> Path:
    if source.kind == "github":
        return _from_github(name, address(source), folder / "file", progress)
    return _from_hub(name, source, folder, progress)


def _from_github(name: str, url: str, file: Path, progress: Progress) -> Path:
    with _readable_errors(name, url):
        response = urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS)
    length = response.headers.get("Content-Length")
    total = None if length is None else int(length)
    done = 0
    with response, file.open("wb") as stream, progress.task(f"fetch {name}", total, "B") as task:
        while piece := _read(name, url, response):
            stream.write(piece)
            task.advance(len(piece))
            done += len(piece)
    if total is not None and done != total:
        raise DataError(f"data set {name}: the connection to {url} broke after {done} of {total} bytes. Try again.")
    return file


def _read(name: str, url: str, response: http.client.HTTPResponse) -> bytes:
    with _readable_errors(name, url):
        return response.read(PIECE_BYTES)


@contextmanager
def _readable_errors(name: str, url: str) -> Iterator[None]:
    try:
        yield
    except urllib.error.HTTPError as error:
        with error:
            raise DataError(_refused(name, url, error.code)) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise DataError(
            f"data set {name}: {url} cannot be reached: {reason}. Check the network and try again."
        ) from error


def _refused(name: str, url: str, status: int) -> str:
    if status == 404:
        return f"data set {name}: there is no file at {url} any more. Get it elsewhere; its checksum will tell."
    if status in (401, 403):
        return f"data set {name}: access to {url} is restricted (HTTP {status}); accept its terms there first."
    return f"data set {name}: {url} answered with HTTP {status}. Try again later."


def _from_hub(name: str, source: Source, folder: Path, progress: Progress) -> Path:
    from huggingface_hub import constants, errors, hf_hub_download

    page = f"{constants.ENDPOINT}/datasets/{source.repository}"
    unreachable: tuple[type[Exception], ...] = (errors.LocalEntryNotFoundError, *connection_errors())
    try:
        with progress.task(f"fetch {name}", None), _no_bars_of_the_hub():
            file = hf_hub_download(
                source.repository, source.file, repo_type="dataset", revision=source.revision, local_dir=folder
            )
    except errors.GatedRepoError as error:
        raise DataError(
            f"data set {name}: access is restricted; accept its terms at {page} and set HF_TOKEN, or run "
            "`hf auth login`."
        ) from error
    except errors.HfHubHTTPError as error:
        raise DataError(_refused(name, address(source), error.response.status_code)) from error
    except unreachable as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise DataError(
            f"data set {name}: {page} cannot be reached: {reason}. Check the network and HF_ENDPOINT, and try again."
        ) from error
    return Path(file)


@contextmanager
def _no_bars_of_the_hub() -> Iterator[None]:
    """Without the progress bars of huggingface_hub, which would cut through ours."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _check(known: KnownData, source: Source, file: Path) -> None:
    """Raise DataError unless the file is the original."""
    found = digest(file)
    if not found.match_any(known.originals):
        expected = known.originals[0].sha256 or f"git blob {known.originals[0].git_blob}"
        raise DataError(
            f"data set {known.name}: what {address(source)} gives ({found.record.bytes} bytes, sha256 "
            f"{found.record.sha256}, git blob {found.git_blob}) is not the original ({expected}). It was not kept."
        )
