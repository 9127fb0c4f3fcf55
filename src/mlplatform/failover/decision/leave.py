"""Leaving a region: planned, with every gate hard; or unplanned, with what room there is. Planned,
it may keep a part.

Unplanned, a region that serves nothing is left as far as `overload` times the room of the others
goes, for servers shed what they cannot bear, and a shed request is no worse than one to a dead
region. A region that still serves something is relieved of what there is room for, and no more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mlplatform.failover.decision.case import Case, Closed, change_text
from mlplatform.failover.decision.draft import Ask, Draft, Step, headroom_holds
from mlplatform.failover.decision.gates import closed_gates
from mlplatform.failover.decision.headroom import (
    LOT_POINTS,
    Demand,
    Room,
    apportion,
    demand_of,
    lacking,
    room_of,
    servers_needed,
    short_of,
)
from mlplatform.failover.decision.rules import over_the_cap
from mlplatform.failover.decision.seen import Gate, Mode, Rule
from mlplatform.failover.verdict.judge import Health
from mlplatform.ports.traffic import Weights, expressible


def leave(case: Case) -> Draft:
    """What is to be done so that the request's source gets nothing, or less."""
    source = case.request.source
    assert source is not None  # noqa: S101 - checked with the request
    draft = Draft(region=source, source=source, asks_first=False)
    points = _points(case, source)
    if not points:
        return draft
    for region in case.request.targets:
        if region not in case.weights:
            draft.holds.append(case.hold(region, "the route does not go there"))
    if not case.candidates and not draft.holds:
        said = Closed(Rule.ONE_REGION, f"{source} is the only region of the route, and some serves")
        draft.holds.append(case.hold(source, said))
        return draft
    if refusal := _source_refuses(case, source):
        draft.holds.append(case.hold(source, refusal, unknown=refusal.unknown))
        return draft
    draft.weigh(case, case.candidates, {r: closed_gates(case, r) for r in case.candidates})
    able = [region for region in case.candidates if not draft.closed[region]]
    draft.rooms = {region: room_of(case, region) for region in case.candidates}
    if case.request.keep and case.seen.features.all_or_nothing:
        said_ = "regions are in or out here: no part of a share can be moved"
        draft.holds.append(case.hold(source, said_))
        return draft
    without = {r: w - points if r == source else w for r, w in case.weights.items()}
    draft.demand = demand_of(case, without)
    if not able:
        unknown = all(c.unknown for gates in draft.closed.values() for c in gates)
        said_ = f"{points} points stay: no candidate passes its gates"
        draft.holds.append(case.hold(source, said_, unknown=unknown))
        return draft
    after = _agreed(case, draft, able) or (
        _in_or_out(case, draft, able)
        if case.seen.features.all_or_nothing
        else _shared(case, draft, able)
    )
    closed = over_the_cap(case, _lost(case, after)) if after is not None else None
    if closed and not case.breaks(Rule.CAP):
        draft.holds.append(case.hold(source, closed))
        return draft
    _finish(case, draft, able, after)
    return draft


def _source_refuses(case: Case, source: str) -> Closed | None:
    """What is asked must fit how the source is: the watch leaves only what is positively unhealthy,
    and a planned move starts from a region that is well. On its way it is not asked again: a
    drained region calls itself not ready."""
    verdict = case.verdict(source)
    health = verdict.health
    why = f": {verdict.because[0]}" if verdict.because else ""
    if case.request.mode is Mode.PLANNED:
        if health is Health.HEALTHY or case.open is not None or case.breaks(Gate.VERDICT):
            return None
        said = f"{source} is {health.value}{why}; a planned failover starts where all is well"
        return Closed(Gate.VERDICT, said, unknown=health is Health.UNKNOWN)
    if case.request.automatic and health is not Health.UNHEALTHY:
        said = f"{source} is {health.value}{why}; by itself only an unhealthy region is left"
        return Closed(Gate.VERDICT, said, unknown=health is Health.UNKNOWN)
    return None


def _points(case: Case, source: str) -> int:
    """What is to leave it: all that it does not keep."""
    return max(0, case.weights.get(source, 0) - case.request.keep)


def _serves_nothing(case: Case, source: str) -> bool:
    verdict = case.verdict(source)
    return verdict.serves_nothing and verdict.health is not Health.HEALTHY


def _factor(case: Case) -> float:
    """How much of a target's room may be used."""
    source = case.request.source or ""
    soft = case.request.mode is Mode.UNPLANNED and _serves_nothing(case, source)
    return max(case.route.overload, 1.0) if soft else 1.0


def _shared(case: Case, draft: Draft, able: Sequence[str]) -> Weights | None:
    """The source's weight, shared out by room, as far as there is some."""
    source = draft.region
    points = _points(case, source)
    demand = draft.demand
    if case.breaks(Gate.HEADROOM):
        shares = {r: _free(draft.rooms[r]) for r in able}
        return _given(case, source, apportion(points, shares, dict.fromkeys(able, points)))
    if isinstance(demand, Closed):
        draft.holds += headroom_holds(case, dict.fromkeys(able, demand))
        return None
    assert demand is not None  # noqa: S101 - leave() has asked for it
    unreadable = {r: room for r in able if isinstance(room := draft.rooms[r], Closed)}
    draft.holds += headroom_holds(case, unreadable)
    budgets = {
        region: room.free * _factor(case)
        for region in able
        if isinstance(room := draft.rooms[region], Room)
    }
    if not budgets:
        return None
    total = sum(budgets.values())
    if not demand.amount:
        limits = dict.fromkeys(budgets, points)
    else:
        # A point of weight is the finest that can be said: what fits as a whole may round up.
        whole = math.ceil if total >= demand.amount else math.floor
        limits = {
            region: min(points, whole(points * budget / demand.amount))
            for region, budget in budgets.items()
        }
    gains = apportion(points, budgets, limits)
    if gains is not None:
        return _given(case, source, gains)
    if case.request.mode is Mode.PLANNED or total <= 0:
        draft.holds += headroom_holds(case, _too_small(draft, budgets, demand, total))
        return None
    part = min(points, sum(limits.values()))
    if points > 2 * LOT_POINTS:
        part -= part % LOT_POINTS
    draft.holds += headroom_holds(case, _too_small(draft, budgets, demand, total))
    if not part:
        return None
    return _given(case, source, apportion(part, budgets, limits))


def _too_small(
    draft: Draft, budgets: Mapping[str, float], demand: Demand, total: float
) -> dict[str, Closed]:
    """Each target's room against its share of what is to move."""
    found = {}
    for region, budget in budgets.items():
        room = draft.rooms[region]
        if isinstance(room, Room):
            found[region] = short_of(room, demand, budget / total if total else 1 / len(budgets))
    return found


def _in_or_out(case: Case, draft: Draft, able: Sequence[str]) -> Weights | None:
    """Where regions are in with equal shares, or out: those that remain, and as few more as it
    takes. Headroom is judged by the shares that the actuator will really give."""
    source = draft.region
    out = {source} | {
        region
        for region in case.serving
        if case.verdict(region).health is Health.UNHEALTHY and region not in able
    }
    remain = sorted((case.serving - out) | set(case.request.targets) & set(able))
    more = [region for region in able if region not in remain]
    more.sort(key=lambda region: (-_free(draft.rooms[region]), region))
    factor = _factor(case)
    least: dict[str, Closed] = {}
    for count in range(len(more) + 1):
        inside = [*remain, *more[:count]]
        if not inside:
            continue
        after = expressible(
            {region: int(region in inside) for region in case.weights}, case.seen.features
        )
        draft.nearest = after
        gaining = [region for region in inside if after[region] > case.weights[region]]
        barred = {
            region: gates[0]
            for region in gaining
            if region not in able and (gates := closed_gates(case, region))
        }
        if barred:
            least = {
                region: Closed(
                    gate.name,
                    f"in or out: {region} would get {after[region]} %; {gate.reason}",
                    gate.unknown,
                )
                for region, gate in barred.items()
            }
            continue
        least = lacking(case, after, draft.rooms, factor=factor)
        if not least or case.breaks(Gate.HEADROOM):
            return after
    draft.holds += headroom_holds(case, least)
    return None


def _agreed(case: Case, draft: Draft, able: Sequence[str]) -> Weights | None:
    """What somebody agreed to, while it is still as good as what would be decided now: loads move
    while people read."""
    agreed = case.request.agreed.get(case.name)
    source = draft.region
    if agreed is None or agreed.keys() != case.weights.keys() or sum(agreed.values()) != 100:
        return None
    gaining = [region for region, weight in agreed.items() if weight > case.weights[region]]
    losing = [region for region, weight in agreed.items() if weight < case.weights[region]]
    if losing != [source] or any(region not in able for region in gaining):
        return None
    if agreed[source] < case.request.keep:
        return None
    if case.seen.features.all_or_nothing and expressible(agreed, case.seen.features) != agreed:
        return None
    slack = 1 + LOT_POINTS / 100
    lacks = lacking(case, agreed, draft.rooms, factor=_factor(case) * slack)
    if lacks and not case.breaks(Gate.HEADROOM):
        return None
    return dict(agreed)


def _finish(case: Case, draft: Draft, able: Sequence[str], after: Weights | None) -> None:
    """The step, what it leaves undone, and what is asked for so that the rest can follow."""
    source = draft.region
    points = _points(case, source)
    left = points if after is None else after[source] - case.request.keep
    if left or _is_crowded(case, draft, after):
        draft.asks = _asks(case, draft, able, after)
    asked = _asked_text(draft.asks)
    if after is None:
        unknown = bool(draft.holds) and all(hold.unknown for hold in draft.holds)
        said = f"all {points} points stay: there is no room for them{asked}"
        if unknown:
            said = f"all {points} points stay: nobody can say whether there is room for them"
        draft.holds.append(case.hold(source, f"{Gate.HEADROOM.value}: {said}", unknown=unknown))
        return
    verdict = case.verdict(source)
    because = verdict.because[0] if verdict.because else ""
    why = f"{source} is {verdict.health.value}{f': {because}' if because else ''}"
    if case.request.mode is Mode.PLANNED or verdict.health is Health.HEALTHY:
        kept = f"{source} is to keep {case.request.keep} points" if case.request.keep else ""
        why = case.request.reason or kept or f"{source} is to be left"
    draft.steps.append(Step(after, f"{change_text(case.weights, after)}; {why}"))
    draft.leaves = not after[source]
    if left:
        fate = (
            "requests to it fail, for it serves nothing"
            if _serves_nothing(case, source)
            else "it still serves some of them"
        )
        said = f"{points - left} of {points} points move, {left} stay: {fate}{asked}"
        draft.holds.append(case.hold(source, f"{Gate.HEADROOM.value}: {said}"))


def _is_crowded(case: Case, draft: Draft, after: Weights | None) -> bool:
    """Whether it fits only because targets may be overloaded."""
    return after is not None and bool(lacking(case, after, draft.rooms))


def _asks(case: Case, draft: Draft, able: Sequence[str], after: Weights | None) -> list[Ask]:
    """Servers for the whole of what is to move, where it is to go or could go."""
    if isinstance(draft.demand, Closed) or draft.demand is None:
        return []
    if after is None and asked_already(case):
        return []
    weights = {region: _free(draft.rooms[region]) for region in able}
    nearest = after or draft.nearest
    if nearest is not None:
        gains = {r: float(nearest[r] - case.weights[r]) for r in able}
        if any(gain > 0 for gain in gains.values()):
            weights = {region: max(gain, 0.0) for region, gain in gains.items()}
    total = sum(weights.values())
    found = []
    for region in able:
        share = weights[region] / total if total else 1 / len(able)
        needed = servers_needed(case, region, draft.demand.amount * share)
        found += [Ask(region, model, has, count) for model, (has, count) in needed.items()]
    return found


def asked_already(case: Case) -> bool:
    """Whether the watch has asked for servers since this began: asking again brings none."""
    if not case.request.automatic:
        return False
    request = case.request
    if request.mode is Mode.FAILBACK:
        regions = request.targets or case.wanted
        since = min((case.verdict(r).well_seconds or 0.0 for r in regions), default=0.0)
    else:
        since = case.verdict(request.source or "").sick_seconds or 0.0
    return any(
        recovery.mode is request.mode
        and recovery.source == request.source
        and recovery.ended_seconds_ago is not None
        and recovery.began_seconds_ago <= since
        for recovery in case.seen.recoveries
    )


def _asked_text(asks: Sequence[Ask]) -> str:
    if not asks:
        return ""
    listed = ", ".join(
        f"{ask.servers - ask.has} more of {ask.model} in {ask.region}" for ask in asks[:3]
    )
    more = f" and {len(asks) - 3} others" if len(asks) > 3 else ""
    return f"; servers asked for: {listed}{more}"


def _given(case: Case, source: str, gains: Mapping[str, int] | None) -> Weights | None:
    if not gains:
        return None
    after = dict(case.weights)
    for region, gain in gains.items():
        after[region] += gain
        after[source] -= gain
    return after


def _lost(case: Case, after: Weights) -> int:
    return sum(max(0, before - after[region]) for region, before in case.weights.items())


def _free(room: Room | Closed) -> float:
    return room.free if isinstance(room, Room) else 0.0
