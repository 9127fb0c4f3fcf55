"""Sites of the HTTPRoute actuator: a namespace of its own for each, under the Role that we ship."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mlplatform.adapters.gateway_api import GatewayApiTraffic, open_traffic
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.traffic import Weights
from tests.real.servers.catalogue import BY_NAME
from tests.real.servers.control_plane import ControlPlane
from tests.real.servers.gateway import (
    Gateway,
    Way,
    install_gateway_api,
    requests_through,
    routes,
    way_to,
)
from tests.real.servers.roles import grant

from .site import REGIONS, Site

CONTEXT = "world"
TARGETS = {region: (f"infer-{region}",) for region in REGIONS}
_numbers = itertools.count(1)


class GatewayApiSite(Site):
    """The HTTPRoute `api`, with a time-out that is somebody else's, and a gateway that takes it."""

    def __init__(
        self, plane: ControlPlane, namespace: str, folder: Path, way: Way, gateway: Gateway
    ) -> None:
        self.plane = plane
        self.namespace = namespace
        self.path = f"{routes(namespace)}/api"
        self.gateway = gateway
        self._folder = folder
        self.way = way

    def open(self, *, user: str = "failover-1", options: str = "") -> GatewayApiTraffic:
        server = f"https://127.0.0.1:{self.way.server_port}"
        file = self.plane.kubeconfig(
            self._folder / f"{user}.yaml", user, context=CONTEXT, server=server
        )
        text = f"httproute://{CONTEXT}/{self.namespace}/api?kubeconfig={file}{options}"
        return open_traffic(StoreURL.parse(text, noun="actuator"), TARGETS)

    def route(self) -> Any:
        """The object as it lies there."""
        return self.plane.ask("GET", self.path)

    def change_by_hand(self, weights: Weights) -> None:
        references = self.route()["spec"]["rules"][0]["backendRefs"]
        for place, one in enumerate(references):
            one["weight"] = weights[one["name"].removeprefix("infer-")]
            references[place] = one
        self.edit([{"op": "replace", "path": "/spec/rules/0/backendRefs", "value": references}])

    def edit(self, operations: list[dict[str, Any]]) -> Any:
        """What an operator's `kubectl patch --type json` does."""
        kind = "application/json-patch+json"
        return self.plane.ask("PATCH", self.path, operations, kind=kind)

    def remove(self) -> None:
        self.plane.ask("DELETE", self.path)

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        self.way.cut = True
        yield
        self.way.cut = False

    @contextmanager
    def answers_lost(self) -> Iterator[None]:
        self.way.loses_answers = True
        yield
        self.way.loses_answers = False

    def restart(self) -> None:
        self.plane.restart()

    def requests(self, count: int) -> Counter[str]:
        if not BY_NAME["caddy"].built and os.environ.get("MLPLATFORM_REQUIRE_SERVERS") != "1":
            pytest.skip("Caddy is not built; try: make servers")
        answered = requests_through(self.route(), count)
        return Counter({name.removeprefix("infer-"): n for name, n in answered.items()})


@contextmanager
def gateway_api(plane: ControlPlane) -> Iterator[GatewayApiSite]:
    install_gateway_api(plane)
    namespace = f"gateway-{next(_numbers)}"
    plane.ask("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    grant(plane, "route-writer.yaml", namespace)
    rule = {
        "timeouts": {"request": "30s"},
        "backendRefs": [{"name": names[0], "port": 8000} for names in TARGETS.values()],
    }
    route = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "api"},
        "spec": {"parentRefs": [{"name": "world"}], "rules": [rule]},
    }
    plane.ask("POST", routes(namespace), route)
    with (
        tempfile.TemporaryDirectory() as folder,
        way_to(plane) as way,
        Gateway(plane, namespace, "api") as gateway,
    ):
        yield GatewayApiSite(plane, namespace, Path(folder), way, gateway)
