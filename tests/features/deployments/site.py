"""A namespace of its own in a cluster that works by itself, and what people put into it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlplatform.adapters.deployments import DeploymentServers
from mlplatform.adapters.kubernetes_api import KubernetesAPI
from mlplatform.ports.servers import Group, ServersState
from tests.real.servers.cluster import Cluster
from tests.real.servers.roles import change, grant

MODEL = "resnet50"
_numbers = itertools.count(1)


class Site:
    """One namespace, under the Role that we ship, and a node of its own."""

    def __init__(self, cluster: Cluster, folder: Path, *, gpus: int = 8) -> None:
        self.plane = cluster.plane
        self.cluster = cluster
        self.namespace = f"servers-{next(_numbers)}"
        self._folder = folder
        self.plane.ask("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}})
        cluster.node(gpus, site=self.namespace)
        grant(self.plane, "servers.yaml", self.namespace)

    def path(self, version: str, plural: str, name: str = "") -> str:
        root = "/api" if version == "v1" else "/apis"
        return f"{root}/{version}/namespaces/{self.namespace}/{plural}{name and f'/{name}'}"

    def put(self, version: str, plural: str, body: Mapping[str, Any]) -> Any:
        return self.plane.ask("POST", self.path(version, plural), body)

    def get(self, version: str, plural: str, name: str) -> Any:
        return self.plane.ask("GET", self.path(version, plural, name))

    def names(self, version: str, plural: str) -> set[str]:
        items = self.plane.ask("GET", self.path(version, plural))["items"]
        return {str(each["metadata"]["name"]) for each in items}

    def merge(self, version: str, plural: str, name: str, patch: object) -> Any:
        return self.plane.merge(self.path(version, plural, name), patch)

    def allow(self, resource: str, *verbs: str) -> None:
        """What the Role of whoever starts servers grants on a resource, from now on."""
        keeps = {"verbs": list(verbs)}

        def edit(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
            changed = [{**e, **(keeps if e["resources"] == [resource] else {})} for e in rules]
            return [each for each in changed if each["verbs"]]

        change(self.plane, self.namespace, "mlplatform-servers", edit)

    def tried(self, *, priority: str = "", **limits: str) -> tuple[Any, str]:
        """A pod with such limits as it would be let in now, or why it would not be: who lets pods
        in hears of quotas, limits and classes a moment later."""
        container = {"name": "server", "image": "x", "resources": {"limits": limits}}
        spec = {"containers": [container], **({"priorityClassName": priority} if priority else {})}
        body = {"metadata": {"name": "tried"}, "spec": spec}
        try:
            return self.plane.ask("POST", f"{self.path('v1', 'pods')}?dryRun=All", body), ""
        except RuntimeError as refused:
            return None, str(refused)

    def deployment(self, name: str) -> Any:
        return self.get("apps/v1", "deployments", name)

    def pods(self, app: str) -> list[Any]:
        """Those whose name begins with that of their Deployment."""
        items = self.plane.ask("GET", self.path("v1", "pods"))["items"]
        return [each for each in items if each["metadata"]["name"].startswith(f"{app}-")]

    def open(
        self,
        *,
        user: str = "rollout-1",
        api: type[KubernetesAPI] = KubernetesAPI,
        asks: bool = True,
    ) -> DeploymentServers:
        file = self.plane.kubeconfig(self._folder / f"{user}.yaml", user, context="eu")
        opened = api("eu", kubeconfig=str(file), timeout_seconds=10.0)
        return DeploymentServers(opened, self.namespace, MODEL, asks=asks)

    def first(
        self,
        version: str = "v1",
        servers: int = 2,
        *,
        name: str = "resnet",
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> Any:
        """The Deployment and the Service that a person has put there."""
        container = {
            "name": "server",
            "image": f"registry.example/resnet50:{version}",
            "env": [
                {"name": "MODEL_VERSION", "value": version},
                {"name": "MODELS", "value": "resnet50"},
            ],
            "ports": [{"name": "http", "containerPort": self.cluster.port}],
            "resources": {"limits": {"nvidia.com/gpu": "1"}},
        }
        self.put(
            "v1",
            "services",
            {
                "metadata": {"name": name},
                "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 8080}]},
            },
        )
        return self.put(
            "apps/v1",
            "deployments",
            {
                "metadata": {
                    "name": name,
                    "labels": {"mlplatform.dev/model": MODEL, "team": "vision", **(labels or {})},
                    "annotations": dict(annotations or {}),
                },
                "spec": {
                    "replicas": servers,
                    "selector": {"matchLabels": {"app": name}},
                    "template": {
                        "metadata": {
                            "labels": {
                                "app": name,
                                "team": "vision",
                                "mlplatform.dev/version": version,
                            }
                        },
                        "spec": {
                            "nodeSelector": {"site": self.namespace},
                            "terminationGracePeriodSeconds": 600,
                            "containers": [container],
                        },
                    },
                },
            },
        )


def group(state: ServersState, version: str) -> Group:
    """Of a version; empty where there is none."""
    return state.groups.get(version, Group(version))
