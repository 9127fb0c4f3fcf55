"""HTTP/1.1 as uvicorn and httptools speak it, with the limits that they leave open: the number of
chunks, the size of the headers, the time that these may take, and the number of connections.

A timer for each connection would cost more than most requests do. One look a second over all that
are open finds who has not moved since the last (10,000 idle ones: some milliseconds), and a request
pays nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mlplatform_serving.metrics import Metrics
from mlplatform_serving.models.instance import GONE

CHUNKS_MAX = 65_536
"""As Triton since CVE-2025-23310: each chunk costs, however little is in it."""
HEADER_BYTES_MAX = 64 * 1024
LOOK_SECONDS = 1.0
_FULL_SECONDS = 0.1
"""Where all connections are at work, so long passes before they are looked through again."""


class _TooMany(Exception):
    """Ends the parsing, and with it the connection."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a connection may stand still, in seconds, by what it stands at."""

    first_seconds: float = 75.0
    """Before its first byte."""
    header_seconds: float = 10.0
    """From the first byte of a request's head to the last, however slowly the others come
    (slowloris: CVE-2007-6750 and its kin)."""
    answer_seconds: float = 30.0
    """While the client takes nothing of its answer."""


class Guard:
    """All open connections of the server, on all its ports, and who of them must go. To be used on
    the event loop."""

    def __init__(
        self, *, connections_max: int, patience: Patience, metrics: Metrics | None = None
    ) -> None:
        self._max = connections_max
        self._patience = patience
        self._metrics = metrics
        # In the order in which they came: the one that is idle the longest is near the front.
        self._open: dict[LimitedProtocol, None] = {}
        self._full_until = 0.0

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: LimitedProtocol, now: float) -> bool:
        """Whether there is room for it; an idle one goes where there is not, for the new one may be
        a probe, and an idle one is likely to be nobody's."""
        if len(self._open) >= self._max and not self._make_room(now):
            self.ended("full")
            return False
        self._open[connection] = None
        return True

    def _make_room(self, now: float) -> bool:
        if now < self._full_until:
            return False
        for each in self._open:
            if each.idle:
                each.transport.abort()
                del self._open[each]
                self.ended("idle_for_room")
                return True
        self._full_until = now + _FULL_SECONDS
        return False

    def left(self, connection: LimitedProtocol) -> None:
        """It is closed."""
        self._open.pop(connection, None)

    def ended(self, reason: str) -> None:
        """The server has ended a connection."""
        if self._metrics is not None:
            self._metrics.connections_ended.labels(reason).inc()

    def look(self, now: float) -> None:
        """End those that have stood still for too long."""
        for each in list(self._open):
            standing = each.standing_at()
            if standing is None:
                each.since = None
            elif each.since is None or each.stood_at != standing:
                each.stood_at, each.since = standing, now
            elif now - each.since >= self._seconds(standing[0]):
                self.ended(standing[0])
                each.end(standing[0])

    def _seconds(self, place: str) -> float:
        return {
            "first": self._patience.first_seconds,
            "header": self._patience.header_seconds,
            "answer": self._patience.answer_seconds,
        }[place]

    async def watch(self) -> None:
        """Look, now and then, until cancelled; and tell how late one gets to it."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LOOK_SECONDS
            await asyncio.sleep(LOOK_SECONDS)
            now = loop.time()
            if self._metrics is not None:
                self._metrics.loop_lag_seconds.set(max(0.0, now - due))
                self._metrics.connections.set(len(self._open))
            self.look(now)


class LimitedProtocol(HttpToolsProtocol):
    """One connection. What breaks a limit is answered by 400, and the connection ends."""

    guard = Guard(connections_max=2**31, patience=Patience())
    """The server's own, of a class that `guarded` makes."""
    since: float | None = None
    stood_at: tuple[str, object] | None = None
    _chunks = 0
    _header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A new one; 503 where there are too many."""
        super().connection_made(transport)
        if not self.guard.admit(self, self.loop.time()):
            self._refuse(b"503 Service Unavailable", b"too many connections")

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed."""
        self.guard.left(self)
        super().connection_lost(exc)
        cycle: Any = self.cycle  # None before the first request
        if cycle and not cycle.response_complete and (tell := cycle.scope.get(GONE)):
            tell()

    @property
    def idle(self) -> bool:
        """Whether nothing is being read in full, run or answered on it."""
        return not self._working and not self.transport.get_write_buffer_size()

    @property
    def _working(self) -> bool:
        cycle: Any = self.cycle  # None before the first request, whatever uvicorn's types say
        return cycle is not None and not cycle.response_complete

    def standing_at(self) -> tuple[str, object] | None:
        """What it waits for, and a mark that changes when it gets on; None where that is not the
        client, or where another clock runs: the body's, or that of a connection kept alive."""
        if unread := self.transport.get_write_buffer_size():
            return "answer", unread
        if self._working:
            return None
        if self.timeout_keep_alive_task is not None:
            return None
        headers: Any = self.headers  # as is this
        return ("first", None) if headers is None else ("header", self.cycle)

    def end(self, place: str) -> None:
        """It has stood there for too long."""
        if place == "header" and not self.transport.is_closing():
            self._refuse(b"408 Request Timeout", b"the head of the request took too long")
        else:
            self.transport.abort()

    def on_message_begin(self) -> None:
        """A new request."""
        super().on_message_begin()
        self._chunks = self._header_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Part of the path."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or one trailer."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_chunk_header(self) -> None:
        """A chunk begins."""
        self._chunks += 1
        if self._chunks > CHUNKS_MAX:
            raise _TooMany

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > HEADER_BYTES_MAX:
            raise _TooMany

    def send_400_response(self, msg: str) -> None:
        """The protocol's form of an error; uvicorn's own is plain text."""
        self.guard.ended("malformed")
        self._refuse(b"400 Bad Request", b"this is no HTTP request that the server takes")

    def _refuse(self, status: bytes, said: bytes) -> None:
        if self.transport.is_closing():
            return
        body = b'{"error":"%s"}' % said
        self.transport.write(
            b"HTTP/1.1 %s\r\ncontent-type: application/json\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%s" % (status, len(body), body)
        )
        self.transport.close()


def guarded(guard: Guard) -> type[LimitedProtocol]:
    """The protocol of a server whose connections `guard` looks after."""
    return type("GuardedProtocol", (LimitedProtocol,), {"guard": guard})
