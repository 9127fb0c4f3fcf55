"""Sites of the Caddy actuator: a Caddy of its own for each, and real servers behind it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from mlplatform.adapters.caddy import CaddyTraffic, caddy_route, open_traffic
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.traffic import Weights
from tests.real.servers import catalogue
from tests.real.servers.launch import Endpoint, free_port, running
from tests.real.servers.regions import Regions, regions
from tests.real.weather.meddler import Asked, Reply, meddling

from .site import REGIONS, Site

ROUTE = "api"


class World:
    """A Caddy whose file has one route to the regions, and which is reached by a detour. `route` is
    what its file has as that route; `apps` what the file has beside, given the admin endpoint."""

    def __init__(
        self,
        stack: ExitStack,
        behind: Regions,
        route: Mapping[str, Any] | None = None,
        apps: Callable[[str], Mapping[str, Any]] = lambda admin: {},
    ) -> None:
        self.behind = behind
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self._route = route or caddy_route(ROUTE, behind.targets)
        self.route_id: str = self._route["@id"]
        self._apps = apps
        self._port = free_port()
        self._running = stack.enter_context(ExitStack())
        self.endpoint = self._start(free_port(), resume=True)
        self.way = stack.enter_context(meddling(self.endpoint))

    def open(self, targets: Mapping[str, tuple[str, ...]] | None = None) -> CaddyTraffic:
        """An adapter, by way of the detour, which Caddy knows by another name."""
        here = f"{self.endpoint.host}:{self.endpoint.port}"
        detour = self.way.url.removeprefix("http://")
        text = f"caddy://{detour}/{self.route_id}?host={here}"
        return open_traffic(StoreURL.parse(text, noun="actuator"), targets or self.behind.targets)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """As an operator does it, at the admin endpoint itself."""
        return ask_json(self.endpoint, method, path, body)

    def restart(self, *, resume: bool = True) -> None:
        """Killed without warning, and started again at the same place."""
        os.kill(self.endpoint.pid, signal.SIGKILL)
        self._running.close()
        self.endpoint = self._start(self.endpoint.port, resume=resume)

    def stop(self) -> None:
        """It is gone, and stays so."""
        self._running.close()

    def client(self, timeout_seconds: float = 10.0) -> http.client.HTTPConnection:
        """A connection to the front door."""
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=timeout_seconds)

    def get(self, path: str = "/") -> tuple[int, str, Mapping[str, str]]:
        """One request of a client: status, body, headers."""
        client = self.client()
        try:
            client.request("GET", path)
            answer = client.getresponse()
            return answer.status, answer.read().decode(), dict(answer.getheaders())
        finally:
            client.close()

    def post(self, path: str = "/") -> tuple[int, str]:
        """One question to a model: status and body."""
        client = self.client()
        try:
            client.request("POST", path, b"{}")
            answer = client.getresponse()
            return answer.status, answer.read().decode()
        finally:
            client.close()

    def count(self, requests: int) -> Counter[str]:
        """That many requests, by the region that answered; "" where none did."""
        answers = (self.get() for _ in range(requests))
        return Counter(body if status == 200 else "" for status, body, _ in answers)

    def _start(self, port: int, *, resume: bool) -> Endpoint:
        server = {"listen": [f"127.0.0.1:{self._port}"], "routes": [self._route]}
        apps = dict(self._apps(f"127.0.0.1:{port}"))
        beside = apps.get("http", {}).get("servers", {})
        world = {**server, "automatic_https": {"disable": True}}
        apps["http"] = {**apps.get("http", {}), "servers": {"world": world, **beside}}
        start = partial(catalogue.caddy, folder=self.folder, apps=apps, resume=resume)
        return self._running.enter_context(running("caddy", start=start, port=port))


def ask_json(endpoint: Endpoint, method: str, path: str, body: Any = None) -> Any:
    client = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=10)
    try:
        data = None if body is None else json.dumps(body).encode()
        client.request(method, path, data, {"Content-Type": "application/json"})
        answer = client.getresponse()
        found = answer.read()
        assert answer.status == 200, found
        return json.loads(found or b"null")
    finally:
        client.close()


class CaddySite(Site):
    def __init__(self, world: World) -> None:
        self._world = world

    def open(self) -> CaddyTraffic:
        return self._world.open()

    def change_by_hand(self, weights: Weights) -> None:
        path = f"/id/{self._world.route_id}/handle/1/load_balancing/selection_policy/weights"
        self._world.ask("PATCH", path, [weights[region] for region in REGIONS])

    def remove(self) -> None:
        self._world.ask("DELETE", f"/id/{self._world.route_id}")

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        def hang_up(_: Asked) -> Reply | None:
            raise ConnectionResetError

        self._world.way.refuse = hang_up
        yield
        self._world.way.calm()

    @contextmanager
    def answers_lost(self) -> Iterator[None]:
        def hang_up(asked: Asked, body: bytes) -> bytes:
            if asked.method == "PATCH":
                raise ConnectionResetError
            return body

        self._world.way.outward = hang_up
        yield
        self._world.way.calm()

    def restart(self) -> None:
        self._world.restart()

    def requests(self, count: int) -> Counter[str]:
        return self._world.count(count)


@contextmanager
def world(names: Sequence[str] = REGIONS) -> Iterator[World]:
    """A Caddy and the regions behind it, for as long as the block lasts."""
    with ExitStack() as stack:
        yield World(stack, stack.enter_context(regions(names)))


@contextmanager
def caddy(_: Any) -> Iterator[Site]:
    with world() as found:
        yield CaddySite(found)
