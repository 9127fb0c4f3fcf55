"""An HTTP client that costs little: bytes that were made once, on connections that are kept, and of
the answer the status. TLS is verified."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httptools

from mlplatform_serving.tools.errors import Usage
from mlplatform_serving.tools.load.report import BROKEN, TIMEOUT


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go."""

    host: str
    port: int
    path: str
    """Before each path; without a slash at its end."""
    tls: bool

    @classmethod
    def parse(cls, url: str) -> Target:
        """`Usage` if it is no http(s) URL."""
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise Usage(f"{url}: no http(s) URL of a server", hint="--url http://127.0.0.1:8000")
        tls = parts.scheme == "https"
        return cls(parts.hostname, port or (443 if tls else 80), parts.path.rstrip("/"), tls)

    @property
    def authority(self) -> str:
        """As the Host header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        """A request's bytes."""
        lines = [
            f"POST {self.path}{path} HTTP/1.1",
            f"Host: {self.authority}",
            f"Content-Length: {len(body)}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


class _Connection(asyncio.Protocol):
    """One connection, with at most one request under way."""

    def __init__(self) -> None:
        self.reusable = True
        self._transport: Any = None
        self._parser: Any = None
        self._answer: asyncio.Future[int] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.reusable = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionResetError("closed by the server"))

    def ask(self, request: bytes) -> asyncio.Future[int]:
        """The status of the answer, when all of it is there."""
        self._answer = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.close()
            if self._answer is not None and not self._answer.done():
                self._answer.set_exception(ConnectionError(f"no HTTP: {error}"))

    def on_message_complete(self) -> None:
        self.reusable = self._parser.should_keep_alive() and self.reusable
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(self._parser.get_status_code())

    def close(self) -> None:
        """At once."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()


class Client:
    """Connections to one server, opened as they are needed, `connections_max` at most; whoever
    finds none free waits, and the wait is part of its latency."""

    def __init__(self, target: Target, *, connections_max: int, timeout_seconds: float) -> None:
        self._target = target
        self._timeout_seconds = timeout_seconds
        self._room = connections_max
        self._idle: list[_Connection] = []
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._context = ssl.create_default_context() if target.tls else None
        self._loop = asyncio.get_running_loop()

    async def ask(self, request: bytes) -> tuple[float, float, int | str]:
        """When it was sent and when its answer was there, on the clock of `time.perf_counter` (an
        event loop's own may tick in milliseconds), and how it ended: HTTP's status, or what went
        wrong."""
        sent = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                connection = await self._taken()
                try:
                    sent = time.perf_counter()
                    status: int | str = await connection.ask(request)
                except BaseException:
                    connection.close()
                    raise
                finally:
                    self._give(connection)
        except TimeoutError:
            status = TIMEOUT
        except (OSError, ssl.SSLError) as error:
            status = f"{BROKEN}: {_said(error)}"
        return sent, time.perf_counter(), status

    async def _taken(self) -> _Connection:
        while True:
            while self._idle:
                connection = self._idle.pop()
                if connection.reusable:
                    return connection
                self._room += 1
            if self._room:
                self._room -= 1
                try:
                    return await self._opened()
                except BaseException:
                    self._room += 1
                    self._next()
                    raise
            turn = self._loop.create_future()
            self._waiting.append(turn)
            await turn

    async def _opened(self) -> _Connection:
        _, connection = await self._loop.create_connection(
            _Connection, self._target.host, self._target.port, ssl=self._context
        )
        return connection

    def _give(self, connection: _Connection) -> None:
        if connection.reusable:
            self._idle.append(connection)
        else:
            connection.close()
            self._room += 1
        self._next()

    def _next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def close(self) -> None:
        """All connections."""
        for each in self._idle:
            each.close()


def _said(error: Exception) -> str:
    """The kind of it, without what differs from request to request."""
    number = getattr(error, "errno", None)
    names = {111: "refused", 104: "reset", 110: "timed out", 32: "broken", -2: "no such host"}
    return names.get(number or 0, type(error).__name__)
