"""Controllers that may die at any effect, or lose an answer; and what must be so after each.

A process that is killed does nothing more: its next call, whatever it is, does not reach anything.
What is true before an effect is true after the one before it, so that to die before each is to die
after each as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlplatform.adapters.memory_servers import MemoryServers, MemorySplit
from mlplatform.core.errors import Unavailable
from mlplatform.ports.servers import Servers, ServersState
from mlplatform.ports.split import Split
from mlplatform.ports.store import ObjectStore
from mlplatform.ports.traffic import RouteState, Weights
from mlplatform.rollout.effects import Failover
from tests.features.rollout.plan.world import WEIGHTS

from .world import Between, Way, World


class Killed(BaseException):
    """A process that is no more."""


class Broken(BaseException):
    """Something is not as it must be. No product's error, so that none of it is caught there."""


def require(so: bool, *what: object) -> None:
    """As an assertion, but for what the product would make of one."""
    if not so:
        raise Broken(*what)


@dataclass
class Process(Way):
    """One controller's way, on which every effect is counted."""

    world: World
    dies_before: int | None = None
    """Which effect it does not live to have."""
    happens: Callable[[int, str], None] = lambda number, what: None
    """Called before each effect; what it raises befalls the caller."""
    happened: Callable[[int, str], None] = lambda number, what: None
    """Called after each; likewise."""
    effects: list[str] = field(default_factory=list)
    dead: bool = False

    def alive(self) -> None:
        if self.dead:
            raise Killed

    def effect(self, what: str, do: Callable[[], Any]) -> Any:
        """Do it, if it lives so long; and see that all is well then."""
        self.alive()
        if len(self.effects) == self.dies_before:
            self.dead = True
            raise Killed
        self.effects.append(what)
        number = len(self.effects) - 1
        self.happens(number, what)
        result = do()
        self.world.look(what)
        self.happened(number, what)
        return result

    def to_store(self, store: ObjectStore) -> ObjectStore:
        return _Store(self, store)  # type: ignore[return-value]

    def to_servers(self, servers: MemoryServers) -> Servers:
        return _Servers(self, servers)

    def to_split(self, split: MemorySplit) -> Split:
        return _Split(self, split)

    def to_failover(self, between: Between) -> Failover:
        return _Failover(self, between)


class _Reached:
    """Whatever is asked of a target, a living process asks."""

    def __init__(self, process: Process, target: Any) -> None:
        self._process, self._target = process, target

    def __getattr__(self, name: str) -> Any:
        self._process.alive()
        return getattr(self._target, name)


class _Store(_Reached):
    def put(self, key: str, body: bytes, **rest: Any) -> Any:
        return self._write(f"put {key}", key, lambda: self._target.put(key, body, **rest))

    def delete(self, key: str, **rest: Any) -> Any:
        return self._write(f"delete {key}", key, lambda: self._target.delete(key, **rest))

    def _write(self, what: str, key: str, do: Callable[[], Any]) -> Any:
        self._process.alive()
        # Leases have tests of their own, and are renewed all the time.
        return do() if key.startswith("leases/") else self._process.effect(what, do)


class _Servers(_Reached):
    def scale(self, version: str, servers: int, **rest: Any) -> ServersState:
        what = f"scale {self._target.url} {version} {servers}"
        found: ServersState = self._process.effect(
            what, lambda: self._target.scale(version, servers, **rest)
        )
        return found


class _Split(_Reached):
    def write(self, weights: Weights, **rest: Any) -> RouteState:
        what = f"weights {self._target.url} {dict(weights)}"
        found: RouteState = self._process.effect(what, lambda: self._target.write(weights, **rest))
        return found

    def admit(self, version: str, addresses: Any, **rest: Any) -> None:
        what = f"admit {self._target.url} {version} {len(addresses)}"
        self._process.effect(what, lambda: self._target.admit(version, addresses, **rest))


class _Failover(_Reached):
    def hand_over(self, region: str, route: str, keep: int, **rest: Any) -> Any:
        what = f"{region} hands over {route}"
        return self._process.effect(
            what, lambda: self._target.hand_over(region, route, keep, **rest)
        )

    def take_back(self, region: str, route: str, **rest: Any) -> Any:
        what = f"{region} takes {route} back"
        return self._process.effect(what, lambda: self._target.take_back(region, route, **rest))


def answer_lost(number: int) -> Callable[[int, str], None]:
    """What makes one effect look as if nobody had been there."""

    def befalls(now: int, what: str) -> None:
        if now == number:
            raise Unavailable(f"reset by peer: {what}")

    return befalls


@dataclass
class Judge:
    """What must be so after every effect; `World.look` calls it."""

    world: World
    crashes: bool = False
    """Whether the canary dies: its share is then without a server for a moment."""
    bear_all: int = 4
    """So many servers bear all requests: those that serve at first, or, where old ones go before
    new ones come, those that the policy's floor leaves."""
    hands_over: bool = False
    """Whether any may be away only while other regions bear a part of the share."""
    weights: dict[str, Mapping[str, int]] = field(default_factory=dict)
    returned: set[str] = field(default_factory=set)
    """Regions in which the version on trial has lost share."""

    def __call__(self, what: str) -> None:
        for region, split in self.world.splits.items():
            now = {v: w for v, w in split.read().weights.items() if w}
            before = self.weights.get(region, now)
            self.weights[region] = now
            require(sum(now.values()) == 100, what, now)
            wrote = what.startswith(f"weights {split.url} ")
            if wrote and not self.crashes:
                self._never_again(region, before.get("v2", 0), now.get("v2", 0))
            if not self.world.first and (wrote or not self.crashes):
                self._bears(region, split, before, now, what)

    def _never_again(self, region: str, before: int, now: int) -> None:
        if now < before:
            self.returned.add(region)
        require(now <= before or region not in self.returned, region, before, now)

    def _bears(
        self,
        region: str,
        split: MemorySplit,
        before: Mapping[str, int],
        now: Mapping[str, int],
        what: str,
    ) -> None:
        groups = self.world.servers[region].read().groups
        ready = {v: set(g.ready) for v, g in groups.items()}
        let_in = {v: ready.get(v, set()) & set(split.admitted.get(v, ())) for v in now}
        serving = sum(len(each) for each in let_in.values())
        if not split.admitted:  # the route is as others made it
            return
        if not self.crashes:
            require(serving >= self.bear_all, what, let_in)
        if self.hands_over and serving < 4:
            between = self.world.between.weights
            require(between[region] < WEIGHTS[region], what, let_in, between)
        for version, weight in now.items():
            if self.crashes and weight <= before.get(version, 0):
                continue
            require(bool(let_in[version]), what, now, let_in)
            if version == "v2":
                require(let_in[version] <= self.world.probe.passed, what, "nobody asked them")
            most = 100 * len(let_in[version]) / min(self.bear_all, serving)
            require(weight <= most + 1, what, now, let_in)
