"""A server on loopback that speaks OpenAI's protocol, and breaks in the ways in which servers break."""

import json
import select
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Fault = Literal[
    "ok",
    "slow",
    "hang",
    "cut",
    "truncated",
    "not json",
    "wrong shape",
    "no choices",
    "no usage",
    "length",
    "400",
    "401",
    "404",
    "429",
    "no quota",
    "filtered",
    "500",
    "503",
]
"""What happens to one request. ok, slow, no usage and length are answered in the end; cut drops the connection."""

STATUS = {"no quota": 429, "filtered": 400}
CODES = {"no quota": "insufficient_quota", "filtered": "content_filter", "401": "invalid_api_key"}
ANSWERED: tuple[Fault, ...] = ("ok", "slow", "no usage", "length")

Answer = Callable[[dict[str, Any]], str]
"""The text that answers the body of a request."""


def asked_text(body: dict[str, Any]) -> str:
    """The last message, or the text to complete."""
    return str(body["messages"][-1]["content"] if "messages" in body else body["prompt"])


class OpenAIServer:
    """What it was asked, how often, and how much of it at once."""

    def __init__(
        self,
        answer: Answer,
        faults: Iterable[Fault] = (),
        *,
        delay: float = 0.0,
        slow: float = 0.3,
        retry_after: str | None = None,
    ) -> None:
        self.answer = answer
        self.faults = iter(faults)
        """One for each request in order of arrival; when they are used up all goes well."""
        self.delay = delay
        """Seconds that every answer takes."""
        self.slow = slow
        """Seconds that a slow answer takes; a hanging one never comes, and after ten times as long it hangs up."""
        self.retry_after = retry_after
        """What the header of that name says where a status is an error; None: there is no such header."""
        self.url = ""
        self.bodies: list[dict[str, Any]] = []
        """Of every request, in order of arrival."""
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.given: Counter[str] = Counter()
        """Good answers by the text that was asked."""
        self.busiest = 0
        """The most requests that were under way at once."""
        self._busy = 0
        self._lock = threading.Lock()

    @property
    def busy(self) -> int:
        """Requests that are under way."""
        with self._lock:
            return self._busy

    def enter(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> Fault:
        with self._lock:
            self.paths.append(path)
            self.headers.append(headers)
            self.bodies.append(body)
            self._busy += 1
            self.busiest = max(self.busiest, self._busy)
            return next(self.faults, "ok")

    def leave(self, body: dict[str, Any], fault: Fault) -> None:
        with self._lock:
            self._busy -= 1
            if fault in ANSWERED:
                self.given[asked_text(body)] += 1


def reply_to(path: str, body: dict[str, Any], text: str, fault: Fault) -> dict[str, Any]:
    """The document that answers a request well."""
    chat = path.endswith("/chat/completions")
    said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    count = len(json.dumps(body).split())
    usage = {"prompt_tokens": count, "completion_tokens": len(text.split()), "total_tokens": count + len(text.split())}
    return {
        "id": "reply-1",
        "object": "chat.completion" if chat else "text_completion",
        "created": 1,
        "model": body["model"],
        "choices": [{"index": 0, "finish_reason": "length" if fault == "length" else "stop", **said}],
        **({} if fault == "no usage" else {"usage": usage}),
    }


def handler_of(server: OpenAIServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send(200, json.dumps({"object": "list", "data": [{"id": "served", "object": "model"}]}).encode())

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            content = self.rfile.read(length)
            if len(content) < length:  # the client died in the midst of its request
                return
            body = json.loads(content)
            fault = server.enter(self.path, dict(self.headers), body)
            try:
                # A client that has given up has closed the connection.
                with suppress(BrokenPipeError, ConnectionResetError):
                    self.respond(body, fault)
            finally:
                self.close_connection = fault in ("hang", "cut", "truncated")

        def respond(self, body: dict[str, Any], fault: Fault) -> None:
            if fault == "hang":
                # Not counted as under way: the client gives up before anyone here could see that it has.
                server.leave(body, fault)
                select.select([self.connection], [], [], 10 * server.slow)
                return
            time.sleep(server.delay + (server.slow if fault == "slow" else 0.0))
            whole = b""
            try:
                if fault in (*ANSWERED, "truncated"):
                    whole = json.dumps(reply_to(self.path, body, server.answer(body), fault)).encode()
            finally:
                server.leave(body, fault)  # before the client can ask again
            if fault == "cut":
                return
            if fault in ANSWERED:
                self.send(200, whole)
            elif fault == "truncated":
                self.send(200, whole[: len(whole) // 2])
            elif fault == "not json":
                self.send(200, b"<html>Bad gateway</html>", "text/html")
            elif fault in ("wrong shape", "no choices"):
                self.send(200, json.dumps({"choices": []} if fault == "no choices" else ["no", "object"]).encode())
            else:
                status = STATUS.get(fault) or int(fault)
                error = {"message": f"fault {fault}", "type": "fault", "code": CODES.get(fault), "param": None}
                self.send(status, json.dumps({"error": error}).encode())

        def send(self, status: int, content: bytes, kind: str = "application/json") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            if status >= 400 and server.retry_after is not None:
                self.send_header("Retry-After", server.retry_after)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@contextmanager
def serving(
    answer: Answer,
    faults: Iterable[Fault] = (),
    *,
    delay: float = 0.0,
    slow: float = 0.3,
    retry_after: str | None = None,
) -> Iterator[OpenAIServer]:
    """A running server; `url` is the base URL that clients take."""
    server = OpenAIServer(answer, faults, delay=delay, slow=slow, retry_after=retry_after)
    listener = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(server))
    listener.daemon_threads = True
    server.url = f"http://127.0.0.1:{listener.server_address[1]}/v1"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()
