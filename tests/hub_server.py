"""A small server on loopback that speaks the hub's protocol, as far as downloading models and data sets goes.

It also serves plain files as GitHub does, at /owner/name/revision/path. The real huggingface_hub client runs
against it: model information, file trees, HEAD and GET of files by revision with ETag, commit and Range, and the
hub's error codes. It can cut connections, be down, and ask for a token; it remembers every request.
"""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pytest
from huggingface_hub import close_session


class Request(NamedTuple):
    """A request that the server was sent."""

    method: str
    path: str
    start: int
    """First byte that was asked for."""


@dataclass
class Repository:
    """A model on the hub, a data set on it (as datasets/org/name), or a repository on GitHub."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Commit hash -> path -> content."""
    branches: dict[str, str] = field(default_factory=dict)
    """Branch or tag -> commit hash."""
    gated: bool = False
    """Its files are given only with the token; everyone may see their names."""
    private: bool = False
    """Nothing is given without the token, not even that it exists."""


class HubServer:
    """Serves repositories at `url` while it is used as a context manager."""

    token = "hf_secret"  # the one token that opens gated and private repositories

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.cuts: dict[str, list[int]] = {}
        """File path -> after how many bytes each of its next answers is cut off."""
        self.failing = False
        """Every answer is a 500."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def push(
        self, name: str, files: Mapping[str, bytes], *branches: str, gated: bool = False, private: bool = False
    ) -> str:
        """Add a commit with these files, which the branches (main unless given) then point to; its hash."""
        repository = self.repositories.setdefault(name, Repository(gated=gated, private=private))
        content = json.dumps([name, len(repository.commits), sorted(files)])
        commit = hashlib.sha1(content.encode()).hexdigest()
        repository.commits[commit] = dict(files)
        repository.branches |= dict.fromkeys(branches or ("main",), commit)
        return commit

    def downloads(self, file: str) -> list[Request]:
        """The requests for the content of a file."""
        return [request for request in self.requests if request.method == "GET" and request.path.endswith("/" + file)]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer()

        def do_HEAD(self) -> None:
            self.answer()

        def log_message(self, format: str, *args: Any) -> None:
            """Keep quiet."""

        def answer(self) -> None:
            path = urlsplit(self.path).path
            wanted = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0]
            hub.requests.append(Request(self.command, unquote(path), int(wanted)))
            parts = [unquote(part) for part in path.strip("/").split("/")]
            if parts[0] == "datasets":
                parts[:2] = ["/".join(parts[:2])]
            if hub.failing:
                self.fail(500, "")
            elif parts[:2] == ["api", "models"] and len(parts) >= 4:
                self.answer_about("/".join(parts[2:4]), parts[4:])
            elif len(parts) >= 5 and parts[2] == "resolve":
                self.answer_file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
            elif len(parts) >= 4 and "/".join(parts[:2]) in hub.repositories:
                self.answer_file("/".join(parts[:2]), parts[2], "/".join(parts[3:]))
            else:
                self.fail(404, "")

        def answer_about(self, name: str, what: list[str]) -> None:
            """Information about a model, or the tree of its files."""
            repository = self.find(name)
            if repository is None:
                return
            commit = self.resolve(repository, what[1] if len(what) > 1 else "main")
            if commit is None:
                return
            files = repository.commits[commit]
            if what[:1] == ["tree"]:
                self.send_json([self.entry(path, content) for path, content in files.items()])
            else:
                siblings = [{"rfilename": path} for path in files]
                self.send_json({"_id": name, "id": name, "sha": commit, "siblings": siblings, "tags": []})

        def answer_file(self, name: str, revision: str, path: str) -> None:
            repository = self.find(name)
            if repository is None:
                return
            commit = self.resolve(repository, revision)
            if commit is None:
                return
            if repository.gated and not self.authorised():
                self.fail(401, "GatedRepo")
            elif path not in repository.commits[commit]:
                self.fail(404, "EntryNotFound", commit)
            else:
                self.send_content(path, repository.commits[commit][path], commit)

        def find(self, name: str) -> Repository | None:
            repository = hub.repositories.get(name)
            if repository is None or (repository.private and not self.authorised()):
                self.fail(401, "RepoNotFound")
                return None
            return repository

        def resolve(self, repository: Repository, revision: str) -> str | None:
            commit = repository.branches.get(revision, revision)
            if commit not in repository.commits:
                self.fail(404, "RevisionNotFound")
                return None
            return commit

        def authorised(self) -> bool:
            return self.headers.get("Authorization") == f"Bearer {hub.token}"

        def entry(self, path: str, content: bytes) -> dict[str, Any]:
            return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

        def send_content(self, path: str, content: bytes, commit: str) -> None:
            start = hub.requests[-1].start if self.headers.get("Range") else 0
            part = content[start:]
            self.send_response(206 if start else 200)
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", commit)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(part)))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if self.command == "GET":
                cuts = hub.cuts.get(path)
                if cuts:
                    part = part[: cuts.pop(0)]
                    self.close_connection = True
                self.wfile.write(part)

        def send_json(self, value: Any) -> None:
            body = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def fail(self, status: int, code: str, commit: str = "") -> None:
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            if commit:
                self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Length", "0")
            self.end_headers()

    return Handler


@contextmanager
def serve_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A server that huggingface_hub takes for the hub, with an empty cache and no token, which would be in `folder`."""
    with HubServer() as server:
        # What HF_ENDPOINT and HF_HOME set when the library is imported.
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.file_download.time", SimpleNamespace(sleep=lambda _: None))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        close_session()
        yield server
    close_session()
