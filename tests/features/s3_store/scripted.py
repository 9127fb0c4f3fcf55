"""A stand-in for an S3 store: a test says what it answers, byte for byte, and reads what was asked.

For what no server on this machine does: AWS's own answers, written from its documents (what rests
on them alone is unproven until a live run), and the rudeness that healthy servers do not show.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from email.parser import Parser
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Asked:
    """One request as it came in."""

    method: str
    target: str
    headers: Message
    body: bytes = b""

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, str]:
        pairs = parse_qs(urlsplit(self.target).query, keep_blank_values=True)
        return {name: values[0] for name, values in pairs.items()}


Rude = Callable[[socket.socket], None]
"""Does with the connection what it likes, once the head of a request has come; then it is closed.
What it returns from is the end of it."""


def reply(status: int, body: bytes | str = b"", **headers: str) -> bytes:
    """A well-behaved answer. `x_amz_thing="1"` is the header x-amz-thing."""
    raw = body.encode() if isinstance(body, str) else body
    fields = {"Content-Length": str(len(raw)), "Server": "AmazonS3"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Said\r\n{lines}\r\n".encode() + raw


def refusal(status: int, code: str, message: str = "", **headers: str) -> bytes:
    """An answer with an error document."""
    document = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    )
    return reply(status, document, **headers)


@dataclass
class StandIn:
    """What a test scripts and reads. Answers are given in order, the last one for ever."""

    url: str
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    _answers: deque[bytes | Rude] = field(default_factory=deque)

    def answers(self, *answers: bytes | Rude) -> None:
        self._answers = deque(answers)

    def next_answer(self) -> bytes | Rude:
        return self._answers.popleft() if len(self._answers) > 1 else self._answers[0]


@contextlib.contextmanager
def standing_in(context: ssl.SSLContext | None = None) -> Iterator[StandIn]:
    """A stand-in on a loopback port, with TLS if it gets a context."""
    scheme = "https" if context else "http"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stand_in = StandIn(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}")
        open_ones: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                stand_in.connections += 1
                open_ones.append(connection)
                threading.Thread(
                    target=_serve, args=(stand_in, connection, context), daemon=True
                ).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield stand_in
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            for connection in open_ones:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            thread.join()


def _serve(stand_in: StandIn, plain: socket.socket, context: ssl.SSLContext | None) -> None:
    with plain, contextlib.suppress(OSError), _secured(plain, context) as connection:
        while line := _line(connection):
            head = b""
            while field_line := _line(connection):
                head += field_line + b"\r\n"
            method, target, _ = line.decode().split()
            headers = Parser().parsestr(head.decode(), headersonly=True)
            asked = Asked(method, target, headers)
            stand_in.asked.append(asked)
            answer = stand_in.next_answer()
            if callable(answer):
                answer(connection)
                return
            asked.body = _exactly(connection, int(headers.get("Content-Length", "0")))
            connection.sendall(answer)


def _secured(plain: socket.socket, context: ssl.SSLContext | None) -> socket.socket:
    return context.wrap_socket(plain, server_side=True) if context else plain.dup()


def _line(connection: socket.socket) -> bytes:
    """Byte by byte, so that what follows stays in the socket for whoever reads on."""
    line = b""
    while not line.endswith(b"\n") and (byte := connection.recv(1)):
        line += byte
    return line.rstrip(b"\r\n")


def _exactly(connection: socket.socket, size_bytes: int) -> bytes:
    body = bytearray()
    while len(body) < size_bytes and (piece := connection.recv(size_bytes - len(body))):
        body += piece
    return bytes(body)
