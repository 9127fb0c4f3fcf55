"""How long it takes to decide what becomes of a lost region, and that it grows no faster than what
there is to look at. Beside it, what nobody can save: one look at each model of each region."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from benchmarks.measure import Result, Row
from mlplatform.core.plan import Plan
from mlplatform.core.topology import Topology
from mlplatform.failover.decision.decide import decide, propose_requests
from mlplatform.failover.decision.seen import (
    Golden,
    Load,
    Mode,
    Rate,
    Recovery,
    Request,
    RouteSeen,
    Seen,
    Standby,
)
from mlplatform.failover.verdict.judge import Health, Verdict
from mlplatform.ports.traffic import RouteState, TrafficFeatures

PAIRS = 7
LIMIT_SECONDS = 1.0
REGIONS = 50
MODELS = 2000
GROWTH_LIMIT = 1.3
"""Of the time for each model, from a tenth of the models to all."""
_NOW = datetime(2026, 11, 21, tzinfo=UTC)


def estate(regions: int, models: int, routes: int) -> tuple[Topology, Seen, Request]:
    """A world whose first region is dead, with `models` over so many routes; and the request."""
    places = [f"region-{n:02}" for n in range(regions)]
    share, rest = divmod(100, regions)
    weights = {place: share + (n < rest) for n, place in enumerate(places)}
    served = [f"model-{n:04}" for n in range(models)]
    by_route = {f"route-{n:04}": tuple(served[n::routes]) for n in range(routes)}
    topology = Topology.model_validate(
        {
            "control": "memory://control",
            "regions": {place: {"store": f"memory://{place}"} for place in places},
            "models": {name: {"home": places[0], "version": "v1"} for name in served},
            "traffic": {
                "routes": {
                    name: {
                        "actuator": f"memory://{name}",
                        "models": list(names),
                        "weights": weights,
                        "mode": "auto",
                    }
                    for name, names in by_route.items()
                }
            },
        }
    )
    ready = Standby(
        version="v1",
        digest="blake3:aa",
        allowed=frozenset({"v1"}),
        stored="blake3:aa",
        golden=Golden(ok=True, seconds=0.05, age_seconds=5),
        servers=20,
        rate=Rate(40, "measured"),
    )
    drill = Recovery("drill", Mode.DRILL, None, 90, 60, moved=1, passed=True)
    seen = Seen(
        verdicts={place: Verdict(place, Health.HEALTHY, well_seconds=1e6) for place in places[1:]}
        | {places[0]: Verdict(places[0], Health.UNHEALTHY, sick_seconds=40, serves_nothing=True)},
        routes={
            name: RouteSeen(
                name,
                RouteState(weights, epoch=1),
                TrafficFeatures(zero="nothing is sent"),
                standby={place: {model: replace(ready) for model in names} for place in places},
                load={place: Load(100, 200) for place in places},
                recoveries=(drill,),
            )
            for name, names in by_route.items()
        },
    )
    return topology, seen, Request(Mode.UNPLANNED, source=places[0], automatic=True)


def decided(topology: Topology, seen: Seen, request: Request) -> Plan:
    """One decision, as the watch comes to it."""
    assert propose_requests(topology, seen)
    plan = decide(topology, seen, request, _NOW)
    shifts = [action for action in plan.actions if action.kind == "shift"]
    assert len(shifts) == len(topology.traffic.routes), plan.holds[:3]
    return plan


def looked(seen: Seen) -> int:
    """The peer: every model of every region is looked at once."""
    return sum(
        standby.version in standby.allowed
        for route in seen.routes.values()
        for models in route.standby.values()
        for standby in models.values()
        if isinstance(standby, Standby)
    )


def measure(pairs: int) -> Result:
    """Interleaved with the peer, for a route of all models and for one route each."""
    result = Result(
        "failover_decide",
        f"a lost region of {REGIONS}, {MODELS} models; medians of {pairs} interleaved pairs",
        peer="one look at each model of each region, in Python",
    )
    for label, routes in (("one route", 1), (f"{MODELS // 20} routes", MODELS // 20)):
        ours: list[float] = []
        peer: list[float] = []
        each: Mapping[int, list[float]] = {MODELS // 10: [], MODELS: []}
        worlds = {
            MODELS // 10: estate(REGIONS, MODELS // 10, max(1, routes // 10)),
            MODELS: estate(REGIONS, MODELS, routes),
        }
        for _ in range(pairs):
            for models, world in worlds.items():
                began = time.perf_counter()
                decided(*world)
                each[models].append((time.perf_counter() - began) / models)
            ours.append(each[MODELS][-1] * MODELS)
            began = time.perf_counter()
            looked(worlds[MODELS][1])
            peer.append(time.perf_counter() - began)
        result.rows.append(Row(f"{label}, beside a look", "s", ours, peer))
        result.rows.append(Row(f"{label}, in seconds", "s", ours, limit=LIMIT_SECONDS))
        few, lots = each.values()
        result.rows.append(
            Row(f"{label}, a model of {MODELS} beside one of {MODELS // 10}", "s", lots, few,
                limit=GROWTH_LIMIT)
        )  # fmt: skip
    return result
