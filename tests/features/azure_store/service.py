"""A stand-in for Azure Blob Storage: a test says what it answers, and reads what was asked.

For what no emulator does: CRC64 checks, and errors that a healthy service never gives. Answers are
written from the service's documents, so what rests on them alone is unproven until a live run.
"""

from __future__ import annotations

import base64
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from mlplatform.core.digest import digest_of

ACCOUNT = "standin"
KEY = base64.b64encode(b"a key that no account has").decode()


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Names in small letters."""
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What goes back. `size` states a body longer than the one that is sent."""

    status: int = 201
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    size: int | None = None


def refusal(status: int, code: str, **headers: str) -> Answer:
    """An error in the service's form."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"x-ms-error-code": code, **named}, body.encode())


def stored(**headers: str) -> Answer:
    """A write that worked."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(201, {"ETag": '"0x1"', "Last-Modified": "Sat, 21 Nov 2026 03:00:00 GMT", **named})


def crc64(body: bytes) -> str:
    """As the service writes it: base64 of eight bytes, the lowest first."""
    value = digest_of(body).crc64nvme
    assert value is not None
    return base64.b64encode(value.to_bytes(8, "little")).decode()


def checking_crc64(asked: Asked) -> Answer:
    """The service on a write, as it is documented: it checks what it is told, and states it."""
    given = asked.headers.get("x-ms-content-crc64")
    if given and given != crc64(asked.body):
        return refusal(400, "Crc64Mismatch")
    return stored(x_ms_content_crc64=crc64(asked.body))


class StandIn:
    """The service, and all that was asked of it."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.connections = 0
        self.answer: Callable[[Asked], Answer] = checking_crc64
        self.url = ""

    @property
    def last(self) -> Asked:
        return self.asked[-1]

    def blocks(self) -> list[str]:
        """The ids of the blocks that were put, in order."""
        return [
            base64.b64decode(asked.query["blockid"]).decode()
            for asked in self.asked
            if asked.query.get("comp") == "block"
        ]


@contextlib.contextmanager
def standing_in() -> Iterator[StandIn]:
    """The stand-in on a free port of loopback, for as long as the block lasts."""
    service = StandIn()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            service.connections += 1

        def handle_one_request(self) -> None:
            with contextlib.suppress(ConnectionError):
                super().handle_one_request()
                return
            self.close_connection = True

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            url = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, unquote(url.path), query, headers, body)
            service.asked.append(asked)
            answer = service.answer(asked)
            self.send_response(answer.status)
            sent = {"x-ms-request-id": "request-1", **answer.headers}
            sent.setdefault("Content-Length", str(answer.size or len(answer.body)))
            for name, value in sent.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)
            if answer.size:
                self.close_connection = True

        do_GET = do_PUT = do_HEAD = do_DELETE = _serve  # noqa: N815 - the base class's names

        def log_message(self, *_: Any) -> None:
            """Not to the test's output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    service.url = f"http://127.0.0.1:{server.server_port}/{ACCOUNT}"
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
