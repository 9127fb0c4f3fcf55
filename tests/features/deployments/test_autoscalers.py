"""A version's own autoscaler: made like that of the version before it, held while both serve, let
go when the other has no servers, and taken away. The control plane and its autoscaler are real; the
metrics are nobody's, so that floors and ceilings alone move anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlplatform.adapters.kubernetes_api import KubernetesAPI
from mlplatform.core.errors import Denied, Fenced
from mlplatform.ports.servers import Group, Servers
from tests.real.servers.cluster import Cluster
from tests.waiting import becomes, eventually

from .site import MODEL, Site, group

pytestmark = [pytest.mark.real("kubernetes"), pytest.mark.xdist_group("kubernetes_cluster")]

PLURAL = ("autoscaling/v2", "horizontalpodautoscalers")
QUEUE = {
    "type": "External",
    "external": {
        "metric": {
            "name": "queued",
            "selector": {
                "matchLabels": {"deployment": "resnet", "version": "v1", "team": "vision"}
            },
        },
        "target": {"type": "AverageValue", "averageValue": "30"},
    },
}
RATE = {
    "type": "Object",
    "object": {
        "describedObject": {"apiVersion": "v1", "kind": "Service", "name": "resnet"},
        "metric": {"name": "requests"},
        "target": {"type": "Value", "value": "10k"},
    },
}
CALM = {"scaleDown": {"stabilizationWindowSeconds": 900}}


@pytest.fixture
def site(kubernetes_cluster: Cluster, tmp_path: Path) -> Site:
    """A node of eight GPUs, and three servers of v1 that an autoscaler has."""
    made = Site(kubernetes_cluster, tmp_path)
    made.first(servers=3)
    return made


def autoscaler(site: Site, **annotations: str) -> None:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "resnet"}
    bounds = {"minReplicas": 2, "maxReplicas": 6}
    spec = {**bounds, "scaleTargetRef": target, "metrics": [QUEUE, RATE], "behavior": CALM}
    about = {"name": "load", "labels": {"team": "vision"}, "annotations": annotations}
    site.put(*PLURAL, {"metadata": about, "spec": spec})


def bounds(site: Site, name: str = "resnet50-v2") -> tuple[int, int]:
    spec = site.get(*PLURAL, name)["spec"]
    return spec["minReplicas"], spec["maxReplicas"]


def notes(site: Site, name: str) -> dict[str, str]:
    found = site.get(*PLURAL, name)["metadata"].get("annotations") or {}
    return {key: value for key, value in found.items() if key.startswith("mlplatform.dev/")}


def scale(servers: Servers, version: str, number: int, *, epoch: int = 1) -> Group:
    writer = f"writer-{epoch}"
    state = servers.scale(version, number, digest="blake3:aa", epoch=epoch, writer=writer)
    return group(state, version)


def until(servers: Servers, version: str, number: int) -> Group:
    """The group, once that many are ready, and no more are there."""

    return becomes(
        lambda: group(servers.read(), version),
        lambda found: (len(found.ready), found.leaving) == (number, 0),
    )


def test_a_version_is_scaled_as_the_one_before_it(site: Site) -> None:
    autoscaler(site)
    servers = site.open()
    assert scale(servers, "v2", 1).wanted == 1
    made = site.get(*PLURAL, "resnet50-v2")
    assert bounds(site) == (1, 1)
    assert made["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 900
    assert made["spec"]["scaleTargetRef"]["name"] == "resnet50-v2"
    by_type = {each["type"]: each for each in made["spec"]["metrics"]}
    labels = by_type["External"]["external"]["metric"]["selector"]["matchLabels"]
    assert labels == {"deployment": "resnet50-v2", "version": "v2", "team": "vision"}
    assert by_type["Object"]["object"]["describedObject"]["name"] == "resnet50-v2"
    assert made["metadata"]["labels"] == {
        "mlplatform.dev/model": MODEL,
        "mlplatform.dev/group": "resnet50-v2",
        "app.kubernetes.io/managed-by": "mlplatform",
    }
    assert notes(site, "resnet50-v2") == {
        "mlplatform.dev/held": "2 6",
        "mlplatform.dev/epoch": "1",
        "mlplatform.dev/writer": "writer-1",
    }
    assert until(servers, "v2", 1).scaled_by == ""


def test_it_holds_what_is_asked_for_while_both_serve(site: Site) -> None:
    autoscaler(site)
    servers = site.open()
    scale(servers, "v2", 1)
    assert scale(servers, "v2", 4).wanted == 4
    assert bounds(site) == (4, 4)
    until(servers, "v2", 4)
    assert scale(servers, "v2", 2).wanted == 2
    assert bounds(site) == (2, 2)
    until(servers, "v2", 2)
    before = site.get(*PLURAL, "resnet50-v2")["metadata"]["annotations"]
    scale(servers, "v2", 2)
    assert site.get(*PLURAL, "resnet50-v2")["metadata"]["annotations"] == before


def test_it_is_let_go_when_the_old_version_has_no_servers(site: Site) -> None:
    autoscaler(site)
    servers = site.open()
    scale(servers, "v2", 3)
    until(servers, "v2", 3)
    scale(servers, "v1", 2)
    assert bounds(site) == (3, 3)
    scale(servers, "v1", 0)
    assert bounds(site) == (2, 6)
    assert "mlplatform.dev/held" not in notes(site, "resnet50-v2")
    assert bounds(site, "load") == (2, 6)
    until(servers, "v1", 0)
    assert until(servers, "v2", 3).scaled_by == "HorizontalPodAutoscaler resnet50-v2"
    scale(servers, "v1", 0)  # again, as after a crash
    assert bounds(site) == (2, 6)


def test_the_version_after_it_is_scaled_likewise(site: Site) -> None:
    autoscaler(site)
    servers = site.open()
    scale(servers, "v2", 3)
    until(servers, "v2", 3)
    scale(servers, "v1", 0)
    until(servers, "v1", 0)
    scale(servers, "v3", 1)
    scale(servers, "v2", 2)
    assert (bounds(site, "resnet50-v3"), bounds(site)) == ((1, 1), (2, 2))
    assert notes(site, "resnet50-v3")["mlplatform.dev/held"] == "2 6"
    scale(servers, "v2", 0)
    eventually(lambda: "resnet50-v2" not in site.names(*PLURAL))
    assert bounds(site, "resnet50-v3") == (2, 6)


def test_a_version_that_is_returned_takes_it_along(site: Site) -> None:
    """And what the other had before is as it was."""
    autoscaler(site)
    servers = site.open()
    scale(servers, "v2", 1)
    until(servers, "v2", 1)
    assert scale(servers, "v1", 2).wanted == 2
    until(servers, "v1", 2)
    assert scale(servers, "v1", 3).wanted == 3
    assert bounds(site, "load") == (3, 6)
    scale(servers, "v2", 0)
    assert site.names(*PLURAL) == {"load"}
    assert bounds(site, "load") == (2, 6)
    assert "mlplatform.dev/bounds" not in notes(site, "load")
    scale(servers, "v2", 1)  # at once again
    assert bounds(site) == (1, 1)


def test_the_last_version_keeps_its_own(site: Site) -> None:
    autoscaler(site)
    servers = site.open()
    scale(servers, "v2", 1)
    site.plane.ask("DELETE", site.path("apps/v1", "deployments", "resnet"))
    until(servers, "v1", 0)
    scale(servers, "v2", 0)
    until(servers, "v2", 0)
    assert site.deployment("resnet50-v2")["spec"]["replicas"] == 0
    assert bounds(site) == (2, 6)
    assert "mlplatform.dev/held" not in notes(site, "resnet50-v2")


@pytest.mark.parametrize("annotations", [{"mlplatform.dev/copied": "false"}, None])
def test_where_none_is_wanted(site: Site, annotations: dict[str, str] | None) -> None:
    if annotations is not None:
        autoscaler(site, **annotations)
    before = site.names(*PLURAL)
    servers = site.open()
    scale(servers, "v2", 2)
    until(servers, "v2", 2)
    assert site.names(*PLURAL) == before


def test_one_that_somebody_has_made_for_it_is_theirs(site: Site) -> None:
    autoscaler(site)
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "resnet50-v2"}
    spec = {"minReplicas": 1, "maxReplicas": 5, "scaleTargetRef": target}
    site.put(*PLURAL, {"metadata": {"name": "mine"}, "spec": spec})
    servers = site.open()
    scale(servers, "v2", 2)
    assert site.names(*PLURAL) == {"load", "mine"}
    assert bounds(site, "mine") == (2, 5)
    scale(servers, "v2", 0)
    assert site.names(*PLURAL) == {"load", "mine"}


def test_who_may_not_make_one_starts_nothing(site: Site) -> None:
    autoscaler(site)
    site.allow("horizontalpodautoscalers", "list", "patch")
    with pytest.raises(Denied, match='cannot create resource "horizontalpodautoscalers"'):
        scale(site.open(), "v2", 1)
    assert not site.pods("resnet50-v2")


def test_a_deposed_writer_moves_no_bounds(site: Site) -> None:
    autoscaler(site)
    scale(site.open(), "v2", 2, epoch=1)
    deposed = False

    class Overtaken(KubernetesAPI):
        def patch(self, path: str, operations: list[dict[str, Any]]) -> Any:
            nonlocal deposed
            if not deposed and path.endswith("horizontalpodautoscalers/resnet50-v2"):
                deposed = True
                scale(site.open(), "v2", 3, epoch=2)
            return super().patch(path, operations)

    acts: list[Callable[[Servers], object]] = [
        lambda servers: scale(servers, "v2", 5, epoch=1),
        lambda servers: scale(servers, "v1", 0, epoch=1),
        lambda servers: scale(servers, "v2", 0, epoch=1),
    ]
    for act in acts:
        with pytest.raises(Fenced):
            act(site.open(api=Overtaken))
    assert deposed
    assert bounds(site) == (3, 3)
    assert notes(site, "resnet50-v2")["mlplatform.dev/epoch"] == "2"
