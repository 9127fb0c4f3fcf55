"""Start a real server for as long as a ``with`` block lasts.

Each run has a free loopback port, an empty folder and fresh credentials, and none of this process's
environment but the path: no cloud credential can leak in. A guard process ends the server however
this one ends. By hand: ``python -m tests.real.servers.launch minio``, until Ctrl-C.
"""

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .catalogue import BY_NAME, Command, Room, Server, credentials

_READY_WITHIN_S = 60.0
_TRIES = 3  # another process may take the free port between our look and the server's bind
_TOLD: set[int] = set()  # ports that this process was told
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServerMissing(Exception):
    """The server is not built on this machine."""

    def __init__(self, server: Server) -> None:
        super().__init__(f"{server.name} {server.version} is not built; try: make servers")
        self.server = server


class ServerBroken(Exception):
    """The server is built but did not come up; the text ends with its log."""


@dataclass(frozen=True)
class Endpoint:
    """A running server."""

    name: str
    version: str
    host: str
    port: int
    url: str  # what a client is given; for Azurite it ends with the account
    user: str  # S3: access key id; Azurite: account name; unused elsewhere
    secret: str  # S3: secret key; Azurite: account key, base64; unused elsewhere
    pid: int  # the server's own process


def free_port() -> int:
    """A loopback port that nobody has now, and that nobody else in this run of tests is told: two
    Caddys that listen on one port share it, and each answers for the other (`SO_REUSEPORT`)."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        # Linux gives those who listen ports of one parity, and those who connect the other.
        if port // 2 % workers == worker % workers and port not in _TOLD:
            _TOLD.add(port)
            return port


def _answers(url: str) -> bool:
    """Whether anything but a server error comes back."""
    try:
        with _DIRECT.open(url, timeout=2):
            return True
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.code < 500
    except (OSError, ValueError):
        return False


def _come_up(guard: "subprocess.Popen[bytes]", room: Room, command: Command, log: Path) -> None:
    """Wait until the server answers, or say with its own words why it does not."""
    deadline = time.monotonic() + _READY_WITHIN_S
    answers = command.answers or (lambda room: _answers(f"http://{room.address}{command.ready}"))
    while guard.poll() is None and time.monotonic() < deadline:
        if answers(room) and guard.poll() is None:
            return
        time.sleep(0.02)
    why = "ended by itself" if guard.poll() is not None else f"silent for {_READY_WITHIN_S:.0f} s"
    raise ServerBroken(f"{room.program.name}: {why}\n{log.read_text(errors='replace')[-3000:]}")


def _child_of(guard: "subprocess.Popen[bytes]") -> int:
    """The process that the guard keeps (the guard itself where the system cannot say)."""
    try:
        children = Path(f"/proc/{guard.pid}/task/{guard.pid}/children").read_text().split()
        return int(children[0])
    except (OSError, IndexError):
        return guard.pid


@contextlib.contextmanager
def _process(
    server: Server,
    start: Callable[[Room], Command] | None = None,
    port: int | None = None,
    secret: str | None = None,
) -> Iterator[Endpoint]:
    start = start or server.start
    if start is None:
        raise ValueError(f"{server.name} is a tool: run {server.path}")
    user, fresh = credentials(secrets.token_hex(16))
    secret = secret or fresh
    scratch = Path(tempfile.mkdtemp(prefix=f"mlplatform-{server.name}-"))
    log = scratch / "log"
    (data := scratch / "data").mkdir()
    room = Room(server.path, port or free_port(), data, user, secret)
    command = start(room)
    with log.open("wb") as sink:
        guard = subprocess.Popen(
            (sys.executable, "-IS", Path(__file__).with_name("guard.py"), scratch, *command.argv),
            stdin=subprocess.PIPE,
            stdout=sink,
            stderr=subprocess.STDOUT,
            cwd=data,
            env={"PATH": os.environ["PATH"], "HOME": str(data), "TMPDIR": str(data), **command.env},
            start_new_session=True,
        )
    try:
        _come_up(guard, room, command, log)
        yield Endpoint(
            server.name,
            server.version,
            "127.0.0.1",
            room.port,
            f"http://{room.address}{command.base}",
            user,
            secret,
            _child_of(guard),
        )
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait()


@contextlib.contextmanager
def running(
    name: str,
    *,
    start: Callable[[Room], Command] | None = None,
    port: int | None = None,
    secret: str | None = None,
) -> Iterator[Endpoint]:
    """The server of that name in the catalogue, ready to answer, for as long as the block lasts.
    `start` stands in for its usual start, `port` and `secret` for fresh ones: for a second server
    of a pair, and for one that comes back."""
    server = BY_NAME[name]
    if not server.built:
        raise ServerMissing(server)
    with contextlib.ExitStack() as stack:
        yield _started(partial(_process, server, start, port, secret), stack)


def _started(
    process: Callable[[], contextlib.AbstractContextManager[Endpoint]], stack: contextlib.ExitStack
) -> Endpoint:
    for _ in range(_TRIES - 1):
        with contextlib.suppress(ServerBroken):
            return stack.enter_context(process())
    return stack.enter_context(process())


def main(name: str) -> None:
    """Run one server for a person."""
    with running(name) as endpoint, contextlib.suppress(KeyboardInterrupt):
        print(f"{endpoint.url}\nuser {endpoint.user}\nsecret {endpoint.secret}\nCtrl-C ends it.")
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main(sys.argv[1])
