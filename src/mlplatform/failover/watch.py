"""The controller that goes round: look, judge, tell, and act where it may.

Several may run, anywhere. None of them leads: whoever finds something to do takes the route's
lease, claims the route, and looks again before it decides; the others find the lease held, or the
thing done. A controller that dies in the middle leaves an operation that any other finishes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from mlplatform.control import metrics
from mlplatform.control.notices import Notices
from mlplatform.control.reconcile import Report
from mlplatform.core.errors import Fenced, Interrupted, LeaseHeld, MlplatformError, NoMajority
from mlplatform.core.plan import Plan, Result
from mlplatform.failover import operations
from mlplatform.failover.decide import decide, propose_requests
from mlplatform.failover.effects import Estate
from mlplatform.failover.operations import Said
from mlplatform.failover.readiness import readiness
from mlplatform.failover.seen import Request, Seen
from mlplatform.failover.verdict import Health
from mlplatform.ports.notify import Notice, Severity
from mlplatform.ports.traffic import RouteState

log = logging.getLogger(__name__)

PROOF_SECONDS = 86_400.0
"""How often a route is claimed anew although nothing is to be done: it proves the credentials."""
_JOIN_SECONDS = 30.0

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
    "mlplatform_failover_can_act", "1 when a majority of control stores answers.", kind="gauge"
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
    _advice: dict[str, str] = field(default_factory=dict)
    _blind: str = ""
    _left: set[str] = field(default_factory=set)
    """Operations of which it was told that they are open."""
    _busy: dict[str, threading.Thread] = field(default_factory=dict)
    _proven: dict[str, float] = field(default_factory=dict)
    """When each route was last claimed, by our own clock."""

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
        for thread in self._busy.values():
            thread.join(_JOIN_SECONDS)
        return 0

    def one_round(self) -> None:
        """Look once; start what is to be done. An error is told, and the next round tries again."""
        estate = self.estate
        try:
            seen = estate.observe()
        except NoMajority as error:
            self._cannot_act(str(error))
            return
        except MlplatformError as error:
            log.error("a round of looking failed", extra={"error": str(error)})
            return
        self._can_act()
        self._tell_verdicts(seen)
        self._measure(seen)
        requests: dict[str, Request] = {}
        for request in propose_requests(estate.topology, seen):
            for route in request.routes:
                requests.setdefault(route, replace(request, routes=(route,)))
        for route, request in requests.items():
            self._consider(route, request, seen)
        self._go_on_with_what_was_left(seen)
        self._prove(requests)
        last_round.set(estate.clock.now().timestamp())

    # What is to be done.

    def _consider(self, route: str, request: Request, seen: Seen) -> None:
        """Act on a request, or tell what is advised, or why it is held."""
        if self._is_busy(route):
            return
        plan = decide(self.estate.topology, seen, request, self.estate.clock.now())
        if plan.noop:
            self._advise(route, plan)
            return
        self._advice.pop(route, None)
        self._start(route, partial(self._move, route, request))

    def _move(self, route: str, request: Request) -> None:
        # Whoever died with the route in its hand is waited out; whoever is alive is left to it.
        report = operations.move(self.estate, route, request, wait="silent", said=self.said)
        self._ended(route, request, report)

    def _go_on_with_what_was_left(self, seen: Seen) -> None:
        """Finish what a controller left. What an operator began is the operator's: who pressed
        Ctrl-C does not want it to go on by itself."""
        for route, there in seen.routes.items():
            for recovery in there.recoveries:
                name = recovery.operation
                if recovery.ended_seconds_ago is not None or self._is_busy(route):
                    continue
                automatic = self.estate.topology.traffic.routes[route].mode == "auto"
                if not (automatic and recovery.automatic):
                    self._tell_left(route, name)
                elif name not in seen.orders.paused:
                    self._start(route, partial(self._resume, name))

    def _resume(self, operation: str) -> None:
        for _ in operations.resume_left(self.estate, operation, wait="silent", said=self.said):
            log.info("finished what was left", extra={"operation": operation})

    def _tell_left(self, route: str, operation: str) -> None:
        if operation in self._left:
            return
        self._left.add(operation)
        self._tell(
            Notice(
                f"{route}: {operation} is under way, or was left",
                Severity.WARNING,
                self.estate.clock.now(),
                self._source,
                thread=operation,
                lines=(f"`mlplatform failover resume {operation}` goes on with it",),
            )
        )

    def _prove(self, busy: Mapping[str, Request]) -> None:
        """Claim each route once a day: credentials that have lapsed are found before the night."""
        now = self.estate.clock.monotonic()
        for route in self.estate.topology.traffic.routes:
            proven = self._proven.setdefault(route, now)  # not at once, at every restart
            if now - proven < PROOF_SECONDS or route in busy or self._is_busy(route):
                continue
            self._proven[route] = now
            self._start(route, partial(self._claim, route))

    def _claim(self, route: str) -> None:
        lease = operations.lease_of(self.estate, route)
        lease.acquire(wait="silent")
        try:
            seen = self.estate.observe([route], epochs={route: lease.generation})
        finally:
            lease.release()
        state = seen.routes[route].state
        if isinstance(state, RouteState):
            last_proof.set(self.estate.clock.now().timestamp(), route=route)
        else:
            self._tell(
                Notice(
                    f"{route}: its actuator cannot be written to",
                    Severity.CRITICAL,
                    self.estate.clock.now(),
                    self._source,
                    thread=f"failover/{route}/actuator",
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

    @property
    def _source(self) -> str:
        return f"mlplatform failover on {self.estate.writer}"

    def _tell(self, notice: Notice, *, aloud: int | None = 1) -> None:
        """To whoever is to be told; here with so many of its lines (None: all of them)."""
        if self.notices is not None:
            self.notices.tell(notice)
        lines = "; ".join(notice.lines[:aloud])
        self.said.text(f"{notice.title}: {lines}" if lines else notice.title)

    def _cannot_act(self, why: str) -> None:
        can_act.set(0)
        log.error("held: %s", why)
        if not self._blind:
            self._tell(
                Notice(
                    "failover cannot act: no majority of control stores",
                    Severity.CRITICAL,
                    self.estate.clock.now(),
                    self._source,
                    thread="failover/control",
                    lines=(
                        why,
                        "`mlplatform failover run --without-control DIR` acts without them",
                    ),
                )
            )
        self._blind = why

    def _can_act(self) -> None:
        can_act.set(1)
        if self._blind:
            self._tell(
                Notice(
                    "failover can act again",
                    Severity.INFO,
                    self.estate.clock.now(),
                    self._source,
                    thread="failover/control",
                    over=True,
                )
            )
        self._blind = ""

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

    def _advise(self, route: str, plan: Plan) -> None:
        """What would be done, or is held, said once until it changes: seconds and loads in it do
        all the time."""
        told = "; ".join(
            sorted({f"{hold.region} {hold.reason.partition(':')[0]}" for hold in plan.holds})
        )
        if not told or self._advice.get(route) == told:
            return
        self._advice[route] = told
        self._tell(
            Notice(
                f"{route}: nothing is done",
                Severity.CRITICAL,
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
            return
        failed = [outcome for outcome in report.outcomes if not outcome.ok]
        result = "failed" if any(o.result is Result.FAILED for o in failed) else "done"
        operations_total.add(route=route, mode=request.mode.value, result=result)
        self._tell(
            Notice(
                f"{route}: {request.mode.value} {'is over' if not failed else 'did not go well'}",
                Severity.WARNING if failed else Severity.INFO,
                self.estate.clock.now(),
                self._source,
                thread=report.operation,
                lines=tuple(outcome.detail for outcome in report.outcomes if outcome.detail),
                over=not failed,
            )
        )

    def _measure(self, seen: Seen) -> None:
        for family in (health, weight, ready):
            family.clear()
        for region, verdict in seen.verdicts.items():
            health.set(1, region=region, health=verdict.health.value)
        for route, there in seen.routes.items():
            known = isinstance(there.state, RouteState)
            route_readable.set(int(known), route=route)
            if isinstance(there.state, RouteState):
                for region, share in there.state.weights.items():
                    weight.set(share, route=route, region=region)
        for found in readiness(self.estate.topology, seen, self.estate.clock.now()):
            ready.set(
                int(not found.failing),
                route=found.route,
                **{"from": found.source, "to": found.target},
                gate=found.failing,
            )
