"""HTTP/1.1 as uvicorn and httptools speak it, with the limits that they leave open: the number of
chunks, the size of the headers, the time that these may take, and the number of connections.

A timer for each connection would cost more than most requests do. One look a second over all that
are open finds who has not moved since the last (10,000 idle ones: some milliseconds), and a request
pays nothing.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from mlplatform_serving.http.answers import Answer
from mlplatform_serving.http.descriptors import SECOND_MAX
from mlplatform_serving.metrics import Metrics
from mlplatform_serving.models.instance import GONE

CHUNKS_MAX = 65_536
"""As Triton since CVE-2025-23310: each chunk costs, however little is in it."""
HEADER_BYTES_MAX = 64 * 1024
LOOK_SECONDS = 1.0
_FULL_SECONDS = 0.1
"""Where all connections are at work, so long passes before they are looked through again."""


Take = Callable[[Any, bytes, "Reply"], bool]
"""Takes a request that is wholly there, its scope and its body, and answers by the reply; or says
that it does not."""


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
    idle_seconds: float = 75.0
    """Between two requests: the connection is kept alive for so long."""


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
        self.second_descriptors = 0
        """How many connections have one."""

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

    def give_up(self) -> None:
        """The server ends, and has no more time: whoever still waits for a model is told so."""
        for each in list(self._open):
            each.give_up()

    def look(self, now: float) -> None:
        """End those that have stood still for too long."""
        for each in list(self._open):
            standing = each.standing_at()
            if standing is None:
                each.since = None
            elif each.since is None or each.stood_at != standing:
                each.stood_at, each.since = standing, now
            elif now - each.since >= self._seconds(standing[0]):
                if standing[0] != "idle":
                    self.ended(standing[0])
                each.end(standing[0])

    def _seconds(self, place: str) -> float:
        return {
            "first": self._patience.first_seconds,
            "header": self._patience.header_seconds,
            "answer": self._patience.answer_seconds,
            "idle": self._patience.idle_seconds,
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


class _Flow(FlowControl):
    """Reads no more while requests wait for those before them. uvicorn's own reads on with every
    answer, hundreds of requests at a time, for as long as a client sends them."""

    def __init__(self, transport: asyncio.Transport, waiting: deque[Any]) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        """Where nobody waits: of whoever runs then, there may be more to read."""
        if self.read_paused and not self._waiting:
            super().resume_reading()


def _nothing() -> None:
    pass


class LimitedProtocol(HttpToolsProtocol):
    """One connection. What breaks a limit is answered by 400, and the connection ends."""

    guard = Guard(connections_max=2**31, patience=Patience())
    """The server's own, of a class that `guarded` makes."""
    take: Take | None = None
    since: float | None = None
    stood_at: tuple[str, object] | None = None
    _socket: socket.socket | None = None
    _resting = False
    """Kept alive, and nothing of the next request is there."""
    _feeding = False
    _arrived: tuple[RequestResponseCycle, Any] | None = None
    _chunks = 0
    _header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A new one; 503 where there are too many."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        if not self.guard.admit(self, self.loop.time()):
            self._refuse(b"503 Service Unavailable", b"too many connections")

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed."""
        self.guard.left(self)
        # Let go, and not closed: whoever is writing to it this moment must not find another's
        # connection behind the same number. Nobody keeps it longer than that, or the client would
        # not see the end.
        if self._socket is not None:
            self._socket = None
            self.guard.second_descriptors -= 1
        super().connection_lost(exc)
        cycle: Any = self.cycle  # None before the first request
        if cycle and not cycle.response_complete and (tell := cycle.scope.pop(GONE, None)):
            tell()

    def data_received(self, data: bytes) -> None:
        """Some bytes. A request begins when all of them are read: it may be there whole by then."""
        self._resting = False
        self._feeding = True
        try:
            super().data_received(data)
        finally:
            self._feeding = False
            if self._arrived is not None:
                (cycle, app), self._arrived = self._arrived, None
                self._begin(cycle, app)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self._feeding:
            self._arrived = cycle, app
        else:
            self._begin(cycle, app)

    def _begin(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self.take is not None and not (
            cycle.more_body or cycle.disconnected or self.flow.write_paused
        ):
            reply = Reply(self, cycle)
            if self.take(cycle.scope, bytes(cycle.body), reply):
                # A connection keeps its last cycle for as long as it is kept itself.
                cycle.body = bytearray()
                reply.may_be_at_once = self._has_own_socket(cycle)
                self.flow.resume_reading()  # its end is seen only by who reads
                return
        super()._start_asgi_task(cycle, app)

    @property
    def own_socket(self) -> socket.socket | None:
        """The connection's socket under a descriptor of its own, which nobody closes while it is
        written to; to be kept for no longer than that."""
        return self._socket

    def _has_own_socket(self, cycle: RequestResponseCycle) -> bool:
        """Whether there is one to be written to; not where the connection is not plain, ends after
        this answer, or has something unsent, nor where descriptors are short."""
        if self.transport.get_write_buffer_size() or not cycle.keep_alive:
            return False
        if self._socket is None:
            if self.guard.second_descriptors >= SECOND_MAX or self._is_encrypted:
                return False
            given = self.transport.get_extra_info("socket")
            try:
                second = os.dup(given.fileno())
            except OSError:
                return False
            # Its family and the rest are given: asking for them would be three calls of the system.
            self._socket = socket.socket(given.family, given.type, given.proto, second)
            self.guard.second_descriptors += 1
        return True

    @property
    def _is_encrypted(self) -> bool:
        return self.transport.get_extra_info("ssl_object") is not None

    def complete(self, cycle: RequestResponseCycle, *unsent: bytes) -> None:
        """The request is answered, but for what is to be sent yet."""
        if cycle.disconnected or self.transport.is_closing():
            return
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        cycle.on_response = _nothing  # it holds the connection, which holds it
        for piece in unsent:
            self.transport.write(piece)
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def on_response_complete(self) -> None:
        """As uvicorn has it, but for its timer: the guard looks who rests for too long."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        following = self.pipeline.pop() if self.pipeline else None
        self.flow.resume_reading()
        if following is not None:
            self._start_asgi_task(*following)
        else:
            # It does not where another request has begun, whose head is still to end.
            self._resting = self.scope is self.cycle.scope

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
        client, or where another clock runs: the body's."""
        if unread := self.transport.get_write_buffer_size():
            return "answer", unread
        if self._working:
            return None
        if self._resting:
            return "idle", self.cycle
        headers: Any = self.headers  # as is this
        return ("first", None) if headers is None else ("header", self.cycle)

    def end(self, place: str) -> None:
        """It has stood there for too long."""
        if place == "header" and not self.transport.is_closing():
            self._refuse(b"408 Request Timeout", b"the head of the request took too long")
        elif place == "idle":
            self.transport.close()
        else:
            self.transport.abort()

    def give_up(self) -> None:
        """503 to who waits for a model; nothing where the model's thread has begun to answer."""
        if self._working and not self.pipeline:
            cycle: Any = self.cycle
            tell = cycle.scope.pop(GONE, None)
            if tell is not None and tell():
                self._refuse(b"503 Service Unavailable", b"the server ends before the model does")

    def on_message_begin(self) -> None:
        """A new request."""
        super().on_message_begin()
        self._chunks = self._header_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Part of the path."""
        self._header_bytes += len(url)
        if self._header_bytes > HEADER_BYTES_MAX:
            raise _TooMany
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or one trailer. As uvicorn has it, without a call to it: there are many."""
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > HEADER_BYTES_MAX:
            raise _TooMany
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_chunk_header(self) -> None:
        """A chunk begins."""
        self._chunks += 1
        if self._chunks > CHUNKS_MAX:
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


class Reply:
    """How one request is answered, without ASGI's messages."""

    __slots__ = ("_cycle", "_protocol", "_sent", "_unsent", "may_be_at_once")

    def __init__(self, protocol: LimitedProtocol, cycle: RequestResponseCycle) -> None:
        self._protocol = protocol
        self._cycle = cycle
        self.may_be_at_once = False
        """Whether the connection may be written to at once."""
        self._sent = False
        self._unsent = b""

    def at_once(self, answer: Answer) -> None:
        """Send what can be sent now, from any thread: the client need not wait until the loop is
        woken. The loop is to be told of the same answer after it."""
        own = self._protocol.own_socket if self.may_be_at_once else None
        if own is None or len(answer.body) >= HIGH_WATER_LIMIT:
            return
        said = self._head(answer) + answer.body
        try:
            sent = own.send(said)
        except OSError:
            sent = 0  # it is full, or broken, which the loop learns when it writes
        self._unsent = said[sent:]
        self._sent = True

    def __call__(self, answer: Answer) -> None:
        """Send it, or what is left of it. On the loop, and never within `take`."""
        if self._sent:
            self._protocol.complete(self._cycle, *([self._unsent] if self._unsent else ()))
            return
        head = self._head(answer)
        if len(answer.body) < HIGH_WATER_LIMIT:
            self._protocol.complete(self._cycle, head + answer.body)
        else:
            self._protocol.complete(self._cycle, head, answer.body)

    def _head(self, answer: Answer) -> bytes:
        """As uvicorn writes it. It is the server's own: there is nothing of a client's in it that
        would have to be looked at."""
        cycle = self._cycle
        head = [STATUS_LINE[answer.status]]
        for name, value in (*cycle.default_headers, *answer.headers):
            head += (name, b": ", value, b"\r\n")
            if name == b"connection":
                cycle.keep_alive = False
        if not cycle.keep_alive and (b"connection", b"close") not in answer.headers:
            head.append(b"connection: close\r\n")
        head.append(b"\r\n")
        return b"".join(head)


def guarded(guard: Guard, take: Take | None = None) -> type[LimitedProtocol]:
    """The protocol of a server whose connections `guard` looks after. What is wholly there is first
    offered to `take`."""
    of = {"guard": guard, "take": None if take is None else staticmethod(take)}
    return type("GuardedProtocol", (LimitedProtocol,), of)
