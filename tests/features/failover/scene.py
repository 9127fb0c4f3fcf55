"""Worlds for decisions, in a few words each.

us and eu serve half of the traffic each, ap stands by. Each has 6 warm servers of 40 req/s.
us: 100 req/s now, 200 at its peak; eu: 120, 150 at its peak; ap: none.
So what moves from us is 200 x 1.5 = 300, eu has 120 free, ap has 240.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from mlplatform.core.plan import Action, Plan
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.failover.decision.decide import decide
from mlplatform.failover.decision.seen import (
    Golden,
    Load,
    Mode,
    Orders,
    Override,
    Rate,
    Recovery,
    Request,
    RouteSeen,
    Seen,
    Standby,
)
from mlplatform.failover.verdict.judge import Health, Verdict
from mlplatform.ports.traffic import RouteState, TrafficFeatures

NOW = datetime(2026, 11, 21, 3, 0, tzinfo=UTC)
DIGEST = "blake3:aa"
ROUTER = TrafficFeatures(zero="nothing is sent")
IN_OR_OUT = TrafficFeatures(zero="not in the answer", all_or_nothing=True, ttl=True)

GOOD = Standby(
    version="v1",
    digest=DIGEST,
    allowed=frozenset({"v1"}),
    stored=DIGEST,
    golden=Golden(ok=True, seconds=0.05, age_seconds=5),
    servers=6,
    rate=Rate(40, "measured"),
)
LOADS = {"us": Load(100, 200), "eu": Load(120, 150), "ap": Load(0, 0)}
DRILLED = Recovery(
    "drill-1", Mode.DRILL, "us", 90_000, 86_400, targets=("ap",), moved=1, passed=True
)


def verdict(region: str, word: str) -> Verdict:
    """`healthy`, `dead` (serves nothing), `sick` (still serves some), `suspect`, `called-down` (by
    too few to be sure), `unknown`. A number after it is the seconds since."""
    name, _, number = word.partition(" ")
    seconds = float(number) if number else None
    if name == "healthy":
        return Verdict(region, Health.HEALTHY, well_seconds=90_000 if seconds is None else seconds)
    if name in {"dead", "sick"}:
        return Verdict(
            region,
            Health.UNHEALTHY,
            because=("3 of 3 domains see it down",),
            sick_seconds=40 if seconds is None else seconds,
            serves_nothing=name == "dead",
        )
    if name == "called-down":
        return Verdict(
            region,
            Health.SUSPECT,
            because=("2 of 2 domains get no answer",),
            sick_seconds=seconds,
            called_down=True,
        )
    if name == "suspect":
        return Verdict(region, Health.SUSPECT, because=("1 of 3 domains sees it down",))
    return Verdict(region, Health.UNKNOWN, because=("no vantage has spoken for 40 s",))


@dataclass(frozen=True)
class World:
    """A topology, and what was seen of it."""

    topology: Topology
    seen: Seen

    def ask(self, mode: Mode, source: str | None = None, *targets: str, **more: Any) -> Plan:
        request = Request(mode, source=source, targets=targets, **more)
        return decide(self.topology, self.seen, request, NOW)

    def but(self, **route: Any) -> World:
        """The same world, and its one route otherwise."""
        (name, there), *_ = self.seen.routes.items()
        routes = {**self.seen.routes, name: replace(there, **route)}
        return replace(self, seen=replace(self.seen, routes=routes))

    def with_weights(self, weights: Mapping[str, int]) -> World:
        """After somebody of ours has written these."""
        there = next(iter(self.seen.routes.values()))
        assert isinstance(there.state, RouteState)
        return self.but(state=replace(there.state, weights=dict(weights)), written=dict(weights))


def world(
    *,
    weights: Mapping[str, int] | Unknown | None = None,
    wanted: Mapping[str, int] | None = None,
    written: Mapping[str, int] | None = None,
    standby: Mapping[str, Any] | None = None,
    load: Mapping[str, Load | Unknown] | None = None,
    lag: Mapping[str, float | Unknown] | None = None,
    recoveries: Iterable[Recovery] = (),
    locks: Mapping[str, str] | None = None,
    maintenance: Mapping[str, str] | None = None,
    overrides: Sequence[Override] = (),
    aborted: Mapping[str, str] | None = None,
    features: TrafficFeatures = ROUTER,
    state: Mapping[str, Any] | None = None,
    epoch: int | None = None,
    mode: str = "auto",
    route: Mapping[str, Any] | None = None,
    safety: Mapping[str, Any] | None = None,
    capacity: Mapping[str, Any] | None = None,
    models: Mapping[str, Any] | None = None,
    drilled: bool = True,
    **health: str,
) -> World:
    """us, eu and ap as the module says, but for what is given. `standby`: by region, fields of its
    `Standby` that differ, or Unknown."""
    wanted = {"us": 50, "eu": 50, "ap": 0} if wanted is None else wanted
    regions = dict.fromkeys([*(wanted or {"us": 0, "eu": 0, "ap": 0})])
    served = models or {"m": {}}
    topology = Topology.model_validate(
        {
            "control": "memory://control",
            "regions": {name: {"store": f"memory://{name}"} for name in regions},
            "models": {name: {"home": next(iter(regions)), "version": "v1"} for name in served},
            "traffic": {
                "routes": {
                    "api": {
                        "actuator": "memory://api",
                        "models": list(served),
                        "weights": wanted,
                        "mode": mode,
                        **(route or {}),
                    }
                },
                "safety": safety or {},
                "capacity": capacity or {},
            },
        }
    )
    offered: dict[str, dict[str, Standby | Unknown]] = {}
    for name in regions:
        differs = (standby or {}).get(name, {})
        offered[name] = {
            model: differs if isinstance(differs, Unknown) else replace(GOOD, **differs)
            for model in served
        }
    found: RouteState | Unknown
    if isinstance(weights, Unknown):
        found = weights
    else:
        found = RouteState(
            {**(wanted if weights is None else weights)}, **{"epoch": 3, **(state or {})}
        )
    there = RouteSeen(
        "api",
        found,
        features,
        epoch=epoch,
        standby=offered,
        load={**LOADS, **(load or {})},
        lag_seconds=lag or {},
        written=written,
        recoveries=(*((DRILLED,) if drilled else ()), *recoveries),
    )
    return World(
        topology,
        Seen(
            verdicts={name: verdict(name, health.get(name, "healthy")) for name in regions},
            routes={"api": there},
            orders=Orders(locks or {}, maintenance or {}, tuple(overrides), aborted=aborted or {}),
        ),
    )


def past(
    source: str = "us",
    *,
    ended: float | None,
    began: float | None = None,
    mode: Mode = Mode.UNPLANNED,
    moved: int = 50,
    targets: tuple[str, ...] = (),
    passed: bool = True,
    drained: bool = False,
    automatic: bool = False,
) -> Recovery:
    """A recovery that ended so many seconds ago, a minute after it had begun."""
    began_seconds_ago = began if began is not None else (ended or 0) + 60
    return Recovery(
        f"op-{source}",
        mode,
        source,
        began_seconds_ago,
        ended,
        targets,
        moved,
        passed,
        drained=drained,
        automatic=automatic,
    )


def shifts(plan: Plan) -> list[Action]:
    return [action for action in plan.actions if action.kind == "shift"]


def weights_of(plan: Plan) -> list[dict[str, int]]:
    """What each shift of the plan leads to, regions without weight left out."""
    return [
        {region: weight for region, weight in action.parameters["after"].items() if weight}
        for action in shifts(plan)
    ]


def done(plan: Plan) -> list[str]:
    """The plan's actions: kind and region."""
    return [f"{action.kind} {action.region}" for action in plan.actions]


def held(plan: Plan) -> list[str]:
    """The plan's holds: region and reason, with a mark where it is unknown."""
    return [f"{hold.region}{'?' if hold.unknown else ''}: {hold.reason}" for hold in plan.holds]


def says(plan: Plan, *starts: str) -> None:
    """Each of these begins one of the plan's holds, and there is no other."""
    left = held(plan)
    for start in starts:
        match = next((line for line in left if line.startswith(start)), None)
        assert match is not None, f"nothing begins with {start!r}; there is {held(plan)}"
        left.remove(match)
    assert not left, left
