"""When the new answer is everywhere: a primary, its secondary, and servers that do not follow."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from mlplatform.core.errors import Denied, Unavailable
from mlplatform.ports.traffic import RouteState, Traffic
from tests.real.servers.catalogue import unbound as start_unbound
from tests.real.servers.launch import Endpoint, running
from tests.real.servers.names import Authority, authority

from .conftest import on

WITHIN_SECONDS = 20.0
WEST = {"east": 0, "west": 100, "north": 0}

Pair = tuple[Authority, Authority]


def shift(traffic: Traffic) -> RouteState:
    return traffic.write(WEST, epoch=1, writer="us", expected=traffic.read())


def comes_into_force(traffic: Traffic, state: RouteState) -> bool:
    deadline = time.monotonic() + WITHIN_SECONDS
    while not (there := traffic.in_force(state)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return there


@pytest.fixture
def stranger(bind: object, tmp_path: Path) -> Iterator[Authority]:
    """A server of the same zone that nobody tells anything."""
    (folder := tmp_path / "stranger").mkdir()
    with authority("bind", folder) as server:
        yield server


def test_the_secondary_follows(two: Pair) -> None:
    """By NOTIFY and transfer; then it gives the same answer, TXT record included."""
    primary, secondary = two
    traffic = on(primary, f"servers={secondary.address}")
    before = traffic.read()
    state = shift(traffic)
    assert comes_into_force(traffic, state)
    assert secondary.ask("api", "A") == {"192.0.2.2"}
    assert secondary.ask("_epoch.api", "TXT") == primary.ask("_epoch.api", "TXT")
    assert not traffic.in_force(before)


def test_a_server_that_does_not_follow(stranger: Authority, two: Pair) -> None:
    """As long as one gives the old answer, it is not in force, whoever else does not answer."""
    primary, secondary = two
    traffic = on(primary, f"servers={secondary.address},{stranger.address}")
    state = shift(traffic)
    assert not traffic.in_force(state)
    assert comes_into_force(on(primary, f"servers={secondary.address}"), state)
    assert not traffic.in_force(state)
    secondary.stop()
    assert not traffic.in_force(state)


def test_a_server_that_does_not_answer(two: Pair) -> None:
    """All others do, with the new state: nobody knows what this one tells its clients."""
    primary, secondary = two
    traffic = on(primary, f"servers={secondary.address}")
    state = shift(traffic)
    assert comes_into_force(traffic, state)
    secondary.stop()
    with pytest.raises(Unavailable, match=secondary.address):
        traffic.in_force(state)


def test_a_server_that_is_not_authoritative(two: Pair, unbound: Endpoint) -> None:
    """A resolver in the list of the zone's servers is a mistake, and named."""
    primary, _ = two
    with running("unbound", start=partial(start_unbound, upstream=primary.endpoint.port)) as lame:
        traffic = on(primary, f"servers=127.0.0.1:{lame.port}")
        state = shift(traffic)
        with pytest.raises(Denied, match=f":{lame.port} refuses to answer for ") as raised:
            traffic.in_force(state)
        assert "is it one of the zone's servers?" in str(raised.value.hint)


def test_the_state_outlives_the_server(server: Authority) -> None:
    """It dies with no time to write anything down, and comes back with it."""
    traffic = on(server)
    state = shift(traffic)
    server.kill_and_start()
    assert traffic.read() == state
    assert traffic.in_force(state)
