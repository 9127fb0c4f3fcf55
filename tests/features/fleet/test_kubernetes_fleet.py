"""A region's servers in a real cluster: counted, told apart, and asked for more of."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from mlplatform.adapters import kubernetes_fleet
from mlplatform.adapters.admin_door import HEADER
from mlplatform.adapters.kubernetes_api import KubernetesAPI
from mlplatform.adapters.kubernetes_fleet import KubernetesFleet, _Deployment
from mlplatform.adapters.kubernetes_pods import MODEL, TRACK, VERSION
from mlplatform.core.errors import (
    ConditionFailed,
    Denied,
    NotFound,
    Unavailable,
    Unsupported,
    UsageError,
)
from mlplatform.core.seen import Unknown
from mlplatform.ports.fleet import Fleet, Served
from tests.real.servers.control_plane import ADMIN, ControlPlane
from tests.real.servers.definitions import any_shape, define
from tests.real.servers.roles import grant

NUMBERS = count(1)


class Cluster:
    """A namespace of its own, and what is put into it."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self.plane = plane
        self.folder = folder
        self.namespace = f"models-{next(NUMBERS)}"
        plane.ask("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}})

    def fleet(
        self,
        servers: Fleet | None = None,
        *,
        user: str = ADMIN,
        api: type[KubernetesAPI] = KubernetesAPI,
        token: str = "",
        lame_duck_seconds: float = 30.0,
    ) -> KubernetesFleet:
        file = self.plane.kubeconfig(self.folder / "kubeconfig", user, context="eu")
        opened = api("eu", kubeconfig=str(file), timeout_seconds=5.0)
        return KubernetesFleet(
            opened, self.namespace, servers, lambda: token, lame_duck_seconds=lame_duck_seconds
        )

    def put(self, path: str, body: Mapping[str, Any]) -> Any:
        root, _, plural = path.rpartition("/")
        return self.plane.ask("POST", f"{root}/namespaces/{self.namespace}/{plural}", body)

    def deployment(
        self, name: str, model: str, *, track: str = "", selector: dict[str, Any] | None = None
    ) -> None:
        self.put(
            "/apis/apps/v1/deployments",
            {
                "metadata": {
                    "name": name,
                    "labels": {MODEL: model, **({TRACK: track} if track else {})},
                },
                "spec": {
                    "selector": selector or {"matchLabels": {"app": name}},
                    "template": {
                        "metadata": {"labels": {"app": name}},
                        "spec": {"containers": [{"name": "server", "image": "server"}]},
                    },
                },
            },
        )

    def pod(
        self,
        app: str,
        version: str = "",
        *,
        ready: bool = True,
        annotation: str = "",
        environment: str = "",
        address: str = "",
        port: int = 8080,
    ) -> str:
        """A pod as a kubelet would have it."""
        container = {
            "name": "server",
            "image": "server",
            "ports": [
                {"name": "metrics", "containerPort": 9},
                {"name": "http", "containerPort": port},
            ],
            "env": [{"name": "MODEL_VERSION", "value": environment}] if environment else [],
        }
        made = self.put(
            "/api/v1/pods",
            {
                "metadata": {
                    "generateName": f"{app}-",
                    "labels": {"app": app, **({VERSION: version} if version else {})},
                    "annotations": {VERSION: annotation} if annotation else {},
                    "finalizers": ["mlplatform.dev/test"],
                },
                "spec": {"containers": [container], "nodeName": "node-1"},
            },
        )
        name = str(made["metadata"]["name"])
        self.plane.merge(
            f"/api/v1/namespaces/{self.namespace}/pods/{name}/status",
            {
                "status": {
                    "phase": "Running",
                    "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
                    **({"podIP": address, "podIPs": [{"ip": address}]} if address else {}),
                }
            },
        )
        return name

    def end(self, pod: str) -> None:
        """It is about to end, and does not yet."""
        self.plane.ask("DELETE", f"/api/v1/namespaces/{self.namespace}/pods/{pod}")

    def autoscaler(
        self, deployment: str, floor: int | None, ceiling: int, *, owner: str = ""
    ) -> None:
        owners = [
            {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": owner, "uid": "u"}
        ]
        spec: dict[str, Any] = {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment},
            "maxReplicas": ceiling,
        }
        self.put(
            "/apis/autoscaling/v2/horizontalpodautoscalers",
            {
                "metadata": {"name": deployment, **({"ownerReferences": owners} if owner else {})},
                "spec": spec if floor is None else {**spec, "minReplicas": floor},
            },
        )

    def floor(self, deployment: str) -> int:
        path = f"/apis/autoscaling/v2/namespaces/{self.namespace}/horizontalpodautoscalers"
        return int(self.plane.ask("GET", f"{path}/{deployment}")["spec"]["minReplicas"])


@pytest.fixture
def cluster(kubernetes: ControlPlane, tmp_path: Path) -> Cluster:
    return Cluster(kubernetes, tmp_path)


class Endpoint:
    """What the servers themselves say."""

    url = "http://eu.example"

    def __init__(self, **said: Served | Unknown) -> None:
        self.said = said

    def served(self, models: frozenset[str]) -> Mapping[str, Served | Unknown]:
        if not self.said:
            raise Unavailable("no answer", store=self.url)
        return {model: self.said.get(model, Served()) for model in models}

    def ask_capacity(self, model: str, servers: int) -> str:
        raise NotImplementedError

    def lame_duck(self, *, enter: bool) -> None:
        raise NotImplementedError


def resnet(fleet: KubernetesFleet) -> Served | Unknown:
    return fleet.served(frozenset({"resnet50"}))["resnet50"]


# --- what they hold ------------------------------------------------------------------------------


def test_ready_servers_are_counted_and_their_digest_is_what_they_state(cluster: Cluster) -> None:
    cluster.deployment("resnet", "resnet50")
    cluster.deployment("bert", "bert")
    for _ in range(3):
        cluster.pod("resnet", "v1.2.0")
    cluster.pod("resnet", "v1.2.0", ready=False)
    cluster.pod("bert", "v3")
    cluster.pod("other", "v9")
    cluster.end(cluster.pod("resnet", "v1.2.0"))
    fleet = cluster.fleet(Endpoint(resnet50=Served({"v1.2.0": "blake3:aa"}, 1, 40.0)))
    assert fleet.served(frozenset({"resnet50", "bert", "absent"})) == {
        "resnet50": Served({"v1.2.0": "blake3:aa"}, 3, 40.0),
        "bert": Served({"v3": ""}, 1),
        "absent": Served(),
    }


@pytest.mark.parametrize("where", ["version", "annotation", "environment"])
def test_a_pod_says_its_version(cluster: Cluster, where: str) -> None:
    cluster.deployment("resnet", "resnet50")
    cluster.pod("resnet", **{where: "v1.2.0"})  # type: ignore[arg-type]
    assert resnet(cluster.fleet()) == Served({"v1.2.0": ""}, 1)


def test_a_pod_that_says_nothing_holds_what_its_server_says(cluster: Cluster) -> None:
    cluster.deployment("resnet", "resnet50")
    cluster.pod("resnet")
    told = Endpoint(resnet50=Served({"v1.2.0": "blake3:aa"}, 1))
    assert resnet(cluster.fleet(told)) == Served({"v1.2.0": "blake3:aa"}, 1)
    for silent in (None, Endpoint()):
        found = resnet(cluster.fleet(silent))
        assert isinstance(found, Unknown)
        assert VERSION in found.reason


def test_in_the_middle_of_an_update_both_versions_are_there(cluster: Cluster) -> None:
    cluster.deployment("resnet", "resnet50")
    cluster.pod("resnet", "v1.2.0")
    cluster.pod("resnet", "v1.3.0")
    assert resnet(cluster.fleet()) == Served({"v1.2.0": "", "v1.3.0": ""}, 2)


def test_a_canary_counts_as_no_server(cluster: Cluster) -> None:
    cluster.deployment("resnet", "resnet50")
    cluster.deployment("resnet-canary", "resnet50", track="canary")
    cluster.pod("resnet", "v1.2.0")
    cluster.pod("resnet-canary", "v1.3.0")
    expected = Served({"v1.2.0": "", "v1.3.0": ""}, 1, canary="v1.3.0")
    assert resnet(cluster.fleet()) == expected


def test_a_canary_beside_nothing_is_what_serves(cluster: Cluster) -> None:
    cluster.deployment("resnet-canary", "resnet50", track="canary")
    cluster.pod("resnet-canary", "v1.3.0")
    assert resnet(cluster.fleet()) == Served({"v1.3.0": ""}, 1)


SELECTORS: dict[str, tuple[dict[str, Any], bool]] = {
    "in": ({"key": "app", "operator": "In", "values": ["resnet", "x"]}, True),
    "not in": ({"key": "tier", "operator": "NotIn", "values": ["batch"]}, True),
    "exists": ({"key": "app", "operator": "Exists"}, True),
    "does not exist": ({"key": "tier", "operator": "DoesNotExist"}, True),
    "other": ({"key": "app", "operator": "NotIn", "values": ["resnet"]}, False),
}


@pytest.mark.parametrize("what", SELECTORS)
def test_pods_are_found_by_any_selector(cluster: Cluster, what: str) -> None:
    rule, selects = SELECTORS[what]
    named = {"key": "app", "operator": "In", "values": ["resnet"]}
    cluster.deployment("resnet", "resnet50", selector={"matchExpressions": [named]})
    cluster.deployment("bert", "bert", selector={"matchLabels": {"app": "bert"}})
    cluster.pod("resnet", "v1.2.0")
    assert resnet(cluster.fleet()) == Served({"v1.2.0": ""}, 1)
    deployment = _Deployment("resnet", "resnet50", False, 1, {}, (rule,))
    assert deployment.selects({"app": "resnet"}) is selects


def test_more_pods_than_a_page_holds(cluster: Cluster) -> None:
    class OfTwo(KubernetesAPI):
        page = 2

    cluster.deployment("resnet", "resnet50")
    for _ in range(5):
        cluster.pod("resnet", "v1.2.0")
    assert resnet(cluster.fleet(api=OfTwo)) == Served({"v1.2.0": ""}, 5)


def test_who_may_not_look_is_told_what_is_missing(cluster: Cluster) -> None:
    with pytest.raises(Denied, match="deployments") as raised:
        resnet(cluster.fleet(user="nobody"))
    assert "infra/rbac" in str(raised.value.hint)


def test_the_role_that_we_ship_is_enough(keda: Cluster) -> None:
    grant(keda.plane, "fleet.yaml", keda.namespace)
    keda.deployment("resnet", "resnet50")
    keda.autoscaler("resnet", 1, 10)
    fleet = keda.fleet(user="failover-1")
    with admin_door() as (address, port, heard):
        keda.pod("resnet", "v1.2.0", address=address, port=port)
        assert resnet(fleet) == Served({"v1.2.0": ""}, 1)
        assert "from 1 to 3" in fleet.ask_capacity("resnet50", 3)
        fleet.lame_duck(enter=True)
    assert len(heard) == 1


def test_a_context_that_is_not_there(cluster: Cluster) -> None:
    file = cluster.plane.kubeconfig(cluster.folder / "k", ADMIN, context="eu")
    fleet = kubernetes_fleet.open_fleet("mars", "models", kubeconfig=str(file), environ={})
    with pytest.raises(UsageError, match="mars"):
        resnet(fleet)


def test_an_api_server_that_does_not_answer(cluster: Cluster) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        server = f"https://127.0.0.1:{nobody.getsockname()[1]}"
        file = cluster.plane.kubeconfig(cluster.folder / "k", ADMIN, context="eu", server=server)
        fleet = kubernetes_fleet.open_fleet("eu", "models", kubeconfig=str(file), environ={})
        with pytest.raises(Unavailable, match="kubernetes://eu") as raised:
            resnet(fleet)
    assert "readyz" in str(raised.value.hint)


# --- asking for more -----------------------------------------------------------------------------

FLOORS = {
    "raised": (2, 10, 5, 5, "raised the floor of HorizontalPodAutoscaler resnet from 2 to 5"),
    "not past the ceiling": (2, 4, 9, 4, "allows no more than 4; 5 of 9 servers are not to be had"),
    "high enough": (6, 10, 5, 6, "is 6 already"),
    "as asked": (5, 10, 5, 5, "is 5 already"),
    "at the ceiling": (4, 4, 9, 4, "allows no more than 4"),
    "left out": (None, 10, 3, 3, "from 1 to 3"),
}


@pytest.mark.parametrize("what", FLOORS)
def test_the_floor_is_raised(cluster: Cluster, what: str) -> None:
    floor, ceiling, asked, expected, said = FLOORS[what]
    cluster.deployment("resnet", "resnet50")
    cluster.deployment("resnet-canary", "resnet50", track="canary")
    cluster.autoscaler("resnet", floor, ceiling)
    cluster.autoscaler("resnet-canary", 1, 10)
    told = cluster.fleet().ask_capacity("resnet50", asked)
    assert said in told
    assert cluster.floor("resnet") == expected
    assert cluster.floor("resnet-canary") == 1
    again = cluster.fleet().ask_capacity("resnet50", asked)
    assert "raised" not in again
    assert cluster.floor("resnet") == expected


def test_several_deployments_share_what_is_asked(cluster: Cluster) -> None:
    for name in ("resnet-a", "resnet-b"):
        cluster.deployment(name, "resnet50")
        cluster.autoscaler(name, 1, 3)
    cluster.fleet().ask_capacity("resnet50", 5)
    assert (cluster.floor("resnet-a"), cluster.floor("resnet-b")) == (3, 2)


def test_what_an_old_version_is_scaled_by_counts_for_nothing(cluster: Cluster) -> None:
    """It stays at 0 beside the new one, where an autoscaler does nothing."""
    for name in ("resnet-a", "resnet-b"):
        cluster.deployment(name, "resnet50")
        cluster.autoscaler(name, 2, 9)
    path = f"/apis/apps/v1/namespaces/{cluster.namespace}/deployments/resnet-a"
    cluster.plane.merge(path, {"spec": {"replicas": 0}})
    assert cluster.fleet().ask_capacity("resnet50", 4) == (
        "resnet50: raised the floor of HorizontalPodAutoscaler resnet-b from 2 to 4"
    )
    assert (cluster.floor("resnet-a"), cluster.floor("resnet-b")) == (2, 4)


@pytest.mark.parametrize("times", [1, 9])
def test_a_floor_that_somebody_changed_meanwhile_is_read_again(
    cluster: Cluster, times: int
) -> None:
    meddled = 0

    class Overtaken(KubernetesAPI):
        def patch(self, path: str, operations: list[dict[str, Any]]) -> Any:
            nonlocal meddled
            if meddled < times:
                meddled += 1
                cluster.plane.merge(path, {"spec": {"minReplicas": meddled + 1}})
            return super().patch(path, operations)

    cluster.deployment("resnet", "resnet50")
    cluster.autoscaler("resnet", 1, 20)
    fleet = cluster.fleet(api=Overtaken)
    if times == 1:
        assert "from 2 to 12" in fleet.ask_capacity("resnet50", 12)
        assert cluster.floor("resnet") == 12
    else:
        with pytest.raises(ConditionFailed):
            fleet.ask_capacity("resnet50", 12)


def test_without_an_autoscaler_a_person_gets_the_line_to_type(cluster: Cluster) -> None:
    cluster.deployment("resnet", "resnet50")
    with pytest.raises(Unsupported, match="no autoscaler") as raised:
        cluster.fleet().ask_capacity("resnet50", 5)
    assert raised.value.hint == (
        f"kubectl --context eu --namespace {cluster.namespace} scale deployment resnet --replicas=5"
    )


def test_a_model_that_nothing_serves(cluster: Cluster) -> None:
    with pytest.raises(NotFound, match="no Deployment serves resnet50"):
        cluster.fleet().ask_capacity("resnet50", 5)


# --- KEDA ----------------------------------------------------------------------------------------

SCALED_OBJECTS = "/apis/keda.sh/v1alpha1/scaledobjects"


@pytest.fixture
def keda(cluster: Cluster) -> Cluster:
    """KEDA's ScaledObject, as far as its shape goes."""
    define(cluster.plane, any_shape("ScaledObject", "keda.sh/v1alpha1", "scaledobjects"))
    return cluster


def scaled_object(cluster: Cluster, spec: dict[str, Any], **annotations: str) -> None:
    cluster.put(
        SCALED_OBJECTS,
        {
            "apiVersion": "keda.sh/v1alpha1",
            "kind": "ScaledObject",
            "metadata": {"name": "resnet-load", "annotations": annotations},
            "spec": {"scaleTargetRef": {"name": "resnet"}, **spec},
        },
    )


def scaled(cluster: Cluster) -> Mapping[str, Any]:
    path = f"/apis/keda.sh/v1alpha1/namespaces/{cluster.namespace}/scaledobjects/resnet-load"
    found: Mapping[str, Any] = cluster.plane.ask("GET", path)["spec"]
    return found


def test_where_keda_scales_its_own_object_is_asked(keda: Cluster) -> None:
    keda.deployment("resnet", "resnet50")
    scaled_object(keda, {"minReplicaCount": 1, "maxReplicaCount": 4})
    keda.autoscaler("resnet", 1, 4, owner="resnet-load")
    told = keda.fleet().ask_capacity("resnet50", 3)
    assert "ScaledObject resnet-load from 1 to 3" in told
    assert scaled(keda)["minReplicaCount"] == 3
    assert keda.floor("resnet") == 1  # KEDA's own business


def test_kedas_defaults(keda: Cluster) -> None:
    keda.deployment("resnet", "resnet50")
    scaled_object(keda, {})
    assert "from 0 to 3" in keda.fleet().ask_capacity("resnet50", 3)
    assert scaled(keda)["minReplicaCount"] == 3


def test_what_is_paused_is_left_alone(keda: Cluster) -> None:
    keda.deployment("resnet", "resnet50")
    scaled_object(keda, {"minReplicaCount": 1}, **{"autoscaling.keda.sh/paused-replicas": "1"})
    told = keda.fleet().ask_capacity("resnet50", 3)
    assert "ScaledObject resnet-load is paused" in told
    assert "2 of 3 servers are not to be had so" in told
    assert scaled(keda)["minReplicaCount"] == 1


# --- lame ducks ----------------------------------------------------------------------------------


def own_address() -> str:
    """An address of this machine that is not loopback, which the API server's proxy refuses."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way_out:
        try:
            way_out.connect(("192.0.2.1", 9))  # TEST-NET-1: nothing is sent
            address = str(way_out.getsockname()[0])
        except OSError:
            address = "127.0.0.1"
    if address.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    return address


@contextmanager
def admin_door(status: int = 200) -> Iterator[tuple[str, int, list[tuple[str, bytes]]]]:
    """A server's admin door: where it is, and what it heard."""
    heard: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            heard.append((f"{self.path} {self.headers.get(HEADER)}", body))
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    address = own_address()
    listening = ThreadingHTTPServer((address, 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield address, listening.server_port, heard
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


def test_every_pod_is_told_also_those_that_are_not_ready(cluster: Cluster) -> None:
    cluster.deployment("resnet", "resnet50")
    with admin_door() as (address, port, heard):
        for ready in (True, True, False):
            cluster.pod("resnet", "v1.2.0", ready=ready, address=address, port=port)
        fleet = cluster.fleet(token="secret")
        fleet.lame_duck(enter=True)
        assert heard == [("/admin secret", b'{"lame_duck": true}')] * 3
        fleet.lame_duck(enter=False)
        assert heard[3:] == [("/admin secret", b'{"lame_duck": false}')] * 3


def test_one_that_does_not_answer_keeps_nobody_from_being_told(cluster: Cluster) -> None:
    cluster.deployment("resnet", "resnet50")
    with admin_door() as (address, port, heard):
        with socket.socket() as closed:
            closed.bind((address, 0))
            dead = cluster.pod("resnet", "v1", address=address, port=closed.getsockname()[1])
            cluster.pod("resnet", "v1", address=address, port=port)
            with pytest.raises(Unavailable, match=dead):
                cluster.fleet().lame_duck(enter=True)
        assert len(heard) == 1


def test_pods_that_hang_hold_up_nobody_and_are_named(cluster: Cluster) -> None:
    """More of them than are told at once, and one that answers."""
    cluster.deployment("resnet", "resnet50")
    address = own_address()
    hanging = kubernetes_fleet._AT_ONCE + 1
    with admin_door() as (_, port, heard), socket.socket() as silent:
        silent.bind((address, 0))
        silent.listen(64)
        cluster.pod("resnet", "v1", address=address, port=port)
        deaf = {
            cluster.pod("resnet", "v1", address=address, port=silent.getsockname()[1])
            for _ in range(hanging)
        }
        fleet = cluster.fleet(lame_duck_seconds=30)
        with pytest.raises(Unavailable) as error:
            fleet.lame_duck(enter=False)
        told = str(error.value)
        assert f"{hanging} of {hanging + 1} pods were not reached: " in told
        assert f" and {hanging - kubernetes_fleet._NAMED} more; no answer" in told
        assert sum(name in told for name in deaf) == kubernetes_fleet._NAMED
        assert len(heard) == 1


def test_servers_that_know_no_lame_duck(cluster: Cluster) -> None:
    cluster.deployment("resnet", "resnet50")
    with admin_door(404) as (address, port, _):
        cluster.pod("resnet", "v1", address=address, port=port)
        with pytest.raises(Unsupported, match="lame duck"):
            cluster.fleet().lame_duck(enter=True)
