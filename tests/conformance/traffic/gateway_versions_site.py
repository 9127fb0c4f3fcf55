"""Sites of the split in an HTTPRoute: the versions a, b and c of one model, a Service each."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlplatform.adapters.gateway_versions import GatewayVersions, open_split
from mlplatform.core.store_url import StoreURL
from tests.real.servers.control_plane import ControlPlane
from tests.real.servers.gateway import Gateway, Way, install_gateway_api, routes, way_to
from tests.real.servers.roles import grant

from .gateway_api_site import CONTEXT, GatewayApiSite
from .site import REGIONS

MODEL, ROUTE = "magika", "resnet50"
_numbers = itertools.count(1)


class GatewayVersionsSite(GatewayApiSite):
    """The same object, of versions."""

    def __init__(
        self, plane: ControlPlane, namespace: str, folder: Path, way: Way, gateway: Gateway
    ) -> None:
        super().__init__(plane, namespace, folder, way, gateway)
        self.path = f"{routes(namespace)}/{ROUTE}"

    def open(self, *, user: str = "rollout-1", options: str = "") -> GatewayVersions:
        return self.split(REGIONS, user=user, options=options)

    def split(
        self, versions: Sequence[str], *, user: str = "rollout-1", options: str = ""
    ) -> GatewayVersions:
        """An adapter for these versions."""
        server = f"https://127.0.0.1:{self.way.server_port}"
        file = self._folder / f"{user}.yaml"
        self.plane.kubeconfig(file, user, context=CONTEXT, server=server)
        text = f"httproute://{CONTEXT}/{self.namespace}/{ROUTE}?kubeconfig={file}{options}"
        return open_split(StoreURL.parse(text, noun="actuator"), MODEL, versions)

    def service(self, version: str, *, name: str = "", port: int = 8000) -> None:
        """A version's Service, as `deployments` makes it."""
        told = {"mlplatform.dev/model": MODEL, "mlplatform.dev/version": version}
        self.plane.ask(
            "POST",
            f"/api/v1/namespaces/{self.namespace}/services",
            {
                "metadata": {"name": name or f"infer-{version}", "labels": told},
                "spec": {"selector": {"app": version}, "ports": [{"name": "http", "port": port}]},
            },
        )


@contextmanager
def gateway_versions(
    plane: ControlPlane, backends: Sequence[str] = REGIONS
) -> Iterator[GatewayVersionsSite]:
    """A route with these versions, each with a weight of 1."""
    install_gateway_api(plane)
    namespace = f"versions-{next(_numbers)}"
    plane.ask("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    grant(plane, "split.yaml", namespace)
    references: list[dict[str, Any]] = [
        {"name": f"infer-{version}", "port": 8000} for version in backends
    ]
    route = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": ROUTE},
        "spec": {
            "parentRefs": [{"name": "eu"}],
            "rules": [{"timeouts": {"request": "30s"}, "backendRefs": references}],
        },
    }
    plane.ask("POST", routes(namespace), route)
    with (
        tempfile.TemporaryDirectory() as folder,
        way_to(plane) as way,
        Gateway(plane, namespace, ROUTE) as gateway,
    ):
        site = GatewayVersionsSite(plane, namespace, Path(folder), way, gateway)
        for version in backends:
            site.service(version)
        yield site
