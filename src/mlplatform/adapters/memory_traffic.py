"""A route in this process's memory: `memory://name`. For simulations and tests.

It keeps the whole contract, and is as awkward as the contract allows: its tag is its content, so
that it repeats when the content does, as Caddy's does. By `features` it plays plain DNS (in or out)
and actuators whose clients keep their answers; by `propagation_seconds`, one that takes its time.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping

from mlplatform.core.errors import ConditionFailed, NotFound, UsageError
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.clock import Clock, SystemClock
from mlplatform.ports.traffic import (
    RouteState,
    TrafficFeatures,
    Weights,
    check_epoch,
    check_weights,
    equal_shares,
)

FEATURES = TrafficFeatures(zero="no request is sent there", exercised="itself")


class MemoryTraffic:
    """One route. Whoever shares the object shares the route.

    It starts with `weights`, by default equal shares, claimed by nobody. What is written is in
    force `propagation_seconds` later, by `clock`.
    """

    def __init__(
        self,
        regions: Collection[str],
        *,
        name: str = "memory",
        weights: Weights | None = None,
        features: TrafficFeatures = FEATURES,
        ttl_seconds: float | None = None,
        propagation_seconds: float = 0.0,
        clock: Clock | None = None,
    ) -> None:
        self._url = f"memory://{name}"
        self._regions = tuple(regions)
        self._features = features
        self._ttl_seconds = ttl_seconds
        self._propagation_seconds = propagation_seconds
        self._clock: Clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._held: RouteState | None = self._state(weights or equal_shares(regions), 0, "")
        self._since_seconds = self._clock.monotonic() - propagation_seconds

    def __repr__(self) -> str:
        return f"<MemoryTraffic {self._url}: {self._held}>"

    @property
    def url(self) -> str:
        return self._url

    @property
    def features(self) -> TrafficFeatures:
        return self._features

    def read(self) -> RouteState:
        with self._lock:
            return self._require()

    def write(
        self, weights: Weights, *, epoch: int, writer: str, expected: RouteState
    ) -> RouteState:
        check_weights(weights, where=self._url, regions=self._regions, features=self._features)
        with self._lock:
            held = self._require()
            check_epoch(held, epoch, where=self._url)
            if held.tag != expected.tag:
                raise ConditionFailed(
                    f"another writer came first: {held.tag} is there, {expected.tag} was expected",
                    store=self._url,
                )
            return self._hold(self._state(weights, epoch, writer))

    def in_force(self, state: RouteState) -> bool:
        now = self._clock.monotonic()
        with self._lock:
            return (
                self._require().tag == state.tag
                and now - self._since_seconds >= self._propagation_seconds
            )

    # What happens to routes beside the port.

    def change_by_hand(self, weights: Weights) -> None:
        """As an operator does it, past every rule: the epoch stays, and no writer is named."""
        with self._lock:
            self._hold(self._state(weights, self._require().epoch, ""))

    def restore(self, state: RouteState | None) -> None:
        """What a router does that comes back with an old configuration; None: the route is gone."""
        with self._lock:
            if state is None:
                self._held = None
            else:
                self._hold(self._state(state.weights, state.epoch, state.writer))

    def _hold(self, state: RouteState) -> RouteState:
        self._held = state
        self._since_seconds = self._clock.monotonic()
        return state

    def _require(self) -> RouteState:
        if self._held is None:
            raise NotFound("no such route", store=self._url)
        return self._held

    def _state(self, weights: Weights, epoch: int, writer: str) -> RouteState:
        shares = ",".join(f"{region}={weights[region]}" for region in sorted(weights))
        return RouteState(
            dict(weights),
            epoch,
            writer,
            tag=f"{shares};epoch={epoch};writer={writer}",
            ttl_seconds=self._ttl_seconds,
            detail=dict.fromkeys(self._regions, "memory"),
        )


_routes: dict[str, MemoryTraffic] = {}
_routes_lock = threading.Lock()


def open_traffic(url: StoreURL, targets: Mapping[str, tuple[str, ...]]) -> MemoryTraffic:
    """The route of that name, which lives as long as this process: the same for every caller."""
    url.reject_unknown(frozenset())
    name = f"{url.authority}{url.path}".rstrip("/")
    if not name:
        raise UsageError(f"actuator {url} has no name", hint="write e.g. memory://api")
    with _routes_lock:
        return _routes.setdefault(name, MemoryTraffic(tuple(targets), name=name))
