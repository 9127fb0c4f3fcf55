"""A Kubernetes cluster that works by itself: an API server with its controllers and its scheduler,
and nodes and pods that kwok simulates. Nothing runs in a pod.

What becomes of a pod is what its version says, behind the last dot: `v2.crash` crashes. The fates
are in `kwok.yaml`.
"""

from __future__ import annotations

import contextlib
import itertools
import ssl
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
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
_numbers = itertools.count(1)


class Cluster:
    """An API server whose objects move, and the nodes that are there."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane

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
                + (f"--server-address={room.address}",),
                ready="/healthz",
            )

        with (
            running("kubernetes", start=controllers),
            running("kubernetes", start=scheduler),
            running("kwok", start=kwok),
        ):
            yield Cluster(plane)


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
