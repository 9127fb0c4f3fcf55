"""The controller that goes round: look, judge, tell, and act where it may.

Several may run, anywhere. None of them leads: whoever finds something to do takes the route's
lease, claims the route, and looks again before it decides; the others find the lease held, or the
thing done. A controller that dies in the middle leaves an operation that any other finishes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from mlplatform.control import metrics
from mlplatform.control.notices import Notices
from mlplatform.control.orders import EVERYTHING
from mlplatform.control.reconcile import Report
from mlplatform.control.two_paths import FROZEN, STRANDED
from mlplatform.core.errors import Fenced, Interrupted, LeaseHeld, MlplatformError, NoMajority
from mlplatform.core.plan import Plan, Result
from mlplatform.failover import operations
from mlplatform.failover.decision.decide import decide, propose_requests
from mlplatform.failover.decision.readiness import readiness
from mlplatform.failover.decision.seen import Drained, Mode, Request, RouteSeen, Seen
from mlplatform.failover.effects import Estate
from mlplatform.failover.operations import Said
from mlplatform.failover.verdict.judge import Health
from mlplatform.ports.notify import Notice, Severity
from mlplatform.ports.traffic import RouteState

log = logging.getLogger(__name__)

_GLANCE_SECONDS = 5.0
"""How long a round waits for actuators."""
PROOF_SECONDS = 86_400.0
"""How often a route is claimed anew although nothing is to be done: it proves the credentials."""
_FIRST_PROOF_SECONDS = 3600.0
"""The first time after a start: not at every restart, and not never where it restarts daily."""
_TIDY_SECONDS = 86_400.0
"""How often what was ordered of operations that are over is removed."""
_STRANDED_SECONDS = 60.0
"""How often a second path that was left behind is brought in line."""
_UNDRAIN_SECONDS = 60.0
_UNDRAIN_SECONDS_MAX = 3600.0
"""After so long servers that could not be told that they may serve are told again, twice as long
each time. By the journal, so that several controllers do it no oftener than one."""
_JOIN_SECONDS = 30.0
_AGAIN_SECONDS = 5.0
_AGAIN_SECONDS_MAX = 60.0
"""After what went wrong it is tried again so much later, twice as much each time."""
_FAILED_ROUNDS = 2
"""So many in a row, and somebody is told; that no majority answers is told at once."""
_HAND_SECONDS = 60.0
"""How long another controller may keep a route that is to be left until somebody is told."""

health = metrics.Family(
    "mlplatform_region_health", "1 for the verdict that holds.", ("region", "health"), kind="gauge"
)
weight = metrics.Family(
    "mlplatform_route_weight", "Per cent of the traffic.", ("route", "region"), kind="gauge"
)
route_readable = metrics.Family(
    "mlplatform_route_readable", "1 when the actuator answered.", ("route",), kind="gauge"
)
ready = metrics.Family(
    "mlplatform_failover_ready",
    "1 when traffic could move now; else the gate that fails.",
    ("route", "from", "to", "gate"),
    kind="gauge",
)
can_act = metrics.Family(
    "mlplatform_failover_can_act",
    "1 when a majority of control stores answers and a round comes to its end.",
    kind="gauge",
)
last_round = metrics.Family(
    "mlplatform_failover_last_round_timestamp_seconds", "When a round ended.", kind="gauge"
)
last_proof = metrics.Family(
    "mlplatform_failover_last_proof_timestamp_seconds",
    "When the route was last written to, if only with what was there.",
    ("route",),
    kind="gauge",
)
operation_began = metrics.Family(
    "mlplatform_failover_operation_began_timestamp_seconds",
    "When an operation began that is under way, or was left.",
    ("route", "operation"),
    kind="gauge",
)
drained = metrics.Family(
    "mlplatform_failover_drained",
    "1 while servers send clients away and the operation that told them to is over.",
    ("route", "region", "operation"),
    kind="gauge",
)
operations_total = metrics.Family(
    "mlplatform_failover_operations_total", "Operations, by result.", ("route", "mode", "result")
)


@dataclass(slots=True)
class Watch:
    """One controller. `one_round` is all of it; `run` repeats it."""

    estate: Estate
    notices: Notices | None = None
    said: Said = field(default_factory=Said)
    in_background: bool = True
    """Whether routes are moved beside the rounds; the simulation moves them in the round."""
    _verdicts: dict[str, Health] = field(default_factory=dict)
    _standing: dict[str, str] = field(default_factory=dict)
    """What was told and is not over yet, by thread. It is told anew when it is another."""
    _tries: dict[str, tuple[int, float]] = field(default_factory=dict)
    """By route: how often it went wrong, and before when it is not tried again."""
    _in_other_hands: dict[str, float] = field(default_factory=dict)
    """By route that is to be left: since when another controller has had its hand on it."""
    _failed_rounds: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _busy: dict[str, threading.Thread] = field(default_factory=dict)
    _proven: dict[str, float] = field(default_factory=dict)
    """When each route was last claimed, by our own clock."""
    _tidied: float | None = None

    def __post_init__(self) -> None:
        self.estate.glance_seconds = _GLANCE_SECONDS

    def run(self, *, interval_seconds: float, rounds: int | None = None) -> int:
        """Rounds until the operator stops it, which is how it ends well, or so many: 0."""
        clock, stop = self.estate.clock, self.estate.stop
        while not stop():
            began = clock.monotonic()
            self.one_round()
            if rounds is not None:
                rounds -= 1
                if not rounds:
                    break
            while not stop():
                left = began + interval_seconds - clock.monotonic()
                if left <= 0:
                    break
                clock.sleep(min(left, 0.2))
        end = clock.monotonic() + _JOIN_SECONDS
        for thread in self._busy.values():
            thread.join(max(0.0, end - clock.monotonic()))
        return 0

    def one_round(self) -> None:
        """Look once; start what is to be done. An error is told, and the next round tries again."""
        try:
            self._round()
        except MlplatformError as error:
            self._cannot_act(error)
        except Exception as error:  # a controller that has died acts in no night
            log.exception("a round failed")
            self._cannot_act(_internal(error))
        else:
            self._can_act()
            last_round.set(self.estate.clock.now().timestamp())

    def _round(self) -> None:
        estate = self.estate
        seen = estate.observe()
        self._tell_verdicts(seen)
        requests: dict[str, Request] = {}
        for request in propose_requests(estate.topology, seen):
            for route in request.routes:
                requests.setdefault(route, replace(request, routes=(route,)))
        for route, request in requests.items():
            self._consider(route, request, seen)
        self._go_on_with_what_was_left(seen)
        self._undrain_what_was_left(seen)
        for route, there in seen.routes.items():
            self._tell_route(route, there, seen)
            if route not in requests and _is_served_well(there, seen):
                self._is_well(route)
        self._prove(requests, seen)
        self._tidy()
        # Last: for many regions it takes seconds, in which nobody is to wait.
        self._measure(seen)

    # What is to be done.

    def _consider(self, route: str, request: Request, seen: Seen) -> None:
        """Act on a request, or tell what is advised, or why it is held."""
        if self._is_busy(route):
            return
        plan = decide(self.estate.topology, seen, request, self.estate.clock.now())
        if plan.noop:
            self._advise(route, request, plan)
        elif self._may_try(route):
            left = {
                recovery.operation
                for recovery in seen.routes[route].recoveries
                if recovery.ended_seconds_ago is None and not recovery.automatic
            }
            self._start(route, partial(self._move, route, request, left))

    def _move(self, route: str, request: Request, left: Collection[str]) -> None:
        # Whoever died with the route in its hand is waited out; whoever is alive is left to it.
        try:
            report = operations.move(self.estate, route, request, wait="silent", said=self.said)
        except LeaseHeld as held:
            if request.mode is Mode.UNPLANNED:
                self._is_in_other_hands(route, held)
            raise
        self._in_other_hands.pop(route, None)
        for resumed in report.resumed:
            if resumed.operation in left:
                self._tell_taken_over(route, str(resumed.operation), request)
            self._ended(route, operations.request_of(resumed.plan, request), resumed)
        self._ended(route, request, report)

    def _may_try(self, route: str) -> bool:
        _, not_before = self._tries.get(route, (0, 0.0))
        return self.estate.clock.monotonic() >= not_before

    def _went_wrong(self, route: str) -> None:
        """What cannot be done is not tried, recorded and told in every round."""
        count, _ = self._tries.get(route, (0, 0.0))
        pause = min(_AGAIN_SECONDS * 2.0 ** min(count, 10), _AGAIN_SECONDS_MAX)
        self._tries[route] = (count + 1, self.estate.clock.monotonic() + pause)

    def _is_well(self, route: str) -> None:
        """Nothing is asked for on it any more."""
        if self._is_busy(route):
            return
        self._tries.pop(route, None)
        self._in_other_hands.pop(route, None)
        self._is_over(f"failover/{route}", f"{route}: there is nothing more to do")

    def _go_on_with_what_was_left(self, seen: Seen) -> None:
        """Finish what a controller left. What an operator began is the operator's: who pressed
        Ctrl-C does not want it to go on by itself."""
        for route, there in seen.routes.items():
            for recovery in there.recoveries:
                name = recovery.operation
                if recovery.ended_seconds_ago is not None:
                    self._is_over(name, f"{route}: {name} is over")
                    continue
                if self._is_busy(route) or not self._may_try(route):
                    continue
                automatic = self.estate.topology.traffic.routes[route].mode == "auto"
                if not (automatic and recovery.automatic):
                    away = [r for r, left in there.drained.items() if left.operation == name]
                    self._tell_left(route, name, away)
                elif name not in seen.orders.paused:
                    self._start(route, partial(self._resume, route, name))

    def _resume(self, route: str, operation: str) -> None:
        left = operations.resume_left(self.estate, operation, wait="silent", said=self.said)
        for _, report in left:
            log.info("finished what was left", extra={"operation": operation})
            self._ended(route, operations.request_of(report.plan), report)

    def _undrain_what_was_left(self, seen: Seen) -> None:
        """Servers that no operation could tell that they may serve again: told again, now and then,
        in every mode, for whoever drained them wanted it so."""
        for route, there in seen.routes.items():
            for region in self.estate.topology.regions:
                thread, left = f"failover/{route}/drained/{region}", there.drained.get(region)
                if left is None or left.open:
                    self._is_over(
                        thread, f"{region}: its servers do not send clients away any more"
                    )
                    continue
                why = _why_stays_drained(route, region, seen)
                self._tell_drained(thread, region, left, why)
                doubled = 2.0 ** min(max(left.tries - 1, 0), 10)
                pause = min(_UNDRAIN_SECONDS * doubled, _UNDRAIN_SECONDS_MAX)
                if why or left.tried_seconds_ago < pause or self._is_busy(route):
                    continue
                self._start(route, partial(self._undrain, route, region, left))

    def _undrain(self, route: str, region: str, left: Drained) -> None:
        reason = f"{left.operation} could not tell them"
        done = operations.undrain(
            self.estate, region, routes=[route], reason=reason, automatic=True, said=self.said
        )
        for error in done.errors.values():
            log.info("not undrained", extra={"region": region, "error": str(error)})

    def _tell_drained(self, thread: str, region: str, left: Drained, why: str) -> None:
        if not self._is_news(thread, why):
            return
        self._tell(
            Notice(
                f"{region}: its servers still send clients away, as {left.operation} told them to",
                Severity.WARNING,
                self.estate.clock.now(),
                self._source,
                thread=thread,
                lines=(
                    *filter(None, [left.why]),
                    f"they stay so: {why}" if why else "they are told again, now and then",
                    f"`mlplatform failover undrain {region}` tells them",
                ),
            )
        )

    def _tell_left(self, route: str, operation: str, drained: Collection[str]) -> None:
        if not self._is_news(operation, "open"):
            return
        self._tell(
            Notice(
                f"{route}: {operation} is under way, or was left",
                Severity.WARNING,
                self.estate.clock.now(),
                self._source,
                thread=operation,
                lines=(
                    *(f"servers of {region} send clients away meanwhile" for region in drained),
                    f"`mlplatform failover resume {operation}` goes on with it",
                    f"`mlplatform failover abort {operation}` ends it where it stands",
                ),
            )
        )

    def _tell_taken_over(self, route: str, operation: str, request: Request) -> None:
        self._is_news(operation, "taken over")
        self._tell(
            Notice(
                f"{route}: {operation}, which an operator left, is not gone on with: "
                f"{request.reason}",
                Severity.WARNING,
                self.estate.clock.now(),
                self._source,
                thread=operation,
                lines=(
                    "what must be done of it in any case was done",
                    f"`mlplatform history --operation {operation}` tells it",
                ),
            )
        )

    def _prove(self, busy: Mapping[str, Request], seen: Seen) -> None:
        """Claim each route once a day, one in a round: credentials that have lapsed are found
        before the night. And one whose second path was left behind, which the claim brings in
        line."""
        now = self.estate.clock.monotonic()
        for route in self.estate.topology.traffic.routes:
            proven = self._proven.setdefault(route, now - PROOF_SECONDS + _FIRST_PROOF_SECONDS)
            state = seen.routes[route].state
            stranded = isinstance(state, RouteState) and STRANDED in state.detail
            due = proven + (_STRANDED_SECONDS if stranded else PROOF_SECONDS)
            if now < due or route in busy or self._is_busy(route):
                continue
            self._proven[route] = now
            self._start(route, partial(self._claim, route))
            return

    def _tidy(self) -> None:
        now = self.estate.clock.monotonic()
        if self._tidied is None:
            self._tidied = now - _TIDY_SECONDS + _FIRST_PROOF_SECONDS
        if now - self._tidied < _TIDY_SECONDS:
            return
        self._tidied = now
        try:
            operations.forget_orders(self.estate)
        except MlplatformError as error:  # it is no part of acting
            log.warning("old orders were not removed: %s", error)

    def _claim(self, route: str) -> None:
        lease = operations.lease_of(self.estate, route)
        lease.acquire(wait="silent")
        try:
            seen = self.estate.observe([route], epochs={route: lease.generation})
        finally:
            lease.release()
        state = seen.routes[route].state
        thread = f"failover/{route}/actuator"
        if isinstance(state, RouteState):
            last_proof.set(self.estate.clock.now().timestamp(), route=route)
            self._is_over(thread, f"{route}: its actuator can be written to again")
        elif self._is_news(thread, "shut"):
            self._tell(
                Notice(
                    f"{route}: its actuator cannot be written to",
                    Severity.CRITICAL,
                    self.estate.clock.now(),
                    self._source,
                    thread=thread,
                    lines=(str(state),),
                )
            )

    def _start(self, route: str, work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                work()
            except LeaseHeld as held:
                log.info("left to another controller", extra={"error": str(held)})
            except (Fenced, Interrupted) as error:
                log.warning("stopped", extra={"route": route, "error": str(error)})
            except MlplatformError as error:
                log.error("not moved", extra={"route": route, "error": str(error)})
                self._failed(route, error)
            except Exception as error:  # a thread that ends so ends in silence
                log.exception("not moved", extra={"route": route})
                self._failed(route, _internal(error))

        if not self.in_background:
            guarded()
            return
        thread = threading.Thread(target=guarded, name=f"mlplatform-route-{route}", daemon=True)
        self._busy[route] = thread
        thread.start()

    def _is_busy(self, route: str) -> bool:
        thread = self._busy.get(route)
        return thread is not None and thread.is_alive()

    # What is told.

    def _is_news(self, thread: str, what: str) -> bool:
        """Whether that was not told of the thread yet. Until it is over, it stands."""
        with self._lock:
            before = self._standing.get(thread)
            self._standing[thread] = what
            return before != what

    def _is_over(self, thread: str, title: str) -> None:
        """What was told of the thread is so no longer, which resolves the page."""
        with self._lock:
            if self._standing.pop(thread, None) is None:
                return
        now = self.estate.clock.now()
        self._tell(Notice(title, Severity.INFO, now, self._source, thread=thread, over=True))

    def _failed(self, route: str, error: MlplatformError) -> None:
        self._went_wrong(route)
        if self._is_news(f"failover/{route}", type(error).__name__):
            self._tell(
                Notice(
                    f"{route}: {error}",
                    Severity.CRITICAL,
                    self.estate.clock.now(),
                    self._source,
                    thread=f"failover/{route}",
                    lines=(error.hint,) if error.hint else (),
                )
            )

    def _is_in_other_hands(self, route: str, held: LeaseHeld) -> None:
        now = self.estate.clock.monotonic()
        since = self._in_other_hands.setdefault(route, now)
        thread = f"failover/{route}"
        if now - since < _HAND_SECONDS or not self._is_news(thread, type(held).__name__):
            return
        self._tell(
            Notice(
                f"{route}: another hand has been on it for {now - since:.0f} s, and does not act",
                Severity.CRITICAL,
                self.estate.clock.now(),
                self._source,
                thread=thread,
                lines=(str(held), held.hint or ""),
            )
        )

    def _tell_route(self, route: str, there: RouteSeen, seen: Seen) -> None:
        """That it cannot be read; that one of its two paths does not follow."""
        state, unread, path = there.state, f"failover/{route}/weights", f"failover/{route}/path"
        if not isinstance(state, RouteState):
            regions = self.estate.topology.traffic.routes[route].weights
            sick = sorted(
                region
                for region, verdict in seen.verdicts.items()
                if verdict.health is Health.UNHEALTHY and region in regions
            )
            if self._is_news(unread, f"unread {sick}"):
                why = f", and {', '.join(sick)} is unhealthy" if sick else ""
                self._tell(
                    Notice(
                        f"{route}: its weights cannot be read{why}",
                        Severity.CRITICAL if sick else Severity.WARNING,
                        self.estate.clock.now(),
                        self._source,
                        thread=unread,
                        lines=(str(state),),
                    )
                )
            return
        self._is_over(unread, f"{route}: its weights can be read again")
        behind = [name for name in (FROZEN, STRANDED) if name in state.detail]
        if not behind:
            self._is_over(path, f"{route}: both paths hold the same")
        elif self._is_news(path, " ".join(behind)):
            self._tell(
                Notice(
                    f"{route}: one of its two paths is {' and '.join(behind)}",
                    Severity.WARNING,
                    self.estate.clock.now(),
                    self._source,
                    thread=path,
                    lines=tuple(state.detail[name] for name in behind),
                )
            )

    @property
    def _source(self) -> str:
        return f"mlplatform failover on {self.estate.writer}"

    def _tell(self, notice: Notice, *, aloud: int | None = 1) -> None:
        """To whoever is to be told; here with so many of its lines (None: all of them)."""
        if self.notices is not None:
            self.notices.tell(notice)
        lines = "; ".join(notice.lines[:aloud])
        self.said.text(f"{notice.title}: {lines}" if lines else notice.title)

    def _cannot_act(self, error: MlplatformError) -> None:
        can_act.set(0)
        log.error("a round of looking failed: %s", error)
        self._failed_rounds += 1
        none = isinstance(error, NoMajority)
        if not none and self._failed_rounds < _FAILED_ROUNDS:
            return
        if self._is_news("failover/control", type(error).__name__):
            self._tell(
                Notice(
                    f"failover cannot act{': no majority of control stores' if none else ''}",
                    Severity.CRITICAL,
                    self.estate.clock.now(),
                    self._source,
                    thread="failover/control",
                    lines=(
                        str(error),
                        "`mlplatform failover run --without-control DIR` needs no control store",
                    ),
                )
            )

    def _can_act(self) -> None:
        can_act.set(1)
        self._failed_rounds = 0
        self._is_over("failover/control", "failover can act again")

    def _tell_verdicts(self, seen: Seen) -> None:
        for region, verdict in seen.verdicts.items():
            before = self._verdicts.get(region)
            self._verdicts[region] = verdict.health
            if before is None and verdict.health is Health.HEALTHY:
                continue  # at the start, only what is wrong is news
            if before is verdict.health:
                continue
            bad = verdict.health is Health.UNHEALTHY
            well = verdict.health is Health.HEALTHY
            self._tell(
                Notice(
                    f"{region} is {verdict.health.value}",
                    Severity.CRITICAL if bad else Severity.INFO if well else Severity.WARNING,
                    self.estate.clock.now(),
                    self._source,
                    thread=f"failover/region/{region}",
                    lines=(*verdict.because, *verdict.would_change),
                    over=well,
                )
            )

    def _advise(self, route: str, request: Request, plan: Plan) -> None:
        """What would be done, or is held, said once until it changes: seconds and loads in it do
        all the time."""
        told = "; ".join(
            sorted({f"{hold.region} {hold.reason.partition(':')[0]}" for hold in plan.holds})
        )
        if not told or not self._is_news(f"failover/{route}", told):
            return
        # Nobody is woken because traffic could go back.
        back = request.mode is Mode.FAILBACK
        self._tell(
            Notice(
                f"{route}: nothing is done",
                Severity.WARNING if back else Severity.CRITICAL,
                self.estate.clock.now(),
                self._source,
                thread=f"failover/{route}",
                lines=tuple(
                    dict.fromkeys(
                        f"{h.region}: {h.reason}" if h.region else h.reason for h in plan.holds
                    )
                ),
            ),
            aloud=None,
        )

    def _ended(self, route: str, request: Request, report: Report) -> None:
        if report.operation is None:
            # It could not be claimed, or is not as it was when it was looked at without a claim.
            if report.plan.holds:
                self._went_wrong(route)
                self._advise(route, request, report.plan)
            return
        failed = [outcome for outcome in report.outcomes if not outcome.ok]
        result = "failed" if any(o.result is Result.FAILED for o in failed) else "done"
        operations_total.add(route=route, mode=request.mode.value, result=result)
        if result == "failed":
            self._went_wrong(route)
            why = " ".join(sorted({outcome.error or "" for outcome in failed}))
            if not self._is_news(f"failover/{route}", f"failed {why}"):
                return
        else:
            self._tries.pop(route, None)
        self._tell(
            Notice(
                f"{route}: {request.mode.value} {'is over' if not failed else 'did not go well'}",
                Severity.WARNING if failed else Severity.INFO,
                self.estate.clock.now(),
                self._source,
                thread=report.operation,
                lines=tuple(_told(report)),
                over=not failed,
            )
        )

    def _measure(self, seen: Seen) -> None:
        health.replace(
            (1, {"region": region, "health": verdict.health.value})
            for region, verdict in seen.verdicts.items()
        )
        known = {
            route: there.state
            for route, there in seen.routes.items()
            if isinstance(there.state, RouteState)
        }
        route_readable.replace((int(route in known), {"route": route}) for route in seen.routes)
        weight.replace(
            (share, {"route": route, "region": region})
            for route, state in known.items()
            for region, share in state.weights.items()
        )
        now = self.estate.clock.now().timestamp()
        operation_began.replace(
            (now - each.began_seconds_ago, {"route": route, "operation": each.operation})
            for route, there in seen.routes.items()
            for each in there.recoveries
            if each.ended_seconds_ago is None
        )
        drained.replace(
            (1, {"route": route, "region": region, "operation": left.operation})
            for route, there in seen.routes.items()
            for region, left in there.drained.items()
            if not left.open
        )
        ready.replace(
            (
                int(not found.failing),
                {
                    "route": found.route,
                    "from": found.source,
                    "to": found.target,
                    "gate": found.failing,
                },
            )
            for found in readiness(self.estate.topology, seen, self.estate.clock.now())
        )


def _why_stays_drained(route: str, region: str, seen: Seen) -> str:
    """Why servers are not to be told that they may serve; empty where nothing speaks against it."""
    orders = seen.orders
    for scope in (route, EVERYTHING):
        if scope in orders.locks:
            return f"{scope} is locked: {orders.locks[scope]}"
    if region in orders.maintenance:
        return f"{region} is being worked on: {orders.maintenance[region]}"
    for name, there in seen.routes.items():
        other = there.drained.get(region)
        if other is not None and other.open:
            return f"{other.operation} on {name} drains it"
    if any(recovery.ended_seconds_ago is None for recovery in seen.routes[route].recoveries):
        return "another operation is under way on the route, or was left"
    return ""


def _told(report: Report) -> Iterator[str]:
    """What became of an operation: where the weights are now, then each step."""
    shifts = {action.key for action in report.plan.actions if action.kind == "shift"}
    details = [outcome.detail for outcome in report.outcomes if outcome.detail]
    moved = [o.detail for o in report.outcomes if o.detail and o.action in shifts]
    yield from dict.fromkeys((*moved[-1:], *details))


def _is_served_well(there: RouteSeen, seen: Seen) -> bool:
    """Whether every region that serves the route is positively healthy. That nothing is asked for
    may also be because nobody sees anything."""
    state = there.state
    return isinstance(state, RouteState) and all(
        region in seen.verdicts and seen.verdicts[region].health is Health.HEALTHY
        for region, share in state.weights.items()
        if share
    )


def _internal(error: Exception) -> MlplatformError:
    """Of an error that nobody foresaw."""
    return MlplatformError(
        f"internal error: {type(error).__name__}: {error}",
        hint="the log has the traceback; meanwhile `mlplatform failover run` acts by hand",
    )
