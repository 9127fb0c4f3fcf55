"""A rollout of servers that an autoscaler has, as it is typed, with the control plane's own
autoscaler at work all the while: what is promoted is scaled as what was there, and what is returned
leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.real.rollout.world import POLICY, Region, loses_requests, never, world_of
from tests.real.servers.cluster import Cluster

pytestmark = [
    pytest.mark.real("kubernetes", "kwok", "caddy", "prometheus"),
    pytest.mark.xdist_group("kubernetes_cluster"),
]

PLURAL = ("autoscaling/v2", "horizontalpodautoscalers")
NEW = "resnet50-v2"


def scaled(region: Region) -> None:
    """Between two servers and four, by a metric that nobody measures here."""
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "resnet50"}
    metric = {
        "type": "Pods",
        "pods": {
            "metric": {"name": "queued"},
            "target": {"type": "AverageValue", "averageValue": "30"},
        },
    }
    spec = {
        "minReplicas": 2,
        "maxReplicas": 4,
        "scaleTargetRef": target,
        "metrics": [metric],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 900}},
    }
    region.put(*PLURAL, {"metadata": {"name": "load"}, "spec": spec})


def scalers(region: Region) -> dict[str, dict[str, Any]]:
    items = region.plane.ask("GET", region.path(*PLURAL))["items"]
    return {each["metadata"]["name"]: each for each in items}


def bounds(found: dict[str, Any]) -> tuple[int, int]:
    return found["spec"]["minReplicas"], found["spec"]["maxReplicas"]


@pytest.mark.parametrize(
    ("gpus", "strategy"),
    [
        pytest.param(6, {}, id="beside", marks=pytest.mark.slow),
        pytest.param(2, {"surge_servers": 0}, id="in-its-place"),
    ],
)
def test_what_is_promoted_is_scaled_as_what_was_there(
    kubernetes_cluster: Cluster, tmp_path: Path, gpus: int, strategy: dict[str, int]
) -> None:
    policy = {**POLICY, "strategy": {**POLICY["strategy"], **strategy}}
    with world_of(
        {"eu": kubernetes_cluster},
        tmp_path,
        versions=["v2", "v2.fails"],
        gpus=gpus,
        policy=policy,
    ) as world:
        eu = world["eu"]
        scaled(eu)
        ran = world.type("rollout apply resnet50@v2 --yes")
        assert ran.exit_code == 0, ran.said
        assert eu.shares == {"v2": 100}
        there = scalers(eu)
        assert {name: bounds(each) for name, each in there.items()} == {"load": (2, 4), NEW: (2, 4)}
        made, old = there[NEW]["spec"], there["load"]["spec"]
        assert (made["metrics"], made["behavior"]) == (old["metrics"], old["behavior"])
        assert made["scaleTargetRef"]["name"] == NEW
        assert not {"mlplatform.dev/held", "mlplatform.dev/bounds"} & {
            *there[NEW]["metadata"]["annotations"]
        }
        assert (len(eu.ready("v2")), len(eu.pods("v1"))) == (2, 0)

        ran = world.type("rollout apply resnet50@v2.fails --yes")
        assert ran.exit_code == 3, ran.said
        assert eu.shares == {"v2": 100}
        there = scalers(eu)
        assert {name: bounds(each) for name, each in there.items()} == {"load": (2, 4), NEW: (2, 4)}
        assert (len(eu.ready("v2")), len(eu.pods("v2.fails"))) == (2, 0)
        assert not never(eu.entry, loses_requests)
