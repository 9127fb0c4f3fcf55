"""A Kubernetes cluster that works by itself: an API server with its controllers and its scheduler,
and nodes and pods that kwok simulates. Nothing runs in a pod: what it would answer as a model
server, one server answers for all of them, at each one's own address (127.64.0.0/16).

What becomes of a pod is what its version says, behind the last dot: `v2.crash` crashes. The fates
are in `kwok.yaml`. Two are of what is answered: `v2.fails` answers every fourth client with 500,
and golden requests as it must; `v2.wrong` answers with another number.
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
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from .catalogue import Command, Room
from .control_plane import ADMIN, ControlPlane, control_plane
from .launch import running

_STAGES = Path(__file__).with_name("kwok.yaml")
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
_CRASHED = "mlplatform.test/crashes"
_INFER = "/infer"
_REMEMBERED_SECONDS, _GRACE_SECONDS = 1.0, 3.0
"""How long clients of a pod are answered without a look whether it is there still, and how long
after it was seen last: the time that it is given to end. Who asks what it holds is answered by what
the API server says at that moment."""
_CROWD_SECONDS = 5.0
GOLDEN = {
    "request": {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]},
    "expect": {"outputs": [{"name": "y", "shape": [1], "datatype": "FP32", "data": [2.0]}]},
}
"""A golden request that every pod answers as it must, but for one that is `wrong`."""
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
        self.inferred: Counter[str] = Counter()
        """By version: what clients asked."""
        self.in_a_crowd = False
        """Whether there are so many pods that all are looked up at once, every few seconds."""
        self._crowd: tuple[float, dict[str, Any]] = (float("-inf"), {})
        self._counting = threading.Lock()
        self._remembered: dict[str, tuple[float, dict[str, Any] | None]] = {}

    def pod_at(self, address: str, *, remembered: bool) -> dict[str, Any] | None:
        """What is said of the pod that has the address and works; None: there is none."""
        if self.in_a_crowd:
            return self._in_the_crowd(address)
        now = time.monotonic()
        at, known = self._remembered.get(address, (float("-inf"), None))
        if remembered and now - at < _REMEMBERED_SECONDS:
            return known
        path = f"/api/v1/pods?fieldSelector=status.podIP={address}"
        there = [
            each
            for each in self.plane.ask("GET", path)["items"]
            if not each["metadata"].get("deletionTimestamp")
        ]
        if not there:
            return known if remembered and now - at < _GRACE_SECONDS else None
        found = None if _is_down(there[0]) else there[0]["metadata"]
        self._remembered[address] = now, found
        return found

    def _in_the_crowd(self, address: str) -> dict[str, Any] | None:
        with self._counting:
            looked, pods = self._crowd
            late = time.monotonic() - looked
            if late > _CROWD_SECONDS or (address not in pods and late > _REMEMBERED_SECONDS):
                items = self.plane.ask("GET", "/api/v1/pods")["items"]
                pods = {each["status"].get("podIP", ""): each["metadata"] for each in items}
                self._crowd = time.monotonic(), pods
        return pods.get(address)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Nobody but this machine is answered."""
        return str(client_address[0]).startswith("127.")


def _is_down(pod: dict[str, Any]) -> bool:
    """Whether a test has made it crash, and it has not been started again."""
    conditions = pod["status"].get("conditions", ())
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    return _CRASHED in pod["metadata"]["labels"] and not ready


class _Pod(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: Pods

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        infers = self.path.endswith(_INFER)
        about = self.server.pod_at(self.connection.getsockname()[0], remembered=infers)
        if about is None:
            self.close_connection = True
            return
        labels, notes = about["labels"], about.get("annotations") or {}
        model, version = labels.get(_MODEL, ""), labels[_VERSION]
        fate = version.rpartition(".")[2]
        status = 200
        told: Any
        if infers:
            if "/versions/" not in self.path:
                self.server.inferred[version] += 1
                if fate == "fails" and not self.server.inferred[version] % 4:
                    status = 500
            outputs = GOLDEN["expect"]["outputs"]
            if fate == "wrong":
                outputs = [{**outputs[0], "data": [3.0]}]
            told = {"model_name": model, "model_version": version, "outputs": outputs}
        else:
            digest = self.server.states.get((model, version), notes.get(_DIGEST, ""))
            told = {"name": model, "version": version, "state": "READY", "digest": digest}
            if self.path.endswith("/index"):
                told = [told]
        body = json.dumps(told).encode()
        self.send_response_only(status)
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

    def crash(self, namespace: str, address: str) -> None:
        """The pod whose server is at `host:port` crashes, and is started again after a while."""
        ip = address.rpartition(":")[0]
        path = f"/api/v1/namespaces/{namespace}/pods"
        (pod,) = (
            each
            for each in self.plane.ask("GET", path)["items"]
            if each["status"].get("podIP") == ip
        )
        path = f"{path}/{pod['metadata']['name']}"
        self.plane.merge(path, {"metadata": {"labels": {_CRASHED: "true"}}})
        fallen = {
            **pod["status"]["containerStatuses"][0],
            "ready": False,
            "restartCount": pod["status"]["containerStatuses"][0]["restartCount"] + 1,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 139, "reason": "Error"}},
        }
        conditions = [
            {**each, "status": "False"} if each["type"] in ("Ready", "ContainersReady") else each
            for each in pod["status"]["conditions"]
        ]
        status = {"containerStatuses": [fallen], "conditions": conditions}
        self.plane.merge(f"{path}/status", {"status": status})


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


@contextlib.contextmanager
def clusters_in(regions: Sequence[str]) -> Iterator[dict[str, Cluster]]:
    """A cluster in each region, with a control plane of its own, started side by side."""

    @contextlib.contextmanager
    def one() -> Iterator[Cluster]:
        with running("etcd") as etcd, control_plane(etcd) as plane, cluster_of(plane) as cluster:
            yield cluster

    with contextlib.ExitStack() as stack, ThreadPoolExecutor(len(regions)) as pool:
        opened = [one() for _ in regions]
        started = [pool.submit(stack.enter_context, each) for each in opened]
        yield dict(zip(regions, [each.result() for each in started], strict=True))


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
