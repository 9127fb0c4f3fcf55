"""Who else writes the HTTPRoute between versions, told by a real API server's own account of who
wrote what; and a route that is not there, or may not be read."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from mlplatform.adapters.gateway_versions import GatewayVersions, open_split
from mlplatform.adapters.kubernetes_ground import open_ground
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.ground import Offer
from mlplatform.rollout.plan.ground import Wanted, lacking_ground
from mlplatform.rollout.plan.seen import Finding, Rule
from tests.features.deployments.site import MODEL, Site
from tests.real.servers.cluster import Cluster
from tests.real.servers.gateway import install_gateway_api, routes
from tests.real.servers.roles import grant
from tests.waiting import eventually

pytestmark = [pytest.mark.real("kubernetes"), pytest.mark.xdist_group("kubernetes_cluster")]

ROUTE = "resnet50"
"""As the Role that we ship names it."""


class Estate:
    """A Deployment that serves, and a route before it, under the Roles of a rollout."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        install_gateway_api(cluster.plane)
        self.site = Site(cluster, folder, gpus=2)
        for file in ("ground.yaml", "split.yaml"):
            grant(cluster.plane, file, self.site.namespace)
        self.site.first(servers=0)
        self._file = cluster.plane.kubeconfig(folder / "route.yaml", "rollout-1", context="eu")
        self.path = f"{routes(self.site.namespace)}/{ROUTE}"

    def put(self, manager: str, **about: dict[str, str]) -> None:
        """The route, as whoever is called so makes it."""
        backends = [{"name": "resnet", "port": 8080, "weight": 100}]
        body = {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": ROUTE, **about},
            "spec": {"rules": [{"backendRefs": backends}]},
        }
        path = f"{routes(self.site.namespace)}?fieldManager={manager}"
        self.site.plane.ask("POST", path, body)

    def meddle(self, manager: str, weight: int) -> None:
        """Somebody of that name writes the weights."""
        time.sleep(1.1)  # the API server counts whole seconds
        rules = self.site.plane.ask("GET", self.path)["spec"]["rules"]
        rules[0]["backendRefs"][0]["weight"] = weight
        patch = {"spec": {"rules": rules}}
        self.site.plane.merge(f"{self.path}?fieldManager={manager}", patch)

    def split(self) -> GatewayVersions:
        labels = {"mlplatform.dev/model": MODEL, "mlplatform.dev/version": "v1"}
        self.site.merge("v1", "services", "resnet", {"metadata": {"labels": labels}})
        return open_split(self._actuator(), MODEL, ["v1"])

    def offer(self, *, options: str = "") -> Offer:
        namespace = self.site.namespace
        text = f"deployments://eu/{namespace}?kubeconfig={self._file}{options}"
        servers = StoreURL.parse(text, noun="servers")
        return open_ground(servers, MODEL, actuator=self._actuator()).offers("v2")

    def lacks(self) -> list[Finding]:
        wanted = Wanted(MODEL, "v2", "eu", spare=1, load_seconds=60.0)
        return list(lacking_ground(self.offer(), wanted))

    def _actuator(self) -> StoreURL:
        text = f"httproute://eu/{self.site.namespace}/{ROUTE}?kubeconfig={self._file}"
        return StoreURL.parse(text, noun="actuator")


@pytest.fixture
def estate(kubernetes_cluster: Cluster, tmp_path: Path) -> Estate:
    return Estate(kubernetes_cluster, tmp_path)


@pytest.mark.parametrize(
    ("manager", "about", "owner", "fix"),
    [
        ("argocd-controller", {}, "Argo CD", '".spec.rules[].backendRefs"'),
        (
            "anybody",
            {"labels": {"kustomize.toolkit.fluxcd.io/name": "apps"}},
            "Flux apps",
            "ssa: IfNotPresent",
        ),
        ("flagger", {}, "Flagger", "take HTTPRoute resnet50 from Flagger"),
    ],
    ids=["argo", "flux", "flagger"],
)
def test_who_puts_the_weights_back(
    estate: Estate, manager: str, about: dict[str, Any], owner: str, fix: str
) -> None:
    estate.put(manager, **about)
    (said,) = estate.lacks()
    assert said.rule is Rule.PUT_BACK
    where = "spec.rules[].backendRefs of HTTPRoute resnet50"
    assert said.reason == f"{owner} puts {where} back"
    assert fix in said.fix
    released = {"metadata": {"annotations": {"mlplatform.dev/split-by": "rollout"}}}
    estate.site.plane.merge(estate.path, released)
    assert estate.lacks() == []


def test_a_tool_stays_the_owner_of_what_a_rollout_has_written(estate: Estate) -> None:
    """The API server forgets who had the rules before."""
    estate.put("argocd-controller", labels={"team": "vision"})
    estate.meddle("mlplatform", 50)
    assert [each.rule for each in estate.lacks()] == [Rule.PUT_BACK]


def test_who_has_written_after_the_last_rollout(estate: Estate) -> None:
    estate.put("somebody")
    assert estate.lacks() == []
    split = estate.split()
    split.write({"v1": 100}, epoch=1, writer="writer-1", expected=split.read())
    assert estate.lacks() == []
    estate.meddle("kubectl-edit", 50)
    assert estate.lacks() == []
    estate.meddle("canary-bot", 60)
    (said,) = estate.lacks()
    assert said.reason.startswith("canary-bot puts spec.rules[].backendRefs")
    split.write({"v1": 100}, epoch=1, writer="writer-1", expected=split.read())
    time.sleep(1.1)
    split.write({"v1": 100}, epoch=2, writer="writer-2", expected=split.read())
    assert estate.lacks() == []


def test_a_route_that_is_not_there(estate: Estate) -> None:
    (said,) = estate.lacks()
    assert said.rule is Rule.MISSING_OBJECT
    namespace = estate.site.namespace
    assert f"the topology names HTTPRoute {namespace}/{ROUTE}, which is not there" in said.reason


def test_a_route_that_may_not_be_read(estate: Estate) -> None:
    estate.put("anybody")
    path = estate.site.path("rbac.authorization.k8s.io/v1", "rolebindings", "mlplatform-split")
    estate.site.plane.ask("DELETE", path)
    # Authorisers learn of it a moment later.
    (said,) = eventually(estate.lacks)
    assert (said.rule, said.unknown) == (Rule.UNREAD, True)
    assert 'cannot get resource "httproutes"' in said.reason
    assert estate.offer(options="&unread=accept").references == ()
