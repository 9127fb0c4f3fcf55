"""The router that `benchmarks.failover` is measured beside, as anybody sets one up."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from benchmarks.failover import checked
from tests.conformance.traffic.caddy_site import World
from tests.real.servers.launch import Endpoint
from tests.real.servers.regions import regions
from tests.waiting import wait_until


@pytest.mark.xdist_group("caddy")
def test_a_server_that_died_is_left_out_by_its_own_checks(caddy: Endpoint) -> None:
    with ExitStack() as stack:
        behind = stack.enter_context(regions(["a", "b"]))
        peer = World(stack, behind, checked(behind.targets, "100ms"))
        wait_until(lambda: set(peer.count(20)) == {"a", "b"}, seconds=30)
        behind.stop("a")
        wait_until(lambda: set(peer.count(20)) == {"b"}, seconds=30)
