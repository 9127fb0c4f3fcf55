"""Name servers that are killed and come back, an operator who changes records by hand, and a way
to a server on which answers get lost."""

import contextlib
import os
import signal
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import dns.message
import dns.name
import dns.opcode
import dns.query
import dns.rcode
import dns.tsig
import dns.update

from .catalogue import ALLOWED_KEY, ZONE, Command, Room, named, pdns
from .launch import Endpoint, free_port, running

Kind = Literal["bind", "powerdns"]
LOOPBACK = "127.0.0.1"


class Authority:
    """A server of the zone whose data outlives its process."""

    def __init__(
        self, kind: str, start: Callable[[Room], Command], port: int, secret: str | None = None
    ) -> None:
        self._kind = kind
        self._start = start
        self._run = ExitStack()
        self.endpoint: Endpoint = self._run.enter_context(
            running(kind, start=start, port=port, secret=secret)
        )

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.endpoint.port}"

    def stop(self) -> None:
        self._run.close()

    def kill_and_start(self) -> None:
        """It dies without warning, and comes back where it was."""
        os.kill(self.endpoint.pid, signal.SIGKILL)
        self._run.close()
        self.endpoint = self._run.enter_context(
            running(
                self._kind,
                start=self._start,
                port=self.endpoint.port,
                secret=self.endpoint.secret,
            )
        )

    def change(self, fill: Callable[[dns.update.UpdateMessage], None]) -> None:
        """An update as an operator sends it with nsupdate, who knows nothing of us."""
        update = dns.update.UpdateMessage(ZONE)
        fill(update)
        update.use_tsig(dns.tsig.Key(ALLOWED_KEY, self.endpoint.secret))
        answer = dns.query.tcp(update, LOOPBACK, timeout=10, port=self.endpoint.port)
        assert answer.rcode() == dns.rcode.NOERROR, answer.to_text()

    def ask(self, name: str, kind: str) -> frozenset[str]:
        """What it answers to anybody; `@` is the zone itself."""
        whole = dns.name.from_text(name, dns.name.from_text(ZONE))
        question = dns.message.make_query(whole, kind)
        answer = dns.query.tcp(question, LOOPBACK, timeout=10, port=self.endpoint.port)
        return frozenset(record.to_text() for rrset in answer.answer for record in rrset)


@contextmanager
def authority(kind: Kind, folder: Path, *, notify: tuple[int, ...] = ()) -> Iterator[Authority]:
    """The primary of the zone, its data in `folder`."""
    start = (
        partial(named, folder=folder, notify=notify)
        if kind == "bind"
        else partial(pdns, folder=folder)
    )
    server = Authority(kind, start, free_port())
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def pair(folder: Path) -> Iterator[tuple[Authority, Authority]]:
    """A primary, and a secondary that it notifies of each change and that fetches it."""
    port = free_port()
    (mine := folder / "primary").mkdir()
    with authority("bind", mine, notify=(port,)) as primary:
        start = partial(named, primary=primary.endpoint.port)
        secondary = Authority("bind", start, port, primary.endpoint.secret)
        try:
            yield primary, secondary
        finally:
            secondary.stop()


class _Way(socketserver.BaseRequestHandler):
    """One connection: questions and answers of DNS over TCP, handed on one by one."""

    server: "Detour"

    def handle(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            if self.server.cut:
                return
            with socket.create_connection((LOOPBACK, self.server.upstream), 10) as there:
                while True:
                    question = _message(self.request)
                    there.sendall(question)
                    answer = _message(there)
                    is_update = dns.opcode.from_flags(_flags(question)) == dns.opcode.UPDATE
                    if self.server.loses_answers and is_update:
                        return
                    self.request.sendall(answer)


class Detour(socketserver.ThreadingTCPServer):
    """A way to a name server that can be cut, and on which the answers to updates can get lost."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: int) -> None:
        super().__init__((LOOPBACK, 0), _Way)
        self.upstream = upstream
        self.cut = False
        self.loses_answers = False

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.server_address[1]}"


@contextmanager
def detour(server: Authority) -> Iterator[Detour]:
    """A way of its own to `server`, for as long as the block lasts."""
    with Detour(server.endpoint.port) as way:
        thread = threading.Thread(target=way.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield way
        finally:
            way.shutdown()
            thread.join()


def _message(line: socket.socket) -> bytes:
    """One message with its length before it."""
    head = _exactly(line, 2)
    return head + _exactly(line, struct.unpack("!H", head)[0])


def _exactly(line: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        if not (piece := line.recv(size - len(got))):
            raise EOFError
        got += piece
    return got


def _flags(message: bytes) -> int:
    flags: int = struct.unpack("!H", message[4:6])[0]
    return flags
