"""Where clients enter, and the doors behind it: a real Caddy that divides requests between servers
by weight and counts what becomes of them, and that nobody is lost to when the division changes.

With each change Caddy ends its servers and starts others. Lines that the old ones had not taken the
kernel resets, for each listener has a queue of its own (SO_REUSEPORT); and one that was taken, and
whose request was not read when its server was told to end, Go's `net/http` closes without an answer
(`conn.serve`: `if c.server.shuttingDown() { return }`). A gateway takes over weights without ending
anything. So there are two Caddys, and before them a front that is always there: the one to which
nobody comes any more takes over the next division, once those who came to it are answered, and then
everybody comes to it. Nothing is sent twice: a request that a server did not answer has failed.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import re
import selectors
import socket
import socketserver
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from .launch import Endpoint, free_port, running

_COUNTED = re.compile(
    r"caddy_http_request_duration_seconds_(?P<what>count|bucket)\{(?P<labels>[^}]*)\} (?P<n>\S+)"
)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ENTRY = "entry"
_BYTES = 65536
# One line a request: none is reset because its server ends, or is told to.
_TRANSPORT = {"protocol": "http", "keep_alive": {"enabled": False}, "dial_timeout": "2s"}
_LAST: Mapping[str, Any] = {"handler": "headers", "response": {"set": {"Connection": ["close"]}}}
_REFUSES: Mapping[str, Any] = {"handler": "static_response", "status_code": 503}


@dataclass(frozen=True)
class Door:
    """What stands before some servers."""

    name: str
    """Under which it counts."""
    weight: int
    servers: Sequence[str]
    """`host:port`; none answers 503."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """What its answers say beside what a server said."""


Counted = Counter[tuple[str, str, str]]
"""How many requests: by door, `code` or `le`, and which; `le` in seconds, as Prometheus has it."""


class Doors:
    """A division of requests, while the block lasts. `port` is where clients enter."""

    def __init__(self) -> None:
        self.port = free_port()
        self._stack = contextlib.ExitStack()
        self._changes = 0

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            folder = tempfile.TemporaryDirectory(prefix="mlplatform-doors-")
            self._folder = Path(stack.enter_context(folder))
            self._sides = [_Side(stack.enter_context(running("caddy"))) for _ in range(2)]
            self._front = stack.enter_context(_Front(self.port, self._sides[0]))
            thread = threading.Thread(target=self._front.serve_forever, args=(0.05,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(self._front.shutdown)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        """Where clients enter."""
        return f"http://127.0.0.1:{self.port}"

    def divide(self, doors: Sequence[Door]) -> None:
        """In force when this returns, for every request that comes from then on."""
        self._changes += 1
        # Sockets of its own for each change: nobody can come to those of the last.
        sockets = [f"unix/{self._folder}/{self._changes}.{place}" for place in range(len(doors))]
        servers = {
            each.name: _server(path, [*_stated(each), _proxy(each.servers)])
            for path, each in zip(sockets, doors, strict=True)
        }
        entry = self._folder / f"{self._changes}.{_ENTRY}"
        between = _proxy(sockets, [each.weight for each in doors])
        servers[_ENTRY] = _server(f"unix/{entry}", [_LAST, between])
        side = self._sides[self._changes % 2]
        self._front.wait_for_those_under_way_to(side)
        side.take_over({"http": {"metrics": {}, "servers": servers}})
        self._front.lead_to(side, entry)

    def counted(self) -> Counted:
        """All that was ever counted."""
        return sum((each.counted() for each in self._sides), Counter())


class _Side:
    """One of the two Caddys, and how many requests are under way to it."""

    def __init__(self, caddy: Endpoint) -> None:
        self.under_way = 0
        self._caddy = caddy
        self._before: Counted = Counter()
        self._counting = threading.Lock()

    def take_over(self, apps: object) -> None:
        """Another configuration. Caddy begins to count anew: what it had counted is kept."""
        with self._counting, contextlib.closing(self._line()) as line:
            self._before = self._counted()
            body = json.dumps(apps)
            line.request("POST", "/config/apps", body, {"Content-Type": "application/json"})
            answer = line.getresponse()
            if answer.status != 200:
                raise RuntimeError(answer.read().decode())

    def counted(self) -> Counted:
        with self._counting:
            return self._counted()

    def _counted(self) -> Counted:
        now: dict[tuple[str, str, str], int] = {}
        with contextlib.closing(self._line()) as line:
            line.request("GET", "/metrics")
            text = line.getresponse().read().decode()
        for each in _COUNTED.finditer(text):
            labels = dict(_LABEL.findall(each["labels"]))
            what = "code" if each["what"] == "count" else "le"
            key = (labels["server"], what, labels[what])
            if labels["server"] != _ENTRY:
                # By each of several handlers: all of them have had it.
                now[key] = max(now.get(key, 0), int(float(each["n"])))
        return self._before + Counter(now)

    def _line(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._caddy.host, self._caddy.port, timeout=10)


def _proxy(dials: Sequence[str], weights: Sequence[int] = ()) -> Mapping[str, Any]:
    """To these, by weight where there are any; refused where nobody is there to be sent to."""
    if not dials or (weights and not any(weights)):
        return _REFUSES
    # Caddy sends as many in a row as a weight says: 1 and 1 take turns, 50 and 50 do not.
    unit = math.gcd(*weights) or 1
    policy = (
        {"policy": "weighted_round_robin", "weights": [each // unit for each in weights]}
        if weights
        else {"policy": "round_robin"}
    )
    return {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": dial} for dial in dials],
        "load_balancing": {"selection_policy": policy},
        "transport": _TRANSPORT,
    }


def _stated(door: Door) -> Iterator[Mapping[str, Any]]:
    if door.headers:
        values = {name: [value] for name, value in door.headers.items()}
        yield {"handler": "headers", "response": {"set": values, "deferred": True}}


def _server(listens: str, handlers: Sequence[object]) -> dict[str, Any]:
    return {
        "listen": [listens],
        "automatic_https": {"disable": True},
        "routes": [{"handle": list(handlers)}],
    }


class _Front(socketserver.ThreadingTCPServer):
    """Passes lines on to one of the sides."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, port: int, side: _Side) -> None:
        super().__init__(("127.0.0.1", port), _Passes)
        self._turn = threading.Condition()
        self._side, self._socket = side, ""

    @contextlib.contextmanager
    def passing(self) -> Iterator[str]:
        """One more under way: to which socket."""
        with self._turn:
            side, socket_path = self._side, self._socket
            side.under_way += 1
        try:
            yield socket_path
        finally:
            with self._turn:
                side.under_way -= 1
                self._turn.notify_all()

    def lead_to(self, side: _Side, path: Path) -> None:
        """Whoever comes from now on goes there."""
        with self._turn:
            self._side, self._socket = side, str(path)

    def wait_for_those_under_way_to(self, side: _Side) -> None:
        """Clients have time-outs of seconds: it does not take longer."""
        with self._turn:
            self._turn.wait_for(lambda: not side.under_way)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A line that broke: its client knows."""


class _Passes(socketserver.BaseRequestHandler):
    """One line, both ways, until one end closes it."""

    server: _Front

    def handle(self) -> None:
        near: socket.socket = self.request
        first = near.recv(_BYTES)
        if not first:
            return  # who says nothing keeps nobody waiting
        with self.server.passing() as path, socket.socket(socket.AF_UNIX) as far:
            far.connect(path)
            far.sendall(first)
            with selectors.DefaultSelector() as either:
                either.register(near, selectors.EVENT_READ, far)
                either.register(far, selectors.EVENT_READ, near)
                while True:
                    for key, _ in either.select():
                        said = key.fileobj.recv(_BYTES)  # type: ignore[union-attr]
                        if not said:
                            return
                        key.data.sendall(said)
