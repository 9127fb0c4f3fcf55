"""How a rollout waits: told why, heeding who orders it to end, and longer than an entry or an API
server is away."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from mlplatform.control.orders import EVERYTHING, Order
from mlplatform.control.orders import Kind as OrderKind
from mlplatform.core.errors import (
    CheckFailed,
    ConditionFailed,
    DeadlineExceeded,
    Fenced,
    Interrupted,
    MlplatformError,
)
from mlplatform.core.plan import JSON, Action
from mlplatform.rollout.course.approval import is_named
from mlplatform.rollout.course.decide import is_way_back
from mlplatform.rollout.effects import Sites

log = logging.getLogger(__name__)

T = TypeVar("T")

POLL_SECONDS = 0.5
NEWS_SECONDS = 2.0
"""How often orders are read while a step waits."""
TOLD_SECONDS = 5.0
"""How long a step waits for the same before it is told, and how often windows are."""
_OUTAGE_SECONDS = 600.0
"""How long an entry, an API server or a store may be away before a step of the way there has
failed. The way back waits until it can go on: there is nothing better to do."""


class GoesBack(Exception):
    """Why a step does not end well."""

    def __init__(self, reason: str, *, exit_code: int = 3, verdict: JSON | None = None) -> None:
        super().__init__(reason)
        self.exit_code = exit_code
        self.verdict = verdict or {}


def is_undo(action: Action) -> bool:
    """Whether a step is one of the way back."""
    return is_way_back(action.key)


@dataclass(slots=True)
class Patience:
    """The waiting of one rollout. Safe to share between threads, one a region."""

    sites: Sites
    told: Callable[[str], None]
    guard: Callable[[], None]
    operation: str = ""
    meanwhile: Callable[[Action], None] = lambda action: None
    """Called now and then while a step waits: somebody has to keep an eye on the canary."""
    _halted: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _orders: tuple[Order, ...] = ()
    _orders_at: float = float("-inf")
    _guarded_at: float = float("-inf")

    def halt(self) -> None:
        """Nothing more may be done: every step that waits ends."""
        self._halted.set()

    def wait(
        self,
        action: Action,
        missing: Callable[[], str],
        *,
        limit_seconds: float | None = None,
        excused: Callable[[], bool] = lambda: False,
        heeds_orders: bool = True,
        watches: bool = True,
    ) -> None:
        """Until nothing is missing. What cannot be read meanwhile is waited for as well, and does
        not count towards the limit; nor does what is `excused`."""
        clock = self.sites.clock
        spent = away = 0.0
        looked_at = said_at = clock.monotonic()
        said, pause = "", 0.02
        while True:
            readable = True
            try:
                why = missing()
            except (Fenced, CheckFailed, ConditionFailed):
                raise
            except MlplatformError as error:
                if not error.retryable:
                    raise
                readable, why = False, str(error)
            if not why:
                return
            step = action.key.rpartition("/")[2]
            late = limit_seconds is not None and spent > limit_seconds
            if late or (away > _OUTAGE_SECONDS and not is_undo(action)):
                seconds = limit_seconds if late else _OUTAGE_SECONDS
                raise DeadlineExceeded(
                    f"{action.region}: after {seconds:g} s: {why}",
                    hint="see what holds it up; `mlplatform rollout status` shows where it stands",
                )
            if why != said and clock.monotonic() - said_at > TOLD_SECONDS:
                self.told(f"{action.region}: {step} waits: {why}")
                said, said_at = why, clock.monotonic()
            self.stop_if_asked(action, heeds_orders=heeds_orders)
            if watches:
                self.meanwhile(action)
            clock.sleep(pause)
            pause = min(POLL_SECONDS, 2 * pause)
            passed, looked_at = clock.monotonic() - looked_at, clock.monotonic()
            away = 0.0 if readable else away + passed
            if readable and not excused():
                spent += passed

    def insist(self, action: Action, do: Callable[[], T], *, watches: bool = True) -> T:
        """Do it, again where the answer was that nobody is there just now. It has to bear that."""
        did: list[T] = []

        def undone() -> str:
            did.append(do())
            return ""

        self.wait(action, undone, watches=watches)
        return did[-1]

    def pause(
        self, seconds: float, action: Action, *, until: Callable[[], bool] = lambda: False
    ) -> None:
        """So long, but for an order to end, or until something is so."""
        clock = self.sites.clock
        end = clock.monotonic() + seconds
        while (left := end - clock.monotonic()) > 0:
            self.stop_if_asked(action)
            clock.sleep(min(left, POLL_SECONDS))
            if end - clock.monotonic() > NEWS_SECONDS and until():
                return

    def stop_if_asked(self, action: Action, *, heeds_orders: bool = True) -> None:
        """`Interrupted`, `Fenced`, or `GoesBack` where somebody has ordered the end."""
        step = f"{action.key.rpartition('/')[2]} in {action.region}"
        if self.sites.stop() or self._halted.is_set():
            raise Interrupted(
                f"operation {self.operation}: interrupted at {step}",
                hint="weights and servers are as they were written; "
                f"`mlplatform rollout resume {self.operation}` goes on",
            )
        if self.sites.clock.monotonic() - self._guarded_at >= NEWS_SECONDS:
            self._guarded_at = self.sites.clock.monotonic()
            self.guard()
        heeds_orders &= not is_undo(action)
        if heeds_orders and (reason := self.ordered(OrderKind.ABORT)):
            raise GoesBack(f"aborted: {reason}")

    def ordered(self, kind: OrderKind, *, fresh: bool = False) -> str:
        """The reason of an order about this operation, if one stands."""
        for order in self._read(fresh=fresh):
            if order.kind is kind and order.scope == self.operation:
                if kind is OrderKind.PROMOTE and not self._may_promote():
                    continue
                return order.reason or f"by {order.by}"
        return ""

    def _may_promote(self) -> bool:
        """Whether somebody who may has said not to wait for the verdict, as with an approval: the
        order alone does not say who they are."""
        approvers = self.sites.topology.rollout.waves.approvers
        if not approvers:
            return True
        try:
            told = self.sites.records.ordered(self.operation)
        except MlplatformError as error:
            log.info("who ordered what cannot be read: %s", error)
            return False
        return any(each.what == OrderKind.PROMOTE and is_named(each, approvers) for each in told)

    def locked(self) -> str:
        """Why nothing may be changed anywhere; empty where it may."""
        for order in self._read(fresh=False):
            if order.kind is OrderKind.LOCK and order.scope == EVERYTHING:
                return f"everything is locked: {order.reason}"
        return ""

    def _read(self, *, fresh: bool) -> tuple[Order, ...]:
        clock = self.sites.clock
        with self._lock:
            if not fresh and clock.monotonic() - self._orders_at < NEWS_SECONDS:
                return self._orders
            self._orders_at = clock.monotonic()
        try:
            found = self.sites.orders.read()
        except MlplatformError as error:  # what stood then stands
            log.info("orders cannot be read: %s", error)
            return self._orders
        self._orders = found
        return found
