"""A model's servers as Deployments, on a real control plane: started by a template, scaled, told
apart, fenced, and taken away. Nodes and pods are simulated, by kwok."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlplatform.adapters import deployments
from mlplatform.adapters.deployments import open_servers
from mlplatform.adapters.kubernetes_api import KubernetesAPI
from mlplatform.adapters.kubernetes_fleet import KubernetesFleet
from mlplatform.core.errors import (
    ConditionFailed,
    Denied,
    Fenced,
    IntegrityError,
    MlplatformError,
    Unsupported,
    UsageError,
    VersionConflict,
)
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.fleet import Served
from mlplatform.ports.servers import Group, Servers, ServersState, Stuck
from tests.real.servers.cluster import Cluster
from tests.real.servers.definitions import any_shape, define
from tests.waiting import becomes, eventually

from .site import MODEL, Site, group

pytestmark = [pytest.mark.real("kubernetes"), pytest.mark.xdist_group("kubernetes_cluster")]

DIGEST = "blake3:aa"
GPUS = "nvidia.com/gpu"


@pytest.fixture
def site(kubernetes_cluster: Cluster, tmp_path: Path) -> Site:
    return Site(kubernetes_cluster, tmp_path)


def scale(
    servers: Servers, version: str, number: int, *, epoch: int = 1, digest: str = DIGEST
) -> ServersState:
    return servers.scale(version, number, digest=digest, epoch=epoch, writer=f"writer-{epoch}")


def until(servers: Servers, version: str, holds: Callable[[Group], object]) -> Group:
    """The group, once it is as it should be."""

    return becomes(lambda: group(servers.read(), version), holds)


def ready(number: int) -> Callable[[Group], object]:
    return lambda found: len(found.ready) == number and not found.ailing


# --- started by a template -----------------------------------------------------------------------


def test_a_version_is_started_as_the_one_that_serves(site: Site) -> None:
    site.first()
    servers = site.open()
    until(servers, "v1", ready(2))
    scale(servers, "v2.0", 3)
    found = until(servers, "v2.0", ready(3))
    assert (found.wanted, found.digest, found.scaled_by) == (3, DIGEST, "")
    assert all(each.endswith(f":{site.cluster.port}") for each in found.ready)
    made = site.deployment("resnet50-v2-0")
    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/resnet50:v2.0"
    assert {"name": "MODEL_VERSION", "value": "v2.0"} in container["env"]
    assert container["resources"] == {"limits": {"nvidia.com/gpu": "1"}}
    assert made["metadata"]["labels"]["team"] == "vision"
    service = site.get("v1", "services", "resnet50-v2-0")
    assert [each["port"] for each in service["spec"]["ports"]] == [8080]


def test_nobody_takes_new_pods_for_old_ones(site: Site) -> None:
    site.first()
    servers = site.open()
    scale(servers, "v2", 1)
    until(servers, "v2", ready(1))
    old = site.get("v1", "services", "resnet")["spec"]["selector"]
    (pod,) = site.pods("resnet50-v2")
    assert not old.items() <= pod["metadata"]["labels"].items()
    assert pod["metadata"]["labels"]["team"] == "vision"
    new = site.get("v1", "services", "resnet50-v2")["spec"]["selector"]
    assert new.items() <= pod["metadata"]["labels"].items()


def test_the_fleet_sees_what_is_started(site: Site) -> None:
    site.first()
    servers = site.open()
    scale(servers, "v2", 1)
    until(servers, "v2", ready(1))
    until(servers, "v1", ready(2))
    file = site.plane.kubeconfig(site._folder / "fleet.yaml", "admin", context="eu")
    fleet = KubernetesFleet(KubernetesAPI("eu", kubeconfig=str(file)), site.namespace, None)
    assert fleet.served(frozenset({MODEL})) == {MODEL: Served({"v1": "", "v2": ""}, 3)}


def test_nothing_to_start_by(site: Site) -> None:
    with pytest.raises(Unsupported, match="no Deployment has the label") as raised:
        scale(site.open(), "v2", 1)
    assert "model-server.yaml" in str(raised.value.hint)
    assert site.open().read() == ServersState()


def test_a_service_that_has_every_pod(site: Site) -> None:
    site.first()
    site.put(
        "v1",
        "services",
        {
            "metadata": {"name": "all"},
            "spec": {"selector": {"mlplatform.dev/model": MODEL}, "ports": [{"port": 80}]},
        },
    )
    with pytest.raises(Unsupported, match="Service all selects pods of every version"):
        scale(site.open(), "v2", 1)
    assert site.names("apps/v1", "deployments") == {"resnet"}


def test_a_version_of_other_bytes(site: Site) -> None:
    site.first()
    servers = site.open()
    scale(servers, "v2", 1)
    with pytest.raises(VersionConflict, match="blake3:aa, not blake3:bb"):
        scale(servers, "v2", 2, digest="blake3:bb")


def test_servers_of_other_bytes(site: Site) -> None:
    """Ready is what a pod says of itself; which bytes it has, its server says."""
    site.first()
    servers = site.open()
    site.cluster.pods.states[MODEL, "v2.other"] = "blake3:bb"
    scale(servers, "v2.other", 1)
    (ailing,) = until(servers, "v2.other", _is_asked).ailing
    assert (ailing.state, ailing.reason) == (
        Stuck.CONFIGURATION,
        "it states blake3:bb, not blake3:aa",
    )
    assert group(servers.read(), "v2.other").ready == ()
    assert len(group(site.open(asks=False).read(), "v2.other").ready) == 1
    site.cluster.pods.states[MODEL, "v2.other"] = ""
    (ailing,) = until(servers, "v2.other", _is_asked).ailing
    assert "it states no digest" in ailing.reason
    assert "?ask=false" in ailing.reason


def test_servers_that_cannot_be_asked(site: Site) -> None:
    """From a laptop, say: no pod's network is there."""
    site.first()
    servers = site.open()
    scale(servers, "v2", 1)
    until(servers, "v2", ready(1))
    (pod,) = site.pods("resnet50-v2")
    path = site.path("v1", "pods", pod["metadata"]["name"]) + "/status"
    elsewhere = {"podIP": "::1", "podIPs": [{"ip": "::1"}]}  # where nobody listens
    site.plane.merge(path, {"status": elsewhere})
    assert len(group(servers.read(), "v2").ready) == 1  # it was asked
    found = group(site.open().read(), "v2")
    assert found.ready == ()
    (ailing,) = found.ailing
    assert ailing.state is Stuck.NOT_READY
    assert "it is not known what it holds" in ailing.reason
    assert "?ask=false" in ailing.reason
    assert len(group(site.open(asks=False).read(), "v2").ready) == 1


def test_servers_that_there_was_no_time_to_ask(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next look goes on where this one ended."""
    site.first()
    servers = site.open()
    with monkeypatch.context() as hurried:
        hurried.setattr(deployments, "_ASKING_SECONDS", -1.0)
        scale(servers, "v2", 2)
        found = until(servers, "v2", lambda found: len(found.ailing) == 2 and _is_late(found))
        assert {each.state for each in found.ailing} == {Stuck.NOT_READY}
        assert found.ready == ()
    until(servers, "v2", ready(2))
    monkeypatch.setattr(deployments, "_ASKING_SECONDS", -1.0)
    assert len(group(servers.read(), "v2").ready) == 2  # they were asked


def _is_late(found: Group) -> bool:
    return all(each.reason.startswith("it was not asked") for each in found.ailing)


def _is_asked(found: Group) -> bool:
    return any("states" in each.reason for each in found.ailing)


def test_a_name_that_somebody_else_has(site: Site) -> None:
    site.first()
    site.first(name="resnet50-v2", labels={"mlplatform.dev/model": "another"})
    with pytest.raises(Unsupported, match="Service resnet50-v2 selects pods of every version"):
        scale(site.open(), "v2", 1)
    site.plane.ask("DELETE", site.path("v1", "services", "resnet50-v2"))
    with pytest.raises(Unsupported, match="Deployment resnet50-v2 is there, and serves something"):
        scale(site.open(), "v2", 1)


def test_a_deployment_that_does_not_say_its_version(site: Site) -> None:
    site.first()
    told: dict[str, Any] = {"metadata": {"labels": {"mlplatform.dev/version": None}}}
    told["spec"] = {"containers": [{"name": "server", "image": "x"}]}
    site.merge("apps/v1", "deployments", "resnet", {"spec": {"template": told}})
    with pytest.raises(Unsupported, match="Deployment resnet does not say which version"):
        site.open().read()


# --- more, fewer, none ---------------------------------------------------------------------------


def test_more_and_fewer(site: Site) -> None:
    site.first()
    servers = site.open()
    scale(servers, "v2", 1)
    until(servers, "v2", ready(1))
    assert group(scale(servers, "v2", 4), "v2").wanted == 4
    until(servers, "v2", ready(4))
    scale(servers, "v2", 2)
    until(servers, "v2", lambda found: len(found.ready) == 2 and not found.leaving)


def test_the_same_again_changes_nothing(site: Site) -> None:
    site.first()
    servers = site.open()
    scale(servers, "v2", 2)
    until(servers, "v2", ready(2))
    before = site.deployment("resnet50-v2")["metadata"]["generation"]
    assert group(scale(servers, "v2", 2), "v2").wanted == 2
    assert site.deployment("resnet50-v2")["metadata"]["generation"] == before


def test_none_takes_away_what_is_ours_and_leaves_what_is_not(site: Site) -> None:
    site.first()
    site.first(name="bert", labels={"mlplatform.dev/model": "bert"})
    servers = site.open()
    scale(servers, "v2", 2)
    until(servers, "v2", ready(2))
    scale(servers, "v1", 0)
    until(servers, "v1", lambda found: found == Group("v1"))
    assert site.deployment("resnet")["spec"]["replicas"] == 0
    scale(servers, "v1", 1)
    scale(servers, "v2", 0)
    until(servers, "v2", lambda found: not found.ready and not found.leaving)
    assert "v2" not in servers.read().groups
    assert site.names("apps/v1", "deployments") == {"resnet", "bert"}
    assert site.names("v1", "services") == {"resnet", "bert"}
    assert site.deployment("bert")["spec"]["replicas"] == 2
    assert "annotations" not in site.deployment("bert")["metadata"] or not any(
        name.startswith("mlplatform.dev/")
        for name in site.deployment("bert")["metadata"]["annotations"]
    )


def test_what_leaves_holds_its_gpu_until_it_has_gone(site: Site) -> None:
    site.first()
    servers = site.open()
    scale(servers, "v2.lingers", 2)
    until(servers, "v2.lingers", ready(2))
    scale(servers, "v2.lingers", 0)
    found = until(servers, "v2.lingers", lambda found: found.leaving == 2)
    assert (found.wanted, found.ready) == (0, ())
    for pod in site.pods("resnet50-v2-lingers"):
        path = site.path("v1", "pods", pod["metadata"]["name"])
        site.plane.ask("DELETE", path, {"gracePeriodSeconds": 0})
    eventually(lambda: "v2.lingers" not in servers.read().groups)


def test_a_version_that_leaves_can_come_back_at_once(site: Site) -> None:
    site.first()
    servers = site.open()
    scale(servers, "v2.lingers", 1)
    until(servers, "v2.lingers", ready(1))
    scale(servers, "v2.lingers", 0)
    scale(servers, "v2.lingers", 2)
    until(servers, "v2.lingers", lambda found: len(found.ready) == 2 and found.leaving == 1)


def test_the_last_deployment_stays_with_its_epoch(site: Site) -> None:
    site.first()
    servers = site.open()
    scale(servers, "v2", 1, epoch=7)
    site.plane.ask("DELETE", site.path("apps/v1", "deployments", "resnet"))
    scale(servers, "v2", 0, epoch=7)
    eventually(lambda: not servers.read().groups)
    assert (servers.read().epoch, servers.read().writer) == (7, "writer-7")
    scale(servers, "v3", 1, epoch=7)
    until(servers, "v3", ready(1))


# --- an autoscaler has the number ----------------------------------------------------------------


def autoscaler(site: Site, floor: int | None, ceiling: int) -> None:
    spec: dict[str, Any] = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "resnet"},
        "maxReplicas": ceiling,
        **({} if floor is None else {"minReplicas": floor}),
    }
    site.put(
        "autoscaling/v2",
        "horizontalpodautoscalers",
        {"metadata": {"name": "load"}, "spec": spec},
    )


def bounds(site: Site) -> tuple[int, int]:
    spec = site.get("autoscaling/v2", "horizontalpodautoscalers", "load")["spec"]
    return spec["minReplicas"], spec["maxReplicas"]


def test_where_an_autoscaler_has_the_number_its_bounds_move(site: Site) -> None:
    site.first(servers=3)
    autoscaler(site, 2, 6)
    servers = site.open()
    assert until(servers, "v1", ready(3)).scaled_by == "HorizontalPodAutoscaler load"
    scale(servers, "v1", 5)
    assert bounds(site) == (5, 6)
    until(servers, "v1", ready(5))
    scale(servers, "v1", 1)
    assert bounds(site) == (1, 1)
    until(servers, "v1", lambda found: len(found.ready) == 1 and found.wanted == 1)
    scale(servers, "v1", 0)
    until(servers, "v1", lambda found: not found.ready)
    assert bounds(site) == (2, 6)
    scale(servers, "v1", 4)
    until(servers, "v1", ready(4))
    assert bounds(site) == (4, 6)


def test_not_past_an_autoscalers_ceiling(site: Site) -> None:
    site.first(servers=3)
    autoscaler(site, 2, 4)
    with pytest.raises(Unsupported, match="load allows no more than 4 servers, not 5") as raised:
        scale(site.open(), "v1", 5)
    assert raised.value.hint == "raise its maxReplicas"
    assert bounds(site) == (2, 4)


# --- KEDA has the number -------------------------------------------------------------------------

SCALED = ("keda.sh/v1alpha1", "scaledobjects")


@pytest.fixture
def keda(site: Site) -> Site:
    """A namespace of a cluster with KEDA's ScaledObject, as far as its shape goes; nobody acts."""
    define(site.plane, any_shape("ScaledObject", *SCALED))
    return site


def scaled_object(site: Site, **annotations: str) -> None:
    site.put(
        *SCALED,
        {
            "apiVersion": "keda.sh/v1alpha1",
            "kind": "ScaledObject",
            "metadata": {"name": "queue", "annotations": annotations},
            "spec": {
                "scaleTargetRef": {"name": "resnet"},
                "minReplicaCount": 1,
                "maxReplicaCount": 6,
            },
        },
    )


def keda_bounds(site: Site) -> tuple[int, int, str | None]:
    found = site.get(*SCALED, "queue")
    paused = (found["metadata"].get("annotations") or {}).get("autoscaling.keda.sh/paused-replicas")
    return found["spec"]["minReplicaCount"], found["spec"]["maxReplicaCount"], paused


def test_where_keda_has_the_number_its_bounds_move(keda: Site) -> None:
    keda.first(servers=3)
    scaled_object(keda)
    servers = keda.open()
    assert until(servers, "v1", ready(3)).scaled_by == "ScaledObject queue"
    scale(servers, "v1", 5)
    assert keda_bounds(keda) == (5, 6, None)
    keda.merge("apps/v1", "deployments", "resnet", {"spec": {"replicas": 5}})  # as KEDA does
    scale(servers, "v1", 2)
    assert keda_bounds(keda) == (1, 2, None)
    scale(servers, "v1", 0)
    assert keda_bounds(keda) == (1, 6, "0")
    assert keda.deployment("resnet")["spec"]["replicas"] == 0
    scale(servers, "v1", 3)
    assert keda_bounds(keda) == (3, 6, None)
    until(servers, "v1", ready(3))


def test_where_somebody_else_has_paused_keda(keda: Site) -> None:
    keda.first()
    scaled_object(keda, **{"autoscaling.keda.sh/paused-replicas": "2"})
    with pytest.raises(Unsupported, match="ScaledObject queue is paused"):
        scale(keda.open(), "v1", 3)


# --- a repository has the number -----------------------------------------------------------------

ARGO = {"argocd.argoproj.io/instance": "vision"}


def test_argo_cd_puts_the_number_back(site: Site) -> None:
    site.first(labels=ARGO)
    servers = site.open()
    assert group(servers.read(), "v1").scaled_by == "Argo CD vision"
    with pytest.raises(Unsupported, match="Argo CD vision puts replicas of Deployment") as raised:
        scale(servers, "v1", 1)
    said = str(raised.value.hint)
    assert "ignoreDifferences: [{group: apps, kind: Deployment, name: resnet" in said
    assert "RespectIgnoreDifferences=true" in said
    assert site.deployment("resnet")["spec"]["replicas"] == 2
    note = {"metadata": {"annotations": {"mlplatform.dev/scaled-by": "rollout"}}}
    site.merge("apps/v1", "deployments", "resnet", note)
    assert group(scale(servers, "v1", 1), "v1").wanted == 1


def test_what_argo_cd_has_never_written_is_not_its_own(site: Site) -> None:
    """Its repository leaves the number out, as it should where an autoscaler has it."""
    site.first()
    path = site.path("apps/v1", "deployments")
    body: dict[str, Any] = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "resnet", "labels": ARGO},
    }
    site.plane.ask(
        "PATCH",
        f"{path}/resnet?fieldManager=argocd-controller",
        body,
        kind="application/apply-patch+yaml",
    )
    assert group(scale(site.open(), "v1", 1), "v1").wanted == 1
    body["spec"] = {"replicas": 1}
    site.plane.ask(
        "PATCH",
        f"{path}/resnet?fieldManager=argocd-controller",
        body,
        kind="application/apply-patch+yaml",
    )
    with pytest.raises(Unsupported, match="Argo CD vision"):
        scale(site.open(), "v1", 2)


def test_a_new_version_belongs_to_no_repository(site: Site) -> None:
    """Else the tool would delete what its repository does not have."""
    site.first(labels=ARGO, annotations={"argocd.argoproj.io/tracking-id": "vision:apps/…"})
    servers = site.open()
    scale(servers, "v2", 1)
    assert until(servers, "v2", ready(1)).scaled_by == ""
    about = site.deployment("resnet50-v2")["metadata"]
    assert not [name for name in (*about["labels"], *about["annotations"]) if "argocd" in name]


# --- why a server does not answer ----------------------------------------------------------------

STUCK: dict[str, tuple[Stuck, str]] = {
    "v2.slow": (Stuck.STARTING, "startup probe"),
    "v2.noimage": (
        Stuck.IMAGE,
        'ImagePullBackOff: Back-off pulling image "registry.example/resnet50:v2.noimage"',
    ),
    "v2.noconfig": (Stuck.CONFIGURATION, 'CreateContainerConfigError: secret "tokens" not found'),
    "v2.crash": (Stuck.CRASH, "exit code 1, Error: no such model"),
    "v2.oom": (Stuck.OUT_OF_MEMORY, "exit code 137, OOMKilled"),
}


@pytest.mark.parametrize("version", STUCK)
def test_what_keeps_a_server_is_named(site: Site, version: str) -> None:
    state, said = STUCK[version]
    site.first()
    servers = site.open()
    scale(servers, version, 1)
    found = until(servers, version, lambda found: any(said in each.reason for each in found.ailing))
    (ailing,) = found.ailing
    assert ailing.state is state
    assert ailing.server.startswith("resnet50-v2-")
    assert found.crashes == {"v2.crash": 3, "v2.oom": 2}.get(version, 0)


def test_crashes_are_counted_beyond_the_pods_that_had_them(site: Site) -> None:
    site.first()
    servers = site.open()
    scale(servers, "v2.crash", 1)
    until(servers, "v2.crash", lambda found: found.crashes == 3)
    (pod,) = site.pods("resnet50-v2-crash")
    site.plane.ask("DELETE", site.path("v1", "pods", pod["metadata"]["name"]))
    until(servers, "v2.crash", lambda found: found.crashes == 6)


def test_no_gpu_is_free(kubernetes_cluster: Cluster, tmp_path: Path) -> None:
    site = Site(kubernetes_cluster, tmp_path, gpus=3)
    site.first()
    servers = site.open()
    until(servers, "v1", ready(2))
    scale(servers, "v2", 2)
    found = until(
        servers, "v2", lambda found: any(e.state is Stuck.NO_CAPACITY for e in found.ailing)
    )
    assert len(found.ready) <= 1
    said = next(each.reason for each in found.ailing if each.state is Stuck.NO_CAPACITY)
    assert "Unschedulable" in said
    assert "Insufficient nvidia.com/gpu" in said
    scale(servers, "v1", 1)
    until(servers, "v2", ready(2))


def test_a_quota_is_used_up(site: Site) -> None:
    site.first()
    until(site.open(), "v1", ready(2))
    quota = {"metadata": {"name": "gpus"}, "spec": {"hard": {"requests.nvidia.com/gpu": "3"}}}
    site.put("v1", "resourcequotas", quota)
    becomes(lambda: site.tried(**{GPUS: "2"}), lambda got: "exceeded quota: gpus" in got[1])
    servers = site.open()
    scale(servers, "v2", 2)
    found = until(servers, "v2", lambda found: found.ailing and found.ready)
    (ailing,) = found.ailing
    assert (ailing.server, ailing.state) == ("resnet50-v2", Stuck.NO_CAPACITY)
    assert "FailedCreate" in ailing.reason
    assert "exceeded quota: gpus" in ailing.reason


def test_a_server_that_was_ready_and_is_no_more(site: Site) -> None:
    site.first(servers=1)
    servers = site.open()
    until(servers, "v1", ready(1))
    (pod,) = site.pods("resnet")
    no = {"type": "Ready", "status": "False", "lastTransitionTime": "2099-01-01T00:00:00Z"}
    container = {**pod["status"]["containerStatuses"][0], "ready": False}
    site.plane.merge(
        site.path("v1", "pods", pod["metadata"]["name"]) + "/status",
        {"status": {"conditions": [no], "containerStatuses": [container]}},
    )
    (ailing,) = until(servers, "v1", lambda found: found.ailing).ailing
    assert ailing.state is Stuck.NOT_READY
    assert "does not say that it is ready" in ailing.reason


def test_a_deployment_that_somebody_has_paused(site: Site) -> None:
    site.first()
    site.merge("apps/v1", "deployments", "resnet", {"spec": {"paused": True}})
    servers = site.open()
    for version in ("v1", "v2"):
        with pytest.raises(Unsupported, match="Deployment resnet is paused"):
            scale(servers, version, 1)
    assert group(servers.read(), "v1").wanted == 2


# --- rights --------------------------------------------------------------------------------------


def test_who_may_not_is_told_verb_and_resource(site: Site) -> None:
    site.first()
    with pytest.raises(Denied, match='cannot list resource "deployments"') as raised:
        site.open(user="nobody").read()
    assert "infra/rbac" in str(raised.value.hint)
    site.allow("deployments", "list")
    site.open().read()
    with pytest.raises(Denied, match='cannot patch resource "deployments"'):
        scale(site.open(), "v1", 1)


@pytest.mark.parametrize(
    ("verb", "group", "resource"),
    [
        ("get", "", "secrets"),
        ("get", "", "configmaps"),
        ("create", "", "pods"),
        ("create", "", "pods/exec"),
        ("delete", "", "pods"),
        ("update", "apps", "deployments"),
        ("deletecollection", "apps", "deployments"),
        ("patch", "", "services"),
        ("update", "autoscaling", "horizontalpodautoscalers"),
        ("deletecollection", "autoscaling", "horizontalpodautoscalers"),
    ],
)
def test_what_the_role_does_not_grant(site: Site, verb: str, group: str, resource: str) -> None:
    name, _, sub = resource.partition("/")
    asked = {
        "spec": {
            "resourceAttributes": {
                "namespace": site.namespace,
                "verb": verb,
                "group": group,
                "resource": name,
                "subresource": sub,
            }
        }
    }
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    assert site.plane.ask("POST", path, asked, user="rollout-1")["status"]["allowed"] is False


# --- two writers ---------------------------------------------------------------------------------


def test_a_deposed_writer_is_refused_everywhere(site: Site) -> None:
    site.first()
    old, new = site.open(), site.open()
    scale(old, "v2", 1, epoch=1)
    state = scale(new, "v2", 2, epoch=2)
    assert (state.epoch, state.writer) == (2, "writer-2")
    for version in ("v1", "v2", "v3"):
        for number in (0, 3):
            with pytest.raises(Fenced, match="epoch 2 by writer-2, ours is 1"):
                scale(old, version, number, epoch=1)
    assert site.names("apps/v1", "deployments") == {"resnet", "resnet50-v2"}
    assert group(new.read(), "v2").wanted == 2
    assert group(new.read(), "v1").wanted == 2


def test_a_writer_is_deposed_between_its_look_and_its_write(site: Site) -> None:
    """The API server itself refuses: the deposed one has read no higher epoch."""
    site.first()
    deposed = False

    class Overtaken(KubernetesAPI):
        def patch(self, path: str, operations: list[dict[str, Any]]) -> Any:
            nonlocal deposed
            if not deposed and any(each["path"] == "/spec/replicas" for each in operations):
                deposed = True
                scale(site.open(), "v2", 1, epoch=2)
            return super().patch(path, operations)

    with pytest.raises(Fenced):
        scale(site.open(api=Overtaken), "v1", 1, epoch=1)
    assert deposed
    assert site.deployment("resnet")["spec"]["replicas"] == 2


def test_a_writer_is_deposed_before_it_fills_what_it_has_created(site: Site) -> None:
    site.first()
    deposed = False

    class Overtaken(KubernetesAPI):
        def create(self, path: str, body: dict[str, Any]) -> Any:
            nonlocal deposed
            made = super().create(path, body)
            if not deposed:
                deposed = True
                scale(site.open(), "v1", 3, epoch=2)
            return made

    with pytest.raises(Fenced):
        scale(site.open(api=Overtaken), "v2", 1, epoch=1)
    assert deposed
    assert group(site.open().read(), "v2").wanted == 0
    assert not site.pods("resnet50-v2")


def test_a_writer_is_deposed_before_it_creates(site: Site) -> None:
    """The new one cannot have claimed what was not there; what is created late stays empty, and
    goes."""
    site.first()
    deposed = False

    class Overtaken(KubernetesAPI):
        def create(self, path: str, body: dict[str, Any]) -> Any:
            nonlocal deposed
            if not deposed:
                deposed = True
                scale(site.open(), "v1", 3, epoch=2)
            return super().create(path, body)

    with pytest.raises(Fenced):
        scale(site.open(api=Overtaken), "v2", 1, epoch=1)
    assert deposed
    assert site.names("apps/v1", "deployments") == {"resnet"}


@pytest.mark.parametrize("times", [1, 99])
def test_somebody_changes_it_meanwhile(site: Site, times: int) -> None:
    site.first()
    scale(site.open(), "v1", 2)
    meddled = 0

    class Overtaken(KubernetesAPI):
        def patch(self, path: str, operations: list[dict[str, Any]]) -> Any:
            nonlocal meddled
            if meddled < times:
                meddled += 1
                note = {"metadata": {"annotations": {"mlplatform.dev/epoch": f"{meddled % 2}"}}}
                site.merge("apps/v1", "deployments", "resnet", note)
            return super().patch(path, operations)

    servers = site.open(api=Overtaken)
    if times == 1:
        site.merge(
            "apps/v1",
            "deployments",
            "resnet",
            {"metadata": {"annotations": {"mlplatform.dev/epoch": "0"}}},
        )
        assert group(scale(servers, "v1", 1), "v1").wanted == 1
    else:
        with pytest.raises(ConditionFailed):
            scale(servers, "v1", 1, epoch=3)
        assert site.deployment("resnet")["spec"]["replicas"] == 2


def test_an_epoch_that_is_none(site: Site) -> None:
    site.first(annotations={"mlplatform.dev/epoch": "latest"})
    acts: list[Callable[[], object]] = [
        site.open().read,
        lambda: scale(site.open(), "v1", 1),
    ]
    for act in acts:
        with pytest.raises(IntegrityError, match="'latest', which is no epoch"):
            act()


# --- the URL -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("deployments://eu", "does not name a namespace"),
        ("deployments://eu/models/more", "does not name a namespace"),
        ("deployments:///models", "does not name a namespace"),
        ("deployments://eu/models?colour=red", "unknown option 'colour'"),
        ("deployments://eu/models?image=registry.example/server:1", "the same for every version"),
    ],
)
def test_urls_that_will_not_do(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        open_servers(StoreURL.parse(text, noun="servers"), MODEL)


def test_a_url(site: Site) -> None:
    site.first(servers=1)
    context = "arn:aws:eks:eu-west-1:111122223333:cluster/blue"
    file = site.plane.kubeconfig(site._folder / "k.yaml", "rollout-1", context=context)
    image = "registry.example/other:{version}-cuda12"
    text = f"deployments://{context.replace('/', '%2F')}/{site.namespace}"
    servers = open_servers(
        StoreURL.parse(f"{text}?kubeconfig={file}&image={image}", noun="servers"), MODEL
    )
    scale(servers, "v2", 1)
    (container,) = site.deployment("resnet50-v2")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/other:v2-cuda12"
    assert "?" not in servers.url
    assert servers.features.picks_itself


def test_a_negative_number(site: Site) -> None:
    with pytest.raises(MlplatformError, match="-1 servers of v1"):
        scale(site.open(), "v1", -1)
