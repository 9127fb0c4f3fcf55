"""Routes in DNS to try: on BIND, on PowerDNS, and on a server that says what a test wants."""

from __future__ import annotations

import contextlib
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import dns.message
import dns.tsig
import pytest

from mlplatform.adapters.rfc2136 import Rfc2136Traffic, open_traffic
from mlplatform.core.store_url import StoreURL
from tests.real.servers.catalogue import ALLOWED_KEY, ZONE
from tests.real.servers.names import Authority, Kind, authority, pair

SECRET = "YS1zZWNyZXQtdGhhdC1ub2JvZHktcHJpbnRz"
TARGETS = {"east": ("192.0.2.1",), "west": ("192.0.2.2",), "north": ("192.0.2.3",)}


def opened(
    address: str,
    options: str = "",
    *,
    secret: str = SECRET,
    key: str = ALLOWED_KEY,
    name: str = "api",
    zone: str = ZONE,
    targets: dict[str, tuple[str, ...]] | None = None,
) -> Rfc2136Traffic:
    """A route on the server at `address`."""
    url = f"rfc2136://{address}/{zone}/{name}?key={key}&{options}"
    return open_traffic(
        StoreURL.parse(url, noun="actuator"),
        targets or TARGETS,
        environ={f"MLPLATFORM_TSIG_SECRET_{key.upper()}": secret},
    )


def on(server: Authority, options: str = "", **changed: object) -> Rfc2136Traffic:
    """A route on a real server, with its secret unless the test has another."""
    return opened(server.address, options, **{"secret": server.endpoint.secret, **changed})  # type: ignore[arg-type]


@pytest.fixture(
    params=[
        pytest.param(kind, marks=[pytest.mark.xdist_group(kind), pytest.mark.real(kind)])
        for kind in ("bind", "powerdns")
    ]
)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Authority]:
    """A primary of the zone, fresh for each test: east and west are at `api`, claimed by nobody."""
    kind: Kind = request.param
    request.getfixturevalue(kind)
    with authority(kind, tmp_path) as started:
        yield started


@pytest.fixture
def two(bind: object, tmp_path: Path) -> Iterator[tuple[Authority, Authority]]:
    """BIND, and a secondary that follows it."""
    with pair(tmp_path) as servers:
        yield servers


Reply = Callable[[dns.message.Message], bytes | Sequence[bytes] | None]
"""What is sent back to a question: at once; piece by piece; nothing, and the connection's end."""


class _Conversation(socketserver.StreamRequestHandler):
    server: Scripted

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while len(head := self.rfile.read(2)) == 2:
                question = dns.message.from_wire(
                    self.rfile.read(struct.unpack("!H", head)[0]),
                    keyring={self.server.key.name: self.server.key},
                )
                self.server.asked.append(question)
                reply = self.server.reply(question)
                if reply is None:
                    return
                for piece in [reply] if isinstance(reply, bytes) else reply:
                    self.wfile.write(piece)
                    self.server.over.wait(0 if isinstance(reply, bytes) else 0.1)


class Scripted(socketserver.ThreadingTCPServer):
    """A name server that answers as it is told, framing included."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Conversation)
        self.key = dns.tsig.Key(ALLOWED_KEY, SECRET)
        self.asked: list[dns.message.Message] = []
        self.reply: Reply = framed
        self.over = threading.Event()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


def framed(
    question: dns.message.Message,
    fill: Callable[[dns.message.Message], object] = lambda answer: None,
    *,
    signed: bool = True,
) -> bytes:
    """An answer to `question`, signed as it was."""
    answer = dns.message.make_response(question)
    fill(answer)
    if not signed:
        answer.tsig, answer.want_tsig_sign = None, False
    wire = answer.to_wire()
    return struct.pack("!H", len(wire)) + wire


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    """What a test scripts."""
    with Scripted() as stand_in:
        thread = threading.Thread(target=stand_in.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield stand_in
        finally:
            stand_in.over.set()
            stand_in.shutdown()
            thread.join()
