"""Regions for a router: small real HTTP servers that say where they are.

with regions(["us", "eu"]) as behind:
    route(behind.targets)            # {"us": ("127.0.0.1:…",), "eu": ("127.0.0.1:…",)}
    behind.gate.clear()              # requests to /slow wait at the gate
    behind.asked["eu"]               # the headers of what it was asked, in order
    behind.stop("us")                # it refuses connections
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Regions:
    """The servers of all regions, and what they were asked."""

    targets: dict[str, tuple[str, ...]] = field(default_factory=dict)
    asked: dict[str, list[Mapping[str, str]]] = field(default_factory=dict)
    gate: threading.Event = field(default_factory=threading.Event)
    """Requests to /slow wait for it, once they are in."""
    waiting: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released by each that waits."""
    stated: dict[str, str] = field(default_factory=dict)
    """Headers that every region answers with."""
    _servers: dict[str, list["_Server"]] = field(default_factory=dict)

    def start(self, region: str, servers: int = 1) -> None:
        """More servers of a region, which may be new."""
        made = [_Server(region, self) for _ in range(servers)]
        self._servers.setdefault(region, []).extend(made)
        dials = tuple(f"127.0.0.1:{server.server_port}" for server in made)
        self.targets[region] = (*self.targets.get(region, ()), *dials)
        self.asked.setdefault(region, [])

    def stop(self, region: str) -> None:
        """All servers of a region are gone; its targets stay."""
        for server in self._servers.pop(region, []):
            server.shutdown()
            server.server_close()
            server.thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, region: str, regions: Regions) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.region = region
        self.regions = regions
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    wbufsize = 65536  # head and body in one packet, else Nagle holds the second back

    def do_GET(self) -> None:
        """Answers with the region's name."""
        regions = self.server.regions
        regions.asked[self.server.region].append(dict(self.headers.items()))
        if self.path == "/slow":
            regions.waiting.release()
            regions.gate.wait(30)
        body = self.server.region.encode()
        self.send_response(200)
        for name, value in {"Content-Length": str(len(body)), **regions.stated}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Tests say what went wrong."""


@contextmanager
def regions(names: Sequence[str], *, servers: int = 1) -> Iterator[Regions]:
    """Regions of those names, each with as many servers, for as long as the block lasts."""
    found = Regions()
    try:
        for name in names:
            found.start(name, servers)
        yield found
    finally:
        found.gate.set()
        for name in list(found._servers):
            found.stop(name)
