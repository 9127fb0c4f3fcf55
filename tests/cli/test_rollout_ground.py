"""`mlplatform rollout plan` where a region's servers run in Kubernetes: held by what the cluster
lacks, by name, and made when it lacks nothing."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from pathlib import Path

import pytest

from mlplatform.adapters.kubernetes_pods import is_ready
from tests.cli.test_rollout import PLAN, ROUTES
from tests.cli.test_rollout import Site as Typed
from tests.features.deployments.site import Site
from tests.real.servers.cluster import Cluster
from tests.real.servers.gateway import Reply, refusing, way_to
from tests.real.servers.roles import grant, revoke_of_cluster
from tests.waiting import eventually

pytestmark = [pytest.mark.real("kubernetes"), pytest.mark.xdist_group("kubernetes_cluster")]


def test_a_plan_is_held_by_what_the_cluster_lacks(
    kubernetes_cluster: Cluster, tmp_path: Path
) -> None:
    cluster = Site(kubernetes_cluster, tmp_path, gpus=2)
    file = cluster.plane.kubeconfig(tmp_path / "rollout.yaml", "rollout-1", context="eu")
    servers = f"deployments://eu/{cluster.namespace}?ask=false&kubeconfig={file}"
    plan = (*PLAN, "--region", "eu")
    with ExitStack() as stack:
        typed = Typed(tmp_path / "estate")
        typed.begin(stack)
        digest = {"mlplatform.dev/digest": typed.digests["v1"]}
        cluster.first(labels={"mlplatform.dev/model": "m"}, annotations=digest)
        eventually(lambda: len([p for p in cluster.pods("resnet") if is_ready(p)]) == 2)

        def describe(url: str, *, surge_servers: int = 1) -> None:
            model = {**ROUTES, "servers": {"eu": url}, "load_seconds": 60}
            strategy = {"kind": "canary", "surge_servers": surge_servers}
            typed.describe(rollout={"models": {"m": model}, "strategy": strategy})

        describe(f"{servers}&unread=accept")
        # Before anything may be looked at, whoever else has had the cluster.
        revoke_of_cluster(cluster.plane, "mlplatform-ground")
        eventually(lambda: typed.run(*plan).code == 0)
        grant(cluster.plane, "ground.yaml", cluster.namespace)
        describe(servers)
        ran = eventually(lambda: (ran := typed.run(*plan)).code == 3 and ran)
        said = " ".join(ran.err.split())
        assert "room: 1 more server of Deployment resnet needs 1 nvidia.com/gpu, and" in said
        assert "surge_servers: 0} needs none: 1 old server at a time end before" in said
        describe(servers, surge_servers=0)
        told = typed.good(*plan, "--output", "json").json()
        assert [a["step"] for a in told["actions"]][:4] == [
            "preflight",
            "pin",
            "shrink-1",
            "load-1",
        ]
        kubernetes_cluster.node(1, site=cluster.namespace)
        describe(servers)
        typed.good(*plan)
        # Some answers are ill, and the plan is made all the same.
        with way_to(cluster.plane) as way:
            server = f"https://127.0.0.1:{way.server_port}"
            cluster.plane.kubeconfig(file, "rollout-1", context="eu", server=server)
            answers = itertools.count(1)
            befalls: dict[int, Reply | str] = {3: refusing(410, "Expired"), 5: "cut"}
            befalls[8] = refusing(503, "ServiceUnavailable")
            way.weather = lambda method: befalls.get(next(answers), "")
            typed.good(*plan)
            assert next(answers) > max(befalls)
