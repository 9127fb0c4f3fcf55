"""The routes, the servers behind them and what is known of both: seen, and acted on. All I/O of
failover is here, through ports.

One operation moves one route, under that route's lease: routes do not wait for each other.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field, replace
from datetime import datetime
from random import Random
from typing import TypeVar

from mlplatform.control.claims import claimed
from mlplatform.control.executors import DaemonThreads
from mlplatform.control.journal import Journal
from mlplatform.control.lease import Background
from mlplatform.control.orders import Kind, Order, StandingOrders
from mlplatform.control.quorum import ControlStore
from mlplatform.control.regions import each_region, gathered
from mlplatform.control.two_paths import FROZEN
from mlplatform.core.errors import (
    CheckFailed,
    ConditionFailed,
    DeadlineExceeded,
    Fenced,
    Interrupted,
    MlplatformError,
    NoMajority,
    Throttled,
    Unavailable,
)
from mlplatform.core.plan import JSON, Action, Hold, Outcome, Plan, Result
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.failover.decision.case import verdicts_in_force
from mlplatform.failover.decision.decide import FEATURE, decide, propose_requests
from mlplatform.failover.decision.seen import (
    Gate,
    Load,
    Mode,
    Orders,
    Override,
    Request,
    RouteSeen,
    Seen,
    Standby,
)
from mlplatform.failover.evidence.loads import LastLoads, with_declared
from mlplatform.failover.evidence.moved import Moved, who_still_comes
from mlplatform.failover.evidence.record import Evidence
from mlplatform.failover.history.recoveries import (
    Memory,
    Operation,
    drained_by,
    recoveries_of,
    written_by,
)
from mlplatform.failover.verdict.judge import Health, judge_all
from mlplatform.ports.clock import Clock
from mlplatform.ports.fleet import Fleet
from mlplatform.ports.traffic import RouteState, Traffic, check_epoch

log = logging.getLogger(__name__)

T = TypeVar("T")

IN_FORCE_SECONDS = 120.0
"""How long an actuator may take until it answers with what was written."""
_OBSERVED_SECONDS = 60.0
"""How long, past the time for which clients may keep an old answer, it is watched who still goes
to where nothing should go."""
_GRACE_SECONDS = 1.0
"""How long monitoring is waited for when all else has answered."""
_LATE = Unknown("monitoring did not answer in time")
_POLL_SECONDS = 0.5
_LOOKS_AT_ONCE = 16
"""Each asks every region, in threads: a hundred routes on the move must not all look at once."""
_LOOK_SECONDS = 5.0
"""How often, at the least, it is decided anew while clients move."""

Standbys = Mapping[str, Mapping[str, Standby | Unknown]]
"""By region, then by model."""
Loads = Mapping[str, Mapping[str, Load | Unknown]]
"""By route, then by region."""


@dataclass(slots=True)
class Estate:
    """Every route, every region's servers, and what is known of them."""

    topology: Topology
    control: ControlStore
    open_traffic: Callable[[str], Traffic]
    """By route: its actuator, under the retry policy."""
    open_fleet: Callable[[str], Fleet]
    """By region."""
    look: Callable[[], Evidence]
    stand: Callable[[Evidence, Sequence[str]], Standbys]
    """What regions offer, for the models of the routes named."""
    loads: Callable[[Sequence[str]], Loads]
    lags: Callable[[], Mapping[str, float | Unknown]]
    resolve: Callable[[str], Mapping[str, frozenset[str] | Unknown]]
    """By route, then by resolver: the regions that it sends clients to."""
    clock: Clock
    random: Random
    writer: str
    stop: Callable[[], bool] = lambda: False
    executor: Executor = field(default_factory=DaemonThreads)
    make_executor: Callable[[int], Executor] = lambda workers: ThreadPoolExecutor(
        workers, thread_name_prefix="mlplatform-route"
    )
    """Where so many routes are moved at once."""
    timeout_seconds: float | None = 30.0
    glance_seconds: float | None = None
    """For who looks time and again: how long actuators are waited for where nothing is claimed. One
    that takes longer is unknown, is not asked again meanwhile, and its answer counts when it comes:
    that one hangs is no reason to look seldom at the others."""
    background: Background | None = None
    """Where leases are renewed; by default in a thread."""
    obeys_orders: bool = True
    """False only where the control store is gone and somebody has taken it upon themselves."""
    bypassed: ControlStore | None = None
    """The one that is gone then, as they say."""
    _memory: Memory | None = None
    _last_loads: LastLoads = field(default_factory=LastLoads)
    _reading: dict[str, Future[RouteState | _Newer]] = field(default_factory=dict)
    """By route: a question to its actuator that is still to be answered."""
    _looks: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(_LOOKS_AT_ONCE))

    @property
    def journal(self) -> Journal:
        return Journal(self.control, self.clock, self.random, self.writer)

    @property
    def orders(self) -> StandingOrders:
        return StandingOrders(self.control, self.clock, self.writer)

    @property
    def memory(self) -> Memory:
        if self._memory is None:
            self._memory = Memory(self.journal, self.executor)
        return self._memory

    def observe(
        self, routes: Sequence[str] | None = None, *, epochs: Mapping[str, int] | None = None
    ) -> Seen:
        """One round of looking, at the routes named or at all.

        Routes with an epoch are *claimed* under it: their targets refuse every older writer from
        then on. `Fenced` if a target knows a newer one; a target that cannot be claimed is unknown.
        `NoMajority` when the control stores cannot say what was done and ordered.
        """
        with self._looks:
            return self._observe(routes, epochs or {})

    def _observe(self, routes: Sequence[str] | None, epochs: Mapping[str, int]) -> Seen:
        names = list(self.topology.traffic.routes if routes is None else routes)
        now = self.clock.now()
        # Side by side: in the night in which it matters, most of these do not answer at once.
        ordered = self.executor.submit(self.orders.read if self.obeys_orders else tuple)
        told = self.executor.submit(self.memory.operations, now, None if routes is None else names)
        loaded = self.executor.submit(self.loads, names)
        lagging = self.executor.submit(self.lags)
        read = self.executor.submit(self._states, names, epochs)
        evidence = self.look()
        standbys = self.stand(evidence, names)
        orders, done, states = ordered.result(), told.result(), read.result()
        loads = self._in_time(loaded, {})
        lags = self._in_time(lagging, dict.fromkeys(self.topology.regions, _LATE))
        return Seen(
            verdicts=judge_all(evidence, self.topology),
            routes={
                name: self._route(
                    name,
                    states[name],
                    epochs.get(name),
                    standbys,
                    loads.get(name, {}),
                    lags,
                    done.get(name, ()),
                    now,
                )
                for name in names
            },
            orders=_orders_of(orders, now),
        )

    def _in_time(self, answer: Future[T], otherwise: T) -> T:
        """What a monitoring system says, if it says it before all else is known."""
        try:
            return answer.result(timeout=_GRACE_SECONDS)
        except FutureTimeout:
            return otherwise
        except Exception:  # monitoring is help, not a condition
            log.exception("monitoring could not be asked")
            return otherwise

    def _states(
        self, names: Sequence[str], epochs: Mapping[str, int]
    ) -> dict[str, RouteState | _Newer | Unknown]:
        if epochs or self.glance_seconds is None:
            return self._each(names, lambda name: self._state(name, epochs.get(name)))
        asked = {
            name: self._reading.get(name) or self.executor.submit(self._state, name, None)
            for name in names
        }
        found = gathered(asked, self.glance_seconds)
        self._reading = {name: future for name, future in asked.items() if not future.done()}
        return found

    def read_routes(self, names: Sequence[str]) -> dict[str, RouteState | Unknown]:
        """The routes' weights as they are, by route."""
        return self._each(names, lambda name: self.open_traffic(name).read())

    def _state(self, route: str, epoch: int | None) -> RouteState | _Newer:
        traffic = self.open_traffic(route)
        state = traffic.read()
        if epoch is None or sum(state.weights.values()) != 100:
            return state  # an answer that is none is not claimed; what it means is judged later
        try:
            return claimed(traffic, state, epoch=epoch, writer=self.writer)
        except Fenced as error:
            return _Newer(error)

    def _route(
        self,
        name: str,
        state: RouteState | _Newer | Unknown,
        epoch: int | None,
        standbys: Standbys,
        load: Mapping[str, Load | Unknown],
        lags: Mapping[str, float | Unknown],
        done: Sequence[Operation],
        now: datetime,
    ) -> RouteSeen:
        if isinstance(state, _Newer):
            raise state.error
        route = self.topology.traffic.routes[name]
        models = route.models
        held = state.weights if isinstance(state, RouteState) else None
        return RouteSeen(
            name=name,
            state=state,
            features=self.open_traffic(name).features,
            epoch=epoch,
            standby={
                region: {
                    model: standbys.get(region, {}).get(model, Unknown("it was not looked at"))
                    for model in models
                }
                for region in (state.weights if isinstance(state, RouteState) else route.weights)
            },
            load=self._load(name, state, load, now),
            lag_seconds=lags,
            written=None if held is None else written_by(done, held),
            recoveries=tuple(
                each for operation in done for each in recoveries_of(operation, now, held)
            ),
            drained=drained_by(done, now),
        )

    def _load(
        self,
        name: str,
        state: RouteState | Unknown,
        load: Mapping[str, Load | Unknown],
        now: datetime,
    ) -> Mapping[str, Load | Unknown]:
        route = self.topology.traffic.routes[name]
        weights = state.weights if isinstance(state, RouteState) else route.weights
        known = self._last_loads.complete(name, load, weights, self.clock.monotonic())
        return with_declared(route, weights, known, now.date())

    def _each(self, names: Sequence[str], read: Callable[[str], T]) -> dict[str, T | Unknown]:
        return each_region(
            names, read, executor=self.executor, timeout_seconds=self.timeout_seconds
        )


@dataclass(frozen=True, slots=True)
class _Newer:
    """A target knows a newer epoch: not unknown, but the end."""

    error: Fenced


@dataclass(frozen=True, slots=True)
class _Looked:
    """What vantages and Prometheus said of clients that move."""

    at: float
    """By our own clock."""
    evidence: Evidence
    loads: Mapping[str, Load | Unknown]
    trusted: Sequence[str]
    """Regions that are well."""


def _orders_of(orders: Sequence[Order], now: datetime) -> Orders:
    return Orders(
        locks={o.scope: o.reason for o in orders if o.kind is Kind.LOCK},
        maintenance={o.scope: o.reason for o in orders if o.kind is Kind.MAINTENANCE},
        overrides=tuple(
            Override(
                region=order.scope,
                health=order.value,
                reason=order.reason,
                by=order.by,
                expires_in_seconds=(order.expires_at - now).total_seconds(),
            )
            for order in orders
            if order.kind is Kind.OVERRIDE and order.expires_at is not None
        ),
        paused={o.scope: o.reason for o in orders if o.kind is Kind.PAUSE},
        aborted={o.scope: o.reason for o in orders if o.kind is Kind.ABORT},
    )


@dataclass(slots=True)
class Mover:
    """Moves one route. A `Controller`.

    `epoch` is the generation of the route's lease, under which everything is written; without one
    nothing is claimed and nothing can be done, only planned.
    """

    estate: Estate
    route: str
    request: Request
    guard: Callable[[], None] = lambda: None
    epoch: Callable[[], int] | None = None
    feature: str = FEATURE
    told: Callable[[str], None] = lambda text: None
    """Hears how a move goes on."""
    operation: str = ""
    """What is gone on with; of a new one, known when it begins."""
    ended: str = ""
    """Why it is ended where it stands: then only what has to be done in any case is done of it."""
    _decided: float | None = None
    _committed: float | None = None
    _planned: frozenset[str] = frozenset()
    """Keys of what was decided last."""
    _looked: float = float("-inf")
    _seen: Seen | None = None

    def observe(self) -> Seen:
        """The route, claimed; and every other where it matters whether the source serves there."""
        while True:
            epochs = {}
            if self.epoch is not None:
                self.guard()
                epochs[self.route] = self.epoch()
            routes = None if self.request.mode is Mode.PLANNED else [self.route]
            seen = self.estate.observe(routes, epochs=epochs)
            if not _rests(seen.orders, self.operation):
                self._seen = seen
                return seen
            self._rest(seen.orders.paused[self.operation])

    def _rest(self, reason: str) -> None:
        """Until the operation is no longer paused, or is aborted."""
        estate = self.estate
        while True:
            if estate.stop():
                raise Interrupted(
                    f"operation {self.operation} is paused: {reason}",
                    hint=f"`mlplatform failover resume {self.operation}` goes on with it",
                )
            estate.clock.sleep(_POLL_SECONDS)
            self.guard()
            try:
                orders = _orders_of(estate.orders.read(), estate.clock.now())
            except MlplatformError as error:  # nobody has said that it may go on
                log.info("orders cannot be read: %s", error)
            else:
                if not _rests(orders, self.operation):
                    return

    def decide(self, seen: Seen, now: datetime) -> Plan:
        """See `failover.decide`. Of an operation that is to end nothing more is decided; and what
        turns sick while one is under way is left first."""
        if reason := self._why_ended(seen):
            regions = self.estate.topology.traffic.routes[self.route].weights
            holds = (Hold(subject=self.route, region=r, reason=reason) for r in regions)
            return Plan(feature=FEATURE, holds=tuple(holds))
        plan, request = self._judge(seen, now)
        if request is not self.request:
            self.told(f"{self.route}: {request.reason} as well; the operation is amended")
            self.request = request
        self._planned = frozenset(action.key for action in plan.actions)
        if self._decided is None and plan.actions:
            self._decided = self.estate.clock.monotonic()
        return plan

    def _why_ended(self, seen: Seen) -> str:
        aborted = seen.orders.aborted.get(self.operation)
        return self.ended if aborted is None else f"aborted: {aborted}"

    def _judge(self, seen: Seen, now: datetime) -> tuple[Plan, Request]:
        """The plan, and the request that it is of: ours, or a fault that has come in between."""
        topology = self.estate.topology
        for fault in propose_requests(topology, seen) if self.operation else ():
            if self._is_another(fault):
                fault = replace(fault, broken=self.request.broken)  # noqa: PLW2901
                plan = of_route(decide(topology, seen, fault, now), self.route)
                if plan.actions:
                    return plan, fault
        return of_route(decide(topology, seen, self.request, now), self.route), self.request

    def _is_another(self, fault: Request) -> bool:
        mine = self.request
        return (
            fault.mode is Mode.UNPLANNED
            and self.route in fault.routes
            and (mine.mode is not Mode.UNPLANNED or mine.source != fault.source)
        )

    def act(self, actions: Sequence[Action], operation: str) -> Iterator[Outcome]:
        """The actions of one step, in order."""
        self.operation = operation
        for action in actions:
            try:
                yield _PERFORM[action.kind](self, action)
            except (Fenced, Interrupted):
                raise
            except MlplatformError as error:
                yield self._failed(action, error)

    def _drain(self, action: Action) -> Outcome:
        self.guard()
        self.estate.open_fleet(action.region).lame_duck(enter=True)
        return self._done(action, "servers answer with Connection: close, and are not ready")

    def _undrain(self, action: Action) -> Outcome:
        self.guard()
        self.estate.open_fleet(action.region).lame_duck(enter=False)
        return self._done(action, "servers are ready again")

    def _ask_capacity(self, action: Action) -> Outcome:
        self.guard()
        fleet = self.estate.open_fleet(action.region)
        model, servers = str(action.parameters["model"]), int(action.parameters["servers"])
        return self._done(action, fleet.ask_capacity(model, servers))

    def _shift(self, action: Action) -> Outcome:
        traffic = self.estate.open_traffic(self.route)
        before, after = action.parameters["before"], action.parameters["after"]
        epoch = self._epoch()
        state = traffic.read()
        check_epoch(state, epoch, where=traffic.url)
        if state.weights == after and state.epoch == epoch:
            return self._done(action, "they were so already", Result.NOTHING)
        if state.weights != before:
            raise ConditionFailed(
                f"weights are {_shares(state.weights)}, and the plan was made for "
                f"{_shares(before)}",
                store=traffic.url,
                hint="somebody else changed them; run again",
            )
        if action.carries_on:
            self._check_well(action)
        self.guard()
        try:
            state = traffic.write(after, epoch=epoch, writer=self.estate.writer, expected=state)
        except (Unavailable, Throttled, DeadlineExceeded) as error:
            # It may have happened, and nobody could say: not the same as that it did not.
            return self._failed(action, error, Result.UNKNOWN)
        self._committed = self.estate.clock.monotonic()
        self.told(f"{self.route}: {_shares(state.weights)}, epoch {epoch}")
        frozen = state.detail.get(FROZEN)
        if frozen:
            self.told(f"{self.route}: frozen, and brought in line when it is back: {frozen}")
        measured: JSON = {
            "weights": dict(state.weights),
            "epoch": epoch,
            "committed_seconds": self._since_decided(),
            "ttl_seconds": state.ttl_seconds,
            FROZEN: frozen,
        }
        if not self._wait(IN_FORCE_SECONDS, lambda: self._is_in_force(traffic, state)):
            return self._done(
                action,
                f"written, and {traffic.url} does not answer with it after {IN_FORCE_SECONDS:g} s",
                Result.UNKNOWN,
                measured=measured,
            )
        measured["authoritative_seconds"] = self._since_decided()
        return self._done(action, _shares(state.weights), measured=measured)

    def _check_well(self, action: Action) -> None:
        """`CheckFailed` where weights are put back to a region that is no longer well: what is done
        whatever is decided is not done to that end."""
        if self._seen is None or Gate.VERDICT in self.request.broken:
            return
        verdicts = verdicts_in_force(self.estate.topology, self._seen)
        before, after = action.parameters["before"], action.parameters["after"]
        for region, weight in after.items():
            verdict = verdicts.get(region)
            gains = weight > before.get(region, 0)
            if gains and verdict is not None and verdict.health is not Health.HEALTHY:
                raise CheckFailed(
                    f"{self.route}: nothing goes back to {region}, which is "
                    f"{verdict.health.value}: {'; '.join(verdict.because[:1])}",
                    hint=f"`mlplatform failover back --route {self.route}` once it is well",
                )

    def _is_in_force(self, traffic: Traffic, state: RouteState) -> bool:
        try:
            return traffic.in_force(state)
        except Unavailable as error:
            log.info("%s: not asked: %s", traffic.url, error)
            return False

    def _settle(self, action: Action) -> Outcome:
        """Watch until clients have moved, then for as long as the step must hold. Cut short when
        something else is decided meanwhile. Who has nothing to watch by waits for the TTL alone."""
        estate = self.estate
        traffic = estate.open_traffic(self.route)
        state = traffic.read()
        if dict(state.weights) != action.parameters["after"]:
            return self._done(action, "there is nothing to wait for", Result.NOTHING)
        committed = self._committed
        if committed is None:  # another process wrote the weights, who knows when
            committed = estate.clock.monotonic()
        ttl_seconds = state.ttl_seconds or 0.0
        patience = self._until_seen()
        moved, news = Moved(), ""
        looked: _Looked | None = None

        def has_moved() -> bool:
            nonlocal moved, news, looked
            now = estate.clock.monotonic()
            news = self._news()
            if news or now - committed < ttl_seconds:
                return bool(news)
            if looked is None or now - looked.at >= self._look_seconds:
                # Resolvers answer at any time; vantages and Prometheus have news now and then.
                looked = self._look(now)
            moved = who_still_comes(
                self.route,
                looked.evidence,
                looked.loads,
                weights=state.weights,
                load_before=action.figures.get("load_before", {}),
                resolved=estate.resolve(self.route),
                trusted=looked.trusted,
                committed_seconds_ago=looked.at - committed,
            )
            return moved.over and (
                bool(moved.observers) or now - committed >= ttl_seconds + patience
            )

        def is_news() -> bool:
            nonlocal news
            news = self._news()
            return bool(news)

        over = self._wait(ttl_seconds + _OBSERVED_SECONDS, has_moved)
        measured: JSON = {"observers": dict(moved.observers), "still": list(moved.still)}
        if over and not news and moved.observers:
            measured["observed_seconds"] = self._since_decided()
        hold_seconds = float(action.parameters.get("hold_seconds") or 0.0)
        if hold_seconds and not news:
            self._wait(hold_seconds, is_news)
        if news:
            return self._done(action, f"cut short: {news}", Result.NOTHING, measured=measured)
        if not moved.observers:
            return self._done(
                action,
                "nobody could see clients move: no probe through the front door says who answers, "
                "no resolver is named, and no load is measured",
                measured=measured,
            )
        result = Result.DONE if over else Result.UNKNOWN
        return self._done(action, moved.told, result, measured=measured)

    def _look(self, now: float) -> _Looked:
        estate = self.estate
        evidence = estate.look()
        verdicts = judge_all(evidence, estate.topology)
        return _Looked(
            now,
            evidence,
            estate.loads([self.route]).get(self.route, {}),
            [region for region, v in verdicts.items() if v.health is Health.HEALTHY],
        )

    def _news(self) -> str:
        """Why other weights are decided by now than were planned, if they are. Looked at now and
        then; what cannot be looked at is no news."""
        if self.ended:
            return self.ended
        clock = self.estate.clock
        if clock.monotonic() - self._looked < self._look_seconds:
            return ""
        self._looked = clock.monotonic()
        try:
            seen = self.observe()
        except (Unavailable, NoMajority, DeadlineExceeded) as error:
            log.info("not looked at: %s", error)
            return ""
        if reason := self._why_ended(seen):
            return reason
        plan, request = self._judge(seen, clock.now())
        if request is self.request and request.mode is Mode.DRILL:
            return ""  # asked again when it is over, a drill begins anew
        for action in plan.actions:
            if action.kind == "shift" and action.key not in self._planned:
                return action.reason
        return ""

    def _until_seen(self) -> float:
        """How long it takes until those who could see clients move have looked."""
        traffic = self.estate.topology.traffic
        door = traffic.routes[self.route].front_door
        probed = door is not None and (traffic.vantages or traffic.resolvers)
        if not probed and traffic.objective.load_query is None:
            return 0.0
        return 2 * traffic.probe.interval_seconds + traffic.probe.timeout_seconds

    @property
    def _look_seconds(self) -> float:
        return min(self.estate.topology.traffic.probe.interval_seconds, _LOOK_SECONDS)

    def _wait(self, seconds: float, done: Callable[[], bool]) -> bool:
        """Poll until it is so, at most that long. `Interrupted` when the operator wants no more."""
        clock = self.estate.clock
        end = clock.monotonic() + seconds
        pause = 0.01
        while True:
            if done():
                return True
            if clock.monotonic() + pause > end:
                return False
            if self.estate.stop():
                raise Interrupted(
                    f"operation {self.operation}: interrupted while clients moved",
                    hint="the weights are as they were written; "
                    f"`mlplatform failover resume {self.operation}` goes on",
                )
            clock.sleep(pause)
            pause = min(_POLL_SECONDS, 2 * pause)

    def _epoch(self) -> int:
        if self.epoch is None:
            raise Fenced(f"{self.route}: nothing is written without an epoch")
        return self.epoch()

    def _since_decided(self) -> float | None:
        if self._decided is None:
            return None
        return round(self.estate.clock.monotonic() - self._decided, 3)

    def _done(
        self,
        action: Action,
        detail: str,
        result: Result = Result.DONE,
        *,
        measured: JSON | None = None,
    ) -> Outcome:
        return Outcome(
            action=action.key,
            result=result,
            detail=detail,
            measured=measured or {},
            finished_at=self.estate.clock.now(),
        )

    def _failed(
        self, action: Action, error: MlplatformError, result: Result = Result.FAILED
    ) -> Outcome:
        return Outcome.of_error(action, error, result, finished_at=self.estate.clock.now())


@dataclass(slots=True)
class Undrainer:
    """Tells a region's servers that they may serve again, where the operation that drained them is
    over and could not. A `Controller`; it moves nothing."""

    estate: Estate
    route: str
    region: str
    request: Request
    guard: Callable[[], None]
    feature: str = FEATURE

    def observe(self) -> Mapping[str, Sequence[Operation]]:
        """What was done, by route."""
        return self.estate.memory.operations(self.estate.clock.now())

    def decide(self, seen: Mapping[str, Sequence[Operation]], now: datetime) -> Plan:
        """To tell them, unless they are being drained, or something is under way on the route."""
        for name, done in seen.items():
            drained = drained_by(done, now).get(self.region)
            if drained is not None and drained.open:
                said = f"{drained.operation} on {name} drains it, and is under way, or was left"
                return self._held(said)
        for operation in seen.get(self.route, ()):
            if not operation.closed:
                return self._held(f"{operation.name} is under way, or was left")
        request = self.request
        action = Action(
            key=f"{FEATURE}/{self.route}/undrain/{self.region}",
            kind="undrain",
            subject=self.route,
            region=self.region,
            reason=request.reason,
            carries_on=True,
            parameters={
                "route": self.route,
                "mode": request.mode.value,
                "source": request.source,
                "targets": [],
                "automatic": request.automatic,
                "reason": request.reason,
                "broken": [],
            },
        )
        return Plan(feature=FEATURE, actions=(action,))

    def _held(self, said: str) -> Plan:
        hold = Hold(subject=self.route, region=self.region, reason=f"one-recovery: {said}")
        return Plan(feature=FEATURE, holds=(hold,))

    def act(self, actions: Sequence[Action], operation: str) -> Iterator[Outcome]:
        """The one action."""
        mover = Mover(self.estate, self.route, self.request, guard=self.guard)
        yield from mover.act(actions, operation)


def _rests(orders: Orders, operation: str) -> bool:
    """Whether it is to take no further step. One that is to end does not wait to be resumed."""
    return operation in orders.paused and operation not in orders.aborted


_PERFORM: Mapping[str, Callable[[Mover, Action], Outcome]] = {
    "drain": Mover._drain,
    "undrain": Mover._undrain,
    "ask-capacity": Mover._ask_capacity,
    "shift": Mover._shift,
    "settle": Mover._settle,
}


def of_route(plan: Plan, route: str) -> Plan:
    """What a plan says of one of its routes."""
    own = (f"route/{route}", f"orders/{route}", f"standby/{route}/", "verdict/")
    return plan.model_copy(
        update={
            "actions": tuple(action for action in plan.actions if action.subject == route),
            "holds": tuple(hold for hold in plan.holds if hold.subject == route),
            "basis": {name: value for name, value in plan.basis.items() if name.startswith(own)},
        }
    )


def _shares(weights: Mapping[str, int]) -> str:
    return ", ".join(f"{region} {weight} %" for region, weight in weights.items())
