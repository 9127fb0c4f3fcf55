"""The rungs above STORED, as they are seen now: who has loaded a version, who answers with it, and
who has a share of the world's traffic. Pure.

*Loaded* is what a region's ready servers state; *warm* is a golden request that was answered right
lately, as quickly as a target has to; *serving* is weight on a route that carries the model. Only
what is stored and verified climbs: bytes that are in doubt are shown as that, whoever serves them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mlplatform.core.placement import Grid, Integrity, Placement, Rung
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.failover.decision.gates import golden_age_seconds_max
from mlplatform.failover.decision.seen import Golden, Standby
from mlplatform.ports.traffic import RouteState

Standbys = Mapping[str, Mapping[str, Standby | Unknown]]
"""By region, then by model."""
States = Mapping[str, RouteState | Unknown]
"""By route."""


def climbed(grid: Grid, topology: Topology, states: States, standbys: Standbys) -> Grid:
    """The grid with every placement on the rung that it is seen on. What nobody could see stays
    where it was proven to be."""
    return replace(
        grid,
        placements=tuple(_climbed(each, topology, states, standbys) for each in grid),
    )


def _climbed(
    placement: Placement, topology: Topology, states: States, standbys: Standbys
) -> Placement:
    if placement.rung is not Rung.STORED or placement.integrity is not Integrity.VERIFIED:
        return placement
    subject, region = placement.subject, placement.region
    offered = standbys.get(region, {}).get(subject.model)
    if (
        not isinstance(offered, Standby)
        or offered.version != subject.version
        or offered.digest is None
        or offered.digest != placement.digest
    ):
        return placement
    if not is_warm(offered.golden, topology):
        return replace(placement, rung=Rung.LOADED)
    shares = tuple(
        (name, share)
        for name, route in topology.traffic.routes.items()
        if subject.model in route.models
        and isinstance(state := states.get(name), RouteState)
        and (share := state.weights.get(region, 0))
    )
    return replace(placement, rung=Rung.SERVING if shares else Rung.WARM, shares=shares)


def is_warm(golden: Golden | Unknown | None, topology: Topology) -> bool:
    """Whether the last golden answer lets its region be called warm."""
    return (
        isinstance(golden, Golden)
        and golden.ok
        and golden.seconds is not None
        and golden.seconds <= topology.traffic.safety.golden_seconds
        and golden.age_seconds <= golden_age_seconds_max(topology)
    )
