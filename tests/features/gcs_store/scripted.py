"""A server that answers as it is told, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

OBJECT = {"name": "k", "generation": "7", "size": "3", "crc32c": "Nks/tw=="}
"""What GCS says of an object `k` with the bytes `abc`."""


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def resource(self) -> dict[str, Any]:
        """The metadata in a multipart upload, or a JSON body."""
        text = self.body
        if boundary := self.headers.get("content-type", "").partition("boundary=")[2]:
            text = self.body.split(f"--{boundary}".encode())[1].partition(b"\r\n\r\n")[2]
        resource: dict[str, Any] = json.loads(text)
        return resource

    @property
    def media(self) -> bytes:
        """The bytes in a multipart upload."""
        boundary = self.headers["content-type"].partition("boundary=")[2]
        section = self.body.split(f"--{boundary}".encode())[2].partition(b"\r\n\r\n")[2]
        return section.removesuffix(b"\r\n")


@dataclass(frozen=True)
class Answer:
    """One answer. A body longer or shorter than `length` says ends where it ends."""

    status: int = 200
    body: bytes | Mapping[str, Any] = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None


Script = Callable[[Asked], Answer]


def refusal(status: int, message: str, reason: str = "") -> Answer:
    """An error in the form that the JSON API gives it."""
    error = {"code": status, "message": message, "errors": [{"reason": reason}]}
    return Answer(status, {"error": error})


class Scripted(ThreadingHTTPServer):
    """Answers by `script`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: Script = lambda asked: Answer(200, OBJECT)
        self.asked: list[Asked] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is nobody's trouble."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Scripted

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        asked = Asked(
            self.command,
            unquote(parts.path),
            dict(parse_qsl(parts.query)),
            {name.lower(): value for name, value in self.headers.items()},
            self.rfile.read(int(self.headers.get("Content-Length", 0))),
        )
        self.server.asked.append(asked)
        answer = self.server.script(asked)
        body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(answer.length or len(body)))
        self.end_headers()
        self.wfile.write(body)
        if answer.length:
            self.close_connection = True

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815 - the standard library's names

    def log_message(self, *args: Any) -> None:
        """Silence."""


@contextmanager
def scripted() -> Iterator[Scripted]:
    """The server, for as long as the block lasts."""
    server = Scripted()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
