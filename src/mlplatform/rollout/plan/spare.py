"""Whether any one region may be lost while a wave is under way.

A region in which a version is on trial is no target of failover's, so that while a wave is under
way the regions outside it have to bear whatever is lost. What a region has left is reckoned as
failover does: warm servers × requests a second of one − its load at the peak; what is lost is a
region's peak, times the factor by which clients ask again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.rollout.plan.room import declaring, is_routed, peak_of, rate_of
from mlplatform.rollout.plan.seen import Finding, Rule, Seen, Standing


def lacking_spare(
    topology: Topology,
    seen: Seen,
    waves: Sequence[Sequence[str]],
    today: date,
    handed: Mapping[str, float],
) -> list[Finding | None]:
    """By wave, why it would leave no way to lose a region, if it would. Where no route carries
    the model, no region is there for another. `handed`: by region, requests a second that others
    bear while its wave is under way."""
    model = seen.request.subject.model
    if not topology.rollout.waves.spare_region or not is_routed(topology, model):
        return [None] * len(waves)
    named = carriers(topology, model)
    loads = {region: load_of(seen, region) for region in named}
    free = {
        region: free_of(topology, seen, region, today) for region in named if is_open(seen, region)
    }
    return [
        _lacking(topology, model, wave, loads, free, sum(handed.get(r, 0.0) for r in wave))
        for wave in waves
    ]


def _lacking(
    topology: Topology,
    model: str,
    wave: Sequence[str],
    loads: Mapping[str, float | Unknown],
    free: Mapping[str, float | Unknown],
    handed: float,
) -> Finding | None:
    """Of all that may be lost, the first that surely could not be; else the first that nobody can
    say of."""
    outside = {region: room for region, room in free.items() if region not in wave}
    found = (_without(topology, model, wave, lost, loads[lost], outside, handed) for lost in loads)
    lacking = [finding for finding in found if finding is not None]
    return min(lacking, key=lambda finding: finding.unknown, default=None)


def carriers(topology: Topology, model: str) -> list[str]:
    """Regions that a route which carries the model goes to."""
    named = {
        region
        for route in topology.traffic.routes.values()
        if model in route.models
        for region in route.weights
    }
    return [region for region in topology.regions if region in named]


def _without(
    topology: Topology,
    model: str,
    wave: Sequence[str],
    lost: str,
    load: float | Unknown,
    outside: Mapping[str, float | Unknown],
    handed: float,
) -> Finding | None:
    if isinstance(load, Unknown):
        fix = f"{peak_of(topology, model)}, or traffic.objective.load_query"
        return Finding(Rule.SPARE_REGION, f"the load of {lost}: {load.reason}", fix, unknown=True)
    # What others bear for the wave may be where it is lost; what the wave itself loses, it has less
    # of.
    load += 0.0 if lost in wave else handed
    needed = load * topology.traffic.safety.retry_factor
    if not needed:
        return None
    known, others, dark = 0.0, 0, None
    for each, room in outside.items():
        if each == lost:
            continue
        others += 1
        if isinstance(room, Unknown):
            dark = dark or (each, room.reason)
            continue
        known += room
        if known >= needed:
            return None
    changing = " and ".join(wave)
    if not others:
        return Finding(
            Rule.SPARE_REGION,
            f"while {changing} change, nobody could take over {lost}",
            "set rollout.waves.spare_region: false if that is accepted, or let another region "
            "stand by",
        )
    if dark is not None:
        each, reason = dark
        said = f"whether {each} could take over {lost} is not known: {reason}"
        return Finding(Rule.SPARE_REGION, said, declaring(model, each), unknown=True)
    named = " and ".join(each for each in outside if each != lost)
    return Finding(
        Rule.SPARE_REGION,
        f"while {changing} change, {named} could not take over {lost}: "
        f"{needed:.0f} req/s needed, {known:.0f} free",
        "lower rollout.waves.concurrency, or start more servers there",
    )


def is_open(seen: Seen, region: str) -> bool:
    """Whether failover could send anything there, as far as is known."""
    stands = seen.regions.get(region)
    return stands is not None and (
        not isinstance(stands.standing, Standing) or not stands.standing.closed
    )


def load_of(seen: Seen, region: str) -> float | Unknown:
    """Requests a second that enter a region at its peak, on the routes that carry the model."""
    stands = seen.regions.get(region)
    if stands is None:
        return Unknown(f"{region} was not looked at")
    return stands.standing.load if isinstance(stands.standing, Standing) else stands.standing


def free_of(topology: Topology, seen: Seen, region: str, today: date) -> float | Unknown:
    """Requests a second that a region's servers could bear beside its peak."""
    load, served = load_of(seen, region), seen.regions[region].served
    if isinstance(load, Unknown):
        return load
    if isinstance(served, Unknown):
        return served
    rate = rate_of(topology, seen.request.subject.model, region, served, today)
    return rate if isinstance(rate, Unknown) else max(0.0, served.servers * rate - load)
