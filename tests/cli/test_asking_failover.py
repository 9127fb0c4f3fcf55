"""What failover sees, told as rollout needs it: who may not be touched now, and what enters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from mlplatform.cli.asking_failover import AskingFailover, asking_failover, standings_of
from mlplatform.core.errors import CheckFailed, LeaseHeld, Unavailable
from mlplatform.core.plan import Plan
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.failover.decision.seen import (
    Drained,
    Load,
    Mode,
    Orders,
    Override,
    Recovery,
    Request,
    RouteSeen,
    Seen,
)
from mlplatform.failover.operations import Said, move, resume_left
from mlplatform.failover.verdict.judge import Health, Verdict
from mlplatform.ports.traffic import RouteState, TrafficFeatures
from mlplatform.rollout.plan.seen import Rule, Standing
from tests.features.failover.estate import World
from tests.features.failover.test_operations import Crash, crash_at

NAMES = ("us", "eu", "ap")
WEIGHTS = {"us": 50, "eu": 50, "ap": 0}


def topology(*, vantages: bool = False) -> Topology:
    routes = {
        name: {"actuator": f"memory://{name}", "models": model, "weights": WEIGHTS}
        for name, model in (("api", "m"), ("other", "n"))
    }
    document = {
        "control": "memory://control",
        "regions": {
            name: {"store": f"memory://{name}", "endpoint": f"http://{name}.test"} for name in NAMES
        },
        "models": {"m": {"home": "us"}, "n": {"home": "us"}},
        "traffic": {"routes": routes, "vantages": {"fra": {}} if vantages else {}},
    }
    return Topology.parse(json.dumps(document))


def route(name: str, **changed: Any) -> RouteSeen:
    load = {region: Load(now=10.0, peak=30.0) for region in NAMES}
    there = RouteSeen(name, RouteState(WEIGHTS), TrafficFeatures(zero="nothing"), load=load)
    return replace(there, **changed)


def told(*, vantages: bool = False, **changed: Any) -> dict[str, Standing | Unknown]:
    """Of `m`; `api` carries it, and `other`, which is changed, does not."""
    health = changed.pop("health", {})
    orders = changed.pop("orders", Orders())
    verdicts = {
        name: Verdict(name, health.get(name, Health.HEALTHY), because=("as the vantages see it",))
        for name in NAMES
    }
    routes = {"api": route("api"), "other": route("other", **changed)}
    return standings_of(topology(vantages=vantages), Seen(verdicts, routes, orders), "m")


RECOVERY = Recovery("op-1", Mode.UNPLANNED, "us", began_seconds_ago=5)
ILL = {"us": Health.UNHEALTHY}
OVERRIDDEN = Override("us", "healthy", "seen with my eyes", "alice", expires_in_seconds=60)

CASES: dict[str, tuple[dict[str, Any], Mapping[str, str]]] = {
    # of a route that carries another model: what is said of each region
    "nothing": ({}, {}),
    "a failover that has moved traffic": (
        {"state": RouteState({"us": 0, "eu": 50, "ap": 50})},
        {
            "us": "under-failover: route other gives it 0 %, the topology wants 50",
            "ap": "failover-target: route other gives it 50 %, the topology wants 0",
        },
    ),
    "one under way, with its target": (
        {"recoveries": (replace(RECOVERY, targets=("ap",)),)},
        {
            "us": "under-failover: op-1 on other is under way, or was left",
            "ap": "failover-target: op-1 on other is under way, or was left",
        },
    ),
    "one that has chosen nobody yet": (
        {"recoveries": (RECOVERY,)},
        {
            "us": "under-failover: op-1 on other is under way, or was left",
            "eu": "failover-target: op-1 on other is under way, or was left",
            "ap": "failover-target: op-1 on other is under way, or was left",
        },
    ),
    "one that is over": ({"recoveries": (replace(RECOVERY, ended_seconds_ago=1.0),)}, {}),
    "servers in lame duck": (
        {"drained": {"eu": Drained("op-1", 9.0, open=False)}},
        {"eu": "drained: its servers send clients away, as op-1 told them to"},
    ),
    "a router that does not answer": (
        {"state": Unknown("no answer")},
        dict.fromkeys(NAMES, "unknown: route other: no answer"),
    ),
    "a router that does not answer, and an operation": (
        {"state": Unknown("no answer"), "recoveries": (replace(RECOVERY, targets=("eu",)),)},
        {
            "us": "under-failover: op-1 on other is under way, or was left",
            "eu": "failover-target: op-1 on other is under way, or was left",
            "ap": "unknown: route other: no answer",
        },
    ),
    "a region that is ill, and nobody watches": ({"health": ILL}, {}),
    "a region that is ill": (
        {"health": ILL, "vantages": True},
        {"us": "unhealthy: us is unhealthy: as the vantages see it"},
    ),
    "a region that nobody can judge": (
        {"health": {"us": Health.UNKNOWN}, "vantages": True},
        {"us": "unknown: us is unknown: as the vantages see it"},
    ),
    "an operator knows better": (
        {"health": ILL, "vantages": True, "orders": Orders(overrides=(OVERRIDDEN,))},
        {},
    ),
}


@pytest.mark.parametrize(("changed", "said"), CASES.values(), ids=CASES)
def test_who_may_not_be_touched(changed: dict[str, Any], said: Mapping[str, str]) -> None:
    found = {}
    for region, standing in told(**changed).items():
        if isinstance(standing, Unknown):
            found[region] = str(standing)
        elif standing.closed:
            found[region] = "; ".join(
                f"{rule.value}: {why}" for rule, why in standing.closed.items()
            )
    assert found == said


LOADS: dict[str, tuple[Load | Unknown, float | Unknown]] = {
    "the peak": (Load(now=10.0, peak=30.0), 30.0),
    "more than the peak": (Load(now=40.0, peak=30.0), 40.0),
    "no peak": (Load(now=40.0), 40.0),
    "no sample": (Load(), Unknown("there is no sample of what enters us")),
    "nobody measures": (Unknown("no Prometheus"), Unknown("no Prometheus")),
}


@pytest.mark.parametrize(("load", "expected"), LOADS.values(), ids=LOADS)
def test_what_enters_on_the_routes_of_the_model(
    load: Load | Unknown, expected: float | Unknown
) -> None:
    routes = {"api": route("api", load={"us": load}), "other": route("other")}
    found = standings_of(topology(), Seen({}, routes), "m")["us"]
    assert isinstance(found, Standing)
    assert found.load == expected


def test_without_routes_nobody_is_asked() -> None:
    document = {"control": "memory://c", "regions": {"us": {"store": "memory://us"}}}
    asked = asking_failover(Topology.parse(json.dumps(document)), lambda: False)
    assert asked.standings("m") == {"us": Standing()}
    assert Rule.UNDER_FAILOVER not in Standing().closed


# --- a part of a share is handed over, and comes back ---------------------------------------------

WHY = "the rollout of resnet@v2"
SAFETY = {"safety": {"hold_off_seconds": 60, "cooldown_seconds": 0, "step_seconds": 20}}


def world(**told: Any) -> World:
    """us has 60 points and 60 req/s, eu the rest; ten servers of 40 req/s each."""
    load = {"us": 60.0, "eu": 40.0}
    return World(**{"weights": {"us": 60, "eu": 40}, "settings": SAFETY, "load": load, **told})


def asking(of: World, writer: str = "one@host:1") -> AskingFailover:
    return AskingFailover(of.topology, of.estate(writer))


def shut(asked: AskingFailover, lent: Mapping[str, int] | None = None) -> dict[str, list[Rule]]:
    """By region, why no step of a rollout may begin there."""
    found = asked.standings("resnet", {"api": lent} if lent else {})
    return {r: list(s.closed) for r, s in found.items() if isinstance(s, Standing)}


def test_a_part_is_handed_over_and_comes_back() -> None:
    of = world()
    asked = asking(of)
    assert asked.hand_over("us", "api", 45, reason=WHY) == {"us": 45, "eu": 55}
    assert dict(of.state.weights) == {"us": 45, "eu": 55}
    assert not of.fleets["us"].lame
    assert shut(asked) == {"us": [Rule.UNDER_FAILOVER], "eu": [Rule.FAILOVER_TARGET]}
    assert shut(asked, {"us": 45, "eu": 55}) == {"us": [], "eu": []}
    assert asked.hand_over("us", "api", 45, reason=WHY) == {"us": 45, "eu": 55}
    of.time.sleep(120)
    assert asked.take_back("us", "api", reason=WHY) == ""
    assert dict(of.state.weights) == {"us": 60, "eu": 40}
    epoch = of.state.epoch
    assert asked.take_back("us", "api", reason=WHY) == ""
    assert of.state.epoch == epoch
    assert len(of.estate().journal.operations()) == 2


def test_what_others_have_no_room_for_is_not_handed_over() -> None:
    of = world(servers={"eu": 1})
    with pytest.raises(CheckFailed, match=r"us is not left 45 points .*headroom: 0 req/s free"):
        asking(of).hand_over("us", "api", 45, reason=WHY)
    assert dict(of.state.weights) == {"us": 60, "eu": 40}


def test_what_nobody_knows_is_asked_again_later() -> None:
    of = world(down={"eu"})
    with pytest.raises((CheckFailed, Unavailable)):
        asking(of).hand_over("us", "api", 45, reason=WHY)
    assert dict(of.state.weights) == {"us": 60, "eu": 40}


def test_a_region_that_is_not_well_yet_waits() -> None:
    of = world(settings={"safety": {**SAFETY["safety"], "hold_off_seconds": 600}})
    asked = asking(of)
    asked.hand_over("us", "api", 45, reason=WHY)
    of.changed["us"] = of.time.monotonic()
    said = asked.take_back("us", "api", reason=WHY)
    assert said.startswith("us has 45 of 60 points of api: us: ")
    assert "hold-off: us " in said
    of.time.sleep(700)
    assert asked.take_back("us", "api", reason=WHY) == ""
    assert dict(of.state.weights) == {"us": 60, "eu": 40}


@pytest.mark.parametrize("moment", range(1, 5))
def test_who_dies_while_it_is_handed_over_is_gone_on_with_or_taken_back(moment: int) -> None:
    for back in (False, True):
        of = world()
        said, count = crash_at(moment)
        request = Request(Mode.PLANNED, source="us", routes=("api",), keep=45, reason=WHY)
        try:
            move(of.estate("dead@host:1"), "api", request, said=said)
        except Crash:
            assert count[0] == moment
        of.time.sleep(120)
        asked = asking(of, "other@host:2")
        if not back:
            assert asked.hand_over("us", "api", 45, reason=WHY) == {"us": 45, "eu": 55}
        of.time.sleep(120)
        assert asked.take_back("us", "api", reason=WHY) == ""
        assert dict(of.state.weights) == {"us": 60, "eu": 40}
        assert not list(of.estate().journal.unfinished())


@pytest.mark.parametrize("moment", range(1, 5))
def test_who_dies_while_it_comes_back_leaves_no_operation_behind(moment: int) -> None:
    """One that is left would keep rollouts from every region of the route."""
    of = world()
    asking(of).hand_over("us", "api", 45, reason=WHY)
    of.time.sleep(120)
    said, count = crash_at(moment)
    request = Request(Mode.FAILBACK, targets=("us",), routes=("api",), reason=WHY)
    with pytest.raises(Crash):
        move(of.estate("dead@host:1"), "api", request, said=said)
    assert count[0] == moment
    of.time.sleep(120)
    asked = asking(of, "other@host:2")
    assert asked.take_back("us", "api", reason=f"{WHY}, its undo") == ""
    assert dict(of.state.weights) == {"us": 60, "eu": 40}
    assert not list(of.estate().journal.unfinished())
    assert shut(asked) == {"us": [], "eu": []}


UPGRADE = Request(Mode.PLANNED, source="us", routes=("api",), keep=20, reason="kernel upgrade")
BACK = Request(Mode.FAILBACK, routes=("api",), reason="it is over")


def test_what_others_have_left_is_not_taken_for_handed_over() -> None:
    of = world()
    move(of.estate("alice@host:1"), "api", UPGRADE)
    with pytest.raises(LeaseHeld, match=r"us has 20 of 60 points of api, and operation .* left it"):
        asking(of).hand_over("us", "api", 45, reason=WHY)


def test_what_others_have_left_since_is_not_brought_back() -> None:
    of = world()
    asked = asking(of)
    asked.hand_over("us", "api", 45, reason=WHY)
    of.time.sleep(120)
    move(of.estate("alice@host:1"), "api", UPGRADE)
    of.time.sleep(120)
    assert asked.take_back("us", "api", reason=WHY) == ""
    assert dict(of.state.weights) == {"us": 20, "eu": 80}
    move(of.estate("alice@host:1"), "api", BACK)
    assert dict(of.state.weights) == {"us": 60, "eu": 40}


@pytest.mark.parametrize("moment", range(1, 5))
def test_what_an_operator_has_begun_and_left_is_theirs_to_end(moment: int) -> None:
    of = world()
    said, _ = crash_at(moment)
    with pytest.raises(Crash):
        move(of.estate("alice@host:1"), "api", UPGRADE, said=said)
    of.time.sleep(120)
    (left,) = of.estate().journal.unfinished()
    weights = dict(of.state.weights)
    with pytest.raises(LeaseHeld, match=f"operation {left.operation} on api is under way, or was"):
        asking(of).hand_over("us", "api", 45, reason=WHY)
    assert asking(of).take_back("us", "api", reason=WHY) == ""
    assert not of.estate().journal.open(left.operation).closed
    assert dict(of.state.weights) == weights


def test_who_is_still_at_handing_it_over_is_waited_for() -> None:
    """A controller that was deposed and does not know it: it may be about to move the share."""
    of = world()
    ended: list[str] = []

    def take_back(plan: Plan, operation: str) -> None:
        with pytest.raises(LeaseHeld):
            asking(of, "other@host:2").take_back("us", "api", reason=WHY)
        ended.append(operation)

    request = Request(Mode.PLANNED, source="us", routes=("api",), keep=45, reason=WHY)
    move(of.estate("deposed@host:1"), "api", request, said=Said(plan=take_back))
    assert len(ended) == 1
    of.time.sleep(120)
    assert asking(of, "other@host:2").take_back("us", "api", reason=WHY) == ""
    assert dict(of.state.weights) == {"us": 60, "eu": 40}


@pytest.mark.parametrize("moment", range(1, 4))
def test_a_failback_that_an_operator_has_begun_and_left_is_waited_for(moment: int) -> None:
    of = world()
    asked = asking(of)
    asked.hand_over("us", "api", 45, reason=WHY)
    of.time.sleep(120)
    said, _ = crash_at(moment)
    with pytest.raises(Crash):
        move(of.estate("alice@host:1"), "api", BACK, said=said)
    of.time.sleep(120)
    (left,) = of.estate().journal.unfinished()
    has = of.state.weights["us"]
    waits = f"operation {left.operation} on api is under way, or was left" if has < 60 else ""
    assert waits in asked.take_back("us", "api", reason=WHY)
    assert of.state.weights["us"] == has
    assert not of.estate().journal.open(left.operation).closed
    resume_left(of.estate(), left.operation)
    move(of.estate("alice@host:1"), "api", BACK)
    assert asked.take_back("us", "api", reason=WHY) == ""


def test_a_region_that_has_more_than_it_handed_over_needs_nothing_back() -> None:
    """eu was lost, and us bears all of it."""
    of = world()
    asked = asking(of)
    asked.hand_over("us", "api", 45, reason=WHY)
    of.time.sleep(120)
    of.kill("eu")
    move(of.estate("alice@host:1"), "api", Request(Mode.UNPLANNED, source="eu", routes=("api",)))
    assert dict(of.state.weights) == {"us": 100, "eu": 0}
    assert asked.take_back("us", "api", reason=WHY) == ""
    assert dict(of.state.weights) == {"us": 100, "eu": 0}


@pytest.mark.parametrize("routes", [True, False])
def test_from_a_route_that_is_no_more_nothing_comes_back(routes: bool) -> None:
    of = world()
    asked = asking(of) if routes else AskingFailover(of.topology, None)
    assert asked.take_back("us", "gone", reason=WHY) == ""
    with pytest.raises(CheckFailed, match="gone: no such route any more"):
        asked.hand_over("us", "gone", 45, reason=WHY)


def test_weights_that_an_actuator_cannot_hold_are_no_failover() -> None:
    """us 60 and eu 40 are wanted; regions are in or out there, with equal shares."""
    features = TrafficFeatures(zero="nothing", all_or_nothing=True)
    of = world(features=features)
    of.traffic.write({"us": 50, "eu": 50}, epoch=1, writer="", expected=of.state)
    asked = asking(of)
    assert shut(asked) == {"us": [], "eu": []}
    assert asked.take_back("us", "api", reason=WHY) == ""
    with pytest.raises(CheckFailed, match="regions are in or out here"):
        asked.hand_over("us", "api", 45, reason=WHY)
