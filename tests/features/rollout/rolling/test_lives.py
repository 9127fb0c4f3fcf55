"""A rollout whose controller dies before any of its effects, or loses the answer to one: another
goes on, and it ends as if nothing had been.

Each scenario dies at some of its points, chosen evenly; at all of them, some two thousand, with
`MLPLATFORM_EVERY_CRASH=1 pytest -n 2 tests/features/rollout/rolling/test_lives.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from mlplatform.core.errors import MlplatformError, UsageError
from mlplatform.ports.servers import Ailing, Stuck
from mlplatform.rollout import operations
from mlplatform.rollout.operations import Ended, Rolled
from mlplatform.rollout.records import StoredPlan
from tests.features.rollout.plan.world import WEIGHTS

from .lives import Broken, Judge, Killed, Process, answer_lost
from .world import POLICY, World

QUICK: Mapping[str, Any] = {
    **POLICY,
    "strategy": {"weights": [10, 50], "step_seconds": 60},
    "waves": {"bake_seconds": 60},
}


def _strategy(**told: Any) -> Mapping[str, Any]:
    return {**QUICK, "strategy": {"step_seconds": 60, **told}}


def _dies(world: World, *, again: bool) -> None:
    """The canary's servers end when it has had a share for a while; `again`: each time."""
    us = world.servers["us"]
    died: list[bool] = []

    def meanwhile(seconds: float) -> None:
        del seconds
        if world.weights("us").get("v2") == 50 and not died and "v2" in us.read().groups:
            died.append(True)
            if again:
                us.broken["v2"] = Ailing("v2", Stuck.CRASH, "out of luck")
            us.crash("v2", 9)

    world.time.meanwhile.append(meanwhile)


def _crashes(world: World) -> None:
    _dies(world, again=True)


def _crashes_once(world: World) -> None:
    _dies(world, again=False)


@dataclass(frozen=True)
class Scenario:
    """What is rolled out where, and what has to come of it."""

    wins: str = "v2"
    regions: tuple[str, ...] = ("us",)
    world: Mapping[str, Any] = field(default_factory=dict)
    befalls: Callable[[World], None] = lambda world: None
    crashes: bool = False
    or_returned: bool = False
    """Whether a controller that died may make the difference: nobody was there to help in time."""
    wrong: bool = False
    bear_all: int = 4
    hands_over: bool = False

    def begin(self) -> World:
        world = World(**{"policy": QUICK, **self.world})
        world.look = Judge(
            world, crashes=self.crashes, bear_all=self.bear_all, hands_over=self.hands_over
        )
        if self.wrong:
            world.probe.wrong = {"v2"}
        self.befalls(world)
        return world


BAD = {"v1": 0.002, "v2": 0.05}
HANDS_OVER: Mapping[str, Any] = {
    "policy": _strategy(weights=[10, 50], surge_servers=0, hand_over=True),
    "loads": {"us": 350.0},
}
SCENARIOS = {
    "good": Scenario(),
    "errors": Scenario("v1", world={"errors": BAD}),
    "crashes": Scenario("v1", befalls=_crashes, crashes=True),
    "crashes once": Scenario("v2", befalls=_crashes_once, crashes=True, or_returned=True),
    "wrong answers": Scenario("v1", wrong=True),
    "no surge": Scenario(
        bear_all=2, world={"policy": _strategy(weights=[10, 50], surge_servers=0)}
    ),
    "no surge, errors": Scenario(
        "v1",
        bear_all=2,
        world={"policy": _strategy(weights=[10, 50], surge_servers=0), "errors": BAD},
    ),
    "hands over": Scenario(bear_all=3, hands_over=True, world=HANDS_OVER),
    "hands over, errors": Scenario(
        "v1", bear_all=3, hands_over=True, world={**HANDS_OVER, "errors": BAD}
    ),
    "hands over, in place": Scenario(
        bear_all=3,
        hands_over=True,
        world={**HANDS_OVER, "policy": _strategy(kind="in_place", hand_over=True)},
    ),
    "blue/green": Scenario(world={"policy": _strategy(kind="blue_green")}),
    "blue/green, errors": Scenario(
        "v1", world={"policy": _strategy(kind="blue_green"), "errors": BAD}
    ),
    "in place": Scenario(bear_all=2, world={"policy": _strategy(kind="in_place")}),
    "in place, errors": Scenario(
        "v1", bear_all=2, world={"policy": _strategy(kind="in_place"), "errors": BAD}
    ),
    "first": Scenario(world={"first": True}),
    "first, wrong answers": Scenario("", world={"first": True}, wrong=True),
    "two at once": Scenario(
        regions=("us", "eu"),
        world={
            "policy": {
                **QUICK,
                "waves": {"bake_seconds": 60, "concurrency": 2, "spare_region": False},
            }
        },
    ),
    "two at once, errors": Scenario(
        "v1",
        regions=("us", "eu"),
        world={
            "policy": {
                **QUICK,
                "waves": {"bake_seconds": 60, "concurrency": 2, "spare_region": False},
            },
            "errors": BAD,
        },
    ),
}


def _planned(scenario: Scenario) -> tuple[World, StoredPlan]:
    world = scenario.begin()
    return world, world.plan(*scenario.regions)


def _required(scenario: Scenario, world: World, rolled: Rolled | None) -> None:
    """It is over, as it has to be, and nothing is left of it."""
    sites = world.sites("judge")
    assert rolled is not None
    for region in scenario.regions:
        alone = {scenario.wins: 4} if scenario.wins else {}
        assert world.holds(region) == alone, world.said
        groups = world.servers[region].read().groups
        assert {v: g.wanted for v, g in groups.items()} == alone
        if scenario.wins:
            assert world.weights(region) == {scenario.wins: 100}
    assert world.between.weights == WEIGHTS
    assert not sites.pins.read()
    assert not list(sites.journal.unfinished())
    ended = Ended.PROMOTED if scenario.wins == "v2" else Ended.RETURNED
    assert rolled.ended is ended, rolled
    with pytest.raises(UsageError, match="is over already"):
        world.go_on("three")


def _length(scenario: Scenario) -> int:
    world, plan = _planned(scenario)
    process = Process(world)
    _required(scenario, world, world.apply(plan=plan, way=process))
    return len(process.effects)


def _dies_at(scenario: Scenario, number: int) -> None:
    """Killed before that effect, and taken up by another in one of the ways there are."""
    world, plan = _planned(scenario)
    first = Process(world, dies_before=number)
    with pytest.raises(Killed):
        world.apply(plan=plan, way=first)
    second = Process(world)
    begun = list(world.sites().journal.unfinished())
    if not begun and any("journal/" in effect for effect in first.effects):
        try:
            stream = operations.newest(world.sites(), "m")
        except UsageError:
            stream = None
        if stream is not None and stream.closed:
            _required_closed(scenario, world)
            return
    if begun and number % 2:
        rolled = world.go_on(way=second)
    else:
        rolled = world.apply(plan=plan, way=second, writer="two", wait=True)
    if scenario.or_returned and rolled is not None and rolled.ended is Ended.RETURNED:
        scenario = replace(scenario, wins="v1")
    _required(scenario, world, rolled)


def _required_closed(scenario: Scenario, world: World) -> None:
    """It was over when its controller died; only what it would have said was not said."""
    for region in scenario.regions:
        assert world.holds(region) == ({scenario.wins: 4} if scenario.wins else {})
    assert not world.sites().pins.read()


POINTS = 4
EVERY = os.environ.get("MLPLATFORM_EVERY_CRASH") == "1"


@pytest.mark.parametrize("name", SCENARIOS)
def test_another_goes_on_where_a_controller_died(name: str) -> None:
    scenario = SCENARIOS[name]
    length = _length(scenario)
    for number in range(length) if EVERY else _some(length, POINTS):
        try:
            _dies_at(scenario, number)
        except (AssertionError, Broken, MlplatformError) as error:
            raise AssertionError(f"{name}: killed before effect {number} of {length}") from error


def _some(length: int, points: int) -> list[int]:
    """So many of `length`, evenly; never the same ones for all, since lengths differ."""
    return sorted({(2 * n + 1) * length // (2 * points) for n in range(points)})


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_answer_changes_nothing(name: str, when: str) -> None:
    scenario = SCENARIOS[name]
    world, plan = _planned(scenario)
    process = Process(world)
    world.apply(plan=plan, way=process)
    numbers = [
        n for n, what in enumerate(process.effects) if not what.startswith(("put", "delete"))
    ]
    for number in numbers[:: max(1, len(numbers) // 2)]:
        world, plan = _planned(scenario)
        befalls = answer_lost(number)
        quiet = lambda now, what: None  # noqa: E731
        process = Process(
            world,
            happens=befalls if when == "before" else quiet,
            happened=befalls if when == "after" else quiet,
        )
        rolled = world.apply(plan=plan, way=process)
        _required(scenario, world, rolled)
