"""What can be asked of failover, each as one call: a command parses, calls one, renders."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from functools import partial

from mlplatform.control.journal import Journal, Stream
from mlplatform.control.journal import Kind as JournalKind
from mlplatform.control.lease import Lease, Waiting, lease_for
from mlplatform.control.orders import EVERYTHING, Order
from mlplatform.control.orders import Kind as OrderKind
from mlplatform.control.reconcile import Report, resume, run
from mlplatform.core.errors import (
    IntegrityError,
    LeaseHeld,
    MlplatformError,
    NotFound,
    Unavailable,
    UsageError,
)
from mlplatform.core.placement import Grid
from mlplatform.core.plan import Outcome, Plan
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.failover.decision.decide import FEATURE, check_request, decide
from mlplatform.failover.decision.seen import Drained, Mode, Request, RouteSeen, Rule, Seen
from mlplatform.failover.effects import Estate, Mover, Undrainer, of_route
from mlplatform.failover.history.recoveries import LOOK_BACK, drained_by, operation_of
from mlplatform.failover.standby.serving import Standbys, climbed
from mlplatform.failover.verdict.judge import Verdict, judge_all
from mlplatform.ports.traffic import RouteState

log = logging.getLogger(__name__)

_ROUTES_AT_ONCE = 512
"""None waits until the clients of another have moved. How many look at once, `Estate` bounds."""


_SIGN_OF_LIFE = "probes/without-control.json"


@dataclass(frozen=True, slots=True)
class Said:
    """What the caller wants to hear while operations run, from several threads."""

    plan: Callable[[Plan, str], None] = lambda plan, operation: None
    outcome: Callable[[str, Outcome], None] = lambda route, outcome: None
    """The route, and what became of one of its actions."""
    text: Callable[[str], None] = lambda text: None


def lease_of(estate: Estate, route: str) -> Lease:
    """One hand at a time on one route. Its generation is above every epoch that the route's target
    knows, so a control store that was rebuilt never falls behind."""

    def floor() -> int:
        traffic = estate.open_traffic(route)
        state = traffic.read()
        if sum(state.weights.values()) != 100:
            # An API that is ill lists nothing, with 200. That is no epoch of 0.
            raise Unavailable(
                f"answered with {dict(state.weights) or 'nothing'}, and weights total 100",
                store=traffic.url,
            )
        return state.epoch

    return lease_for(estate, f"{FEATURE}/{route}", floor=floor)


@dataclass(frozen=True, slots=True)
class Proposal:
    """What would be done, route by route, and what it was decided from."""

    request: Request
    seen: Seen
    plans: Mapping[str, Plan] = field(default_factory=dict)
    """By route; one without actions may have holds, which say why."""
    left: Mapping[str, str] = field(default_factory=dict)
    """By route that is to be changed: which operation is open there, and what becomes of it."""

    @property
    def noop(self) -> bool:
        return all(plan.noop for plan in self.plans.values())


def propose(estate: Estate, request: Request) -> Proposal:
    """`--plan`: what would be done, and why. Changes nothing, claims nothing. `UsageError` where
    the control store is bypassed, answers, and the request does not break `control`."""
    topology = estate.topology
    if not topology.traffic.routes:
        raise UsageError(
            "the topology has no routes, so there is no traffic to move",
            hint="add one under traffic.routes; docs/failover.md shows how",
        )
    check_request(topology, request)
    answers = estate.executor.submit(_control_answers, estate)
    seen = estate.observe()
    plan = decide(topology, seen, request, estate.clock.now())
    if answers.result() and Rule.CONTROL.value not in request.broken:
        raise UsageError(
            f"{Rule.CONTROL.value}: a majority of control stores answers, and takes what is "
            "written: locks, what others do, and what vantages saw can be heeded",
            hint="leave --without-control away; or, if they must not be heeded, "
            f"add --break-glass {Rule.CONTROL.value}",
        )
    names = dict.fromkeys([*(a.subject for a in plan.actions), *(h.subject for h in plan.holds)])
    plans = {name: of_route(plan, name) for name in names}
    left = {name: _left(estate, seen.routes[name], request) for name in names}
    return Proposal(
        request, seen, plans, {n: text for n, text in left.items() if text and not plans[n].noop}
    )


def _left(estate: Estate, there: RouteSeen, request: Request) -> str:
    for recovery in there.recoveries:
        if recovery.ended_seconds_ago is None:
            stream = estate.journal.open(recovery.operation)
            return (
                f"operation {recovery.operation} ({recovery.mode.value}), by "
                f"{stream.entries[0].writer}, {becomes_of(stream, request).value}"
            )
    return ""


def _control_answers(estate: Estate) -> bool:
    """Whether the control store that somebody acts without could be used. One that can only be read
    could not."""
    control = estate.bypassed
    if control is None:
        return False
    try:
        control.list("orders/", shallow=True)
        took = control.put_observation(_SIGN_OF_LIFE, estate.writer.encode())
        control.drop_observation(_SIGN_OF_LIFE)
    except MlplatformError as error:
        log.info("acting without the control store: %s", error)
        return False
    return took >= control.majority


@dataclass(frozen=True, slots=True)
class Moves:
    """What became of each route."""

    reports: Mapping[str, Report] = field(default_factory=dict)
    errors: Mapping[str, MlplatformError] = field(default_factory=dict)
    """Routes that were not moved because of an error, or because another hand holds them."""


def carry_out(
    estate: Estate, proposal: Proposal, *, wait: Waiting = False, said: Said | None = None
) -> Moves:
    """Do what was proposed, each route under its lease, several at once. A route whose world has
    changed since is not touched: `StalePlan`."""
    said = said or Said()
    names = [name for name, plan in proposal.plans.items() if not plan.noop]
    reports: dict[str, Report] = {}
    errors: dict[str, MlplatformError] = {}

    request = replace(proposal.request, agreed=_agreed(proposal.plans))

    def one(name: str) -> Report:
        return move(estate, name, request, approved=proposal.plans[name], wait=wait, said=said)

    pool = estate.make_executor(_ROUTES_AT_ONCE)
    moving = {name: pool.submit(one, name) for name in names}
    for name, future in moving.items():
        try:
            reports[name] = future.result()
        except MlplatformError as error:
            errors[name] = error
        except Exception as error:  # one route's must not hide what became of the others
            log.exception("%s: not moved", name)
            errors[name] = MlplatformError(
                f"{name}: internal error: {type(error).__name__}: {error}",
                hint=f"`mlplatform failover status` shows how {name} stands",
            )
    pool.shutdown()
    for name, plan in proposal.plans.items():
        if plan.noop:
            reports[name] = Report(plan)
    return Moves(reports, errors)


def _agreed(plans: Mapping[str, Plan]) -> dict[str, dict[str, int]]:
    """By route, the weights that its first shift leads to."""
    found: dict[str, dict[str, int]] = {}
    for name, plan in plans.items():
        for action in plan.actions:
            if action.kind == "shift":
                found.setdefault(name, dict(action.parameters["after"]))
    return found


def move(
    estate: Estate,
    route: str,
    request: Request,
    *,
    approved: Plan | None = None,
    wait: Waiting = False,
    said: Said | None = None,
) -> Report:
    """Move one route, under its lease, recorded in the journal; the plan is looked at again before
    each step, and follows the world. `LeaseHeld` where another hand is on it."""
    said = said or Said()
    lease = lease_of(estate, route)
    try:
        mover = _mover(estate, route, request, lease, said)
        return run(
            mover,
            estate.journal,
            lease,
            clock=estate.clock,
            wait=wait,
            approved=approved,
            amend=True,
            stop=estate.stop,
            on_plan=said.plan,
            on_outcome=lambda outcome: said.outcome(route, outcome),
            background=estate.background,
            finisher=lambda left: _finisher(estate, route, left, request, lease, said),
        )
    except LeaseHeld as held:
        _tell_whose(estate, lease.name, held)
        raise


def _tell_whose(estate: Estate, lease: str, held: LeaseHeld) -> None:
    """What is under way there and how it is ended, where it can be said: whoever waits for it may
    wait for hours."""
    with suppress(MlplatformError):
        for name in [stream.operation for stream in estate.journal.unfinished(lease=lease)][:1]:
            if name not in str(held):
                held.hint = (
                    f"operation {name} is under way: `mlplatform failover abort {name}` ends it "
                    f"after the step it is in; {held.hint}"
                )


class Left(StrEnum):
    """What becomes of an operation that was left on a route, before anything else is done there."""

    GONE_ON_WITH = "is gone on with first"
    """A watch's, or one that was to do the very same."""
    ENDED = "is ended where it stands, and this is done instead"
    """By an operator who wants something else: what must be done in any case is done of it. Then
    nothing stands in the way of what they have agreed to."""
    AMENDED = "is amended: nothing more is done of it but what must be"
    """By a watch, which never carries on what an operator has begun and left, nor waits for it. In
    the same operation: closed, it would start a cooldown, and clients that are on their way would
    be forgotten."""
    KEPT = "has to be resumed or aborted first"
    """It is another's, and what is asked for is no emergency."""


def becomes_of(left: Stream, request: Request) -> Left:
    """What `request` makes of an operation that was left."""
    asked = request_of(left.plan)
    if _is_automatic(left):
        return Left.GONE_ON_WITH
    if request.automatic:
        return Left.AMENDED
    if _intent(asked) == _intent(request):
        return Left.GONE_ON_WITH
    again = asked.mode is request.mode and asked.source == request.source
    if request.mode is Mode.UNPLANNED or again or Rule.OPEN.value in request.broken:
        return Left.ENDED
    return Left.KEPT


def _is_automatic(left: Stream) -> bool:
    """Whether a watch began it. A fault may have amended it since, by itself."""
    told = operation_of(left)
    first = next(iter(told.actions.values())) if told is not None else None
    return first is None or bool(first.parameters.get("automatic"))


def _intent(request: Request) -> tuple[object, ...]:
    return (
        request.mode,
        request.source,
        frozenset(request.targets),
        request.keep,
        request.broken,
    )


def _finisher(
    estate: Estate, route: str, left: Stream, request: Request, lease: Lease, said: Said
) -> Mover | None:
    """Who goes on with what was left on a route, or ends it, before anything else is done there.
    `LeaseHeld` while it is paused: then the route is in the hand of whoever paused it."""
    name, asked = left.operation, request_of(left.plan)
    orders = estate.orders.read() if estate.obeys_orders else ()
    reasons = {order.kind: order.reason for order in orders if order.scope == name}
    if OrderKind.PAUSE in reasons and OrderKind.ABORT not in reasons:
        raise LeaseHeld(
            f"{route} is held by operation {name}, which is paused: {reasons[OrderKind.PAUSE]}",
            hint=f"`mlplatform failover resume {name}` goes on with it, `abort {name}` ends it",
        )
    becomes = becomes_of(left, request)
    if OrderKind.ABORT in reasons or becomes is Left.GONE_ON_WITH:
        return _mover(estate, route, asked, lease, said, operation=name, ended=_moves_nothing(left))
    if becomes is Left.KEPT:
        return None
    why = request.reason or f"{request.mode.value} from {request.source}"
    text = f"{estate.writer}: {why}; what {left.entries[0].writer} left of it {becomes.value}"
    left.append(JournalKind.NOTE, {"text": text}, fence=lease.generation)
    said.text(f"{route}: {name}, which {left.entries[0].writer} left, {becomes.value}")
    if becomes is Left.AMENDED:
        return _mover(estate, route, request, lease, said, operation=name)
    return _mover(estate, route, asked, lease, said, operation=name, ended=f"ended: {why}")


def _moves_nothing(stream: Stream) -> str:
    """Why nothing is decided of it, if it was only to tell servers that they may serve."""
    only = {action.kind for action in stream.plan.actions} == {"undrain"}
    return "it was to move nothing" if only else ""


def _mover(
    estate: Estate,
    route: str,
    request: Request,
    lease: Lease,
    said: Said,
    *,
    operation: str = "",
    ended: str = "",
) -> Mover:
    return Mover(
        estate,
        route,
        request,
        guard=lease.guard,
        epoch=lambda: lease.generation,
        told=said.text,
        operation=operation,
        ended=ended,
    )


def request_of(plan: Plan, fallback: Request | None = None) -> Request:
    """What a recorded plan was made for."""
    if not plan.actions:
        return fallback or Request(Mode.UNPLANNED)
    first = plan.actions[0]
    asked = first.parameters
    return Request(
        mode=Mode(asked["mode"]),
        source=asked.get("source"),
        targets=tuple(asked.get("targets", ())),
        routes=(first.subject,),
        automatic=bool(asked.get("automatic", False)),
        reason=str(asked.get("reason", "")),
        keep=int(asked.get("keep", 0)),
        broken=frozenset(asked.get("broken", ())),
    )


def open_operations(estate: Estate) -> list[Stream]:
    """Failover operations that are under way, or were left."""
    return [stream for stream in estate.journal.unfinished() if stream.plan.feature == FEATURE]


def resume_left(
    estate: Estate,
    operation: str | None = None,
    *,
    wait: Waiting = False,
    said: Said | None = None,
) -> Iterable[tuple[str, Report]]:
    """Finish one operation, or every one that was left; what is no longer decided is not begun."""
    said = said or Said()
    journal = estate.journal
    streams = [open_operation(journal, operation)] if operation else open_operations(estate)
    for stream in streams:
        told = operation_of(stream)
        if stream.closed or told is None:
            continue
        yield stream.operation, _resume(estate, told.route, stream, wait, said)


def _resume(estate: Estate, route: str, stream: Stream, wait: Waiting, said: Said) -> Report:
    lease = lease_of(estate, route)
    return resume(
        stream.operation,
        _mover(
            estate,
            route,
            request_of(stream.plan),
            lease,
            said,
            operation=stream.operation,
            ended=_moves_nothing(stream),
        ),
        estate.journal,
        lease,
        clock=estate.clock,
        wait=wait,
        amend=True,
        stop=estate.stop,
        on_plan=said.plan,
        on_outcome=lambda outcome: said.outcome(route, outcome),
        background=estate.background,
    )


def open_operation(journal: Journal, operation: str) -> Stream:
    """One failover operation by its id; `UsageError` if there is none."""
    try:
        stream = journal.open(operation)
    except NotFound as error:
        raise UsageError(str(error), hint=error.hint) from error
    if stream.entries and stream.plan.feature != FEATURE:
        raise UsageError(f"{operation} is an operation of {stream.plan.feature}")
    return stream


# What operators order.


def order(
    estate: Estate,
    kind: OrderKind,
    scope: str,
    *,
    reason: str,
    value: str = "",
    lasts: timedelta | None = None,
) -> Order:
    """Give an order; `UsageError` for a scope that there is not."""
    _check_scope(estate.topology, kind, scope)
    expires_at = estate.clock.now() + lasts if lasts else None
    return estate.orders.give(kind, scope, reason=reason, value=value, expires_at=expires_at)


def take_back(estate: Estate, kind: OrderKind, scope: str, *, reason: str) -> Order:
    """End an order; `UsageError` if there is none in force."""
    try:
        return estate.orders.take_back(kind, scope, reason=reason)
    except NotFound as error:
        raise UsageError(str(error), hint=error.hint) from error


def _check_scope(topology: Topology, kind: OrderKind, scope: str) -> None:
    if kind in (OrderKind.MAINTENANCE, OrderKind.OVERRIDE):
        topology.region(scope)
    elif kind is OrderKind.LOCK and scope != EVERYTHING and scope not in topology.traffic.routes:
        known = ", ".join(topology.traffic.routes) or "none"
        raise UsageError(f"{scope}: no such route", hint=f"--all, or one of: {known}")


def pause(estate: Estate, operation: str, *, reason: str) -> Order:
    """Let an operation take no further step. `UsageError` for one that is over."""
    _require_open(open_operation(estate.journal, operation))
    forget_orders(estate)
    return estate.orders.give(OrderKind.PAUSE, operation, reason=reason)


def paused(estate: Estate) -> dict[str, Order]:
    """By operation that is not over: who let it take no further step, and why."""
    return {
        order.scope: order
        for order in estate.orders.read()
        if order.kind is OrderKind.PAUSE and not _is_over(estate.journal, order)
    }


def abort(estate: Estate, operation: str, *, reason: str) -> None:
    """End an operation where it stands. One that is under way ends after the step it is in, or the
    wait; one that was left is ended here, and what has to be done in any case is done: servers that
    it drained are ready again. For as long as operations are looked back on, what it was about is
    not begun again by itself."""
    _require_open(open_operation(estate.journal, operation))
    until = estate.clock.now() + LOOK_BACK
    estate.orders.give(OrderKind.ABORT, operation, reason=reason, expires_at=until)
    with suppress(LeaseHeld):  # then whoever is at work on it ends it
        for _ in resume_left(estate, operation, wait="silent"):
            pass
    forget_orders(estate)


def undrain(
    estate: Estate,
    region: str,
    *,
    routes: Sequence[str] = (),
    reason: str,
    automatic: bool = False,
    wait: Waiting = False,
    said: Said | None = None,
) -> Moves:
    """Tell a region's servers that they may serve again: where the operation that drained them is
    over and could not, on each route that it was done for, or that is named; else, for servers that
    are in lame duck for no known reason, under the lease of one route that goes there. Weights stay
    as they are. `UsageError` for a region that no route goes to."""
    estate.topology.region(region)
    known = estate.topology.traffic.routes
    goes = [name for name, route in known.items() if region in route.weights]
    if not routes:
        done = estate.memory.operations(estate.clock.now())
        drained = [n for n in known if region in drained_by(done.get(n, ()), estate.clock.now())]
        routes = drained or goes[:1]
    if not routes:
        raise UsageError(f"{region}: no route goes there", hint="mlplatform failover status")
    request = Request(Mode.PLANNED, source=region, reason=reason, automatic=automatic)
    said = said or Said()
    reports: dict[str, Report] = {}
    errors: dict[str, MlplatformError] = {}
    for name in routes:
        lease = lease_of(estate, name)
        try:
            reports[name] = run(
                Undrainer(estate, name, region, request, lease.guard),
                estate.journal,
                lease,
                clock=estate.clock,
                wait=wait,
                stop=estate.stop,
                on_plan=said.plan,
                on_outcome=partial(said.outcome, name),
                background=estate.background,
                finisher=lambda left: None,
            )
        except (LeaseHeld, Unavailable) as error:
            errors[name] = error
    return Moves(reports, errors)


def _require_open(stream: Stream) -> None:
    if stream.closed or operation_of(stream) is None:
        raise UsageError(
            f"{stream.operation} is over already",
            hint=f"`mlplatform history --operation {stream.operation}` tells it",
        )


def forget_orders(estate: Estate) -> None:
    """Remove what was ordered of operations that are over: a pause at once, an abort when its fault
    is not looked back on any more."""
    now = estate.clock.now()
    for order in estate.orders.known():
        about_operation = order.kind in (OrderKind.PAUSE, OrderKind.ABORT)
        counts = order.kind is OrderKind.ABORT and order.at + LOOK_BACK > now
        if about_operation and not counts and _is_over(estate.journal, order):
            estate.orders.forget(order)


def _is_over(journal: Journal, order: Order) -> bool:
    """Whether the operation that an order is about is. One whose journal cannot be read, or that is
    not there, may be under way."""
    try:
        return journal.open(order.scope).closed
    except (NotFound, IntegrityError):
        return False


# How things stand.


@dataclass(frozen=True, slots=True)
class RouteStands:
    """One route, for `failover status`."""

    route: str
    mode: str
    state: RouteState | Unknown
    wanted: Mapping[str, int]
    """What the topology gives it when nothing is wrong."""
    by_hand: bool
    """Whether somebody changed its weights since we wrote them."""
    open: str | None = None
    """The operation that is under way."""
    locked: str | None = None
    drained: Mapping[str, Drained] = field(default_factory=dict)
    """By region: its servers send clients away."""


@dataclass(frozen=True, slots=True)
class Stands:
    """How everything stands."""

    seen: Seen
    routes: Sequence[RouteStands]
    orders: Sequence[Order]


def stands(estate: Estate) -> Stands:
    """Routes, verdicts, orders, and what is under way."""
    seen = estate.observe()
    topology = estate.topology
    rows = []
    for name, route in topology.traffic.routes.items():
        there = seen.routes[name]
        rows.append(
            RouteStands(
                route=name,
                mode=route.mode,
                state=there.state,
                wanted=route.weights,
                by_hand=changed_by_hand(there),
                open=next(
                    (r.operation for r in there.recoveries if r.ended_seconds_ago is None), None
                ),
                locked=seen.orders.locks.get(name) or seen.orders.locks.get(EVERYTHING),
                drained=there.drained,
            )
        )
    return Stands(seen, rows, estate.orders.read())


def left_drained(seen: Mapping[str, RouteSeen]) -> dict[str, Drained]:
    """By region: servers that send clients away, although what told them to is over."""
    return {
        region: drained
        for there in seen.values()
        for region, drained in there.drained.items()
        if not drained.open
    }


@dataclass(frozen=True, slots=True)
class Serving:
    """What is served where, and how regions are: what the grid shows above STORED."""

    grid: Grid
    states: Mapping[str, RouteState | Unknown]
    """By route."""
    verdicts: Mapping[str, Verdict]
    standbys: Standbys
    """What each region's servers offer for each model."""


def serving(estate: Estate, grid: Grid) -> Serving:
    """The grid, with who has loaded, warmed and serves what. Needs no journal and no order."""
    topology = estate.topology
    names = list(topology.traffic.routes)
    reading = estate.executor.submit(estate.read_routes, names)
    evidence = estate.look()
    standbys = estate.stand(evidence, names)
    states = reading.result()
    return Serving(
        climbed(grid, topology, states, standbys),
        states,
        judge_all(evidence, topology),
        standbys,
    )


def changed_by_hand(there: RouteSeen) -> bool:
    """Whether a route has other weights than we wrote last."""
    return (
        isinstance(there.state, RouteState)
        and there.written is not None
        and dict(there.written) != dict(there.state.weights)
    )
