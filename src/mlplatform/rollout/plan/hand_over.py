"""What a region hands to others while its servers change, where old ones go first and its load
leaves none to spare. Pure; whether the others may have it failover says when it is asked, by every
gate of a planned move."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.ports.fleet import Served
from mlplatform.rollout.plan.room import declaring, rate_of, spared
from mlplatform.rollout.plan.seen import Finding, Rule, Seen
from mlplatform.rollout.plan.spare import carriers, free_of, is_open, load_of
from mlplatform.rollout.plan.steps import Case

_SLACK = 1.05
"""A plan holds while a region is left so little more than would be planned now: loads move while
people read, and those of failover's plans may by as much."""


@dataclass(frozen=True, slots=True)
class Handing:
    """A part of a region's share, for as long as its rollout takes."""

    keeps: Mapping[str, int]
    """By route that carries the model: points of weight that the region keeps."""
    requests_per_second: float
    """At its peak, that others bear meanwhile."""


def handing_over(
    topology: Topology, seen: Seen, region: str, served: Served, needed: int, today: date
) -> Handing | Finding | None:
    """The least that lets one server go, of the `needed` that its load keeps busy; or why it cannot
    be handed over. None: nothing has to be, or would help."""
    model = seen.request.subject.model
    floor_percent = topology.rollout.undo.floor_percent
    if not topology.rollout.strategy_of(model, region).hand_over:
        return None
    if (
        not spared(served.servers, floor_percent, needed)
        < 1
        <= spared(served.servers, floor_percent, 0)
    ):
        return None
    declared, version = topology.model(model).version, seen.request.subject.version
    if declared != version:
        # By failover's gate `version`: the declared one, and the last verified good before it.
        return Finding(
            Rule.CAPACITY,
            f"{region} would hand a part of its share to others, and failover brings back nothing "
            f"to {version} while the topology wants {declared or 'no version'}",
            f"set models.{model}.version: {version}",
        )
    load, rate = load_of(seen, region), rate_of(topology, model, region, served, today)
    if isinstance(load, Unknown) or isinstance(rate, Unknown):
        return None  # then nobody knows what is needed, which is said elsewhere
    bears = (served.servers - 1) * rate / load
    shares = {
        name: route.weights[region]
        for name, route in topology.traffic.routes.items()
        if model in route.models and route.weights.get(region)
    }
    keeps = {name: math.floor(weight * bears) for name, weight in shares.items()}
    whole = next((name for name, keep in keeps.items() if not keep), None)
    if whole is not None:
        return Finding(
            Rule.CAPACITY,
            f"{region} has {shares[whole]} points of route {whole}, and no part of them can be "
            "handed over so that one server is spared",
            f"start one more there, or leave it: mlplatform failover run --from {region} --planned",
        )
    moved = load * max(1 - keep / shares[name] for name, keep in keeps.items())
    lacking = _lacking(topology, seen, region, moved, today)
    return lacking or Handing(keeps, moved)


def outgrown(case: Case, keeps: Mapping[str, int], at_once: int) -> str:
    """Why a plan takes more away than its region's load lets by now, where old servers go first;
    empty where it does not. `keeps` and `at_once` are what would be planned now."""
    if not case.strategy.old_go_first:
        return ""
    if keeps and not case.keeps:
        return "by its load now no server can be spared, unless others bear a part of its share"
    if at_once < case.at_once:
        return (
            f"by its load now {at_once} of its servers may be away at once, and it was planned for "
            f"{case.at_once}"
        )
    for route, keep in case.keeps.items():
        if keep > _SLACK * keeps.get(route, keep):
            return (
                f"by its load now it may keep {keeps[route]} points of route {route}, and it was "
                f"planned for {keep}"
            )
    return ""


def _lacking(
    topology: Topology, seen: Seen, region: str, moved: float, today: date
) -> Finding | None:
    """Why the others could not bear it, as far as is known."""
    model = seen.request.subject.model
    needed = moved * topology.traffic.safety.retry_factor
    free = {
        other: free_of(topology, seen, other, today)
        for other in carriers(topology, model)
        if other != region and is_open(seen, other)
    }
    known = sum(room for room in free.values() if not isinstance(room, Unknown))
    if known >= needed:
        return None
    said = (
        f"{region} would hand {needed:.0f} req/s to others so that one server is spared, "
        f"{known:.0f} are free"
    )
    for other, room in free.items():
        if isinstance(room, Unknown):
            said = f"{said}, and of {other} nobody knows: {room.reason}"
            return Finding(Rule.CAPACITY, said, declaring(model, other), unknown=True)
    return Finding(Rule.CAPACITY, said, "start one more server there, or in another region")
