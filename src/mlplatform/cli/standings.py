"""How regions stand with failover, as rollout needs to know it: features do not know each other,
and commands know both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology

if TYPE_CHECKING:
    from mlplatform.failover.decision.seen import Load, RouteSeen, Seen
    from mlplatform.rollout.plan.seen import Rule, Standing


def looking_at_failover(
    topology: Topology, stop: Callable[[], bool]
) -> Callable[[str], Mapping[str, Standing | Unknown]]:
    """What tells how each region stands. Nothing is claimed and nothing changed. Where the topology
    has no route, no region can be under failover."""
    from mlplatform.rollout.plan.seen import Standing

    if not topology.traffic.routes:
        return lambda model: {region: Standing() for region in topology.regions}
    from mlplatform.failover.failover_controller import open_estate

    estate = open_estate(topology, stop=stop)
    return lambda model: standings_of(topology, estate.observe(), model)


def standings_of(topology: Topology, seen: Seen, model: str) -> dict[str, Standing | Unknown]:
    """By region: why nothing may begin there, and what enters it for a model."""
    from mlplatform.failover.decision.case import verdicts_in_force
    from mlplatform.failover.verdict.judge import Health
    from mlplatform.ports.traffic import RouteState
    from mlplatform.rollout.plan.seen import Rule, Standing

    verdicts = verdicts_in_force(topology, seen) if topology.traffic.vantages else {}
    found: dict[str, Standing | Unknown] = {}
    for region in topology.regions:
        closed: dict[Rule, str] = {}
        unknown = ""
        for name, there in seen.routes.items():
            wanted = topology.traffic.routes[name].weights
            if isinstance(there.state, RouteState):
                _compare(name, region, there.state.weights, wanted, closed)
            elif region in wanted:
                unknown = unknown or f"route {name}: {there.state.reason}"
            _of_operations(there, region, wanted, closed)
        verdict = verdicts.get(region)
        if verdict is not None and verdict.health is not Health.HEALTHY:
            why = verdict.because[0] if verdict.because else "no reason was given"
            said = f"{region} is {verdict.health.value}: {why}"
            if verdict.health is Health.UNKNOWN:
                unknown = unknown or said
            else:
                closed[Rule.UNHEALTHY] = said
        # What is known to stand in the way is said, whatever else is not known.
        if unknown and not closed:
            found[region] = Unknown(unknown)
        else:
            found[region] = Standing(closed, _load(topology, seen, region, model))
    return found


def _compare(
    route: str,
    region: str,
    weights: Mapping[str, int],
    wanted: Mapping[str, int],
    closed: dict[Rule, str],
) -> None:
    """A region that has not what the topology gives it has been left, or bears another's share,
    whoever moved it."""
    from mlplatform.rollout.plan.seen import Rule

    has, gets = weights.get(region, 0), wanted.get(region, 0)
    if wanted and has != gets:
        rule = Rule.UNDER_FAILOVER if has < gets else Rule.FAILOVER_TARGET
        closed.setdefault(rule, f"route {route} gives it {has} %, the topology wants {gets}")


def _of_operations(
    there: RouteSeen, region: str, wanted: Mapping[str, int], closed: dict[Rule, str]
) -> None:
    """What is under way on a route, or was left. While it has moved nothing, it may yet bring any
    region of the route more."""
    from mlplatform.rollout.plan.seen import Rule

    for recovery in there.recoveries:
        if recovery.ended_seconds_ago is not None:
            continue
        said = f"{recovery.operation} on {there.name} is under way, or was left"
        if region == recovery.source:
            closed[Rule.UNDER_FAILOVER] = said
        elif region in (recovery.targets or wanted):
            closed[Rule.FAILOVER_TARGET] = said
    if (drained := there.drained.get(region)) is not None:
        said = f"its servers send clients away, as {drained.operation} told them to"
        closed[Rule.DRAINED] = said


def _load(topology: Topology, seen: Seen, region: str, model: str) -> float | Unknown:
    """Of all routes that carry the model, together."""
    loads = [
        there.load.get(region, Unknown(f"route {name}: nobody measured what enters {region}"))
        for name, there in seen.routes.items()
        if model in topology.traffic.routes[name].models
        and region in topology.traffic.routes[name].weights
    ]
    return _together(loads, region)


def _together(loads: Iterable[Load | Unknown], region: str) -> float | Unknown:
    total = 0.0
    for load in loads:
        if isinstance(load, Unknown):
            return load
        most = [figure for figure in (load.now, load.peak) if figure is not None]
        if not most:
            return Unknown(f"there is no sample of what enters {region}")
        total += max(most)
    return total
