"""A region's entry: a gateway that does what an HTTPRoute says, and counts in the words of Envoy
Gateway what becomes of the requests. Each backend of the route is a door before the endpoints that
the cluster knows of its Service (see `doors`).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from .control_plane import ControlPlane
from .doors import Door, Doors
from .gateway import Gateway
from .launch import running


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
        self._cluster = f"httproute/{namespace}/{name}/rule/0/backend"
        self._doors = Doors()
        self._applied: Sequence[Door] | None = None
        self.history: list[Divided] = []
        """What was in force, the latest last."""

    def __enter__(self) -> Self:
        self._doors.__enter__()
        return super().__enter__()

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self._doors.__exit__()

    @property
    def port(self) -> int:
        """Where clients enter."""
        return self._doors.port

    @property
    def url(self) -> str:
        """Where clients enter."""
        return self._doors.url

    def _look(self) -> None:
        route = self._ask("GET", self._path)
        servers = self._endpoints()
        backends = route["spec"]["rules"][0].get("backendRefs") or []
        wanted = [
            Door(
                f"{self._cluster}/{place}",
                each.get("weight", 1),
                servers.get(each["name"], ()),
                _stated(each),
            )
            for place, each in enumerate(backends)
        ]
        if wanted != self._applied:
            self._doors.divide(wanted)
            self._applied = wanted
            doors = dict(zip((each["name"] for each in backends), wanted, strict=True))
            self.history.append(
                Divided(
                    {name: door.weight for name, door in doors.items()},
                    {name: len(door.servers) for name, door in doors.items()},
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

    def metrics(self) -> str:
        """As Prometheus reads it."""
        return "".join(
            f"{_series(*counted)} {count}\n" for counted, count in self._doors.counted().items()
        )


def _series(cluster: str, what: str, which: str) -> str:
    """What Envoy calls what a door has counted."""
    of = f'envoy_cluster_name="{cluster}"'
    if what == "code":
        return f'envoy_cluster_upstream_rq{{{of},envoy_response_code="{which}"}}'
    le = which if which == "+Inf" else f"{float(which) * 1000:g}"
    return f'envoy_cluster_upstream_rq_time_bucket{{{of},le="{le}"}}'


def _is_ready(pod: Mapping[str, Any]) -> bool:
    return any(
        each["type"] == "Ready" and each["status"] == "True"
        for each in pod["status"].get("conditions", ())
    )


def _address(pod: Mapping[str, Any]) -> str:
    """Where its server answers: the first port of its first container."""
    port = pod["spec"]["containers"][0]["ports"][0]["containerPort"]
    return f"{pod['status']['podIP']}:{port}"


def _stated(backend: Mapping[str, Any]) -> dict[str, str]:
    """The headers of the answer that a backend's filters ask for."""
    return {
        one["name"]: one["value"]
        for each in backend.get("filters") or ()
        for one in each["responseHeaderModifier"]["set"]
    }


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
