"""A fleet whose numbers come from whoever starts its servers."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from mlplatform import wiring
from mlplatform.adapters.counted_fleet import CountedFleet
from mlplatform.adapters.memory_servers import MemoryServers
from mlplatform.core.errors import Unavailable
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.ports.fleet import Served

BOTH = frozenset({"m", "other"})


class Endpoint:
    """One address: it says what answered, and is sometimes out of reach."""

    url = "http://eu.test"
    reached = True

    def served(self, models: frozenset[str]) -> Mapping[str, Served | Unknown]:
        if not self.reached:
            raise Unavailable("no answer", store=self.url)
        return {model: Served({"v1": "blake3:1"}, 1, requests_per_second=40.0) for model in models}

    def ask_capacity(self, model: str, servers: int) -> str:
        return f"{model} {servers}"

    def lame_duck(self, *, enter: bool) -> None:
        self.lame = enter


def fleet() -> tuple[CountedFleet, Endpoint, MemoryServers]:
    servers, endpoint = MemoryServers(), Endpoint()
    for version, number in (("v1", 3), ("v2", 1)):
        servers.scale(version, number, digest=f"blake3:{version}", epoch=1, writer="w")
    return CountedFleet(endpoint, {"m": lambda: servers}), endpoint, servers


def test_versions_and_numbers_are_counted_and_rates_are_asked() -> None:
    counted, _, _ = fleet()
    told = counted.served(BOTH)
    assert told["m"] == Served({"v1": "blake3:v1", "v2": "blake3:v2"}, 4, requests_per_second=40.0)
    assert told["other"] == Served({"v1": "blake3:1"}, 1, requests_per_second=40.0)


def test_an_endpoint_that_is_out_of_reach_does_not_hide_what_is_counted() -> None:
    counted, endpoint, _ = fleet()
    endpoint.reached = False
    told = counted.served(BOTH)
    assert told["m"] == Served({"v1": "blake3:v1", "v2": "blake3:v2"}, 4)
    assert isinstance(told["other"], Unknown)
    with pytest.raises(Unavailable):
        counted.served(frozenset({"other"}))


def test_a_version_whose_servers_all_end_is_not_served() -> None:
    counted, _, servers = fleet()
    servers.crash("v2")
    assert counted.served(frozenset({"m"}))["m"] == Served(
        {"v1": "blake3:v1"}, 3, requests_per_second=40.0
    )


def test_the_topology_says_who_is_counted() -> None:
    topology = Topology.parse(
        """
control: memory://control
regions:
  us: {store: "memory://us", endpoint: "http://127.0.0.1:1"}
  eu: {store: "memory://eu", endpoint: "http://127.0.0.1:2"}
models: {m: {home: us, replicate_to: [eu]}}
rollout: {models: {m: {servers: {us: "memory://m-us"}}}}
"""
    )
    assert isinstance(wiring.open_fleet(topology, "us"), CountedFleet)
    assert not isinstance(wiring.open_fleet(topology, "eu"), CountedFleet)
