"""Which weights each route should have, and why. Pure: no I/O, no clock, no chance.

    who is asked about        →  rules  →  gates  →  headroom  →  steps, and a hold for whatever
    (leave, go back, drill)                                       is not done

A shift's actions and holds are about one route (`subject`) and the region that loses or gains
(`region`). What is done is in `parameters`; what was measured, in `figures`. Where it is decided
again on the way, what is done already is no longer decided: the plan is always for the weights as
they are now.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import date, datetime

from mlplatform.core.digest import blake3_hex
from mlplatform.core.errors import UsageError
from mlplatform.core.plan import JSON, Action, Consumption, Hold, Plan, Severity
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.failover.decision.back import drill, go_back, turned_bad
from mlplatform.failover.decision.case import Case, Closed, case_of, verdicts_in_force, weights_key
from mlplatform.failover.decision.draft import Draft, Step
from mlplatform.failover.decision.gates import all_closed_gates
from mlplatform.failover.decision.headroom import Demand, Room, lacking, load_moved
from mlplatform.failover.decision.leave import leave
from mlplatform.failover.decision.rules import (
    UNBREAKABLE,
    all_closed_rules,
    closed_rules,
    hold_off,
    over_the_cap,
)
from mlplatform.failover.decision.seen import Gate, Load, Mode, Request, Rule, Seen, Standby
from mlplatform.failover.verdict.judge import Health, Verdict
from mlplatform.ports.traffic import Weights

FEATURE = "failover"

_WAYS = {
    Mode.PLANNED: leave,
    Mode.UNPLANNED: leave,
    Mode.FAILBACK: go_back,
    Mode.DRILL: drill,
}


def decide(topology: Topology, seen: Seen, request: Request, now: datetime) -> Plan:
    """The plan of one request for the world as it is now. `now` is for the dates on which declared
    capacities expire, nothing else.

    `UsageError` for a request that no world could fulfil: names that the topology does not have, a
    region to itself, a rule that nobody may break.
    """
    check_request(topology, request)
    verdicts = verdicts_in_force(topology, seen)
    actions: list[Action] = []
    holds: list[Hold] = []
    basis: dict[str, str] = {}
    drafts: list[tuple[Case, Draft]] = []
    for name in request.routes or topology.traffic.routes:
        if request.models and not _is_of(topology, name, request, holds):
            continue
        case = case_of(topology, seen, request, now.date(), name, verdicts)
        if isinstance(case, Unknown):
            said = f"its weights are unknown, and stay as they are: {case.reason}"
            region = request.source or next(iter(request.targets), "")
            holds.append(Hold(subject=name, region=region, reason=said, unknown=True))
            basis[f"route/{name}"] = "unknown"
            continue
        draft = _WAYS[request.mode](case)
        if not draft.steps and not draft.asks and not draft.holds:
            continue
        basis |= _basis(case, draft)
        held = [case.hold(draft.region, c, unknown=c.unknown) for c in closed_rules(case)]
        if held:
            held += [hold for r, gates in draft.closed.items() for hold in case.holds(r, gates)]
        else:
            held = list(draft.holds)
            if draft.leaves:
                # Who was not chosen stands in nobody's way.
                held = [h.model_copy(update={"aside": h.region != draft.region}) for h in held]
            if request.automatic and case.route.mode != "auto":
                held += _advice(case, draft)
            else:
                drafts.append((case, draft))
        holds += held
    left = {case.name for case, draft in drafts if draft.leaves}
    for case, draft in drafts:
        drains = request.mode is Mode.PLANNED and draft.leaves and _leaves_all(seen, case, left)
        actions += _actions(case, draft, drains=drains)
    return Plan(feature=FEATURE, actions=tuple(actions), holds=tuple(holds), basis=basis)


def check_request(topology: Topology, request: Request) -> None:
    """`UsageError` for what cannot be right in any world."""
    for region in (*filter(None, [request.source]), *request.targets):
        topology.region(region)
    for model in request.models:
        topology.model(model)
    for name in request.routes:
        if name not in topology.traffic.routes:
            known = ", ".join(topology.traffic.routes) or "none"
            raise UsageError(f"{name}: no such route", hint=f"there are: {known}")
    if request.source is None and request.mode in (Mode.PLANNED, Mode.UNPLANNED):
        raise UsageError("which region is to be left?", hint="name it with --from")
    if request.source is not None and request.source in request.targets:
        raise UsageError(
            f"{request.source}: traffic cannot move from a region to itself",
            hint="name another region with --to",
        )
    if request.keep and request.mode is not Mode.PLANNED:
        raise UsageError(
            "a part of its weight is left to a region that is well",
            hint="with --planned, or without --keep",
        )
    if not 0 <= request.keep < 100:
        raise UsageError(f"{request.keep} points: weights total 100", hint="--keep 1 to 99")
    names = {*(gate.value for gate in Gate), *(rule.value for rule in Rule)}
    for broken in sorted(request.broken):
        if broken not in names or broken in {rule.value for rule in UNBREAKABLE}:
            may = ", ".join(sorted(names - {rule.value for rule in UNBREAKABLE}))
            raise UsageError(
                f"{broken} cannot be broken", hint=f"what can be broken, at your risk: {may}"
            )


def propose_requests(topology: Topology, seen: Seen) -> list[Request]:
    """What the watch asks for by itself: to leave each region that is unhealthy and has weight,
    those that serve nothing first; and to go back where that is due, or was a bad step. What a
    planned failover moved stays until somebody asks for it back."""
    verdicts = verdicts_in_force(topology, seen)
    if all(verdict.health is Health.UNKNOWN for verdict in verdicts.values()):
        return []
    sick = sorted(
        (verdict for verdict in verdicts.values() if verdict.health is Health.UNHEALTHY),
        key=lambda verdict: (not verdict.serves_nothing, verdict.region),
    )
    weights = {
        name: case.weights
        for name in topology.traffic.routes
        if isinstance(case := _back_case(topology, seen, name, verdicts), Case)
    }
    found = []
    busy: set[str] = set()
    for verdict in sick:
        routes = tuple(name for name in weights if weights[name].get(verdict.region, 0))
        busy.update(routes)
        if routes:
            found.append(
                Request(
                    Mode.UNPLANNED,
                    source=verdict.region,
                    routes=routes,
                    automatic=True,
                    reason=f"{verdict.region} is unhealthy",
                )
            )
    for name in weights:
        targets = () if name in busy else _due_back(topology, seen, name, verdicts)
        if targets:
            found.append(
                Request(
                    Mode.FAILBACK,
                    targets=targets,
                    routes=(name,),
                    automatic=True,
                    reason=f"{' and '.join(targets)} may have its traffic back",
                )
            )
    return found


def _due_back(
    topology: Topology, seen: Seen, name: str, verdicts: Mapping[str, Verdict]
) -> tuple[str, ...]:
    """The regions of a route that may be given back what an unplanned failover took, or whose
    failback has to be taken back."""
    case = _back_case(topology, seen, name, verdicts)
    if isinstance(case, Unknown) or not case.wanted:
        return ()
    if turned := turned_bad(case):
        return tuple(turned)
    if case.open is not None and not (case.open.mode is Mode.FAILBACK and case.open.automatic):
        return ()  # and an operator's own failback is theirs to go on with
    return tuple(
        region
        for region, wanted in case.wanted.items()
        if case.weights[region] < wanted
        and case.verdict(region).health is Health.HEALTHY
        and _left_unplanned(case, region)
        and hold_off(case, region) is None
    )


def _back_case(
    topology: Topology,
    seen: Seen,
    name: str,
    verdicts: Mapping[str, Verdict],
) -> Case | Unknown:
    request = Request(Mode.FAILBACK, routes=(name,), automatic=True)
    # The day is of no matter here: no capacity is asked for.
    return case_of(topology, seen, request, date.min, name, verdicts)


def _left_unplanned(case: Case, region: str) -> bool:
    for recovery in reversed(case.seen.recoveries):
        if recovery.source == region and recovery.moved and recovery.mode is not Mode.DRILL:
            return recovery.mode is Mode.UNPLANNED
    return False


def _is_of(topology: Topology, name: str, request: Request, holds: list[Hold]) -> bool:
    """Whether a route serves only the models that are asked for. Weights are of a route: its other
    models would move with them."""
    serves = set(topology.traffic.routes[name].models)
    if not serves & set(request.models):
        return False
    others = sorted(serves - set(request.models))
    if others:
        said = f"it serves {', '.join(others[:3])} as well, which would move too"
        holds.append(Hold(subject=name, region=request.source or "", reason=said))
    return not others


def _leaves_all(seen: Seen, case: Case, left: set[str]) -> bool:
    """Whether the source has nothing left to serve on any route, so that its servers may be told to
    send clients away."""
    for name, route in seen.routes.items():
        if name in left:
            continue
        if isinstance(route.state, Unknown):
            return False
        if route.state.weights.get(case.request.source or "", 0):
            return False
    return True


def _advice(case: Case, draft: Draft) -> Iterator[Hold]:
    """What a route that only advises would do."""
    if not draft.steps:
        return
    request = case.request
    line = f"mlplatform failover run --from {request.source} --route {case.name}"
    if request.mode is Mode.FAILBACK:
        line = f"mlplatform failover back --route {case.name}"
    said = Closed(Rule.ADVISE, f"not done by itself: {draft.steps[0].reason}; `{line}` does it")
    yield case.hold(draft.region, said)


# From a draft to actions.


def _actions(case: Case, draft: Draft, *, drains: bool) -> Iterator[Action]:
    figures = _figures(case, draft)
    asks = list(_asks(case, draft))
    if drains:
        yield _drain(case, draft, enter=True)
    if draft.asks_first or not draft.steps:
        yield from asks
        asks = []
    before: Weights = dict(case.state.weights)
    for step in draft.steps:
        # By both ends: weights may come back to what they were within one operation.
        way = f"{weights_key(before)}>{weights_key(step.after)}"
        key = f"{FEATURE}/{case.name}/shift/{way}"
        yield _shift(case, draft, step, before, key, figures)
        # What moves clients goes first: who asks for servers may be kept waiting.
        yield from (ask.model_copy(update={"batch": key}) for ask in asks)
        asks = []
        yield _settle(case, draft, step, way, key, figures)
        before = step.after
    if drains:
        yield _drain(case, draft, enter=False)


def _shift(
    case: Case, draft: Draft, step: Step, before: Weights, key: str, figures: JSON
) -> Action:
    late = _too_late(case)
    amends = case.open.operation if case.open is not None else None
    return Action(
        key=key,
        kind="shift",
        subject=case.name,
        region=draft.region,
        reason=f"{step.reason}{f'; warning: {late}' if late else ''}",
        severity=Severity.SEVERE,
        batch=key,
        carries_on=step.carries_on,
        parameters={
            **_parameters(case, draft),
            "before": dict(before),
            "after": dict(step.after),
            "step": step.name,
        },
        figures={
            **figures,
            "load_moved": load_moved(case, step.after),
            "amends": amends,
            "warning": late,
            "ttl_seconds": case.state.ttl_seconds,
            "rto_seconds": _rto_seconds(case),
        },
    )


def _settle(case: Case, draft: Draft, step: Step, way: str, batch: str, figures: JSON) -> Action:
    wait = f", then {step.hold_seconds:.0f} s in which they must hold" if step.hold_seconds else ""
    return Action(
        key=f"{FEATURE}/{case.name}/settle/{way}",
        kind="settle",
        subject=case.name,
        region=draft.region,
        reason=f"until clients have followed{wait}",
        batch=batch,
        carries_on=True,
        parameters={
            **_parameters(case, draft),
            "after": dict(step.after),
            "hold_seconds": step.hold_seconds,
        },
        figures={"load_before": figures["load_before"]},
    )


def _asks(case: Case, draft: Draft) -> Iterator[Action]:
    for ask in draft.asks:
        yield Action(
            key=f"{FEATURE}/{case.name}/ask-capacity/{ask.region}/{ask.model}",
            kind="ask-capacity",
            subject=case.name,
            region=ask.region,
            reason=f"{ask.model} has {ask.has} warm servers, {ask.servers} would bear the load",
            batch=f"{FEATURE}/{case.name}/ask-capacity",
            parameters={
                **_parameters(case, draft),
                "model": ask.model,
                "servers": ask.servers,
            },
            consumes=(
                Consumption(
                    resource="server",
                    amount=max(ask.servers - ask.has, 0),
                    unit="servers",
                    region=ask.region,
                    product=ask.model,
                ),
            ),
        )


def _drain(case: Case, draft: Draft, *, enter: bool) -> Action:
    kind = "drain" if enter else "undrain"
    return Action(
        key=f"{FEATURE}/{case.name}/{kind}/{draft.region}",
        kind=kind,
        subject=case.name,
        region=draft.region,
        reason="its servers answer, and send clients elsewhere with `Connection: close`"
        if enter
        else "nobody is sent there any more, so its servers may be ready again",
        severity=Severity.SEVERE if enter else Severity.MILD,
        carries_on=not enter,
        parameters=_parameters(case, draft),
    )


def _parameters(case: Case, draft: Draft) -> JSON:
    """What every action of a route says of the request, so that anyone can go on with it."""
    request = case.request
    return {
        "route": case.name,
        "mode": request.mode.value,
        "source": draft.source,
        "targets": list(request.targets),
        "automatic": request.automatic,
        "reason": request.reason,
        **({"keep": request.keep} if request.keep else {}),
        "broken": sorted(request.broken),
    }


def _figures(case: Case, draft: Draft) -> JSON:
    """What it was decided from, as numbers and in words."""
    loads = {
        region: max(load.now or 0.0, load.peak or 0.0)
        for region, load in case.seen.load.items()
        if isinstance(load, Load)
    }
    demand = draft.demand
    return {
        "epoch": case.seen.epoch,
        "expected": {"epoch": case.state.epoch, "tag": case.state.tag, "by": case.state.writer},
        "sick_seconds": case.verdict(draft.source).sick_seconds if draft.source else None,
        "verdicts": {region: case.verdict(region).health.value for region in case.weights},
        "overrides": [asdict(order) for order in case.overrides],
        "headroom": {
            region: {
                "said": str(room),
                "model": room.model,
                "servers": room.servers,
                "requests_per_second": room.rate.requests_per_second,
                "known": room.rate.source,
                "present": room.present,
                "free": room.free,
            }
            for region, room in draft.rooms.items()
            if isinstance(room, Room)
        },
        "demand": {"requests_per_second": demand.amount, "said": str(demand)}
        if isinstance(demand, Demand)
        else None,
        "refused": {
            region: [str(gate) for gate in gates] for region, gates in draft.closed.items() if gates
        },
        "broken": list(_broken(case, draft)),
        "load_before": loads,
    }


def _broken(case: Case, draft: Draft) -> Iterator[str]:
    """What is closed, and broken on purpose: region by region where it is a gate."""
    if not case.request.broken:
        return
    for region in draft.closed:
        for gate in all_closed_gates(case, region):
            if case.breaks(gate.name):
                yield f"{region}: {gate}"
        if case.request.mode is Mode.FAILBACK and case.breaks(Rule.HOLD_OFF):
            yield from (f"{region}: {waits}" for waits in [hold_off(case, region)] if waits)
    for rule in all_closed_rules(case):
        if case.breaks(rule.name):
            yield str(rule)
    if not draft.steps:
        return
    after = draft.steps[-1].after
    if case.breaks(Gate.HEADROOM):
        for region, closed in lacking(case, after, draft.rooms).items():
            yield f"{region}: {closed}"
    if case.breaks(Rule.CAP) and draft.source is not None:
        lost = case.weights[draft.source] - after[draft.source]
        yield from (str(closed) for closed in [over_the_cap(case, lost)] if closed)


def _rto_seconds(case: Case) -> float | None:
    """How long it may take until clients are served elsewhere: as long as they may keep the old
    answer, and a round of probes to see it. None: nobody knows the TTL."""
    ttl_seconds = case.state.ttl_seconds
    if ttl_seconds is None:
        if case.seen.features.ttl:
            return None
        ttl_seconds = 0.0
    return ttl_seconds + case.topology.traffic.probe.interval_seconds


def _too_late(case: Case) -> str:
    """What to warn of, if clients will follow later than they are to."""
    wanted = case.route.rto_seconds
    if wanted is None:
        return ""
    expected = _rto_seconds(case)
    if expected is None:
        return f"the RTO of {wanted:.0f} s cannot be vouched for: the record's TTL is unknown"
    if expected <= wanted:
        return ""
    return (
        f"the RTO of {wanted:.0f} s cannot hold: clients may keep the old answer for "
        f"{case.state.ttl_seconds or 0:.0f} s, and are seen to move within {expected:.0f} s"
    )


def _basis(case: Case, draft: Draft) -> dict[str, str]:
    """What the plan rests on. Figures that move all the time are not in it: what they decide is in
    the weights that are planned."""
    name = case.name
    found = {
        f"route/{name}": weights_key(case.weights),
        f"orders/{name}": _orders(case),
    }
    regions = dict.fromkeys((*filter(None, [draft.source]), *draft.closed))
    for region in regions:
        verdict = case.verdict(region)
        nothing = ", serves nothing" if verdict.serves_nothing else ""
        found[f"verdict/{region}"] = f"{verdict.health.value}{nothing}"
    for region, gates in draft.closed.items():
        closed = sorted({f"{gate.name.value}{'?' if gate.unknown else ''}" for gate in gates})
        held = case.seen.standby.get(region, {})
        offered = [
            f"{model}={there.version}/{there.digest}"
            if isinstance(there, Standby)
            else f"{model}=?"
            for model in case.route.models
            if (there := held.get(model)) is not None
        ]
        told = blake3_hex("\n".join([*closed, "", *offered]).encode())
        found[f"standby/{name}/{region}"] = told
    return found


def _orders(case: Case) -> str:
    orders = case.orders
    standing = [f"locked: {scope}" for scope in orders.locks if scope in (case.name, "all")]
    standing += [
        f"maintenance: {region}" for region in orders.maintenance if region in case.weights
    ]
    standing += [f"override: {order.region}={order.health}" for order in case.overrides]
    return "; ".join(sorted(standing))
