"""What stands around a real API server in the tests: a small gateway, which takes an HTTPRoute and
writes into its status that it does; clients' requests through a real Caddy with the weights of a
route; and a way to the API server that can be cut."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import yaml

from .control_plane import ADMIN, ControlPlane
from .definitions import define
from .launch import free_port, running

CRD = Path(__file__).with_name("httproutes.yaml")
_CONTROLLER = "mlplatform.dev/test-gateway"
_LOOK_EVERY_SECONDS = 0.1


def routes(namespace: str) -> str:
    """The API's path of the HTTPRoutes in a namespace."""
    return f"/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/httproutes"


def install_gateway_api(plane: ControlPlane) -> None:
    """The CRD of the HTTPRoute, served when this returns."""
    define(plane, yaml.safe_load(CRD.read_text()))


class _NotNow(Exception):
    """The API server would not."""


class Gateway:
    """Takes whatever its route says, while the block lasts; `refuses` it if told to."""

    def __init__(self, plane: ControlPlane, namespace: str, name: str) -> None:
        self._plane = plane
        self._path = f"{routes(namespace)}/{name}"
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._line: http.client.HTTPSConnection | None = None
        self._looking = threading.Lock()
        self._idle = False
        self.refuses = False

    @property
    def idle(self) -> bool:
        """Whether it writes nothing. Once it is told to, nothing of before comes after."""
        return self._idle

    @idle.setter
    def idle(self, told: bool) -> None:
        with self._looking:
            self._idle = told

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        if self._line:
            self._line.close()

    def _work(self) -> None:
        while not self._done.wait(_LOOK_EVERY_SECONDS):
            with self._looking:
                if not self._idle:
                    # A control plane that restarts, a route that is gone, a conflict: look again.
                    with contextlib.suppress(OSError, http.client.HTTPException, _NotNow):
                        self._look()

    def _look(self) -> None:
        self._take(self._ask("GET", self._path))

    def _take(self, route: dict[str, Any]) -> None:
        """Write into its status that its present generation is taken, or refused."""
        seen = [
            condition.get("observedGeneration")
            for parent in route.get("status", {}).get("parents", ())
            for condition in parent["conditions"]
        ]
        if seen and set(seen) == {route["metadata"]["generation"]}:
            return
        route["status"] = {"parents": [self._answer(route, one) for one in parents(route)]}
        self._ask("PUT", f"{self._path}/status", route)

    def _answer(self, route: Mapping[str, Any], parent: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "parentRef": parent,
            "controllerName": _CONTROLLER,
            "conditions": [
                {
                    "type": kind,
                    "status": "False" if self.refuses else "True",
                    "reason": "NotAllowed" if self.refuses else kind,
                    "message": "",
                    "observedGeneration": route["metadata"]["generation"],
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }
                for kind in ("Accepted", "ResolvedRefs")
            ],
        }

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        if self._line is None:
            context = ssl.create_default_context(cafile=str(self._plane.authority))
            port = self._plane.endpoint.port
            self._line = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=10)
        try:
            self._line.request(
                method,
                path,
                None if body is None else json.dumps(body),
                {
                    "Authorization": f"Bearer {self._plane.token(ADMIN)}",
                    "Content-Type": "application/json",
                },
            )
            answer = self._line.getresponse()
            said = answer.read()
        except (OSError, http.client.HTTPException):
            self._line.close()
            self._line = None
            raise
        if answer.status >= 300:
            raise _NotNow(said.decode())
        return json.loads(said)


def parents(route: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The gateways that a route asks for."""
    found: list[dict[str, Any]] = route["spec"].get("parentRefs", [])
    return found


def requests_through(route: Mapping[str, Any], count: int) -> Counter[str]:
    """That many requests of a client through a real Caddy with the backends of the route's first
    rule: how many each backend answered, by its name."""
    references = route["spec"]["rules"][0]["backendRefs"]
    with contextlib.ExitStack() as stack:
        backends = [stack.enter_context(answering(one["name"])) for one in references]
        port = free_port()
        proxy = {
            "handler": "reverse_proxy",
            "upstreams": [{"dial": f"127.0.0.1:{one}"} for one in backends],
            "load_balancing": {
                "selection_policy": {
                    "policy": "weighted_round_robin",
                    "weights": [one["weight"] for one in references],
                }
            },
        }
        caddy = stack.enter_context(running("caddy"))
        admin = http.client.HTTPConnection(caddy.host, caddy.port, timeout=10)
        stack.callback(admin.close)
        server = {
            "listen": [f"127.0.0.1:{port}"],
            "automatic_https": {"disable": True},
            "routes": [{"handle": [proxy]}],
        }
        apps = {"http": {"servers": {"world": server}}}
        admin.request(
            "POST", "/config/apps", json.dumps(apps), {"Content-Type": "application/json"}
        )
        if (answer := admin.getresponse()).status != 200:
            raise RuntimeError(answer.read().decode())
        answer.read()
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        stack.callback(client.close)
        answered: Counter[str] = Counter()
        for _ in range(count):
            client.request("GET", "/")
            answer = client.getresponse()
            said = answer.read().decode()
            answered[said if answer.status == 200 else ""] += 1
        return answered


@contextlib.contextmanager
def answering(name: str) -> Iterator[int]:
    """A server that answers with its name; its port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet for head and body, else each waits 40 ms for an acknowledgement

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            self.send_response_only(200)
            self.send_header("Content-Length", str(len(name)))
            self.end_headers()
            self.wfile.write(name.encode())

        do_GET = do_POST = _answer  # noqa: N815 - the base class's names

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


class Way(ThreadingHTTPServer):
    """A way to an API server, with that server's own certificate. It can be cut, answers to what
    changes something can get lost on it, and it can answer by itself."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, plane: ControlPlane) -> None:
        super().__init__(("127.0.0.1", 0), _Hop)
        self.plane = plane
        self.cut = False
        self.loses_answers = False
        self.reply_to_patch: Reply | None = None
        self.weather: Callable[[str], Reply | str] = lambda method: ""
        """What befalls a request of that method: an answer in the server's place, `cut` before it
        is there, `lost` on the way back, or nothing."""
        self.asked: list[str] = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(plane.authority, plane.authority.with_suffix(".key"))

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands in the connection's own thread, unless the way is cut."""
        if not self.cut:
            with self._context.wrap_socket(request, server_side=True) as secured:
                super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Lines that break are what it is for."""


@dataclass(frozen=True)
class Reply:
    """What is answered in the API server's place."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def refusing(status: int, reason: str, *, after_seconds: int | None = None) -> Reply:
    """What an API server answers that does not do it."""
    told = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status}
    body = json.dumps({**told, "reason": reason, "message": f"told by a test: {reason}"}).encode()
    later = {} if after_seconds is None else {"Retry-After": str(after_seconds)}
    return Reply(status, body, {"Content-Type": "application/json", **later})


class _Hop(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: Way

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.asked.append(self.command)
        if self.server.cut:
            self.close_connection = True
            return
        befalls = self.server.weather(self.command)
        if befalls == "cut":
            self.close_connection = True
            return
        own = befalls if isinstance(befalls, Reply) else None
        if self.command == "PATCH":
            own = own or self.server.reply_to_patch
        reply = own or self._ask(body)
        if befalls == "lost" or (self.server.loses_answers and self.command != "GET"):
            self.close_connection = True
            return
        self.send_response_only(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    do_GET = do_PATCH = do_POST = do_DELETE = _pass_on  # noqa: N815 - the base class's names

    def _ask(self, body: bytes) -> Reply:
        plane = self.server.plane
        context = ssl.create_default_context(cafile=str(plane.authority))
        port = plane.endpoint.port
        far = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=30)
        try:
            headers = {
                name: self.headers[name]
                for name in ("Authorization", "Content-Type", "Accept")
                if name in self.headers
            }
            far.request(self.command, self.path, body or None, headers)
            answer = far.getresponse()
            kind = {"Content-Type": answer.headers.get("Content-Type", "")}
            return Reply(answer.status, answer.read(), kind)
        finally:
            far.close()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Tests say what went wrong."""


@contextlib.contextmanager
def way_to(plane: ControlPlane) -> Iterator[Way]:
    """A way of its own, for as long as the block lasts."""
    with Way(plane) as way:
        thread = threading.Thread(target=way.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield way
        finally:
            way.shutdown()
            thread.join()
