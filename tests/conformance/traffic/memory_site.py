"""Sites of the memory actuator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlplatform.adapters.memory_traffic import MemoryTraffic
from mlplatform.core.errors import Unavailable
from mlplatform.ports.traffic import RouteState, Traffic, TrafficFeatures, Weights

from .site import REGIONS, Site


class _Line:
    """A client of the route, with a line that can be cut."""

    def __init__(self, site: MemorySite) -> None:
        self._site = site

    @property
    def url(self) -> str:
        return self._site.route.url

    @property
    def features(self) -> TrafficFeatures:
        return self._site.route.features

    def read(self) -> RouteState:
        self._pass()
        return self._site.route.read()

    def write(
        self, weights: Weights, *, epoch: int, writer: str, expected: RouteState
    ) -> RouteState:
        # What is wrong by itself is refused before the line is met: with the route's own answer.
        if sum(weights.values()) == 100 and weights.keys() == set(REGIONS):
            self._pass()
        state = self._site.route.write(weights, epoch=epoch, writer=writer, expected=expected)
        if self._site.loses_answers:
            raise Unavailable("no answer", store=self.url)
        return state

    def in_force(self, state: RouteState) -> bool:
        self._pass()
        return self._site.route.in_force(state)

    def _pass(self) -> None:
        if self._site.cut:
            raise Unavailable("connection refused", store=self.url)


class MemorySite(Site):
    """The memory actuator itself, and lines to it."""

    def __init__(self, route: MemoryTraffic) -> None:
        self.route = route
        self.cut = False
        self.loses_answers = False

    def open(self) -> Traffic:
        return _Line(self)

    def change_by_hand(self, weights: Weights) -> None:
        self.route.change_by_hand(weights)

    def remove(self) -> None:
        self.route.restore(None)

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        self.cut = True
        yield
        self.cut = False

    @contextmanager
    def answers_lost(self) -> Iterator[None]:
        self.loses_answers = True
        yield
        self.loses_answers = False

    def requests(self, count: int) -> Counter[str]:
        weights = self.route.read().weights
        return Counter({region: count * weight // 100 for region, weight in weights.items()})


@contextmanager
def weighted(_: Path) -> Iterator[Site]:
    yield MemorySite(MemoryTraffic(REGIONS))


@contextmanager
def in_or_out(_: Path) -> Iterator[Site]:
    features = TrafficFeatures(zero="left out of the answer", all_or_nothing=True, ttl=True)
    yield MemorySite(MemoryTraffic(REGIONS, features=features, ttl_seconds=60.0))
