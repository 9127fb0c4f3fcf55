"""A proxy between a client and a server that reads what goes through, and meddles with it.

Toxiproxy makes bad lines out of good ones, and knows nothing of HTTP. This one does:

    with meddling(minio) as proxy:
        proxy.refuse = lambda asked: BUSY if asked.number < 20 else None
        proxy.inward = flipped                     # the bytes that the server gets
        proxy.outward = flipped                    # the bytes that the client gets
        proxy.calm()

What it forwards, it forwards as it came, so that signatures hold.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.real.servers.launch import Endpoint

_OF_ONE_HOP = {"connection", "expect", "keep-alive", "transfer-encoding"}


@dataclass(frozen=True)
class Asked:
    """One request."""

    number: int
    """From 0, in the order in which they came."""
    method: str
    target: str
    body: bytes

    @property
    def is_large(self) -> bool:
        """Whether its body can only be a model's bytes."""
        return len(self.body) > 64 * 1024


@dataclass(frozen=True)
class Reply:
    """What the proxy answers by itself."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def _as_it_is(_: Asked, body: bytes) -> bytes:
    return body


def flipped(_: Asked, body: bytes) -> bytes:
    """One bit in the middle, of what is long enough to be a model's bytes."""
    if len(body) <= 64 * 1024:
        return body
    changed = bytearray(body)
    changed[len(body) // 2] ^= 1
    return bytes(changed)


@dataclass
class Meddler:
    """The proxy; what it does may be changed at any time."""

    url: str
    """The server's own URL, by way of the proxy."""
    refuse: Callable[[Asked], Reply | None] = lambda asked: None
    inward: Callable[[Asked, bytes], bytes] = _as_it_is
    outward: Callable[[Asked, bytes], bytes] = _as_it_is
    asked: list[Asked] = field(default_factory=list)
    """Without their bodies, but `large_bytes` counts those."""
    refused: int = 0
    large_bytes: int = 0
    """In bodies that were let through to the server."""
    taken_bytes: int = 0
    """Of those, in bodies that the server has answered."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def calm(self) -> None:
        """Forward everything as it is."""
        self.refuse = lambda asked: None
        self.inward = self.outward = _as_it_is


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, upstream: Endpoint) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = (upstream.host, upstream.port)
        self.numbers = itertools.count()
        self.open_ones: set[socket.socket] = set()
        near = f"{upstream.host}:{upstream.port}"
        self.meddler = Meddler(upstream.url.replace(near, f"127.0.0.1:{self.server_port}"))

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open_ones.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open_ones.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline:
            self.close_connection = True
            return
        if self.parse_request():
            self._serve()
            self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Tests say what went wrong."""

    def _serve(self) -> None:
        body = self._body()
        meddler = self.server.meddler
        asked = Asked(next(self.server.numbers), self.command, self.path, body)
        with meddler.lock:
            meddler.asked.append(Asked(asked.number, asked.method, asked.target, b""))
        reply = meddler.refuse(asked)
        if reply is not None:
            with meddler.lock:
                meddler.refused += 1
            self._answer(reply.status, reply.headers, reply.body)
            return
        sent = meddler.inward(asked, body)
        if asked.is_large:
            with meddler.lock:
                meddler.large_bytes += len(sent)
        upstream = http.client.HTTPConnection(*self.server.upstream, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _OF_ONE_HOP | {"content-length"}:
                    upstream.putheader(name, value)
            if body or "Content-Length" in self.headers:
                upstream.putheader("Content-Length", str(len(sent)))
            upstream.endheaders(sent or None)
            response = upstream.getresponse()
            answer = response.read()
            if asked.is_large:
                with meddler.lock:
                    meddler.taken_bytes += len(sent)
            found = meddler.outward(asked, answer)
            headers = {
                name: value
                for name, value in response.getheaders()
                if name.lower() not in _OF_ONE_HOP
            }
            self._answer(response.status, headers, found)
        finally:
            upstream.close()

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(chunks)


@contextlib.contextmanager
def meddling(upstream: Endpoint) -> Iterator[Meddler]:
    """A proxy of its own before the server, for as long as the block lasts."""
    with _Server(upstream) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server.meddler
        finally:
            server.shutdown()
            thread.join()
            for connection in list(server.open_ones):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
