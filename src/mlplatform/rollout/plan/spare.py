"""Whether any one region may be lost while a wave is under way.

A region in which a version is on trial is no target of failover's, so that while a wave is under
way the regions outside it have to bear whatever is lost. What a region has left is reckoned as
failover does: warm servers × requests a second of one − its load at the peak; what is lost is a
region's peak, times the factor by which clients ask again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.rollout.plan.gates import is_routed
from mlplatform.rollout.plan.room import declaring, peak_of, rate_of
from mlplatform.rollout.plan.seen import Finding, Rule, Seen, Standing


def lacking_spare(
    topology: Topology, seen: Seen, wave: Sequence[str], today: date
) -> Finding | None:
    """Why a wave would leave no way to lose a region, if it would. Where no route carries it,
    no region is there for another."""
    model = seen.request.subject.model
    if not topology.rollout.waves.spare_region or not is_routed(topology, model):
        return None
    found: list[Finding] = []
    carriers = _carriers(topology, model)
    for lost in carriers:
        finding = _without(topology, seen, wave, lost, carriers, today)
        if finding is not None:
            found.append(finding)
    return min(found, key=lambda finding: finding.unknown, default=None)


def _carriers(topology: Topology, model: str) -> list[str]:
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
    seen: Seen,
    wave: Sequence[str],
    lost: str,
    carriers: Sequence[str],
    today: date,
) -> Finding | None:
    model = seen.request.subject.model
    load = _load(seen, lost)
    if isinstance(load, Unknown):
        fix = f"{peak_of(topology, model)}, or traffic.objective.load_query"
        return Finding(Rule.SPARE_REGION, f"the load of {lost}: {load.reason}", fix, unknown=True)
    needed = load * topology.traffic.safety.retry_factor
    if not needed:
        return None
    others = [each for each in carriers if each not in wave and each != lost and _open(seen, each)]
    if not others:
        return Finding(
            Rule.SPARE_REGION,
            f"while {' and '.join(wave)} change, nobody could take over {lost}",
            "set rollout.waves.spare_region: false if that is accepted, or let another region "
            "stand by",
        )
    free = {each: _free(topology, seen, each, today) for each in others}
    known = sum(room for room in free.values() if not isinstance(room, Unknown))
    if known >= needed:
        return None
    for each, room in free.items():
        if isinstance(room, Unknown):
            fix = declaring(model, each)
            said = f"whether {each} could take over {lost} is not known: {room.reason}"
            return Finding(Rule.SPARE_REGION, said, fix, unknown=True)
    return Finding(
        Rule.SPARE_REGION,
        f"while {' and '.join(wave)} change, {' and '.join(others)} could not take over {lost}: "
        f"{needed:.0f} req/s needed, {known:.0f} free",
        "lower rollout.waves.concurrency, or start more servers there",
    )


def _open(seen: Seen, region: str) -> bool:
    """Whether failover could send anything there, as far as is known."""
    stands = seen.regions.get(region)
    return stands is not None and (
        not isinstance(stands.standing, Standing) or not stands.standing.closed
    )


def _load(seen: Seen, region: str) -> float | Unknown:
    stands = seen.regions.get(region)
    if stands is None:
        return Unknown(f"{region} was not looked at")
    return stands.standing.load if isinstance(stands.standing, Standing) else stands.standing


def _free(topology: Topology, seen: Seen, region: str, today: date) -> float | Unknown:
    load, served = _load(seen, region), seen.regions[region].served
    if isinstance(load, Unknown):
        return load
    if isinstance(served, Unknown):
        return served
    rate = rate_of(topology, seen.request.subject.model, region, served, today)
    return rate if isinstance(rate, Unknown) else max(0.0, served.servers * rate - load)
