"""What is true of regions, routes and clients, whoever knows it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from random import Random
from typing import NamedTuple

from mlplatform.adapters.memory_traffic import MemoryTraffic
from mlplatform.failover.standby.offers import Offer
from mlplatform.failover.standby.stock import Kept
from mlplatform.ports.fleet import Served
from mlplatform.ports.traffic import RouteState, Weights
from tests.simulation.line import CALM, Place

MODEL = "m"
DECLARED = "v2"
OLD = "v1"
GOOD_BYTES = "blake3:" + "0" * 64
OTHER_BYTES = "blake3:" + "f" * 64
SERVER_RATE = 10.0
"""Requests a second that one server bears."""


class Ill(StrEnum):
    """What may be wrong with a region."""

    DOWN = "down"
    SLOW = "slow"
    WRONG = "answers wrongly"
    VERSION = "holds an old version"
    BYTES = "holds other bytes"
    CANARY = "has a canary"
    ROOM = "has no room"


UNFIT = (Ill.VERSION, Ill.BYTES, Ill.CANARY)
"""What keeps weight away, and is read at the servers themselves."""


class Region(Place):
    """One region: its servers, and what ails them since when."""

    def __init__(self, name: str, random: Random, *, servers: int) -> None:
        super().__init__(name, f"http://{name}.test", CALM, random)
        self.servers = servers
        self.plenty = servers
        self.ills: dict[Ill, float] = {}
        """Since when."""
        self.lame = False
        """Its servers were told to send clients away."""
        self.was_lame = False

    @property
    def down(self) -> bool:
        return Ill.DOWN in self.ills

    def fall_ill(self, ill: Ill, now: float) -> None:
        self.ills.setdefault(ill, now)
        if ill is Ill.ROOM:
            self.servers = 0

    def recover(self, ill: Ill) -> None:
        self.ills.pop(ill, None)
        if ill is Ill.ROOM:
            self.servers = self.plenty

    @property
    def held(self) -> tuple[str, str]:
        """Version and digest that answer requests."""
        return (
            OLD if Ill.VERSION in self.ills else DECLARED,
            OTHER_BYTES if Ill.BYTES in self.ills else GOOD_BYTES,
        )

    @property
    def served(self) -> Served:
        """What its servers say, when they say anything."""
        version, digest = self.held
        held = {version: digest}
        canary = None
        if Ill.CANARY in self.ills:
            canary = "v3"
            held[canary] = GOOD_BYTES
        return Served(held, self.servers, SERVER_RATE, canary)

    def offer(self, served: Served) -> Offer:
        """With what its store holds: the declared version, verified, and the old one withdrawn."""
        kept = {
            DECLARED: Kept(GOOD_BYTES),
            OLD: Kept(GOOD_BYTES, withdrawn=True),
            "v3": Kept(GOOD_BYTES),
        }
        return Offer(served, DECLARED, {each: kept[each] for each in served.versions})


class Written(NamedTuple):
    """What an actuator held from some moment on."""

    at: float
    state: RouteState


class Route(Place):
    """One route: its actuator, all that it ever held, and the clients who follow it late."""

    def __init__(
        self,
        name: str,
        traffic: MemoryTraffic,
        random: Random,
        *,
        requests_per_second: float,
        resolvers: int,
        now: Callable[[], float],
    ) -> None:
        super().__init__(name, traffic.url, CALM, random)
        self.traffic = traffic
        self.requests_per_second = requests_per_second
        self.now = now
        self.past = [Written(-1e6, traffic.read())]
        self.phases = tuple(random.random() for _ in range(resolvers))

    @property
    def state(self) -> RouteState:
        return self.traffic.read()

    def changed(self) -> None:
        """Remember what it holds now."""
        self.past.append(Written(self.now(), self.state))

    def once(self, when: float) -> RouteState:
        for written in reversed(self.past):
            if written.at <= when:
                return written.state
        return self.past[0].state

    def followed(self, resolver: int) -> Weights:
        """Where clients of that resolver are sent: as it asked last, before its answer's TTL was
        over."""
        ttl_seconds = self.state.ttl_seconds or 0.0
        now = self.now()
        if ttl_seconds:
            phase = self.phases[resolver] * ttl_seconds
            now -= (now + phase) % ttl_seconds
        return self.once(now).weights

    def entering(self, region: str) -> float:
        """Requests a second that clients send there, whether anybody answers."""
        shares = [self.followed(n).get(region, 0) for n in range(len(self.phases))]
        return self.requests_per_second * sum(shares) / (100 * len(shares))

    def enters_by(self, resolver: int, random: Random) -> str:
        """The region that one request is sent to."""
        weights = self.followed(resolver)
        return random.choices(list(weights), list(weights.values()))[0]


def load_of(regions: Mapping[str, Region], routes: Collection[Route], region: str) -> float:
    """What the servers of a region count: nothing, where there are none."""
    if regions[region].down:
        return 0.0
    return sum(route.entering(region) for route in routes)
