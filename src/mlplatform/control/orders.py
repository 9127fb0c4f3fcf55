"""Standing orders of operators: locks, maintenance, overrides, pauses. Every feature heeds them.

An order is one record in the control store, read as the union of what the members hold: an order
that any of them knows of stands, until a later one takes it back. So losing a member loses no lock,
and a member that was away brings none back.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum

from pydantic import ValidationError

from mlplatform.control.quorum import ControlStore
from mlplatform.core.errors import NotFound, UsageError
from mlplatform.core.placement import ModelVersion
from mlplatform.core.plan import Record
from mlplatform.ports.clock import Clock

log = logging.getLogger(__name__)

_ORDERS = "orders/"
EVERYTHING = "all"
"""The scope of a lock on everything: rollouts too."""


class Kind(StrEnum):
    """What is ordered."""

    LOCK = "lock"
    """Nothing is changed: of a route, or of `all`."""
    MAINTENANCE = "maintenance"
    """A region receives nothing new."""
    OVERRIDE = "override"
    """A region's verdict is what the order says."""
    PAUSE = "pause"
    """An operation goes on with no further step."""
    ABORT = "abort"
    """An operation is ended as soon as the step under way is over, and what it was about is not
    begun again by itself."""
    PROMOTE = "promote"
    """A rollout goes on without waiting for the verdict: somebody has taken it upon themselves."""


class Order(Record):
    """One order, or its end."""

    kind: Kind
    scope: str
    """A route, a region, an operation, or `all`."""
    stands: bool = True
    value: str = ""
    """For an override: the verdict."""
    reason: str
    by: str
    at: datetime
    expires_at: datetime | None = None
    number: int
    """Counts up; the highest is the one that counts."""

    @property
    def key(self) -> str:
        return _key(self.kind, self.scope)


def newest(orders: Iterable[Order]) -> tuple[Order, ...]:
    """Of each kind and scope the one that counts. Of two with one number, by two hands, that is the
    one that stands."""
    found: dict[tuple[Kind, str], Order] = {}
    for order in sorted(orders, key=lambda order: (order.number, order.stands)):
        found[order.kind, order.scope] = order
    return tuple(found.values())


def in_force(orders: Iterable[Order], now: datetime) -> tuple[Order, ...]:
    """Of each kind and scope the newest, if it stands and has not expired."""
    return tuple(
        order
        for order in newest(orders)
        if order.stands and (order.expires_at is None or order.expires_at > now)
    )


class StandingOrders:
    """All orders of a control store. `writer` names who gives them."""

    def __init__(self, control: ControlStore, clock: Clock, writer: str) -> None:
        self._control = control
        self._clock = clock
        self._writer = writer

    def read(self) -> tuple[Order, ...]:
        """Those in force. `NoMajority` if too few control stores could be read."""
        return in_force(self._all(_ORDERS), self._clock.now())

    def known(self) -> tuple[Order, ...]:
        """Of each kind and scope the newest, whether it is in force or not."""
        return newest(self._all(_ORDERS))

    def forget(self, order: Order) -> None:
        """Remove what has nothing to be about any more. Not for an order that another of its scope
        may follow: a store that was away would bring back the one before."""
        self._control.drop_observation(order.key)

    def give(
        self,
        kind: Kind,
        scope: str,
        *,
        reason: str,
        value: str = "",
        expires_at: datetime | None = None,
    ) -> Order:
        """Give an order, over the one before it. `NoMajority` if it may not have been heard."""
        return self._write(
            Order(
                kind=kind,
                scope=scope,
                value=value,
                reason=reason,
                by=self._writer,
                at=self._clock.now(),
                expires_at=expires_at,
                number=self._next(kind, scope),
            )
        )

    def take_back(self, kind: Kind, scope: str, *, reason: str) -> Order:
        """End an order. `NotFound` if none is in force."""
        known = [order for order in self._all(_key(kind, scope)) if order.scope == scope]
        if not in_force(known, self._clock.now()):
            raise NotFound(
                f"there is no {kind.value} of {scope}",
                hint="`mlplatform failover status` shows what is in force",
            )
        return self._write(
            Order(
                kind=kind,
                scope=scope,
                stands=False,
                reason=reason,
                by=self._writer,
                at=self._clock.now(),
                number=self._next(kind, scope),
            )
        )

    def _next(self, kind: Kind, scope: str) -> int:
        known = self._all(_key(kind, scope))
        return 1 + max((order.number for order in known if order.scope == scope), default=0)

    def _write(self, order: Order) -> Order:
        self._control.put_heeded(order.key, order.encoded, f"{order.kind.value} {order.scope}")
        return order

    def _all(self, prefix: str) -> list[Order]:
        found = []
        for key, body in self._control.read_observations(prefix).records:
            order = _parse(key, body)
            if order is not None:
                found.append(order)
        return found


def _parse(key: str, body: bytes) -> Order | None:
    """A record that is damaged stands for the order that its key names: the careful reading. Any
    good copy outranks it. An override cannot be guessed, and is left out, as are those that let
    something be done."""
    try:
        order = Order.model_validate(json.loads(body))
        if order.key == key:
            return order
    except (ValidationError, ValueError, RecursionError, UsageError) as error:
        log.error("%s: not an order that can be read: %s", key, type(error).__name__)
    kind, _, scope = key.removeprefix(_ORDERS).removesuffix(".json").partition("/")
    if kind not in set(Kind) - {Kind.OVERRIDE, Kind.ABORT, Kind.PROMOTE}:
        return None
    return Order(
        kind=Kind(kind),
        scope=scope,
        reason="(its record is damaged)",
        by="unknown",
        at=datetime(1970, 1, 1, tzinfo=UTC),
        number=0,
    )


def _key(kind: Kind, scope: str) -> str:
    ModelVersion(scope, "v0")  # one rule for all names: they become parts of keys
    return f"{_ORDERS}{kind.value}/{scope}.json"
