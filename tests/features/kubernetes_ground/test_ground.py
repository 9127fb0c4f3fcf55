"""What a cluster offers, read from a real control plane under the Roles that we ship, and what a
rollout lacks there. Nodes and pods are simulated, by kwok; what is found of them is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from mlplatform.adapters.kubernetes_ground import KubernetesGround, open_ground
from mlplatform.core.errors import Denied
from mlplatform.core.manifest import Requirements
from mlplatform.core.seen import Unknown
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.ground import GPU, Budget, Offer, Reference
from mlplatform.rollout.plan.ground import Wanted, lacking_ground
from mlplatform.rollout.plan.seen import Finding, Rule
from tests.features.deployments.site import MODEL, Site
from tests.real.servers.cluster import Cluster
from tests.real.servers.definitions import any_shape, define, take_away
from tests.real.servers.roles import grant, revoke_of_cluster
from tests.waiting import becomes, eventually

pytestmark = [pytest.mark.real("kubernetes"), pytest.mark.xdist_group("kubernetes_cluster")]

GPUS = "nvidia.com/gpu"
L4 = {
    "nvidia.com/gpu.product": "NVIDIA-L4",
    "nvidia.com/gpu.compute.major": "8",
    "nvidia.com/gpu.compute.minor": "9",
    "nvidia.com/cuda.driver.major": "550",
    "nvidia.com/cuda.driver.minor": "54",
    "nvidia.com/cuda.driver.rev": "15",
    "nvidia.com/cuda.runtime.major": "12",
    "nvidia.com/cuda.runtime.minor": "4",
}
WANTED = Wanted(MODEL, "v2", "eu", extra=1, spare=1, load_seconds=60.0)


@pytest.fixture
def site(kubernetes_cluster: Cluster, tmp_path: Path) -> Site:
    """A namespace with a node of two GPUs, and every Role of a rollout."""
    made = Site(kubernetes_cluster, tmp_path, gpus=2)
    grant(made.plane, "ground.yaml", made.namespace)
    (node,) = nodes(made)
    label(made, node, L4)
    return made


def nodes(site: Site) -> list[str]:
    selector = f"labelSelector=site%3D{site.namespace}"
    items = site.plane.ask("GET", f"/api/v1/nodes?{selector}")["items"]
    return [each["metadata"]["name"] for each in items]


def label(site: Site, node: str, labels: Mapping[str, str | None]) -> None:
    site.plane.merge(f"/api/v1/nodes/{node}", {"metadata": {"labels": labels}})


def ground(
    site: Site, tmp_path: Path, *, user: str = "rollout-1", options: str = ""
) -> KubernetesGround:
    file = site.plane.kubeconfig(tmp_path / f"{user}-ground.yaml", user, context="eu")
    text = f"deployments://eu/{site.namespace}?kubeconfig={file}{options}"
    return open_ground(StoreURL.parse(text, noun="servers"), MODEL)


@pytest.fixture
def offers(site: Site, tmp_path: Path) -> Callable[[], Offer]:
    """What is offered to v2, looked at anew each time."""
    seen = ground(site, tmp_path)
    return lambda: seen.offers("v2")


def lacks(offer: Offer, **wanted: Any) -> list[Finding]:
    return list(lacking_ground(offer, replace(WANTED, **wanted)))


def rules(offer: Offer, **wanted: Any) -> list[Rule]:
    return [each.rule for each in lacks(offer, **wanted)]


def change(site: Site, spec: Mapping[str, Any]) -> None:
    """The pods' spec of the Deployment that serves."""
    site.merge("apps/v1", "deployments", "resnet", {"spec": {"template": {"spec": spec}}})


def serve(site: Site, servers: int = 1) -> None:
    """v1 serves."""
    site.first(servers=servers)
    eventually(lambda: len(running(site)) == servers)


def running(site: Site, name: str = "resnet") -> list[Any]:
    return [each for each in site.pods(name) if each["status"].get("phase") == "Running"]


def put_pod(site: Site, name: str, gpus: int, *, priority: str | None = None) -> None:
    spec: dict[str, Any] = {
        "nodeSelector": {"site": site.namespace},
        "containers": [
            {
                "name": "train",
                "image": "registry.example/train:1",
                "resources": {"limits": {GPUS: str(gpus)}},
            }
        ],
        "terminationGracePeriodSeconds": 600,
    }
    if priority is not None:
        spec["priorityClassName"] = priority
    labels = {"mlplatform.dev/version": "train.lingers"}
    site.put("v1", "pods", {"metadata": {"name": name, "labels": labels}, "spec": spec})


# --- nodes ----------------------------------------------------------------------------------------


def test_what_a_node_offers(site: Site, offers: Callable[[], Offer]) -> None:
    serve(site)
    offer = offers()
    assert isinstance(offer.nodes, tuple)
    (node,) = offer.nodes
    assert node.gpu == GPU("NVIDIA-L4", (8, 9), "550.54.15", (12, 4))
    assert node.free == {GPUS: Decimal(1), "pods": Decimal(109)}
    assert offer.template.name == "Deployment resnet"
    assert offer.template.needs == {GPUS: Decimal(1), "pods": Decimal(1)}
    assert offer.template.image == "registry.example/resnet50:v1"
    assert lacks(offer) == []
    assert rules(offer, extra=2) == [Rule.ROOM]


def test_gpus_that_it_does_not_run_on(site: Site, offers: Callable[[], Offer]) -> None:
    serve(site)
    (said,) = lacks(offers(), requirements=Requirements(compute_capability="9.0"))
    assert said.rule is Rule.WRONG_GPU
    (node,) = nodes(site)
    assert said.reason == f"resnet50@v2 needs compute capability 9.0: {node} has 8.9"
    assert rules(offers(), requirements=Requirements(cuda="13.0")) == [Rule.OLD_DRIVER]
    assert rules(offers(), products=frozenset({"H100"})) == [Rule.WRONG_GPU]
    label(site, node, dict.fromkeys(L4))
    (said,) = lacks(offers(), requirements=Requirements(compute_capability="9.0"))
    assert said.unknown


def test_devices_of_dynamic_resource_allocation(site: Site, offers: Callable[[], Offer]) -> None:
    serve(site)
    (node,) = nodes(site)
    label(site, node, dict.fromkeys(L4))
    attributes = {
        "productName": {"string": "NVIDIA H100 80GB HBM3"},
        "cudaComputeCapability": {"version": "9.0.0"},
        "cudaDriverVersion": {"version": "13.0.0"},
        "driverVersion": {"version": "580.105.8"},
    }
    name = f"{site.namespace}-gpu.nvidia.com"
    site.plane.ask(
        "POST",
        "/apis/resource.k8s.io/v1/resourceslices",
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceSlice",
            "metadata": {"name": name},
            "spec": {
                "driver": "gpu.nvidia.com",
                "nodeName": node,
                "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
                "devices": [{"name": f"gpu-{n}", "attributes": attributes} for n in (0, 1)],
            },
        },
    )
    offer = offers()
    assert isinstance(offer.nodes, tuple)
    assert offer.nodes[0].gpu == GPU("NVIDIA H100 80GB HBM3", (9, 0), "580.105.8", (13, 0))
    claim = {"deviceClassName": "gpu.nvidia.com", "count": 2}
    site.put(
        "resource.k8s.io/v1",
        "resourceclaimtemplates",
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaimTemplate",
            "metadata": {"name": "two"},
            "spec": {"spec": {"devices": {"requests": [{"name": "gpus", "exactly": claim}]}}},
        },
    )
    claims = [{"name": "gpus", "resourceClaimTemplateName": "two"}]
    site.merge("apps/v1", "deployments", "resnet", {"spec": {"paused": True}})
    change(site, {"resourceClaims": claims})
    site.merge("apps/v1", "deployments", "resnet", {"spec": {"paused": False}})
    offer = offers()
    assert offer.template.needs["gpu.nvidia.com"] == 2
    assert isinstance(offer.nodes, tuple)
    assert offer.nodes[0].free["gpu.nvidia.com"] == 2
    site.plane.ask("DELETE", f"/apis/resource.k8s.io/v1/resourceslices/{name}")


def test_nodes_that_take_no_server(site: Site, offers: Callable[[], Offer]) -> None:
    serve(site)
    (node,) = nodes(site)
    taints = [{"key": "dedicated", "value": "training", "effect": "NoSchedule"}]
    site.plane.merge(f"/api/v1/nodes/{node}", {"spec": {"taints": taints}})
    offer = offers()
    assert offer.nodes == ()
    said = "the pods do not tolerate its taint dedicated=training:NoSchedule"
    assert offer.closed[node] == said
    assert rules(offer) == [Rule.ROOM]
    tolerations = [{"key": "dedicated", "operator": "Exists"}]
    change(site, {"tolerations": tolerations})
    assert isinstance(found := offers().nodes, tuple)
    assert [each.name for each in found] == [node]


def test_pods_that_end_hold_their_gpus(site: Site, offers: Callable[[], Offer]) -> None:
    serve(site)
    put_pod(site, "train-0", 1)
    eventually(lambda: running(site, "train"))
    assert rules(offers()) == [Rule.ROOM]
    site.plane.ask("DELETE", site.path("v1", "pods", "train-0"))
    (said,) = lacks(offers())
    assert said.rule is Rule.ENDING_PODS
    assert said.reason.endswith(f"pods that end hold it: {site.namespace}/train-0")
    assert "UTC at the latest" in said.fix


def test_who_waits_and_comes_first(site: Site, offers: Callable[[], Offer]) -> None:
    serve(site, 2)
    priority = f"urgent-{site.namespace}"
    site.plane.ask(
        "POST",
        "/apis/scheduling.k8s.io/v1/priorityclasses",
        # Who waits takes nobody's place, so that it waits still when it is looked at.
        {"metadata": {"name": priority}, "value": 1000, "preemptionPolicy": "Never"},
    )
    becomes(lambda: site.tried(priority=priority), lambda got: not got[1])
    put_pod(site, "train-0", 1, priority=priority)
    (said,) = becomes(lambda: lacks(offers(), extra=0, away=1), bool)
    assert (said.rule, said.unknown) == (Rule.PENDING_PODS, False)
    waiting = f"{site.namespace}/train-0 (priority 1000, 1 nvidia.com/gpu) waits for a node"
    assert said.reason.startswith(waiting)


# --- the namespace --------------------------------------------------------------------------------


def test_a_quota(site: Site, offers: Callable[[], Offer]) -> None:
    serve(site)
    hard = {f"requests.{GPUS}": "1", "count/deployments.apps": "5", "limits.memory": "1Gi"}
    site.put("v1", "resourcequotas", {"metadata": {"name": "team"}, "spec": {"hard": hard}})
    used = f"ResourceQuota team: requests.{GPUS}: 1 more are needed, 1 of 1 are used"
    (said,) = becomes(
        lambda: lacks(offers()), lambda found: [each.reason for each in found] == [used]
    )
    assert said.rule is Rule.QUOTA
    assert f"raise spec.hard.requests.{GPUS} of ResourceQuota team to 2" in said.fix
    assert rules(offers(), extra=0, away=1) == []


def limit_range(site: Site, **item: Any) -> None:
    body = {"metadata": {"name": "team"}, "spec": {"limits": [{"type": "Container", **item}]}}
    site.put("v1", "limitranges", body)

    def in_force(tried: tuple[Any, str]) -> bool:
        pod, refusal = tried
        return bool(refusal) or "memory" in pod["spec"]["containers"][0]["resources"]["limits"]

    becomes(lambda: site.tried(**{GPUS: "1"}), in_force)


def refused(site: Site, name: str = "resnet") -> str:
    """Why the API server lets no pod of a Deployment in; empty while it has not said so."""
    conditions = site.deployment(name).get("status", {}).get("conditions") or ()
    return next((e["message"] for e in conditions if e["type"] == "ReplicaFailure"), "")


ONE = "and container server of Deployment resnet has a request of 1 and a limit of 1"


@pytest.mark.parametrize(
    ("item", "said", "refusal"),
    [
        (
            {"max": {GPUS: "0"}},
            f"max.{GPUS} is 0, {ONE}",
            f"maximum {GPUS} usage per Container is 0, but limit is 1",
        ),
        (
            {"min": {GPUS: "2"}},
            f"min.{GPUS} is 2, {ONE}",
            f"minimum {GPUS} usage per Container is 2, but request is 1",
        ),
        (
            {"type": "Pod", "max": {"memory": "1Gi"}},
            "max.memory is 1Gi, and a pod of Deployment resnet has no request and no limit",
            "maximum memory usage per Pod is 1Gi.  No limit is specified",
        ),
    ],
    ids=["max", "min", "pod"],
)
def test_what_a_limit_range_refuses(
    site: Site, offers: Callable[[], Offer], item: Mapping[str, Any], said: str, refusal: str
) -> None:
    """The API server refuses what is found, in its own words."""
    site.first(servers=0)
    limit_range(site, **item)
    (found,) = lacks(offers())
    assert found.rule is Rule.LIMIT_RANGE
    assert found.reason == f"LimitRange team: {said}: no server would be let in"
    site.merge("apps/v1", "deployments", "resnet", {"spec": {"replicas": 1}})
    assert refusal in eventually(lambda: refused(site))


def test_what_a_limit_range_puts_in(site: Site, offers: Callable[[], Offer]) -> None:
    serve(site)
    limit_range(site, default={"memory": "1Gi"})
    said = lacks(offers())  # the API server has made it the request's default too
    assert [each.rule for each in said] == [Rule.LIMIT_RANGE] * 2
    assert "resources.limits.memory: 1Gi, which servers that run do not have" in said[0].reason
    assert offers().template.needs["memory"] == 2**30
    (pod,) = site.pods("resnet")

    def has_it() -> bool:
        """The one that has come in its place, as the API server let it in."""
        containers = [each["spec"]["containers"][0] for each in site.pods("resnet")]
        return [each["resources"]["limits"].get("memory") for each in containers] == ["1Gi"]

    site.plane.ask(
        "DELETE", site.path("v1", "pods", pod["metadata"]["name"]), {"gracePeriodSeconds": 0}
    )
    eventually(has_it)
    assert lacks(offers()) == []


def test_a_request_that_is_more_than_the_limit_that_is_given(
    site: Site, offers: Callable[[], Offer]
) -> None:
    site.first(servers=0)
    asked = {"limits": {GPUS: "1"}, "requests": {"memory": "2Gi"}}
    change(site, {"containers": [{"name": "server", "image": "x", "resources": asked}]})
    limit_range(site, default={"memory": "1Gi"})
    (said,) = lacks(offers())
    assert said.reason.endswith(
        "resources.limits.memory: 1Gi, and it requests 2Gi: no server would be let in"
    )
    site.merge("apps/v1", "deployments", "resnet", {"spec": {"replicas": 1}})
    assert "must be less than or equal to memory limit" in eventually(lambda: refused(site))


def test_a_disruption_budget(site: Site, offers: Callable[[], Offer]) -> None:
    serve(site, 2)
    selector = {"matchLabels": {"app": "resnet"}}
    spec = {"minAvailable": 2, "selector": selector}
    site.put("policy/v1", "poddisruptionbudgets", {"metadata": {"name": "resnet"}, "spec": spec})
    status = {"currentHealthy": 2, "desiredHealthy": 2, "disruptionsAllowed": 0, "expectedPods": 2}
    # The disruption controller does not run here.
    path = site.path("policy/v1", "poddisruptionbudgets", "resnet")
    site.plane.merge(f"{path}/status", {"status": status})
    offer = offers()
    assert offer.budgets == (Budget("PodDisruptionBudget resnet", "minAvailable: 2", 2, 2, 0),)
    assert rules(offer, extra=0, away=1) == [Rule.DISRUPTION_BUDGET]


def test_what_pods_name_and_is_not_there(site: Site, offers: Callable[[], Offer]) -> None:
    site.first(servers=0)
    site.put("v1", "secrets", {"metadata": {"name": "tokens"}, "stringData": {"token": "secret"}})
    by_name = {
        "imagePullSecrets": [{"name": "registry"}],
        "serviceAccountName": "serving",
        "volumes": [
            {"name": "tokens", "secret": {"secretName": "tokens"}},
            {"name": "settings", "configMap": {"name": "settings"}},
            {"name": "maybe", "configMap": {"name": "maybe", "optional": True}},
            {"name": "models", "persistentVolumeClaim": {"claimName": "models"}},
        ],
    }
    change(site, by_name)
    offer = offers()
    at = "spec.template.spec"
    assert offer.references == (
        Reference("Secret", "registry", f"{at}.imagePullSecrets", there=False),
        Reference("ServiceAccount", "serving", f"{at}.serviceAccountName", there=False),
        Reference("Secret", "tokens", f"{at}.volumes.tokens", there=True),
        Reference("ConfigMap", "settings", f"{at}.volumes.settings", there=False),
        Reference("PersistentVolumeClaim", "models", f"{at}.volumes.models", there=False),
    )
    assert rules(offer) == [Rule.MISSING_OBJECT] * 4


def test_probes_that_are_too_short(site: Site, offers: Callable[[], Offer]) -> None:
    site.first(servers=0)
    probe = {"tcpSocket": {"port": 80}, "periodSeconds": 5, "failureThreshold": 6}
    container = {"name": "server", "image": "x", "startupProbe": probe}
    change(site, {"containers": [container]})
    (said,) = lacks(offers())
    assert said.rule is Rule.PROBE_TIME
    assert "kills it after 0 + 5 × 6 = 30 s, and it takes 60 s to load" in said.reason
    assert lacks(offers(), load_seconds=30.0) == []


VERTICAL = ("autoscaling.k8s.io/v1", "verticalpodautoscalers")
KEDA = ("keda.sh/v1alpha1", "scaledobjects")


@pytest.fixture
def vertical(site: Site) -> Iterator[Site]:
    """A cluster with VerticalPodAutoscalers, as far as their shape goes; nobody acts."""
    with defined(site, "VerticalPodAutoscaler", *VERTICAL):
        yield site


@pytest.fixture
def keda(site: Site) -> Iterator[Site]:
    """One with KEDA's ScaledObjects, likewise."""
    with defined(site, "ScaledObject", *KEDA):
        yield site


@contextmanager
def defined(site: Site, kind: str, api: str, plural: str) -> Iterator[None]:
    """A kind of objects, of any shape, for as long as the block lasts."""
    kinds = any_shape(kind, api, plural)
    define(site.plane, kinds)
    yield
    take_away(site.plane, kinds)


def test_two_autoscalers_of_one_deployment(vertical: Site, offers: Callable[[], Offer]) -> None:
    vertical.first(servers=1)
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "resnet"}
    vertical.put(
        "autoscaling/v2",
        "horizontalpodautoscalers",
        {"metadata": {"name": "resnet"}, "spec": {"maxReplicas": 4, "scaleTargetRef": target}},
    )
    assert rules(offers()) == []
    body = {"apiVersion": VERTICAL[0], "kind": "VerticalPodAutoscaler"}
    vertical.put(*VERTICAL, {**body, "metadata": {"name": "resnet"}, "spec": {"targetRef": target}})
    (said,) = lacks(offers())
    assert said.rule is Rule.TWO_AUTOSCALERS
    assert said.reason == (
        "HorizontalPodAutoscaler resnet scales by cpu, and VerticalPodAutoscaler resnet "
        "(updateMode: Auto) changes the requests of cpu: each undoes what the other does"
    )
    off = {"spec": {"updatePolicy": {"updateMode": "Off"}}}
    vertical.merge(*VERTICAL, "resnet", off)
    assert rules(offers()) == []


def test_who_would_scale_nothing(site: Site, offers: Callable[[], Offer]) -> None:
    site.first(servers=1)
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "resnet"}
    plural = ("autoscaling/v2", "horizontalpodautoscalers")
    site.put(
        *plural,
        {"metadata": {"name": "load"}, "spec": {"maxReplicas": 4, "scaleTargetRef": target}},
    )
    assert lacks(offers()) == []  # it is copied
    site.allow("horizontalpodautoscalers", "list", "patch")
    (said,) = lacks(offers())
    assert said.rule is Rule.NO_AUTOSCALER
    assert said.reason == (
        "HorizontalPodAutoscaler load scales Deployment resnet, and nothing would scale "
        "resnet50@v2: a copy of it may not be made here (may not create and delete "
        "horizontalpodautoscalers)"
    )
    note = {"metadata": {"annotations": {"mlplatform.dev/copied": "false"}}}
    site.merge(*plural, "load", note)
    assert lacks(offers()) == []


def test_a_scaled_object_is_not_copied(keda: Site, offers: Callable[[], Offer]) -> None:
    keda.first(servers=1)
    body = {"apiVersion": KEDA[0], "kind": "ScaledObject", "metadata": {"name": "queue"}}
    keda.put(*KEDA, {**body, "spec": {"scaleTargetRef": {"name": "resnet"}}})
    (said,) = lacks(offers())
    assert said.rule is Rule.NO_AUTOSCALER
    assert said.reason.startswith("ScaledObject queue scales Deployment resnet, and nothing would")
    assert "make one like it whose spec.scaleTargetRef.name is resnet50-v2" in said.fix
    assert "annotate scaledobject queue mlplatform.dev/copied=false" in said.fix
    own = {**body, "metadata": {"name": "queue-v2"}}
    keda.put(*KEDA, {**own, "spec": {"scaleTargetRef": {"name": "resnet50-v2"}}})
    assert lacks(offers()) == []


def test_who_puts_the_number_back(site: Site, offers: Callable[[], Offer]) -> None:
    site.first(servers=1, annotations={"argocd.argoproj.io/tracking-id": "models:apps/Deployment"})
    (said,) = lacks(offers())
    assert said.rule is Rule.PUT_BACK
    assert said.reason == "Argo CD models puts spec.replicas of Deployment resnet back"
    assert "RespectIgnoreDifferences=true" in said.fix
    assert said.fix.endswith(
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: resnet, annotations: "
        "{mlplatform.dev/scaled-by: rollout}}, spec: {replicas: null}}"
    )


def test_nothing_to_start_by(site: Site, offers: Callable[[], Offer]) -> None:
    assert rules(offers()) == [Rule.TEMPLATE]
    site.first(servers=0)
    site.merge("apps/v1", "deployments", "resnet", {"spec": {"paused": True}})
    (said,) = lacks(offers())
    assert said.reason == "Deployment resnet: spec.paused is true: somebody is at work on it"
    assert "rollout resume deployment/resnet" in said.fix


def test_pods_that_could_not_be_told_apart(site: Site, offers: Callable[[], Offer]) -> None:
    site.first(servers=0)
    everything = {"selector": {"mlplatform.dev/model": MODEL}, "ports": [{"port": 80}]}
    site.put("v1", "services", {"metadata": {"name": "all"}, "spec": everything})
    (said,) = lacks(offers())
    assert (said.rule, "Service all selects pods" in said.reason) == (Rule.TEMPLATE, True)


def test_what_has_no_servers_is_not_written(site: Site, offers: Callable[[], Offer]) -> None:
    serve(site)
    owner = {"argocd.argoproj.io/tracking-id": "models:apps/Deployment"}
    site.first(name="former", version="v0", servers=0, annotations=owner)
    site.merge("apps/v1", "deployments", "former", {"spec": {"paused": True}})
    assert lacks(offers()) == []


# --- rights ---------------------------------------------------------------------------------------


def test_what_may_not_be_read_is_not_known(site: Site, tmp_path: Path) -> None:
    site.first(servers=0)
    change(site, {"imagePullSecrets": [{"name": "registry"}]})
    revoke_of_cluster(site.plane, "mlplatform-ground")
    path = site.path("rbac.authorization.k8s.io/v1", "rolebindings", "mlplatform-ground")
    site.plane.ask("DELETE", path)
    dark = eventually(lambda: _dark(ground(site, tmp_path).offers("v2")))
    said = [each.reason for each in lacks(dark)]
    assert all(each.unknown for each in lacks(dark))
    assert any('cannot list resource "nodes"' in each for each in said)
    assert any('cannot get resource "secrets"' in each for each in said)
    accepted = ground(site, tmp_path, options="&unread=accept").offers("v2")
    assert (accepted.nodes, accepted.waiting, accepted.references) == (None, None, ())
    assert lacks(accepted) == []
    with pytest.raises(Denied, match='cannot list resource "deployments"'):
        ground(site, tmp_path, user="nobody").offers("v2")


def _dark(offer: Offer) -> Offer | None:
    """Once what was revoked is: authorisers learn of it a moment later."""
    hidden = [isinstance(each.there, Unknown) for each in offer.references]
    return offer if isinstance(offer.nodes, Unknown) and all(hidden) else None
