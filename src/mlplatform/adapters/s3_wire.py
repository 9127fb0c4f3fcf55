"""HTTP/1.1 to one host, for requests whose number or size makes an SDK's client too dear.

A body leaves from the caller's memory and arrives in it: nothing is copied on the way, and a
request costs a quarter of the CPU that it costs through the SDK. Connections are kept and shared
by threads; there are as many as there are requests at once. No redirects, no retries, and nothing
about S3: what goes wrong is raised as the standard library has it.
"""

from __future__ import annotations

import base64
import select
import socket
import ssl
import weakref
from collections import deque
from collections.abc import Mapping
from http.client import (
    BadStatusLine,
    HTTPConnection,
    HTTPException,
    HTTPMessage,
    HTTPResponse,
    HTTPSConnection,
    LineTooLong,
    RemoteDisconnected,
)
from types import TracebackType
from typing import Self
from urllib.parse import SplitResult, unquote, urlsplit

CONNECT_SECONDS = 10.0
_SEND_BYTES = 1024 * 1024
"""A socket's time-out covers one whole `sendall`. Sent in pieces, a body may take its time as long
as a piece gets through: a slow line is not a stalled one."""
_LINE_BYTES_MAX = 65536
_FIELDS_MAX = 100
_KEEPALIVE = (
    # A peer that vanished while a large answer was being prepared is noticed within a minute.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)
    ),
)


class Wire:
    """The connections to one `http(s)://host[:port]`.

    Socket buffers are left to the kernel: fixed sizes would switch off its own tuning, which on
    long lines gives far larger ones.
    """

    def __init__(
        self,
        origin: str,
        *,
        stall_seconds: float,
        context: ssl.SSLContext | None = None,
        proxy: str | None = None,
    ) -> None:
        parts = urlsplit(origin)
        self._secure = parts.scheme == "https"
        self._name = parts.hostname or ""
        self._port = parts.port or (443 if self._secure else 80)
        self.host = parts.netloc
        """What the Host header says, and a signature covers."""
        self._stall_seconds = stall_seconds
        self._context = context
        self._proxy = urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else None
        self._login = _proxy_login(self._proxy) if self._proxy else {}
        self._idle: deque[HTTPConnection] = deque()
        weakref.finalize(self, _close_all, self._idle)

    def send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: memoryview | None = None,
    ) -> Answer:
        """One request. `body` is bytes, one after the other; `target` is percent-encoded."""
        if self._proxy and not self._secure:
            # HTTPS goes through a tunnel; of plain HTTP a proxy wants to see the whole URL.
            target = f"http://{self.host}{target}"
            headers = {**headers, **self._login}
        connection = self._take()
        try:
            whole = _pour(connection, method, target, headers, body)
            response = connection.getresponse()
        except BaseException:
            connection.close()
            raise
        return Answer(self._idle, connection, response, reusable=whole)

    def _take(self) -> HTTPConnection:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return self._connect()
            if _quiet(connection.sock):
                return connection
            connection.close()

    def _connect(self) -> HTTPConnection:
        near = (self._name, self._port)
        if self._proxy:
            near = (self._proxy.hostname or "", self._proxy.port or 80)
        connection = (
            HTTPSConnection(*near, timeout=CONNECT_SECONDS, context=self._context)
            if self._secure
            else HTTPConnection(*near, timeout=CONNECT_SECONDS)
        )
        connection.response_class = _Response
        if self._proxy and self._secure:
            connection.set_tunnel(self._name, self._port, self._login)
        try:
            connection.connect()
            for option in _KEEPALIVE:
                connection.sock.setsockopt(*option)
        except BaseException:
            connection.close()
            raise
        connection.sock.settimeout(self._stall_seconds)
        return connection


class _Response(HTTPResponse):
    """The standard library's, which reads a head as it would an e-mail's: for a small object that
    is a third of all the CPU. The rules are the same (RFC 9112), but a head must be whole."""

    def begin(self) -> None:
        """Read status and headers, and find out how the body ends."""
        if self.headers is not None:
            return  # it was begun before
        (version, status, reason), headers = self._status_line(), self._fields()
        while status // 100 == 1:
            (version, status, reason), headers = self._status_line(), self._fields()
        self.version = 10 if version == "HTTP/1.0" else 11
        self.code = self.status = status
        self.reason = reason
        self.headers = self.msg = headers
        self.chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
        self.chunk_left = None
        length = headers.get("Content-Length", "")
        self.length = int(length) if length.isdecimal() and not self.chunked else None
        if status in (204, 304) or self._method == "HEAD":
            self.length = 0
        said = headers.get("Connection", "").lower()
        kept = "close" not in said if self.version == 11 else "keep-alive" in said
        self.will_close = not (kept and (self.chunked or self.length is not None))

    def _status_line(self) -> tuple[str, int, str]:
        line = self._line()
        version, _, rest = line.partition(" ")
        code, _, reason = rest.strip().partition(" ")
        if not version.startswith("HTTP/1.") or len(code) != 3 or not code.isdecimal():
            raise BadStatusLine(line)
        return version, int(code), reason.strip()

    def _fields(self) -> HTTPMessage:
        found = HTTPMessage()
        for _ in range(_FIELDS_MAX):
            line = self._line().rstrip("\r\n")
            if not line:
                return found
            name, colon, value = line.partition(":")
            if name and colon and not name[0].isspace():
                found[name] = value.strip()
        raise HTTPException(f"more than {_FIELDS_MAX} header fields")

    def _line(self) -> str:
        line = self.fp.readline(_LINE_BYTES_MAX + 1)
        if len(line) > _LINE_BYTES_MAX:
            raise LineTooLong("header line")
        if not line.endswith(b"\n"):
            raise RemoteDisconnected("the connection ended before the answer's head did")
        return str(line, "iso-8859-1")


class Answer:
    """A response whose body is still to come. Leaving the `with` block gives the connection back
    if the body was read to its end, and closes it if not."""

    def __init__(
        self,
        idle: deque[HTTPConnection],
        connection: HTTPConnection,
        response: HTTPResponse,
        *,
        reusable: bool,
    ) -> None:
        self._idle = idle
        self._connection = connection
        self._response = response
        self._reusable = reusable
        self._closed = False
        self.status = response.status
        self.headers = response.headers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer` straight from the socket, as far as the body goes."""
        return self._response.readinto(buffer)

    def read(self, limit_bytes: int) -> bytes:
        """The body's start."""
        return self._response.read(limit_bytes)

    def close(self) -> None:
        """Be done with it; once is enough."""
        if self._closed:
            return
        self._closed = True
        response = self._response
        if response.length == 0:
            response.read()  # nothing comes, but the response wants to be asked
        if self._reusable and response.isclosed() and not response.will_close:
            self._idle.append(self._connection)
        else:
            response.close()
            self._connection.close()


def _pour(
    connection: HTTPConnection,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: memoryview | None,
) -> bool:
    """Send a request. False when the server stopped listening: it may have answered already."""
    connection.putrequest(method, target, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    if body is not None:
        connection.putheader("Content-Length", str(body.nbytes))
    try:
        connection.endheaders()
        if body is not None:
            for start in range(0, body.nbytes, _SEND_BYTES):
                connection.send(body[start : start + _SEND_BYTES])
    except (BrokenPipeError, ConnectionResetError):
        # Refusals (no such bucket, slow down) come before the body is through, and close.
        return False
    return True


def _quiet(sock: socket.socket) -> bool:
    """Whether an idle connection is still good: neither data nor an end came unasked for."""
    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLPRI)
    return not poll.poll(0)


def _proxy_login(proxy: SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def _close_all(idle: deque[HTTPConnection]) -> None:
    while idle:
        idle.pop().close()
