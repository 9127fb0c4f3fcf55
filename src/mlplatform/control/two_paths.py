"""One route over two actuators, on two paths that clients use already: an edge's configuration API
may be frozen for days while the edge itself is well (Azure Front Door, 29 October 2025, PIR
YKYN-BWZ).

Both hold the same weights, as far as each can. Where one cannot be reached it is *frozen*: it keeps
what it had, and the other goes on alone. When it can be read again, the one with the newer epoch is
believed, and the next write, the claim that comes before anything is decided, brings the other in
line. Two that differ under one epoch are a riddle, of a write that was stranded and came true late,
or of a hand: then nothing is believed, and somebody has to say.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict

from mlplatform.core.errors import (
    ConditionFailed,
    DeadlineExceeded,
    MlplatformError,
    Throttled,
    Unavailable,
)
from mlplatform.ports.clock import Clock
from mlplatform.ports.traffic import RouteState, Traffic, TrafficFeatures, Weights, expressible

log = logging.getLogger(__name__)

FROZEN = "frozen"
"""In a state's `detail`: the actuator that could not be reached, and why."""
STRANDED = "stranded"
"""In a state's `detail`: the actuator that holds something else, and what."""

_AWAY = (Unavailable, Throttled, DeadlineExceeded)
_KNOWN_MAX = 64
_NOT_ASKED_SECONDS = 60.0
"""For how long one that was away is not asked again."""

Pair = tuple[RouteState | None, RouteState | None]
"""What each of the two holds; None: it is frozen."""


class TwoPaths:
    """Two actuators as one. Each is under the retry policy by itself."""

    def __init__(self, first: Traffic, second: Traffic, clock: Clock) -> None:
        self._both = (first, second)
        self._clock = clock
        self._frozen: dict[int, tuple[float, MlplatformError]] = {}
        """By which of the two: since when it has been away, and why."""
        self._known: OrderedDict[str, Pair] = OrderedDict()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<TwoPaths {self.url}>"

    @property
    def url(self) -> str:
        return " and ".join(each.url for each in self._both)

    @property
    def features(self) -> TrafficFeatures:
        """The first one's; clients keep answers if those of either do."""
        first, second = (each.features for each in self._both)
        return TrafficFeatures(
            zero=f"{first.zero}; on the second path, {second.zero}",
            all_or_nothing=first.all_or_nothing,
            ttl=first.ttl or second.ttl,
            exercised=f"{first.exercised}; {second.exercised}",
        )

    def read(self) -> RouteState:
        """Of the two, the one that is believed. `Unavailable` if neither can be reached;
        `ConditionFailed` if they differ and neither is newer."""
        found: list[RouteState | None] = []
        detail: dict[str, str] = {}
        away: MlplatformError | None = None
        for number in range(2):
            try:
                found.append(self._read(number))
            except _AWAY as error:
                found.append(None)
                detail[FROZEN] = str(error)
                away = error
        if not any(found) and away is not None:
            self._frozen.clear()
            raise away
        return self._state((found[0], found[1]), detail)

    def _read(self, number: int) -> RouteState:
        """What one of the two holds. One that hangs is not asked at each step of a move."""
        now = self._clock.monotonic()
        since, error = self._frozen.get(number, (-_NOT_ASKED_SECONDS, None))
        if error is not None and now - since < _NOT_ASKED_SECONDS:
            raise error
        try:
            state = self._both[number].read()
        except _AWAY as away:
            self._frozen[number] = (now, away)
            raise
        self._frozen.pop(number, None)
        return state

    def write(
        self, weights: Weights, *, epoch: int, writer: str, expected: RouteState
    ) -> RouteState:
        with self._lock:
            pair = self._known.get(expected.tag)
        if pair is None:
            raise ConditionFailed("this is not as it was read last", store=self.url)
        written: list[RouteState | None] = []
        detail: dict[str, str] = {}
        away: MlplatformError | None = None
        for traffic, held in zip(self._both, pair, strict=True):
            if held is None:
                written.append(None)
                detail[FROZEN] = f"{traffic.url}: could not be reached"
                continue
            shares = expressible(weights, traffic.features)
            try:
                state = traffic.write(shares, epoch=epoch, writer=writer, expected=held)
            except (*_AWAY, ConditionFailed) as error:
                if isinstance(error, ConditionFailed) and traffic is self._both[0]:
                    raise  # nothing was changed yet: look again
                log.warning("%s is left as it is: %s", traffic.url, error)
                written.append(None)
                detail[FROZEN] = str(error)
                away = error
            else:
                written.append(state)
        if not any(written) and away is not None:
            raise away
        return self._state((written[0], written[1]), detail)

    def in_force(self, state: RouteState) -> bool:
        with self._lock:
            pair = self._known.get(state.tag)
        if pair is None:
            return False
        return all(
            traffic.in_force(held)
            for traffic, held in zip(self._both, pair, strict=True)
            if held is not None
        )

    def _state(self, pair: Pair, detail: dict[str, str]) -> RouteState:
        there = [
            (held, traffic)
            for held, traffic in zip(pair, self._both, strict=True)
            if held is not None
        ]
        newest = max(held.epoch for held, _ in there)
        # Of two that agree, the one that can hold shares says more than the one that cannot.
        believed, by = min(
            ((held, traffic) for held, traffic in there if held.epoch == newest),
            key=lambda each: each[1].features.all_or_nothing,
        )
        for held, traffic in there:
            if dict(held.weights) == dict(expressible(believed.weights, traffic.features)):
                continue
            holds = f"{traffic.url} holds {dict(held.weights)}"
            if held.epoch == newest:
                raise ConditionFailed(
                    f"{holds}, and {by.url} {dict(believed.weights)}, under one epoch, {newest}",
                    store=self.url,
                    hint="set one of them to what the other has, by hand; then go on",
                )
            detail[STRANDED] = holds
        ttls = [held.ttl_seconds for held, _ in there if held.ttl_seconds is not None]
        tag = "\n".join("?" if each is None else f"{each.epoch} {each.tag}" for each in pair)
        with self._lock:
            self._known[tag] = pair
            self._known.move_to_end(tag)
            while len(self._known) > _KNOWN_MAX:
                self._known.popitem(last=False)
        return RouteState(
            weights=believed.weights,
            epoch=believed.epoch,
            writer=believed.writer,
            tag=tag,
            ttl_seconds=max(ttls, default=None),
            detail={**believed.detail, **detail},
        )
