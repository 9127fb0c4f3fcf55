"""What the memory actuator does beside the port, for simulations."""

from __future__ import annotations

import pytest

from mlplatform.adapters.memory_traffic import MemoryTraffic, open_traffic
from mlplatform.core.errors import NotFound, UsageError
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.traffic import RouteState
from tests.features.control.weather import VirtualClock

TARGETS = {"us": ("h:1",), "eu": ("h:2",), "ap": ("h:3",)}


def opened(text: str) -> MemoryTraffic:
    return open_traffic(StoreURL.parse(text, noun="actuator"), TARGETS)


def test_the_name_is_the_route() -> None:
    assert opened("memory://one/route") is opened("memory://one/route")
    assert opened("memory://one/route") is not opened("memory://another/route")
    assert opened("memory://one/route").url == "memory://one/route"


@pytest.mark.parametrize("text", ["memory://", "memory://a?option=1"])
def test_urls_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="actuator memory:"):
        opened(text)


def test_it_begins_with_equal_shares_that_nobody_claimed() -> None:
    state = opened("memory://fresh").read()
    assert dict(state.weights) == {"ap": 34, "eu": 33, "us": 33}
    assert (state.epoch, state.writer, state.ttl_seconds) == (0, "", None)


def test_it_takes_its_time() -> None:
    clock = VirtualClock()
    traffic = MemoryTraffic(["us", "eu"], propagation_seconds=30.0, ttl_seconds=60.0, clock=clock)
    first = traffic.read()
    assert first.ttl_seconds == 60.0
    assert traffic.in_force(first)
    second = traffic.write({"us": 100, "eu": 0}, epoch=1, writer="w", expected=first)
    clock.sleep(29.0)
    assert not traffic.in_force(second)
    assert not traffic.in_force(first)
    clock.sleep(1.0)
    assert traffic.in_force(second)


def test_it_can_come_back_with_an_old_configuration() -> None:
    traffic = MemoryTraffic(["us", "eu"])
    old = traffic.read()
    newest = traffic.write({"us": 100, "eu": 0}, epoch=9, writer="w", expected=old)
    traffic.restore(old)
    assert traffic.read().epoch < newest.epoch
    assert not traffic.in_force(newest)


def test_it_can_go() -> None:
    traffic = MemoryTraffic(["us", "eu"])
    traffic.restore(None)
    with pytest.raises(NotFound):
        traffic.in_force(RouteState({"us": 100, "eu": 0}))
