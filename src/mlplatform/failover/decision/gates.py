"""The gates: what a region must pass, for each model of a route, before weight is put on it.

A gate is open when what it asks was positively seen. What could not be read keeps it closed.
Headroom, which depends on how much is to move, is in `headroom`.
"""

from __future__ import annotations

from collections.abc import Iterator

from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.failover.decision.case import Case, Closed
from mlplatform.failover.decision.seen import Gate, Golden, Standby
from mlplatform.failover.verdict.judge import Health

_Finding = tuple[Gate, str, bool]
"""Gate, reason, whether it is unknown."""


def closed_gates(case: Case, region: str) -> tuple[Closed, ...]:
    """The gates that are closed at a region, except those that the request breaks. One line a
    gate: the first model's reason, and how many models more."""
    return tuple(gate for gate in all_closed_gates(case, region) if not case.breaks(gate.name))


def all_closed_gates(case: Case, region: str) -> tuple[Closed, ...]:
    """The gates that are closed at a region, whatever is broken."""
    found = list(_of_region(case, region))
    by_model: dict[tuple[Gate, bool], tuple[str, str, int]] = {}
    golden_age_seconds = golden_age_seconds_max(case.topology)
    golden_seconds = case.safety.golden_seconds
    standby = case.seen.standby.get(region, {})
    for model in case.route.models:
        offered = standby.get(model)
        if offered is None:
            offered = Unknown("nobody answered for it")
        for gate, reason, unknown in _of_model(offered, golden_seconds, golden_age_seconds):
            first, said, more = by_model.get((gate, unknown), (model, reason, -1))
            by_model[gate, unknown] = (first, said, more + 1)
    for (gate, unknown), (model, reason, more) in by_model.items():
        others = f" (and {more} more models)" if more > 1 else " (and 1 more model)" if more else ""
        found.append(Closed(gate, f"{model}: {reason}{others}", unknown))
    if not case.route.models:
        said = "the topology names no model for the route, so nothing can be proven"
        found.append(Closed(Gate.VERSION, said))
    return tuple(found)


def golden_age_seconds_max(topology: Topology) -> float:
    """How old a golden answer may be: models take turns, and three turns may pass without one."""
    probe = topology.traffic.probe
    rounds = -(-max(len(topology.models), 1) // max(probe.golden_per_round, 1))
    return 3 * rounds * probe.interval_seconds + probe.timeout_seconds


def _of_region(case: Case, region: str) -> Iterator[Closed]:
    verdict = case.verdict(region)
    if verdict.health is not Health.HEALTHY:
        why = f": {verdict.because[0]}" if verdict.because else ""
        yield Closed(
            Gate.VERDICT,
            f"{region} is {verdict.health.value}{why}",
            unknown=verdict.health is Health.UNKNOWN,
        )
    else:
        for model in case.route.models if verdict.models else ():
            health = verdict.models.get(model, Health.HEALTHY)
            if health is not Health.HEALTHY:
                said = f"{model} is {health.value} in {region}"
                yield Closed(Gate.VERDICT, said, unknown=health is Health.UNKNOWN)
                break
    if region in case.orders.maintenance:
        yield Closed(Gate.MAINTENANCE, case.orders.maintenance[region] or "no reason was given")
    limit_seconds = case.safety.lag_seconds
    if limit_seconds is not None:
        lag = case.seen.lag_seconds.get(region, Unknown("nobody measured it"))
        if isinstance(lag, Unknown):
            yield Closed(Gate.LAG, lag.reason, unknown=True)
        elif not lag <= limit_seconds:
            said = f"its data is {lag:.0f} s behind, {limit_seconds:.0f} s at most"
            yield Closed(Gate.LAG, said, unknown=lag != lag)  # noqa: PLR0124 - NaN


def _of_model(
    offered: Standby | Unknown, golden_seconds: float, golden_age_seconds: float
) -> list[_Finding]:
    """What is wrong with what a region offers for one model. Called for every model of every
    region, so what is right costs next to nothing."""
    if isinstance(offered, Unknown):
        return [(Gate.VERSION, offered.reason, True)]
    found: list[_Finding] = []
    if offered.version is None:
        found.append((Gate.VERSION, "no server there holds it", False))
    elif offered.version not in offered.allowed:
        allowed = " or ".join(sorted(offered.allowed)) or "none"
        said = f"its servers hold {offered.version}, allowed there is {allowed}"
        found.append((Gate.VERSION, said, False))
    if offered.version is not None:
        if (stored := offered.stored) is None:
            said = f"{offered.version} is not in its store, or not verified there"
            found.append((Gate.DIGEST, said, False))
        elif isinstance(stored, Unknown):
            found.append((Gate.DIGEST, stored.reason, True))
        elif not offered.digest:
            found.append((Gate.DIGEST, "its servers do not state which bytes they hold", True))
        elif offered.digest != stored:
            said = f"its servers hold {offered.digest}, verified in its store is {stored}"
            found.append((Gate.DIGEST, said, False))
    golden = offered.golden
    if not (
        isinstance(golden, Golden)
        and golden.ok
        and golden.seconds is not None
        and golden.seconds <= golden_seconds
        and golden.age_seconds <= golden_age_seconds
    ):
        found.append(_golden(golden, golden_seconds, golden_age_seconds))
    if offered.canary is not None:
        said = f"{offered.canary} is on trial there: its share goes to 0 first, the last good stays"
        found.append((Gate.CANARY, said, False))
    return found


def _golden(
    golden: Golden | Unknown | None, golden_seconds: float, golden_age_seconds: float
) -> _Finding:
    if golden is None:
        return Gate.GOLDEN, "no golden request was ever sent", True
    if isinstance(golden, Unknown):
        return Gate.GOLDEN, golden.reason, True
    if not golden.age_seconds <= golden_age_seconds:
        said = (
            f"the last answer is {golden.age_seconds:.0f} s old, {golden_age_seconds:.0f} at most"
        )
        return Gate.GOLDEN, said, True
    if not golden.ok:
        return Gate.GOLDEN, f"answered wrongly{golden.detail and f': {golden.detail}'}", False
    if golden.seconds is None:
        return Gate.GOLDEN, "nobody measured how long the answer took", True
    said = f"answered in {golden.seconds * 1000:.0f} ms, {golden_seconds * 1000:.0f} ms at most"
    return Gate.GOLDEN, said, False
