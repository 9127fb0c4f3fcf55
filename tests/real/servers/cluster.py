"""A Kubernetes cluster that works by itself: an API server with its controllers and its scheduler,
and nodes and pods that kwok simulates. Nothing runs in a pod: what it would answer as a model
server, one server answers for all of them, at each one's own address (127.64.0.0/16).

What becomes of a pod is what its version says, behind the last dot: `v2.crash` crashes. The fates
are in `kwok.yaml`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import ssl
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from .catalogue import Command, Room
from .control_plane import ADMIN, ControlPlane
from .launch import running

_STAGES = Path(__file__).with_name("kwok.yaml")
_WITHIN_SECONDS = 60.0
_CONTROLLERS = (
    "deployment-controller",
    "replicaset-controller",
    "garbage-collector-controller",
    "horizontal-pod-autoscaler-controller",
    "resourcequota-controller",
    "endpointslice-controller",
)
_POD_IPS = "127.64.0.0/16"
_MODEL, _VERSION, _DIGEST = (f"mlplatform.dev/{name}" for name in ("model", "version", "digest"))
_numbers = itertools.count(1)


class Pods(ThreadingHTTPServer):
    """What the pods of a cluster answer: which model they serve, by their labels."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, plane: ControlPlane) -> None:
        # A pod has an address of its own, and nobody knows which one before it is there.
        super().__init__(("0.0.0.0", 0), _Pod)
        self.plane = plane
        self.states: dict[tuple[str, str], str] = {}
        """By model and version: the digest that its servers state, where it is not what they were
        started for."""

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Nobody but this machine is answered."""
        return str(client_address[0]).startswith("127.")


class _Pod(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: Pods

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        address = self.connection.getsockname()[0]
        path = f"/api/v1/pods?fieldSelector=status.podIP={address}"
        there = [
            each["metadata"]
            for each in self.server.plane.ask("GET", path)["items"]
            if not each["metadata"].get("deletionTimestamp")
        ]
        if not there:
            self.close_connection = True
            return
        labels, notes = there[0]["labels"], there[0].get("annotations") or {}
        model, version = labels.get(_MODEL, ""), labels[_VERSION]
        digest = self.server.states.get((model, version), notes.get(_DIGEST, ""))
        told = {"name": model, "version": version, "state": "READY", "digest": digest}
        body = json.dumps([told] if self.path.endswith("/index") else told).encode()
        self.send_response_only(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer  # noqa: N815 - the base class's names

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Tests say what went wrong."""


class Cluster:
    """An API server whose objects move, and the nodes that are there."""

    def __init__(self, plane: ControlPlane, pods: Pods) -> None:
        self.plane = plane
        self.pods = pods

    @property
    def port(self) -> int:
        """Where every pod answers."""
        return int(self.pods.server_port)

    def node(self, gpus: int, **labels: str) -> str:
        """A node with so many GPUs, ready to take pods."""
        name = f"gpu-{next(_numbers)}"
        room = {"cpu": "64", "memory": "512Gi", "pods": "110", "nvidia.com/gpu": str(gpus)}
        self.plane.ask(
            "POST",
            "/api/v1/nodes",
            {
                "metadata": {"name": name, "labels": labels},
                "status": {
                    "allocatable": room,
                    "capacity": room,
                    "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
                },
            },
        )
        # Admission taints each new node; the controller that takes it off does not run here.
        self.plane.merge(f"/api/v1/nodes/{name}", {"spec": {"taints": None}})
        return name


@contextlib.contextmanager
def cluster_of(plane: ControlPlane) -> Iterator[Cluster]:
    """Controllers, scheduler and kwok beside an API server."""
    with tempfile.TemporaryDirectory(prefix="mlplatform-cluster-") as folder:
        file = plane.kubeconfig(Path(folder) / "admin.yaml", ADMIN, context="cluster")

        def controllers(room: Room) -> Command:
            return Command(
                (room.program.with_name("kube-controller-manager"), f"--kubeconfig={file}")
                + ("--leader-elect=false", f"--controllers={','.join(_CONTROLLERS)}")
                + ("--bind-address=127.0.0.1", f"--secure-port={room.port}")
                + (f"--cert-dir={room.data}", "--horizontal-pod-autoscaler-sync-period=1s")
                + ("--kube-api-qps=200", "--kube-api-burst=400"),
                answers=_healthy,
            )

        def scheduler(room: Room) -> Command:
            return Command(
                (room.program.with_name("kube-scheduler"), f"--kubeconfig={file}")
                + ("--leader-elect=false", "--bind-address=127.0.0.1")
                + (f"--secure-port={room.port}", f"--cert-dir={room.data}"),
                answers=_healthy,
            )

        def kwok(room: Room) -> Command:
            return Command(
                (room.program, f"--kubeconfig={file}", "--manage-all-nodes=true")
                + ("--node-lease-duration-seconds=40", f"--config={_STAGES}")
                + (f"--server-address={room.address}", f"--cidr={_POD_IPS}"),
                ready="/healthz",
            )

        with (
            running("kubernetes", start=controllers),
            running("kubernetes", start=scheduler),
            running("kwok", start=kwok),
            Pods(plane) as pods,
        ):
            thread = threading.Thread(target=pods.serve_forever, args=(0.05,))
            thread.start()
            try:
                yield Cluster(plane, pods)
            finally:
                pods.shutdown()
                thread.join()


def eventually(holds: Callable[[], Any], *, within_seconds: float = _WITHIN_SECONDS) -> Any:
    """What `holds` gives, once it is true; `AssertionError` with the last of it if it never is."""
    deadline = time.monotonic() + within_seconds
    while not (found := holds()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_seconds:g} s: {found!r}")
        time.sleep(0.1)
    return found


def _healthy(room: Room) -> bool:
    anybody = ssl.create_default_context()
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=anybody)
    )
    try:
        with opener.open(f"https://{room.address}/healthz", timeout=5):
            return True
    except OSError:
        return False
