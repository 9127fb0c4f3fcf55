"""A region's entry: a gateway that does what an HTTPRoute says, with a real Caddy, and counts in
the words of Envoy Gateway what becomes of the requests.

Each backend of the route is a server of its own in Caddy, its door, before the endpoints that the
cluster knows of its Service; the entry divides requests between doors by the route's weights. Caddy
begins to count anew with each change; what it had counted is kept here, as a gateway keeps it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from .control_plane import ControlPlane
from .gateway import Gateway
from .launch import Endpoint, free_port, running

_COUNTED = re.compile(
    r"caddy_http_request_duration_seconds_(?P<what>count|bucket)\{(?P<labels>[^}]*)\} (?P<n>\S+)"
)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_PREFIX = "httproute/"
# One connection a request: none is reset because its server ends, or is told to.
_TRANSPORT = {"protocol": "http", "keep_alive": {"enabled": False}, "dial_timeout": "2s"}


@dataclass(frozen=True)
class Divided:
    """How requests were divided at a moment."""

    weights: Mapping[str, int]
    """By Service."""
    endpoints: Mapping[str, int]
    """By Service: how many servers were behind it."""


class Entry(Gateway):
    """One HTTPRoute, while the block lasts. `port` is where clients enter."""

    def __init__(self, plane: ControlPlane, namespace: str, name: str) -> None:
        super().__init__(plane, namespace, name)
        self._core = f"/api/v1/namespaces/{namespace}"
        self._cluster = f"{_PREFIX}{namespace}/{name}/rule/0/backend"
        self.port = free_port()
        self._doors: dict[str, int] = {}
        self._applied: object = None
        self._before: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._stack = contextlib.ExitStack()
        self.history: list[Divided] = []
        """What was in force, the latest last."""

    def __enter__(self) -> Self:
        self._caddy: Endpoint = self._stack.enter_context(running("caddy"))
        return super().__enter__()

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self._stack.close()

    @property
    def url(self) -> str:
        """Where clients enter."""
        return f"http://127.0.0.1:{self.port}"

    def _look(self) -> None:
        route = self._ask("GET", self._path)
        servers = self._endpoints()
        backends = route["spec"]["rules"][0].get("backendRefs") or []
        wanted = self._servers(backends, servers)
        if wanted != self._applied:
            with self._counting:
                self._before = self._counts()
                self._tell({"metrics": {}, "servers": wanted})
            self._applied = wanted
            self.history.append(
                Divided(
                    {each["name"]: each.get("weight", 1) for each in backends},
                    {each["name"]: len(servers.get(each["name"], ())) for each in backends},
                )
            )
        self._take(route)

    def _endpoints(self) -> dict[str, list[str]]:
        """Servers that are ready, `host:port`, by Service. From pods: an EndpointSlice takes no
        address on loopback."""
        pods = [
            each
            for each in self._ask("GET", f"{self._core}/pods")["items"]
            if _is_ready(each) and not each["metadata"].get("deletionTimestamp")
        ]
        found: dict[str, list[str]] = {}
        for service in self._ask("GET", f"{self._core}/services")["items"]:
            wanted = service["spec"]["selector"].items()
            found[service["metadata"]["name"]] = sorted(
                _address(pod) for pod in pods if wanted <= pod["metadata"]["labels"].items()
            )
        return found

    def _servers(
        self, backends: Sequence[Mapping[str, Any]], servers: Mapping[str, Sequence[str]]
    ) -> dict[str, Any]:
        """Caddy's servers: the entry, and a door for each backend."""
        made: dict[str, Any] = {}
        for place, each in enumerate(backends):
            door = f"{self._cluster}/{place}"
            port = self._doors.setdefault(door, free_port())
            handler = _proxy(servers.get(each["name"], ())) or _refuses
            made[door] = _server(port, [*_stated(each), handler])
        ports = [self._doors[f"{self._cluster}/{place}"] for place in range(len(backends))]
        dials = [f"127.0.0.1:{port}" for port in ports]
        weights = [each.get("weight", 1) for each in backends]
        made["entry"] = _server(self.port, [_proxy(dials, weights) or _refuses])
        return made

    def _tell(self, http: object) -> None:
        line = http_line(self._caddy)
        with contextlib.closing(line):
            body = json.dumps({"http": http})
            line.request("POST", "/config/apps", body, {"Content-Type": "application/json"})
            answer = line.getresponse()
            if answer.status != 200:
                raise RuntimeError(answer.read().decode())

    def _counts(self) -> Counter[str]:
        """All that was ever counted, by series in Envoy's words."""
        now: dict[str, int] = {}
        with contextlib.closing(http_line(self._caddy)) as line:
            line.request("GET", "/metrics")
            text = line.getresponse().read().decode()
        for each in _COUNTED.finditer(text):
            labels = dict(_LABEL.findall(each["labels"]))
            if not labels["server"].startswith(_PREFIX):
                continue
            cluster = f'envoy_cluster_name="{labels["server"]}"'
            if each["what"] == "count":
                code = f'envoy_response_code="{labels["code"]}"'
                name = f"envoy_cluster_upstream_rq{{{cluster},{code}}}"
            else:
                le = labels["le"] if labels["le"] == "+Inf" else f"{float(labels['le']) * 1000:g}"
                name = f'envoy_cluster_upstream_rq_time_bucket{{{cluster},le="{le}"}}'
            # Which handler of several it is told of is Caddy's affair: all of them have had it.
            now[name] = max(now.get(name, 0), int(float(each["n"])))
        return self._before + Counter(now)

    def metrics(self) -> str:
        """As Prometheus reads it."""
        with self._counting:
            return "".join(f"{series} {count}\n" for series, count in self._counts().items())


def _is_ready(pod: Mapping[str, Any]) -> bool:
    return any(
        each["type"] == "Ready" and each["status"] == "True"
        for each in pod["status"].get("conditions", ())
    )


def _address(pod: Mapping[str, Any]) -> str:
    """Where its server answers: the first port of its first container."""
    port = pod["spec"]["containers"][0]["ports"][0]["containerPort"]
    return f"{pod['status']['podIP']}:{port}"


_refuses = {"handler": "static_response", "status_code": 503}


def _proxy(dials: Sequence[str], weights: Sequence[int] = ()) -> dict[str, Any] | None:
    """To these, by weight where there are any; None where nobody is there to be sent to."""
    if not dials or (weights and not any(weights)):
        return None
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
        # A line that breaks while Caddy takes over a configuration is none of the servers' errors.
        "load_balancing": {
            "selection_policy": policy,
            "retries": 2,
            "retry_match": [{"method": ["GET", "POST"]}],
        },
        "request_buffers": 65536,
        "transport": _TRANSPORT,
    }


def _stated(backend: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The headers of the answer that a backend's filters ask for."""
    for each in backend.get("filters") or ():
        told = each["responseHeaderModifier"]["set"]
        values = {one["name"]: [one["value"]] for one in told}
        yield {"handler": "headers", "response": {"set": values, "deferred": True}}


def _server(port: int, handlers: Sequence[object]) -> dict[str, Any]:
    return {
        "listen": [f"127.0.0.1:{port}"],
        "automatic_https": {"disable": True},
        "routes": [{"handle": list(handlers)}],
    }


def http_line(server: Endpoint) -> http.client.HTTPConnection:
    """A connection to a server."""
    return http.client.HTTPConnection(server.host, server.port, timeout=10)


@contextlib.contextmanager
def scraped(entries: Sequence[Entry]) -> Iterator[str]:
    """A Prometheus that reads the counters of entries twice a second; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                body = "".join(entry.metrics() for entry in entries).encode()
            except (OSError, http.client.HTTPException):
                self.send_error(503)
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
            """Tests say what went wrong."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """Prometheus has gone: the tests are over."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            with _prometheus(f"127.0.0.1:{server.server_port}") as url:
                yield url
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def _prometheus(target: str) -> Iterator[str]:
    from .catalogue import Command, Room
    from .catalogue import prometheus as usual

    def start(room: Room) -> Command:
        command = usual(room)
        jobs = [{"job_name": "entries", "static_configs": [{"targets": [target]}]}]
        settings = {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "400ms"},
            "scrape_configs": jobs,
        }
        (room.data / "prometheus.yml").write_text(json.dumps(settings))
        return command

    with running("prometheus", start=start) as endpoint:
        yield endpoint.url
