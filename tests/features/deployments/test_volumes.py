"""Servers whose volumes cannot be had, on a real control plane. The scheduler speaks for itself;
what a kubelet would say, the tests say in its place: nothing runs in a pod here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mlplatform.ports.servers import Servers, Stuck
from tests.real.servers.cluster import Cluster
from tests.waiting import becomes

from .site import Site, group

pytestmark = [pytest.mark.real("kubernetes"), pytest.mark.xdist_group("kubernetes_cluster")]

VERSION = "v1.creating"
NO_SECRET = 'MountVolume.SetUp failed for volume "tokens" : secret "tokens" not found'
ATTACHED = 'Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) resnet-0'


@pytest.fixture
def site(kubernetes_cluster: Cluster, tmp_path: Path) -> Site:
    return Site(kubernetes_cluster, tmp_path)


def keeps(servers: Servers, version: str) -> tuple[Stuck, str] | None:
    """What keeps the version's only pod."""
    ailing = group(servers.read(), version).ailing
    return (ailing[0].state, ailing[0].reason) if len(ailing) == 1 else None


def until(servers: Servers, version: str, said: Callable[[str], bool]) -> tuple[Stuck, str]:
    """What keeps it, once that is said of it: others may have kept it before."""
    found = becomes(lambda: keeps(servers, version), lambda found: found and said(found[1]))
    assert found is not None
    return found


def tell(site: Site, reason: str, message: str, *, at: str = "2026-01-01T00:00:00Z") -> None:
    """As the kubelet would, of the only pod."""
    (pod,) = site.pods("resnet")
    about = pod["metadata"]
    called = {"kind": "Pod", "namespace": site.namespace, "name": about["name"]}
    site.put(
        "v1",
        "events",
        {
            "metadata": {"generateName": f"{about['name']}."},
            "involvedObject": {**called, "uid": about["uid"], "apiVersion": "v1"},
            "type": "Warning",
            "reason": reason,
            "message": message,
            "lastTimestamp": at,
            "source": {"component": "kubelet", "host": pod["spec"]["nodeName"]},
        },
    )


@pytest.mark.parametrize(
    ("reason", "message", "state"),
    [
        ("FailedMount", NO_SECRET, Stuck.CONFIGURATION),
        ("FailedMount", "driver efs.csi.aws.com not found in the list", Stuck.VOLUME),
        ("FailedAttachVolume", ATTACHED, Stuck.VOLUME),
    ],
)
def test_a_volume_that_is_not_mounted(site: Site, reason: str, message: str, state: Stuck) -> None:
    site.first(VERSION, servers=1)
    servers = site.open()
    before = until(servers, VERSION, lambda reason: reason == "ContainerCreating")
    assert before[0] is Stuck.STARTING
    tell(site, "FailedScheduling", "0/9 nodes are available", at="2026-01-01T00:00:09Z")
    tell(site, reason, message)
    assert keeps(servers, VERSION) == (state, f"{reason}: {message}")
    (pod,) = site.pods("resnet")
    mounted = {"type": "PodReadyToStartContainers", "status": "True"}
    others = [e for e in pod["status"]["conditions"] if e["type"] != mounted["type"]]
    path = site.path("v1", "pods", pod["metadata"]["name"])
    site.plane.merge(f"{path}/status", {"status": {"conditions": [*others, mounted]}})
    assert keeps(servers, VERSION) == (Stuck.STARTING, "ContainerCreating")


def test_events_that_may_not_be_read(site: Site) -> None:
    """They are no reason to know nothing of the servers."""
    site.first(VERSION, servers=1)
    site.allow("events")
    servers = site.open()
    said = 'ContainerCreating; its events are not known: events is forbidden: User "rollout-1"'
    state, _ = until(servers, VERSION, lambda reason: reason.startswith(said))
    assert state is Stuck.STARTING


def test_a_claim_that_is_not_there(site: Site) -> None:
    site.first(servers=0)
    claim = {"name": "models", "persistentVolumeClaim": {"claimName": "models"}}
    spec = {"replicas": 1, "template": {"spec": {"volumes": [claim]}}}
    site.merge("apps/v1", "deployments", "resnet", {"spec": spec})
    servers = site.open()
    said = 'persistentvolumeclaim "models" not found'
    state, _ = until(servers, "v1", lambda reason: said in reason)
    assert state is Stuck.CONFIGURATION
    wanted = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    site.put(
        "v1",
        "persistentvolumeclaims",
        {"metadata": {"name": "models"}, "spec": {**wanted, "storageClassName": ""}},
    )
    state, _ = until(servers, "v1", lambda reason: "unbound immediate" in reason)
    assert state is Stuck.VOLUME
