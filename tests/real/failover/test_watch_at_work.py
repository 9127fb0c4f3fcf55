"""`mlplatform failover watch` at work: a region dies and comes back, controllers and control stores
die, and clocks are wrong, while vantages probe and clients go on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.cli.estate import wrapped
from tests.cli.test_failover_weather import WRONG_CLOCK
from tests.real.failover.platform import WEIGHTS, Platform, metrics, platform, receiver
from tests.real.servers.launch import free_port
from tests.real.weather.meddler import Asked
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("caddy")

WATCH = ("failover", "watch", "--interval", "0.2", "--metrics", "127.0.0.1:0")
MOVED = {"us": 0, "eu": 75, "ap": 25}
CANNOT_ACT = "failover cannot act: no majority of control stores"

Told = list[dict[str, Any]]


@pytest.fixture
def told() -> Iterator[tuple[str, Told]]:
    """Who is to be told: the URL, and what was."""
    with receiver() as found:
        yield found


@pytest.fixture
def world(tmp_path: Path, told: tuple[str, Told]) -> Iterator[Platform]:
    """Everybody is at work, but for the watch."""
    with platform(tmp_path) as found:
        found.traffic["notify"] = {"ops": {"kind": "webhook", "variable": "OPS_URL"}}
        found.env = {"OPS_URL": told[0]}
        found.let_it_act()
        yield found


def titles(told: Told) -> list[str]:
    return [notice["title"] for notice in told]


def test_a_region_dies_and_comes_back_by_itself(world: Platform, told: tuple[str, Told]) -> None:
    port = free_port()
    watch = world.beside(*WATCH[:-1], f"127.0.0.1:{port}")
    wait_until(lambda: 'mlplatform_route_weight{region="us",route="api"} 50.0' in metrics(port))
    ready = 'mlplatform_failover_ready{from="us",gate="",route="api",to="eu"} 1.0'
    wait_until(lambda: ready in metrics(port))
    wait_until(lambda: "mlplatform_failover_can_act 1.0" in metrics(port))
    world.servers["us"].kill()
    wait_until(lambda: world.weights == MOVED, lambda: watch.said)
    assert set(world.requests(20)) == {"eu", "ap"}, "no client is lost from then on"
    wait_until(lambda: "api: unplanned is over" in titles(told[1]), lambda: watch.said)
    of_us = [title for title in titles(told[1]) if title.startswith("us is ")]
    assert "us is unhealthy" in of_us
    assert all(one != next_one for one, next_one in pairwise(of_us)), "what stands is told once"
    over = next(each for each in told[1] if each["title"] == "api: unplanned is over")
    assert any("clients have moved" in line for line in over["lines"])
    done = 'mlplatform_failover_operations_total{mode="unplanned",result="done",route="api"} 1.0'
    assert done in metrics(port)
    ill = 'mlplatform_region_health{health="unhealthy",region="us"} 1.0'
    wait_until(lambda: ill in metrics(port), lambda: watch.said)
    world.servers["us"].start()
    wait_until(lambda: world.weights == WEIGHTS, lambda: watch.said)
    wait_until(lambda: "api: failback is over" in titles(told[1]), lambda: watch.said)
    assert watch.interrupt() == 0, watch.said
    for secret in ("SECRET-PATH", told[0]):
        assert secret not in watch.said
    modes = [plan["actions"][0]["parameters"]["mode"] for plan in world.operations()]
    assert modes == ["drill", "unplanned", "failback"], "each once"


def test_without_control_stores_it_holds_and_pages_and_then_it_acts(
    world: Platform, told: tuple[str, Told]
) -> None:
    port = free_port()
    watch = world.beside(*WATCH[:-1], f"127.0.0.1:{port}")
    wait_until(lambda: "mlplatform_failover_can_act 1.0" in metrics(port))
    epoch = world.epoch
    world.lose_control()
    world.servers["us"].kill()
    wait_until(lambda: CANNOT_ACT in titles(told[1]), lambda: watch.said)
    wait_until(lambda: "mlplatform_failover_can_act 0.0" in metrics(port))
    # Beside it there may be word of regions: a round in which the stores are lost knows nothing.
    (page,) = (notice for notice in told[1] if notice["title"] == CANNOT_ACT)
    assert page["severity"] == "critical"
    assert any("--without-control" in line for line in page["lines"])
    assert (world.weights, world.epoch) == (WEIGHTS, epoch)
    world.find_control()
    wait_until(lambda: world.weights == MOVED, lambda: watch.said)
    wait_until(lambda: "failover can act again" in titles(told[1]), lambda: watch.said)
    assert watch.interrupt() == 0, watch.said


def test_a_watch_dies_in_the_middle_and_another_finishes(world: Platform) -> None:
    """Caddy has done as it was told, and the one that told it dies before it hears of it."""
    moved, dead = threading.Event(), threading.Event()

    def hold(asked: Asked, body: bytes) -> bytes:
        if asked.method == "PATCH" and not moved.is_set() and world.weights["us"] == 0:
            moved.set()
            dead.wait(60)
        return body

    world.world.way.outward = hold
    first, second = (world.beside(*WATCH) for _ in range(2))
    world.servers["us"].kill()
    wait_until(moved.is_set, lambda: first.said + second.said)
    assert world.weights == MOVED
    writer = world.writer
    acting, other = (first, second) if writer.endswith(f":{first.process.pid}") else (second, first)
    acting.kill()
    dead.set()
    wait_until(lambda: _all_closed(world), lambda: other.said)
    assert world.weights == MOVED
    assert set(world.requests(20)) == {"eu", "ap"}
    assert len(world.operations()) == 2, "the drill, and this one"
    assert f"resumed, by {world.writer}" in world.good("history").out
    assert other.interrupt() == 0, other.said


def _all_closed(world: Platform) -> bool:
    (route,) = world.run("failover", "status", "--output", "json").json()["routes"]
    return route["operation"] is None


@pytest.mark.parametrize("hours", [1, -1])
def test_a_watch_whose_clock_is_an_hour_off_acts_all_the_same(world: Platform, hours: int) -> None:
    """It sees records change, and needs no clock to know that they are new."""
    program = wrapped(WRONG_CLOCK.format(hours=hours))
    watch = world.beside(*WATCH, program=program)
    world.servers["us"].kill()
    wait_until(lambda: world.weights["us"] == 0, lambda: watch.said)
    assert set(world.requests(8)) == {"eu", "ap"}
