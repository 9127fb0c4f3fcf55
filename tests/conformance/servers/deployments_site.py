"""Sites of Deployments: a namespace of a cluster whose nodes and pods are simulated, with a
Deployment that a person has put there, and scaled to 0, to start versions by."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from json import load
from pathlib import Path
from typing import Any

from mlplatform.adapters.deployments import DeploymentServers, open_servers
from mlplatform.core.store_url import StoreURL
from tests.real.servers.cluster import Cluster
from tests.real.servers.gateway import Way, way_to
from tests.real.servers.roles import grant

from .site import Site

MODEL, CONTEXT = "layers", "eu"
_numbers = itertools.count(1)
_DIES = """
import os, signal, sys
from mlplatform.adapters.deployments import open_servers
from mlplatform.core.store_url import StoreURL
url, model, version, servers, digest, epoch, writer = sys.argv[1:]
keeper = open_servers(StoreURL.parse(url, noun="servers"), model)
keeper.scale(version, int(servers), digest=digest, epoch=int(epoch), writer=writer)
os.kill(os.getpid(), signal.SIGKILL)
"""


class DeploymentsSite(Site):
    """One namespace, under the Role that we ship, with a node of its own."""

    def __init__(self, cluster: Cluster, folder: Path, way: Way) -> None:
        self.cluster = cluster
        self.plane = cluster.plane
        self.namespace = f"keeper-{next(_numbers)}"
        self._folder = folder
        self._way = way
        self.plane.ask("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}})
        cluster.node(16, site=self.namespace)
        grant(self.plane, "servers.yaml", self.namespace)
        # Its servers state what was published, whatever they are started for.
        cluster.pods.states |= {(MODEL, each): self.digest(each) for each in ("v1", "v2")}
        self._put("apps/v1", "deployments", self._first())

    def open(self) -> DeploymentServers:
        return open_servers(StoreURL.parse(self._url(), noun="servers"), MODEL)

    def digest(self, version: str) -> str:
        return f"blake3:{version.encode().hex():0>64}"

    def answers(self, address: str) -> str:
        with urllib.request.urlopen(f"http://{address}/v2/models/{MODEL}", timeout=10) as answer:
            return str(load(answer)["version"])

    def crash(self, address: str) -> None:
        self.cluster.crash(self.namespace, address)

    def scale_by_one_who_dies(
        self, version: str, servers: int, *, digest: str, epoch: int, writer: str
    ) -> None:
        said = [self._url(), MODEL, version, str(servers), digest, str(epoch), writer]
        ran = subprocess.run([sys.executable, "-c", _DIES, *said], env=os.environ, check=False)
        assert ran.returncode == -signal.SIGKILL

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        self._way.cut = True
        yield
        self._way.cut = False

    def _url(self) -> str:
        server = f"https://127.0.0.1:{self._way.server_port}"
        file = self._folder / "kubeconfig"
        self.plane.kubeconfig(file, "rollout-1", context=CONTEXT, server=server)
        return f"deployments://{CONTEXT}/{self.namespace}?kubeconfig={file}"

    def _put(self, version: str, plural: str, body: Any) -> None:
        path = f"/apis/{version}/namespaces/{self.namespace}/{plural}"
        self.plane.ask("POST", path, body)

    def _first(self) -> dict[str, Any]:
        container = {
            "name": "server",
            "image": "registry.example/server:1",
            "ports": [{"name": "http", "containerPort": self.cluster.port}],
            "resources": {"limits": {"nvidia.com/gpu": "1"}},
        }
        return {
            "metadata": {"name": MODEL, "labels": {"mlplatform.dev/model": MODEL}},
            "spec": {
                "replicas": 0,
                "selector": {"matchLabels": {"app": MODEL}},
                "template": {
                    "metadata": {
                        "labels": {"app": MODEL, "mlplatform.dev/version": "v0"},
                        "annotations": {"mlplatform.test/ends-after": "3s"},
                    },
                    "spec": {
                        "nodeSelector": {"site": self.namespace},
                        "containers": [container],
                    },
                },
            },
        }


@contextmanager
def deployments(cluster: Cluster) -> Iterator[DeploymentsSite]:
    """A fresh site in a cluster."""
    with tempfile.TemporaryDirectory() as folder, way_to(cluster.plane) as way:
        yield DeploymentsSite(cluster, Path(folder), way)
