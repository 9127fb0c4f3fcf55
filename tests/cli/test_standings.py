"""What failover sees, told as rollout needs it: who may not be touched now, and what enters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from mlplatform.cli.standings import looking_at_failover, standings_of
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.failover.decision.seen import (
    Drained,
    Load,
    Mode,
    Orders,
    Override,
    Recovery,
    RouteSeen,
    Seen,
)
from mlplatform.failover.verdict.judge import Health, Verdict
from mlplatform.ports.traffic import RouteState, TrafficFeatures
from mlplatform.rollout.plan.seen import Rule, Standing

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
    read = looking_at_failover(Topology.parse(json.dumps(document)), lambda: False)
    assert read("m") == {"us": Standing()}
    assert Rule.UNDER_FAILOVER not in Standing().closed
