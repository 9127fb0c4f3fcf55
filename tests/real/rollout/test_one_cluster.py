"""A rollout in one real cluster, as it is typed: servers are Deployments, the split is an HTTPRoute
that a gateway follows, and the verdict is by what Prometheus has read of the gateway's counters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.rollout.world import World, loses_requests, never, world_of
from tests.real.servers.cluster import Cluster

pytestmark = [
    pytest.mark.real("kubernetes", "kwok", "caddy", "prometheus"),
    pytest.mark.xdist_group("kubernetes_cluster"),
]


@pytest.fixture
def world(kubernetes_cluster: Cluster, tmp_path: Path) -> Iterator[World]:
    with world_of({"eu": kubernetes_cluster}, tmp_path, versions=["v2", "v2.fails"]) as made:
        yield made


@pytest.mark.slow
def test_a_good_version_is_promoted_and_a_bad_one_is_returned(world: World) -> None:
    """On evidence alone: both start, and answer golden requests as they must."""
    eu = world["eu"]
    ran = world.type("rollout plan resnet50@v2")
    assert ran.exit_code == 0, ran.said
    assert "nothing was changed" in ran.err
    assert f"the weights at httproute://eu/{eu.namespace}/resnet50" in ran.out
    assert eu.shares == {"v1": 100}

    ran = world.type("rollout apply resnet50@v2 --yes")
    assert ran.exit_code == 0, ran.said
    assert "resnet50@v2 serves in every region of the plan" in ran.said
    assert "promote: errors 0/" in ran.out
    assert eu.shares == {"v2": 100}
    assert (len(eu.ready("v2")), len(eu.pods("v1"))) == (2, 0)
    assert not world.failed()

    ran = world.type("rollout apply resnet50@v2.fails --yes")
    assert ran.exit_code == 3, ran.said
    assert "resnet50@v2.fails was returned, the last good version serves" in ran.err
    assert re.search(r"worse: e-value [\d,]+ against it, 20 needed", ran.err), ran.err
    assert eu.shares == {"v2": 100}
    assert (len(eu.ready("v2")), len(eu.pods("v2.fails"))) == (2, 0)
    assert not eu.failing()
    assert not never(eu.entry, loses_requests)
    assert world.state() == "returned"
