"""What a process of failover calls, each over its own line: actuators, servers, Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import nan
from random import Random
from typing import TYPE_CHECKING

from mlplatform.core.errors import Unavailable
from mlplatform.core.seen import Unknown
from mlplatform.ports.fleet import Served
from mlplatform.ports.measurements import Measured
from mlplatform.ports.traffic import RouteState, TrafficFeatures, Weights
from tests.simulation.failover.ground import Ill, Region, Route
from tests.simulation.line import CALM, Fate, Line, Place
from tests.simulation.schedule import Process

if TYPE_CHECKING:
    from tests.simulation.failover.judge import FailoverJudge

SCALES_SECONDS = 30.0

LOAD = "load[$window]"
SUCCESS = "success[$window]"


class SimTraffic(Line):
    """One process's way to a route's actuator."""

    judge: FailoverJudge

    def __init__(
        self,
        process: Process,
        route: Route,
        judge: FailoverJudge,
        by_hand: Callable[[Route], None],
    ) -> None:
        super().__init__(process, route, judge)
        self.route = route
        self._by_hand = by_hand

    @property
    def features(self) -> TrafficFeatures:
        return self.route.traffic.features

    def read(self) -> RouteState:
        fate = self.pass_("read", self.route.name)
        if fate is Fate.EMPTY:
            self.judge.trace(self.process, "reads", self.route, fate=fate)
            return RouteState({})
        if fate is Fate.STALE:
            then = self.process.scheduler.now - self.route.random.expovariate(1 / 10)
            self.judge.trace(self.process, "reads", self.route, fate=fate)
            return self.route.once(then)
        return self.after(fate, self.route.traffic.read)

    def write(
        self, weights: Weights, *, epoch: int, writer: str, expected: RouteState
    ) -> RouteState:
        sent = self.judge.sends(self.process, self.route, weights, epoch, expected)
        fate = self.pass_("write", self.route.name, writes=True)
        if fate is Fate.BY_HAND:
            self._by_hand(self.route)

        def effect() -> RouteState:
            before = self.route.state
            after = self.route.traffic.write(weights, epoch=epoch, writer=writer, expected=expected)
            self.route.changed()
            self.judge.wrote(sent, before, after)
            return after

        what = f"{','.join(f'{r}={w}' for r, w in weights.items() if w)} under {epoch} to"
        self.judge.trace(self.process, "writes", what, self.route)
        return self.write_("write", self.route.name, fate, effect)

    def in_force(self, state: RouteState) -> bool:
        fate = self.pass_("in_force", self.route.name)
        return self.after(fate, lambda: self.route.traffic.in_force(state))


class SimFleet(Line):
    """One process's way to a region's servers."""

    def __init__(self, process: Process, region: Region, judge: FailoverJudge) -> None:
        super().__init__(process, region, judge)
        self.region = region

    def served(self, models: frozenset[str]) -> Mapping[str, Served | Unknown]:
        fate = self._reach("served", writes=False)
        return self.after(fate, lambda: dict.fromkeys(models, self.region.served))

    def ask_capacity(self, model: str, servers: int) -> str:
        fate = self._reach("ask", writes=True)

        def effect() -> str:
            def comes() -> None:
                self.region.plenty = max(self.region.plenty, servers)
                if Ill.ROOM not in self.region.ills:
                    self.region.servers = self.region.plenty

            self.process.scheduler.later(SCALES_SECONDS, comes)
            return f"at least {servers} servers of {model}"

        return self.write_("ask", self.region.name, fate, effect)

    def lame_duck(self, *, enter: bool) -> None:
        fate = self._reach("drain", writes=True)

        def effect() -> None:
            self.region.lame = enter
            self.region.was_lame |= enter

        self.write_("drain" if enter else "undrain", self.region.name, fate, effect)

    def _reach(self, verb: str, *, writes: bool) -> Fate:
        fate = self.pass_(verb, self.region.name, writes=writes)
        if self.region.down:
            raise Unavailable("no answer", store=self.url)
        return fate


class Monitoring(Place):
    """The world's Prometheus: what callers met, when it can say anything."""

    def __init__(self, regions: Mapping[str, Region], random: Random) -> None:
        super().__init__("prometheus", "http://prometheus.test", CALM, random)
        self.regions = regions
        self.load: Callable[[str], float] = lambda region: 0.0
        self.peak: Callable[[str], float] = lambda region: 0.0
        self.mood = ""
        """`empty`, `nan`, or as it should be."""


class SimPrometheus(Line):
    """One process's way to it. A `Measurements`."""

    def __init__(self, process: Process, monitoring: Monitoring, judge: FailoverJudge) -> None:
        super().__init__(process, monitoring, judge)
        self.monitoring = monitoring

    def instant(self, query: str) -> tuple[Measured, ...]:
        fate = self.pass_("query", query[:20])
        return self.after(fate, lambda: self._answer(query))

    def _answer(self, query: str) -> tuple[Measured, ...]:
        monitoring = self.monitoring
        if monitoring.mood == "empty":
            return ()
        found = []
        for name, region in monitoring.regions.items():
            if monitoring.mood == "nan":
                value = nan
            elif query.startswith("max_over_time"):
                value = monitoring.peak(name)
            elif query.startswith("load"):
                value = monitoring.load(name)
            else:
                # Of those that entered: a region that serves nothing counts nothing, and 0/0 is
                # what a ratio of nothing is.
                entering = monitoring.load(name) if region.down else 1.0
                value = 0.3 if Ill.WRONG in region.ills else 1.0 if entering else nan
            found.append(Measured({"region": name}, value))
        return tuple(found)
