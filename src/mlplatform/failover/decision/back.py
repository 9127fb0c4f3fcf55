"""Going back to the topology's weights by steps, and drills: a trickle there, and back.

A failback takes nothing for granted: each step passes the gates anew, and a region that turns bad
while its traffic comes back loses what it was given. Weight comes from the regions that have more
than the topology wants them to have.
"""

from __future__ import annotations

from collections.abc import Sequence

from mlplatform.failover.decision.case import Case, Closed, change_text
from mlplatform.failover.decision.draft import Ask, Draft, Step, headroom_holds
from mlplatform.failover.decision.gates import closed_gates
from mlplatform.failover.decision.headroom import (
    Demand,
    apportion,
    demand_of,
    lacking,
    room_of,
    servers_needed,
)
from mlplatform.failover.decision.leave import asked_already
from mlplatform.failover.decision.rules import hold_off, last_recovery
from mlplatform.failover.decision.seen import Gate, Mode, Recovery, Rule
from mlplatform.ports.traffic import Weights, expressible

_TURNS_BACK = frozenset({Gate.VERDICT, Gate.VERSION, Gate.DIGEST, Gate.GOLDEN, Gate.LAG})
"""What says of a region that a step was bad. The others only keep it from being given more."""


def go_back(case: Case) -> Draft:
    """What is to be done so that regions get what the topology wants them to have."""
    asked = tuple(r for r in case.request.targets or case.wanted if r in case.weights)
    lacks = [region for region in asked if case.weights[region] < case.wanted.get(region, 0)]
    draft = Draft(region=(lacks or asked or ("",))[0])
    if not case.wanted:
        said = "the topology gives the route no weights, so there is nothing to go back to"
        draft.holds.append(case.hold(draft.region, said))
        return draft
    turned = turned_bad(case)
    if turned:
        return _returned(case, turned)
    draft.weigh(case, lacks, {region: _not_yet(case, region) for region in lacks})
    able = [region for region in lacks if not draft.closed[region]]
    draft.rooms = {region: room_of(case, region) for region in able}
    if able:
        draft.region = able[0]
        _steps(case, draft, able)
    _ask(case, draft, [region for region in lacks if not draft.closed[region]])
    return draft


def _not_yet(case: Case, region: str) -> tuple[Closed, ...]:
    waits = None if case.breaks(Rule.HOLD_OFF) else hold_off(case, region)
    return (*closed_gates(case, region), *((waits,) if waits else ()))


def _steps(case: Case, draft: Draft, able: Sequence[str]) -> None:
    """Fill in the steps that there is room for. A region that lacks room for its next one stays
    where it is, and holds up no other."""
    before: Weights = case.weights
    for percent in sorted({*case.safety.failback_steps, 100}):
        while True:
            after = expressible(_stepped(case, before, able, percent), case.seen.features)
            short = {} if after == before else _closed(case, draft, after, able)
            draft.holds += headroom_holds(case, short)
            others = [region for region in able if region not in short]
            if not short or others == able:
                break
            able = others
        if short:
            return
        if after == before:
            continue
        name = f"{percent} %"
        reason = f"{change_text(before, after)}; back to the topology's weights, {name}"
        draft.steps.append(Step(after, reason, name=name, hold_seconds=case.safety.step_seconds))
        before = after


def _closed(case: Case, draft: Draft, after: Weights, able: Sequence[str]) -> dict[str, Closed]:
    """Who would get more than there is room for, or more although a gate is closed: where regions
    are in or out, one that goes out raises all the others."""
    barred = {
        region: gates[0]
        for region, weight in after.items()
        if weight > case.weights[region]
        and region not in able
        and (gates := closed_gates(case, region))
    }
    if barred or case.breaks(Gate.HEADROOM):
        return barred
    return lacking(case, after, draft.rooms)


def _stepped(case: Case, before: Weights, able: Sequence[str], percent: int) -> Weights:
    """Each region at so many per cent of what it is to have, never less than it has. The others
    give point by point, whoever has most too much: so the way there does not matter, and from the
    middle of it the rest is the same."""
    after = dict(before)
    for region in able:
        share = -(-case.wanted[region] * percent // 100)
        after[region] = max(before[region], share)
    for _ in range(sum(after.values()) - 100):
        gives = max(after, key=lambda r: (r not in able, after[r] - case.wanted[r], r))
        after[gives] -= 1
    return after


def _ask(case: Case, draft: Draft, regions: Sequence[str]) -> None:
    """Servers for the last step, before the first."""
    if not regions or (not draft.steps and asked_already(case)):
        return
    after = _stepped(case, case.weights, regions, 100)
    draft.demand = demand_of(case, after)
    gains = {region: after[region] - case.weights[region] for region in regions}
    total = sum(gains.values())
    if not isinstance(draft.demand, Demand) or not total:
        return
    for region, gain in gains.items():
        needed = servers_needed(case, region, draft.demand.amount * gain / total)
        draft.asks += [Ask(region, model, has, count) for model, (has, count) in needed.items()]


def under_way(case: Case) -> Recovery | None:
    """The failback that has moved something and is not over, or ended before it had passed."""
    recovery = case.open or last_recovery(case)
    if recovery is None or recovery.mode is not Mode.FAILBACK or not recovery.moved:
        return None
    return None if recovery.passed and recovery.ended_seconds_ago is not None else recovery


def turned_bad(case: Case) -> dict[str, tuple[Closed, ...]]:
    """The regions that were being given their traffic back, have some, and are positively bad. What
    is merely unknown is held where it is."""
    recovery = under_way(case)
    found = {}
    for region in recovery.targets if recovery else ():
        if case.weights.get(region, 0) and case.wanted.get(region, 0):
            gates = tuple(
                gate
                for gate in closed_gates(case, region)
                if gate.name in _TURNS_BACK and not gate.unknown
            )
            if gates:
                found[region] = gates
    return found


def _returned(case: Case, turned: dict[str, tuple[Closed, ...]]) -> Draft:
    """One bad step takes back what the failback gave, to those that bore it before."""
    recovery = under_way(case)
    assert recovery is not None  # noqa: S101 - else nothing could have turned bad
    draft = Draft(region=next(iter(turned)))
    draft.weigh(case, turned, turned)
    wanted = sum(case.wanted.get(region, 0) for region in recovery.targets)
    after = dict(case.weights)
    for region in turned:
        back = -(-recovery.moved * case.wanted[region] // wanted)
        after[region] -= min(after[region], back)
    points = 100 - sum(after.values())
    takers = {
        region: float(weight)
        for region, weight in case.weights.items()
        if weight and region not in turned and not closed_gates(case, region)
    }
    gains = apportion(points, takers, dict.fromkeys(takers, points)) if takers else None
    if gains is None:
        said = f"{points} points stay: no other region passes its gates"
        draft.holds.append(case.hold(draft.region, said))
        return draft
    for region, gain in gains.items():
        after[region] += gain
    after = dict(expressible(after, case.seen.features))
    if after == case.weights:
        return draft
    bad = "; ".join(f"{region}: {gates[0]}" for region, gates in turned.items())
    reason = f"{change_text(case.weights, after)}; the step was bad: {bad}"
    draft.steps.append(Step(after, reason, name="returned"))
    return draft


def drill(case: Case) -> Draft:
    """A trickle to the standby that proves it, and back. It starts from the topology's weights, so
    that whoever finds it half done knows where it goes back to."""
    source = drill_source(case)
    draft = Draft(region=source, source=source)
    if not case.wanted:
        said = "the topology gives the route no weights, so there is nothing to go back to"
        draft.holds.append(case.hold(source, said))
        return draft
    if case.weights != case.wanted:
        if case.open is not None and case.open.mode is Mode.DRILL:
            _drill_back(case, draft)
        else:
            said = "a drill starts from the topology's weights; `mlplatform failover back` first"
            draft.holds.append(case.hold(source, said))
        return draft
    standby = [r for r, weight in case.wanted.items() if not weight and r != source]
    targets = [r for r in case.request.targets if r in case.weights] or standby
    targets = targets or [region for region in case.weights if region != source]
    draft.weigh(case, (source, *targets), {r: closed_gates(case, r) for r in (source, *targets)})
    able = [region for region in targets if not draft.closed[region]]
    draft.rooms = {region: room_of(case, region) for region in able}
    points = case.safety.drill_percent
    able = able[: case.weights[source] // points]
    if draft.closed[source] or not able:
        if not draft.holds:
            said = f"nobody could be given {points} % of the route"
            draft.holds.append(case.hold(source, said))
        return draft
    trickle = dict(case.weights)
    for region in able:
        trickle[region] += points
        trickle[source] -= points
    trickle = dict(expressible(trickle, case.seen.features))
    if trickle == case.weights:
        said = "regions are in or out here, and all are in: their own traffic proves them"
        draft.holds.append(case.hold(source, said))
        return draft
    draft.demand = demand_of(case, trickle)
    short = lacking(case, trickle, draft.rooms)
    if short and not case.breaks(Gate.HEADROOM):
        draft.holds += headroom_holds(case, short)
        return draft
    wait_seconds = case.safety.step_seconds
    there = f"{change_text(case.weights, trickle)}; a drill: a trickle proves the standby"
    back = f"{change_text(trickle, case.weights)}; the drill is over"
    draft.steps.append(Step(trickle, there, name="there", hold_seconds=wait_seconds))
    draft.steps.append(Step(case.weights, back, name="back", carries_on=True))
    return draft


def drill_source(case: Case) -> str:
    """The region that gives the trickle: the one named, else the one that has most."""
    heaviest = max(case.wanted or case.weights, key=lambda r: (case.wanted or case.weights)[r])
    return case.request.source or heaviest


def _drill_back(case: Case, draft: Draft) -> None:
    gaining = [r for r, weight in case.wanted.items() if weight > case.weights[r]]
    draft.weigh(case, gaining, {region: closed_gates(case, region) for region in gaining})
    if any(draft.closed.values()):
        return
    reason = f"{change_text(case.weights, case.wanted)}; the drill is over"
    draft.steps.append(Step(case.wanted, reason, name="back", carries_on=True))
