"""Servers that behave as servers do on a bad night."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

Behaviour = Callable[["Peer", socket.socket], None]


class Peer:
    """Listens on loopback, and treats each connection as it is told to."""

    def __init__(
        self,
        behaviour: Behaviour,
        *,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server((host, 0), family=family, backlog=64)
        self._behaviour = behaviour
        self._tls = tls
        self._host = f"[{host}]" if ":" in host else host
        self.port: int = self._listening.getsockname()[1]
        self.ended = threading.Event()
        self.requests: list[bytes] = []
        """What each connection sent first."""
        self.names: list[str | None] = []
        """The server names that clients asked for."""
        if tls is not None:
            tls.sni_callback = lambda _tls, name, _context: self.names.append(name)
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self._host}:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.ended.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()

    def _accept(self) -> None:
        while not self.ended.is_set():
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._treat, args=(connection,), daemon=True).start()

    def _treat(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            if self._tls is None:
                self._behaviour(self, connection)
                return
            with self._tls.wrap_socket(connection, server_side=True) as secured:
                self._behaviour(self, secured)


def answers(
    status: int = 200, body: bytes = b"{}", *, headers: str = "", delay_seconds: float = 0.0
) -> Behaviour:
    """Answers, after a delay."""

    def behave(peer: Peer, connection: socket.socket) -> None:
        peer.requests.append(connection.recv(65536))
        peer.ended.wait(delay_seconds)
        head = f"HTTP/1.1 {status} Whatever\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        connection.sendall(head.encode() + body)

    return behave


def sends(raw: bytes) -> Behaviour:
    """Sends these bytes, whatever they are, and hangs up."""

    def behave(peer: Peer, connection: socket.socket) -> None:
        peer.requests.append(connection.recv(65536))
        connection.sendall(raw)

    return behave


def never_answers(peer: Peer, connection: socket.socket) -> None:
    """Takes the request, and says nothing."""
    connection.recv(65536)
    peer.ended.wait()


def never_speaks(peer: Peer, connection: socket.socket) -> None:
    """Does not even read."""
    peer.ended.wait()


def drips(peer: Peer, connection: socket.socket) -> None:
    """A header that grows by a byte now and then, and never ends."""
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while not peer.ended.wait(0.02):
        connection.sendall(b"a")


def drips_a_body(peer: Peer, connection: socket.socket) -> None:
    """A header at once, then a body that grows by a byte now and then."""
    peer.requests.append(connection.recv(65536))
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while not peer.ended.wait(0.02):
        connection.sendall(b" ")


def resets(peer: Peer, connection: socket.socket) -> None:
    """Ends the connection as a crash does."""
    connection.recv(65536)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def pours(peer: Peer, connection: socket.socket) -> None:
    """A body without end."""
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while not peer.ended.is_set():
        connection.sendall(bytes(65536))
