"""What a cluster offers, and how many servers there are, where an API server answers ill: what a
plan is made from is asked for again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from mlplatform.adapters.deployments import open_servers
from mlplatform.adapters.kubernetes_ground import open_ground
from mlplatform.control.retry_ground import RetryingGround
from mlplatform.control.retry_split import BriefRetry, RetryingServers
from mlplatform.core.errors import StoreError, Throttled
from mlplatform.core.store_url import StoreURL
from tests.features.control.weather import VirtualClock
from tests.features.deployments.site import MODEL, Site
from tests.real.servers.cluster import Cluster
from tests.real.servers.gateway import Reply, Way, refusing, way_to
from tests.real.servers.roles import grant

pytestmark = [pytest.mark.real("kubernetes"), pytest.mark.xdist_group("kubernetes_cluster")]

ILL: dict[str, Reply | str] = {
    "a page came too late": refusing(410, "Expired"),
    "too many ask": refusing(429, "TooManyRequests", after_seconds=1),
    "it fails": refusing(500, "InternalError"),
    "it is being restarted": refusing(503, "ServiceUnavailable"),
    "the line is cut": "cut",
    "the answer is lost": "lost",
}


class Estate:
    """A namespace behind a way on which answers are ill."""

    def __init__(self, cluster: Cluster, folder: Path, way: Way) -> None:
        site = Site(cluster, folder, gpus=2)
        grant(cluster.plane, "ground.yaml", site.namespace)
        site.first(servers=0)
        self.way = way
        server = f"https://127.0.0.1:{way.server_port}"
        file = cluster.plane.kubeconfig(
            folder / "way.yaml", "rollout-1", context="eu", server=server
        )
        text = f"deployments://eu/{site.namespace}?kubeconfig={file}"
        self.url = StoreURL.parse(text, noun="servers")
        self.clock = VirtualClock()
        self.retry = BriefRetry(self.clock, Random(0), attempts=6, deadline_seconds=4.0)

    def befall(self, answer: Reply | str, *, at: int, times: int = 1) -> None:
        """Ill answers from the request of that number on."""
        asked = 0

        def weather(method: str) -> Reply | str:
            nonlocal asked
            asked += 1
            return answer if at <= asked < at + times else ""

        self.way.weather = weather


@pytest.fixture
def estate(kubernetes_cluster: Cluster, tmp_path: Path) -> Iterator[Estate]:
    with way_to(kubernetes_cluster.plane) as way:
        yield Estate(kubernetes_cluster, tmp_path, way)


@pytest.mark.parametrize("at", [1, 6])
@pytest.mark.parametrize("what", ILL)
def test_one_ill_answer_is_no_reason(estate: Estate, what: str, at: int) -> None:
    ground = open_ground(estate.url, MODEL)
    estate.befall(ILL[what], at=at)
    offer = RetryingGround(ground, estate.retry).offers("v2")
    assert offer.template.name == "Deployment resnet"
    assert isinstance(offer.nodes, tuple)
    assert offer == ground.offers("v2")


@pytest.mark.parametrize("what", ILL)
def test_servers_are_counted_all_the_same(estate: Estate, what: str) -> None:
    estate.befall(ILL[what], at=2)
    servers = RetryingServers(open_servers(estate.url, MODEL), estate.retry)
    assert servers.read().groups == {}


def test_an_api_server_that_is_away_is_given_up_in_time(estate: Estate) -> None:
    estate.befall(refusing(503, "ServiceUnavailable"), at=1, times=1_000_000)
    began = estate.clock.monotonic()
    with pytest.raises(StoreError, match=r"the API server fails: .*ServiceUnavailable"):
        RetryingGround(open_ground(estate.url, MODEL), estate.retry).offers("v2")
    assert estate.clock.monotonic() - began <= 4.0


def test_what_an_api_server_asks_for_is_heeded(estate: Estate) -> None:
    """429 says after how long."""
    estate.befall(refusing(429, "TooManyRequests", after_seconds=3), at=1)
    with pytest.raises(Throttled) as raised:
        open_ground(estate.url, MODEL).offers("v2")
    assert raised.value.retry_after_seconds == 3
    estate.befall(refusing(429, "TooManyRequests", after_seconds=3), at=1)
    began = estate.clock.monotonic()
    RetryingGround(open_ground(estate.url, MODEL), estate.retry).offers("v2")
    assert estate.clock.monotonic() - began >= 3.0
