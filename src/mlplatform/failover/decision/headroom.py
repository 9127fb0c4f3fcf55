"""Headroom: how much a region's warm servers have left, against how much is to move.

    room   = warm, ready servers × requests a second of one within the objective − its present load
    demand = what the regions that lose weight had at their peak, by the share that moves,
             × the retry factor; of one that was itself given weight just before, what was to come
             with it, if that is more

What is starting, what a scaler may start, and a declared figure that has expired count nothing.
Nobody knows how a route's requests are shared among its models, so that each must be able to bear
all of them: the tightest one counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mlplatform.core.seen import Unknown
from mlplatform.failover.decision.case import Case, Closed
from mlplatform.failover.decision.seen import Gate, Load, Mode, Rate, Standby
from mlplatform.failover.verdict.judge import Health
from mlplatform.ports.traffic import Weights

LOT_POINTS = 5
"""Weight is shared out in lots of so many points where that is possible. Loads and rates are not
known to a per cent; a finer split would change with their noise, and each change moves clients."""

_PEAK_SECONDS = 3600.0
"""What was moved longer ago shows in the measured peak."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a region has left. Requests a second."""

    region: str
    model: str
    """The tightest one."""
    servers: int
    rate: Rate
    present: float

    @property
    def free(self) -> float:
        return max(0.0, self.servers * self.rate.requests_per_second - self.present)

    def __str__(self) -> str:
        return (
            f"{self.free:.0f} req/s free ({self.servers} server{'s' * (self.servers != 1)} × "
            f"{self.rate.requests_per_second:g} − {self.present:.0f})"
        )


@dataclass(frozen=True, slots=True)
class Demand:
    """What moves. Requests a second."""

    amount: float
    explained: str
    """`peak 200 × 1.5`."""

    def __str__(self) -> str:
        return f"{self.amount:.0f} needed ({self.explained})"


def room_of(case: Case, region: str) -> Room | Closed:
    """What a region has left for this route, or why nobody can say."""
    present = present_load(case, region)
    if isinstance(present, Closed):
        return present
    tightest: Room | None = None
    standby = case.seen.standby.get(region, {})
    for model in case.route.models:
        offered = standby.get(model) or Unknown("nobody answered for it")
        if isinstance(offered, Unknown):
            return Closed(Gate.HEADROOM, f"{model}: {offered.reason}", unknown=True)
        if isinstance(offered.servers, Unknown):
            return Closed(Gate.HEADROOM, f"{model}: {offered.servers.reason}", unknown=True)
        rate = rate_of(case, region, model, offered)
        if isinstance(rate, Closed):
            return rate
        each = rate.requests_per_second
        if tightest is None or (
            offered.servers * each < tightest.servers * tightest.rate.requests_per_second
        ):
            tightest = Room(region, model, offered.servers, rate, present)
    return tightest or Closed(Gate.HEADROOM, "the topology names no model for the route")


def rate_of(case: Case, region: str, model: str, offered: Standby) -> Rate | Closed:
    """What one server there can do: as measured, else as the topology declares, until that
    expires."""
    if offered.rate is not None and not offered.rate.expired:
        if _is_figure(offered.rate.requests_per_second):
            return offered.rate
        return Closed(Gate.HEADROOM, f"{model}: its measured rate is no number", unknown=True)
    declared = case.topology.traffic.capacity.get(region, {}).get(model)
    if declared is None:
        if offered.rate is not None:
            return Closed(Gate.HEADROOM, f"{model}: its rate, {offered.rate.source}, has expired")
        said = f"{model}: nobody has measured or declared what one server there can do"
        return Closed(Gate.HEADROOM, said, unknown=True)
    if declared.expires_on < case.today:
        return Closed(
            Gate.HEADROOM,
            f"{model}: the {declared.requests_per_second:g} req/s declared on "
            f"{declared.measured_on} expired on {declared.expires_on}; measure them again",
        )
    said = f"declared on {declared.measured_on}, until {declared.expires_on}"
    return Rate(declared.requests_per_second, said)


def present_load(case: Case, region: str) -> float | Closed:
    """What enters a region now. While it is being left, clients that were sent there may not have
    arrived yet: then at least what it had at its peak and what they will bring."""
    load = case.seen.load.get(region, Unknown("nobody measured it"))
    if isinstance(load, Unknown) or not _is_figure(load.now):
        why = load.reason if isinstance(load, Unknown) else "no sample"
        return Closed(Gate.HEADROOM, f"its present load is unknown: {why}", unknown=True)
    assert load.now is not None  # noqa: S101 - it is a figure
    recovery = case.open
    if recovery is None or recovery.mode not in (Mode.UNPLANNED, Mode.PLANNED):
        return load.now
    gained = min(recovery.moved, case.weights[region] - case.wanted.get(region, 0))
    source = case.seen.load.get(recovery.source or "")
    if gained <= 0 or not isinstance(source, Load) or not _is_figure(source.peak):
        return load.now
    assert source.peak is not None  # noqa: S101 - it is a figure
    a_point = source.peak / (case.weights.get(recovery.source or "", 0) + recovery.moved)
    own = load.peak if load.peak is not None and _is_figure(load.peak) else load.now
    return max(load.now, own + gained * a_point * case.safety.retry_factor)


def demand_of(case: Case, after: Weights) -> Demand | Closed:
    """What moves when the weights become `after`. A dead region's load reads 0, which says nothing:
    its peak before the fault counts."""
    factor = case.safety.retry_factor
    amount, terms = 0.0, []
    for region, before in case.weights.items():
        lost = before - after.get(region, 0)
        if lost <= 0:
            continue
        load = case.seen.load.get(region, Unknown("nobody measured it"))
        if isinstance(load, Unknown) or not _is_figure(load.peak):
            why = load.reason if isinstance(load, Unknown) else "its peak has no sample"
            said = f"the load that moves from {region} is unknown: {why}"
            return Closed(Gate.HEADROOM, said, unknown=True)
        assert load.peak is not None  # noqa: S101 - it is a figure
        now = load.now if load.now is not None and _is_figure(load.now) else 0.0
        measured, expected = max(load.peak, now), brought_to(case, region)
        peak = max(measured, expected)
        if not peak and case.verdict(region).health is not Health.HEALTHY:
            said = (
                f"the load of {region} reads 0 while it is ill, which says nothing of its clients"
            )
            return Closed(Gate.HEADROOM, said, unknown=True)
        then = before + moved_already(case, region)
        amount += peak * lost / then
        part = "" if lost == then else f" × {lost}/{then}"
        name = "peak" if measured >= expected else "with what was moved to it,"
        terms.append(f"{name} {peak:.0f}{part}")
    said = f"({' + '.join(terms)})" if len(terms) > 1 else "".join(terms)
    return Demand(amount * factor, f"{said} × {factor:g}")


def load_moved(case: Case, after: Weights) -> dict[str, float]:
    """Requests a second that are to come to each region that gains, when a region is left; empty
    where nobody can say."""
    if case.request.mode not in (Mode.UNPLANNED, Mode.PLANNED):
        return {}
    demand = demand_of(case, after)
    if isinstance(demand, Closed):
        return {}
    # Who fails asks again while it fails, not where it is served.
    amount = demand.amount / case.safety.retry_factor
    gains = {r: w - case.weights.get(r, 0) for r, w in after.items() if w > case.weights.get(r, 0)}
    total = sum(gains.values())
    return {region: amount * gain / total for region, gain in gains.items()}


def brought_to(case: Case, region: str) -> float:
    """What a region was to bear after others were left for it, within the hour: it may die before
    any figure of its own shows that. 0 where nothing was moved to it, or it was moved back."""
    had = moved = 0.0
    for recovery in case.seen.recoveries:
        if (recovery.ended_seconds_ago or 0.0) > _PEAK_SECONDS:
            continue
        if recovery.mode is Mode.FAILBACK and recovery.moved:
            had = moved = 0.0
        if region in recovery.brought:
            had = had if moved else recovery.had.get(region, 0.0)
            moved += recovery.brought[region]
    return had + moved if moved else 0.0


def moved_already(case: Case, region: str) -> int:
    """Points that were taken from a region since its fault began: what is left of its weight bears
    that much less of its peak."""
    sick_seconds = case.verdict(region).sick_seconds or 0.0
    return sum(
        recovery.moved
        for recovery in case.seen.recoveries
        if recovery.source == region
        and recovery.mode is not Mode.DRILL
        and (recovery.ended_seconds_ago is None or recovery.began_seconds_ago <= sick_seconds)
    )


def lacking(
    case: Case, after: Weights, rooms: dict[str, Room | Closed], *, factor: float = 1.0
) -> dict[str, Closed]:
    """The regions that `after` would give more than `factor` times what they have room for, or of
    which nobody knows."""
    gains = {
        region: weight - case.weights[region]
        for region, weight in after.items()
        if weight > case.weights[region]
    }
    if not gains:
        return {}
    demand = demand_of(case, after)
    if isinstance(demand, Closed):
        return dict.fromkeys(gains, demand)
    found: dict[str, Closed] = {}
    total = sum(gains.values())
    for region, gain in gains.items():
        room = rooms[region] = rooms.get(region) or room_of(case, region)
        if isinstance(room, Closed):
            found[region] = room
        elif demand.amount * gain / total > room.free * factor * (1 + 1e-9):
            found[region] = short_of(room, demand, gain / total)
    return found


def short_of(room: Room, demand: Demand, share: float = 1.0) -> Closed:
    """The gate, closed for want of room, with both sides of the comparison."""
    needed = Demand(
        demand.amount * share,
        demand.explained + (f", {share:.0%} of it" if share < 1 else ""),
    )
    return Closed(Gate.HEADROOM, f"{room}, {needed}")


def apportion(
    points: int,
    shares: Mapping[str, float],
    limits: Mapping[str, int],
    *,
    lots: tuple[int, ...] = (LOT_POINTS, 1),
) -> dict[str, int] | None:
    """Share out points by the method of the largest remainder, in lots, each within its limit; None
    where the limits do not let it."""
    for lot in lots:
        count, rest = divmod(points, lot)
        gains = _largest_remainder(
            count, shares, {region: limits[region] // lot for region in shares}
        )
        if gains is None:
            continue
        found = {region: gain * lot for region, gain in gains.items()}
        able = [region for region in shares if limits[region] - found[region] >= rest]
        if rest and not able:
            continue
        if rest:
            found[max(able, key=lambda region: (shares[region], region))] += rest
        return found
    return None


def _largest_remainder(
    lots: int, shares: Mapping[str, float], limits: Mapping[str, int]
) -> dict[str, int] | None:
    if sum(limits.values()) < lots:
        return None
    total = sum(shares.values())
    ideal = {
        region: lots * (share / total if total else 1 / len(shares))
        for region, share in shares.items()
    }
    found = {region: min(math.floor(ideal[region]), limits[region]) for region in shares}
    while (left := lots - sum(found.values())) > 0:
        open_ = [region for region in shares if found[region] < limits[region]]
        open_.sort(key=lambda region: (found[region] - ideal[region], region))
        for region in open_[:left]:
            found[region] += 1
    return found


def servers_needed(case: Case, region: str, more: float) -> dict[str, tuple[int, int]]:
    """By model, how many servers a region has and how many it takes to bear `more` beside what it
    has, or has had at its peak if all of that is its own still; only where that is more than there
    are. A region whose load or rate nobody knows is asked for nothing."""
    load = case.seen.load.get(region)
    present = present_load(case, region)
    if isinstance(present, Closed):
        return {}
    whole = case.weights[region] >= case.wanted.get(region, 0)
    if whole and isinstance(load, Load) and load.peak is not None and _is_figure(load.peak):
        present = max(present, load.peak)
    found = {}
    for model in case.route.models:
        offered = case.seen.standby.get(region, {}).get(model)
        if not isinstance(offered, Standby) or isinstance(offered.servers, Unknown):
            continue
        rate = rate_of(case, region, model, offered)
        if isinstance(rate, Closed):
            continue
        needed = math.ceil((present + more) / rate.requests_per_second - 1e-9)
        if needed > offered.servers:
            found[model] = (offered.servers, needed)
    return found


def _is_figure(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and value >= 0
