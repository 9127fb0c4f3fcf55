"""Two or three regions, a route and three control stores in this process's memory; what vantages,
servers and Prometheus say is set by the test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

from mlplatform.adapters.memory_traffic import FEATURES, MemoryTraffic
from mlplatform.control.executors import InlineExecutor
from mlplatform.control.lease import Lease, Wait
from mlplatform.control.retry import Retry
from mlplatform.control.retry_traffic import RetryingTraffic
from mlplatform.core.errors import MlplatformError, Unavailable, Unsupported
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.failover.decision.seen import Golden, Load, Rate, Standby
from mlplatform.failover.effects import Estate
from mlplatform.failover.evidence.record import (
    Evidence,
    Path,
    Sample,
    Series,
    Sighting,
    VantageRecord,
)
from mlplatform.ports.clock import Clock
from mlplatform.ports.fleet import Served
from mlplatform.ports.traffic import RouteState, TrafficFeatures, Weights
from tests.features.control.members import Members
from tests.features.control.weather import VirtualClock

DIGEST = "blake3:" + "0" * 64
VANTAGES = ("fra", "nyc", "sin")


class Time(VirtualClock):
    """Virtual time in which leases are renewed while somebody sleeps, as threads would."""

    def __init__(self) -> None:
        super().__init__()
        self._leases: list[Lease] = []

    def sleep(self, seconds: float) -> None:
        while seconds > 0:
            step = min(seconds, 3.0)
            super().sleep(step)
            seconds -= step
            for lease in self._leases:
                with suppress(MlplatformError):
                    lease.renew()

    def keep(self, loop: Callable[[Wait], None]) -> Callable[[], None]:
        """The lease's `Background`."""
        lease: Lease = loop.__self__  # type: ignore[attr-defined]
        self._leases.append(lease)
        return lambda: self._leases.remove(lease)


@dataclass
class Servers:
    """A region's fleet, which remembers what it was asked."""

    name: str
    asked: list[str] = field(default_factory=list)
    lame: bool = False
    scales: bool = True
    deaf: bool = False
    """Whether nobody can tell them anything."""
    told: int = 0

    @property
    def url(self) -> str:
        return f"memory://{self.name}"

    def served(self, models: frozenset[str]) -> Mapping[str, Served | Unknown]:
        return {model: Served({"v1": DIGEST}, 10) for model in models}

    def ask_capacity(self, model: str, servers: int) -> str:
        if not self.scales:
            raise Unsupported("nobody scales here", store=self.url)
        self.asked.append(f"{model}: {servers}")
        return f"at least {servers} servers of {model}"

    def lame_duck(self, *, enter: bool) -> None:
        self.told += 1
        if self.deaf:
            raise Unavailable("3 of 5 pods were not reached", store=self.url)
        self.lame = enter


@dataclass
class World:
    """What is true."""

    regions: Sequence[str] = ("us", "eu")
    weights: Mapping[str, int] = field(default_factory=lambda: {"us": 100, "eu": 0})
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of `traffic` in the topology."""
    route: Mapping[str, Any] = field(default_factory=dict)
    features: TrafficFeatures = FEATURES
    ttl_seconds: float | None = None
    propagation_seconds: float = 0.0
    members: Members = field(default_factory=Members)
    time: Time = field(default_factory=Time)
    down: set[str] = field(default_factory=set)
    """Regions that answer nobody."""
    slow_clients: float = 0.0
    """How long clients go on to where they went."""
    load: Mapping[str, float] = field(default_factory=lambda: {"us": 100.0, "eu": 0.0})
    servers: Mapping[str, int] = field(default_factory=dict)
    version: Mapping[str, str] = field(default_factory=dict)
    watched: bool = True
    """Whether there are vantages at all."""
    changed: dict[str, float] = field(default_factory=dict)
    """When a region went down, or came back."""
    fleets: dict[str, Servers] = field(default_factory=dict)
    processes: int = 0

    def __post_init__(self) -> None:
        self.traffic = MemoryTraffic(
            self.regions,
            name="api",
            weights=dict(self.weights),
            features=self.features,
            ttl_seconds=self.ttl_seconds,
            propagation_seconds=self.propagation_seconds,
            clock=self.time,
        )
        self.fleets = {region: Servers(region) for region in self.regions}
        self._before = self._then = self.traffic.read().weights
        self._moved_at = self.time.monotonic()

    @property
    def topology(self) -> Topology:
        settings = dict(self.settings)
        return Topology.model_validate(
            {
                "control": [f"memory://control-{n}" for n in range(3)],
                "regions": {
                    name: {"store": f"memory://{name}", "endpoint": f"http://{name}.test"}
                    for name in self.regions
                },
                "models": {
                    "resnet": {
                        "version": "v1",
                        "home": self.regions[0],
                        "replicate_to": list(self.regions[1:]),
                    }
                },
                "traffic": {
                    "vantages": {name: {} for name in VANTAGES},
                    "routes": {
                        "api": {
                            "actuator": "memory://api",
                            "front_door": "http://api.test",
                            "models": ["resnet"],
                            "weights": dict(self.weights),
                            **self.route,
                        }
                    },
                    **settings,
                },
            }
        )

    def kill(self, region: str, *, ago: float = 60.0) -> None:
        """It answers nobody, and has not for so long."""
        self.down.add(region)
        self.changed[region] = self.time.monotonic() - ago

    def revive(self, region: str, *, ago: float = 0.0) -> None:
        self.down.discard(region)
        self.changed[region] = self.time.monotonic() - ago

    @property
    def state(self) -> RouteState:
        return self.traffic.read()

    def look(self) -> Evidence:
        """What three vantages in three domains saw, a moment ago."""
        if not self.watched:
            return Evidence({name: Sighting(Unknown("there is none")) for name in VANTAGES})
        interval = self.topology.traffic.probe.interval_seconds
        front = max(self.serving, key=lambda region: self.serving[region])
        through = Series(
            region="",
            path=Path.FRONT_DOOR,
            route="api",
            samples=(Sample(seconds_ago=0.0, ok=front not in self.down, region=front),),
        )
        record = VantageRecord(
            vantage="",
            round=1,
            at=self.time.now(),
            interval_seconds=interval,
            series=(*(self._series(region, interval) for region in self.regions), through),
        )
        return Evidence(
            {name: Sighting(record.model_copy(update={"vantage": name})) for name in VANTAGES}
        )

    def _series(self, region: str, interval: float) -> Series:
        up, since = region not in self.down, float("inf")
        if region in self.changed:
            since = self.time.monotonic() - self.changed[region]
        ages = [n * interval for n in reversed(range(12))]
        return Series(
            region=region,
            path=Path.DIRECT,
            samples=tuple(
                Sample(seconds_ago=age, ok=up, seconds=0.02)
                if age <= since
                else Sample(seconds_ago=age, ok=not up, seconds=0.02)
                for age in ages
            ),
            up=up if since > ages[0] else not up,
            up_seconds_ago=min(since, 100_000.0) if since > ages[0] else 100_000.0,
        )

    @property
    def serving(self) -> Weights:
        """Where clients go now, who follow late."""
        weights = self.traffic.read().weights
        if weights != self._before:
            self._then, self._before = self._before, weights
            self._moved_at = self.time.monotonic()
        late = self.time.monotonic() - self._moved_at < self.slow_clients
        return self._then if late else weights

    def stand(self, _: Evidence, routes: Sequence[str]) -> dict[str, dict[str, Standby | Unknown]]:
        return {
            region: {
                "resnet": Unknown(f"{region} does not answer")
                if region in self.down
                else Standby(
                    version=self.version.get(region, "v1"),
                    digest=DIGEST,
                    allowed=frozenset({"v1"}),
                    stored=DIGEST,
                    golden=Golden(ok=True, seconds=0.03, age_seconds=5),
                    servers=self.servers.get(region, 10),
                    rate=Rate(40, "measured"),
                )
            }
            for region in self.regions
        }

    def loads(self, routes: Sequence[str]) -> dict[str, dict[str, Load | Unknown]]:
        total = sum(self.load.values())
        serving = self.serving
        return {
            "api": {
                region: Load(
                    now=0.0 if region in self.down else total * serving.get(region, 0) / 100,
                    peak=self.load.get(region, 0.0),
                    source="last hour",
                )
                for region in self.regions
            }
        }

    def estate(
        self,
        writer: str = "ops@host:1",
        *,
        clock: Clock | None = None,
        members: Members | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Estate:
        """The world as one process sees it."""
        clock = clock or self.time
        self.processes += 1
        random = Random(f"{writer} {self.processes}")
        retry = Retry(clock, random, attempts=3, base_seconds=0.1, deadline_seconds=5)
        return Estate(
            topology=self.topology,
            control=(members or self.members).retrying(clock, seed=hash(writer) % 1000),
            open_traffic=lambda route: RetryingTraffic(self.traffic, retry),
            open_fleet=self.fleets.__getitem__,
            look=self.look,
            stand=self.stand,
            loads=self.loads,
            lags=dict,
            resolve=lambda route: {},
            clock=clock,
            random=random,
            writer=writer,
            stop=stop,
            executor=InlineExecutor(),
            background=self.time.keep,
        )
