"""Versions behind one route of a real Caddy, and servers of them that do as the path says."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.conformance.traffic.caddy_versions_site import Entry
from tests.real.servers.launch import Endpoint, free_port
from tests.real.servers.regions import Regions


@dataclass
class Versions:
    """Servers by version: `/500` answers 500, `/held` once the gate is open, `/halves` half of what
    it says, `/stream` in two pieces with the gate between, anything else 200 and the version."""

    gate: threading.Event = field(default_factory=threading.Event)
    held: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released by each request that waits at the gate."""
    broken_off: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released by each request whose connection is closed while it waits."""
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Server, path and headers."""
    running: list[_Server] = field(default_factory=list)

    def start(self, version: str) -> str:
        """One more server; its address."""
        server = _Server(version, self)
        self.running.append(server)
        return server.address

    def stop(self) -> None:
        self.gate.set()
        for server in self.running:
            server.shutdown()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, version: str, versions: Versions) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.version = version
        self.versions = versions
        self.address = f"127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def shutdown_request(self, request: Any) -> None:
        """Closed as it is: the base class would say goodbye first."""
        self.close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    wbufsize = 65536  # head and body in one packet, else Nagle holds the second back

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def do_GET(self) -> None:
        versions, path = self.server.versions, self.path
        versions.asked.append((self.server.address, path, dict(self.headers.items())))
        if path == "/held":
            self._wait()
        if path == "/halves":
            self._head(200, {"Content-Length": "1000"})
            self.wfile.write(b"half")
            self.wfile.flush()
            self.close_connection = True
            return
        if path == "/reset":
            # Without lingering, closing is a reset.
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            return
        if path == "/stream":
            self._head(200, {"Transfer-Encoding": "chunked"})
            self.wfile.write(b"5\r\nfirst\r\n")
            self.wfile.flush()
            versions.gate.wait(30)
            self.wfile.write(b"4\r\nlast\r\n0\r\n\r\n")
            return
        body = self.server.version.encode()
        status = int(path[1:]) if path[1:].isdigit() else 200
        self._head(status, {"Content-Length": str(len(body))})
        self.wfile.write(body)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _wait(self) -> None:
        versions = self.server.versions
        versions.held.release()
        self.connection.settimeout(0.02)
        while not versions.gate.is_set():
            try:
                if not self.connection.recv(1, socket.MSG_PEEK):
                    versions.broken_off.release()
                    break
            except TimeoutError:
                continue
        self.connection.settimeout(None)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Tests say what went wrong."""


@pytest.fixture
def versions() -> Iterator[Versions]:
    """Nothing runs yet."""
    found = Versions()
    yield found
    found.stop()


@pytest.fixture
def dead() -> str:
    """An address where nobody is."""
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def make_entry(caddy: Endpoint) -> Iterator[Callable[..., Entry]]:
    """A Caddy with an entry, whose file has doors to `servers` by version."""
    with ExitStack() as stack:

        def make(servers: dict[str, list[str]], **rest: Any) -> Entry:
            targets = {version: tuple(addresses) for version, addresses in servers.items()}
            return Entry(stack, Regions(targets=targets), **rest)

        yield make


@pytest.fixture
def entry(make_entry: Callable[..., Entry], versions: Versions) -> Entry:
    """An entry to v1 and v2, with a server each and half of the requests."""
    return make_entry({version: [versions.start(version)] for version in ("v1", "v2")})
