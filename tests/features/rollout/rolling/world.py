"""Three regions that are rolled out in, in memory: servers that start by a clock, an entry that
clients send requests through while time passes, and control stores that may fail."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from mlplatform.adapters.memory_servers import MemoryServers, MemorySplit
from mlplatform.control.executors import InlineExecutor
from mlplatform.control.orders import StandingOrders
from mlplatform.control.quorum import ControlStore
from mlplatform.core.errors import CheckFailed
from mlplatform.core.golden import GoldenRequest
from mlplatform.core.plan import Plan
from mlplatform.core.topology import Topology
from mlplatform.ports.fleet import Served
from mlplatform.ports.probe import Answer, Question
from mlplatform.ports.servers import Servers
from mlplatform.ports.split import Split
from mlplatform.ports.store import ObjectStore
from mlplatform.rollout import operations
from mlplatform.rollout.effects import Failover, Sites
from mlplatform.rollout.operations import Rolled, Said
from mlplatform.rollout.plan.seen import RegionStands, Request, Rule, Seen, Standing
from mlplatform.rollout.records import StoredPlan
from tests.features.control.members import Members
from tests.features.failover.estate import Time
from tests.features.rollout.plan import world as plans
from tests.features.rollout.plan.world import DECLARED, ONE, REGIONS, SUBJECT, TWO, topology

GOLDEN = GoldenRequest({"inputs": []}, ({"name": "y", "data": [1]},))
RIGHT = json.dumps({"outputs": [{"name": "y", "data": [1]}]}).encode()
WRONG = json.dumps({"outputs": [{"name": "y", "data": [2]}]}).encode()
POLICY: Mapping[str, Any] = {
    "strategy": {"weights": [10, 50], "step_seconds": 120},
    "waves": {"bake_seconds": 120},
    "verdict": {
        "metrics": ["errors"],
        "window_seconds": 30,
        "dispersion": {"errors": {"phi": 1, "sigma": 0, **DECLARED}},
    },
}


class Passing(Time):
    """Virtual time in which clients send requests."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: list[Callable[[float], None]] = []

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        for happens in self.meanwhile:
            happens(seconds)


@dataclass
class Asked:
    """A probe that gets right answers, but from the versions that answer wrongly or slowly."""

    wrong: set[str] = field(default_factory=set)
    slow_seconds: float = 0.01
    passed: set[str] = field(default_factory=set)
    """Servers that gave a right answer."""

    def ask(self, question: Question, *, timeout_seconds: float) -> Answer:
        assert timeout_seconds > 0
        version = question.url.split("/versions/")[1].split("/")[0]
        body = WRONG if version in self.wrong else RIGHT
        if body is RIGHT:
            self.passed.add(question.url.split("/")[2])
        return Answer(self.slow_seconds, status=200, body=body)


@dataclass
class Between:
    """A `Failover` that holds the weights between regions of one route, as it is told; every gate
    of it is open, but for what a case says."""

    weights: dict[str, int] = field(default_factory=lambda: dict(plans.WEIGHTS))
    closed: dict[str, Standing] = field(default_factory=dict)
    gate: str = ""
    """Why it moves nothing, of late."""
    asked: list[str] = field(default_factory=list)

    def standings(self, model: str, lent: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
        assert model == "m"
        wanted = lent.get("api") or plans.WEIGHTS
        return {region: self._standing(region, wanted) for region in REGIONS}

    def _standing(self, region: str, wanted: Mapping[str, int]) -> Standing:
        closed = dict(self.closed.get(region, Standing()).closed)
        if self.weights[region] < wanted[region]:
            closed[Rule.UNDER_FAILOVER] = f"route api gives {region} {self.weights[region]} %"
        if self.weights[region] > wanted[region]:
            closed[Rule.FAILOVER_TARGET] = f"route api gives {region} {self.weights[region]} %"
        return Standing(closed, load=100.0)

    def hand_over(self, region: str, route: str, keep: int, *, reason: str) -> dict[str, int]:
        if self.gate:
            raise CheckFailed(f"{region} is not left {keep} points of route {route}: {self.gate}")
        self._move(region, keep)
        self.asked.append(f"{region} keeps {keep} of {route}: {reason}")
        return dict(self.weights)

    def take_back(self, region: str, route: str, *, reason: str) -> str:
        if self.weights == plans.WEIGHTS:
            return ""
        if self.gate:
            return f"{region} has {self.weights[region]} points of {route}: {self.gate}"
        self._move(region, plans.WEIGHTS[region])
        self.asked.append(f"{region} back on {route}: {reason}")
        return ""

    def _move(self, region: str, points: int) -> None:
        other = next(each for each in REGIONS if each != region)
        self.weights[other] += self.weights[region] - points
        self.weights[region] = points


class Way:
    """How one controller reaches control stores, servers and entries. By this one nothing befalls
    it."""

    def to_store(self, store: ObjectStore) -> ObjectStore:
        return store

    def to_servers(self, servers: MemoryServers) -> Servers:
        return servers

    def to_split(self, split: MemorySplit) -> Split:
        return split

    def to_failover(self, between: Between) -> Failover:
        return between


@dataclass(frozen=True, slots=True)
class Watched(Sites):
    """`Sites` whose stores are taken to be well."""

    world: World = None  # type: ignore[assignment]

    def observe(self, request: Request) -> Seen:
        return self.world.seen(request)


@dataclass
class World:
    """What is true."""

    policy: Mapping[str, Any] = field(default_factory=lambda: POLICY)
    model: Mapping[str, Any] = field(default_factory=dict)
    per_second: float = 100.0
    """Requests that enter each region."""
    loads: dict[str, float] = field(default_factory=dict)
    """By region: requests a second at its peak, that a plan is made from; else a hundred."""
    errors: dict[str, float] = field(default_factory=lambda: {"v1": 0.002, "v2": 0.002})
    """Share of requests that fail, by version."""
    between: Between = field(default_factory=Between)
    time: Passing = field(default_factory=Passing)
    members: Members = field(default_factory=Members)
    probe: Asked = field(default_factory=Asked)
    said: list[str] = field(default_factory=list)
    stop: Callable[[], bool] = lambda: False
    executor: Executor = field(default_factory=InlineExecutor)
    """Where regions of a wave are gone through."""
    first: bool = False
    """Whether nothing serves yet."""
    look: Callable[[str], None] = lambda what: None
    """Called after each effect that is counted."""

    def __post_init__(self) -> None:
        named = {region: f"memory://{region}" for region in REGIONS}
        if self.first:
            self.model = {"first_servers": 4, **self.model}
        self.topology: Topology = topology(
            self.policy,
            model={"servers": named, "load_seconds": 20, **self.model},
            models=plans.WANTED,
        )
        self.servers = {r: MemoryServers(r, clock=self.time, start_seconds=20) for r in REGIONS}
        version = "v2" if self.first else "v1"
        self.splits = {r: MemorySplit((version,), name=r, clock=self.time) for r in REGIONS}
        for region, servers in self.servers.items():
            if self.first:
                continue
            servers.scale("v1", 4, digest=ONE, epoch=0, writer="")
            assert self.splits[region].read().weights == {"v1": 100}
        self.time.sleep(20)
        self.time.meanwhile.append(self._send)

    def _send(self, seconds: float) -> None:
        for split in self.splits.values():
            split.send(seconds * self.per_second, self.errors)

    def sites(self, writer: str = "one", way: Way | None = None) -> Watched:
        """As a controller has it; `way`: that on which it reaches them."""
        way = way or Way()
        stores = [way.to_store(store) for store in self.members.stores]
        control = ControlStore(stores, self.time, executor=InlineExecutor())
        return Watched(
            topology=self.topology,
            catalogue=None,  # type: ignore[arg-type]
            open_fleet=lambda region: None,  # type: ignore[arg-type,return-value]
            orders=StandingOrders(control, self.time, writer),
            failover=way.to_failover(self.between),
            clock=self.time,
            executor=self.executor,
            control=control,
            random=Random(writer),
            writer=writer,
            open_servers=lambda model, region: way.to_servers(self.servers[region]),
            open_split=lambda model, region, versions: way.to_split(self._split(region, versions)),
            probe=self.probe,
            golden=lambda model, version: (GOLDEN,),
            stop=lambda: bool(self.stop()),
            background=self.time.keep,
            timeout_seconds=60.0,
            world=self,
        )

    def _split(self, region: str, versions: Sequence[str]) -> MemorySplit:
        self.splits[region].know(versions)
        return self.splits[region]

    def seen(self, request: Request) -> Seen:
        """Every region: its bytes are well, its servers are those that there are."""
        regions: dict[str, RegionStands] = {}
        for region in REGIONS:
            groups = self.servers[region].read().groups
            ready = {v: g for v, g in groups.items() if g.ready}
            regions[region] = replace(
                plans.well(),
                gpus_free={"L4": 8},
                served=Served(
                    {v: g.digest for v, g in ready.items()},
                    sum(len(g.ready) for g in ready.values()),
                ),
                standing=replace(
                    self.between.closed.get(region, Standing()), load=self.loads.get(region, 100.0)
                ),
            )
        return Seen(request, regions, recorded_digest=TWO)

    def plan(self, *regions: str) -> StoredPlan:
        """What is planned now, stored."""
        sites = self.sites()
        request = Request(SUBJECT, regions or REGIONS)
        proposal = operations.propose(sites, request)
        assert not proposal.plan.holds, [hold.reason for hold in proposal.plan.holds]
        return sites.records.store(request, proposal.plan)

    def apply(
        self,
        *regions: str,
        plan: StoredPlan | None = None,
        writer: str = "one",
        way: Way | None = None,
        wait: bool = False,
    ) -> Rolled:
        """Carry it out."""
        said = Said(text=self.said.append)
        plan = plan or self.plan(*regions)
        return operations.apply(self.sites(writer, way), plan, wait=wait, said=said)

    def go_on(self, writer: str = "two", way: Way | None = None) -> Rolled | None:
        """Have another controller finish what was left."""
        said = Said(text=self.said.append)
        return operations.go_on(self.sites(writer, way), "m", wait=True, said=said)

    def holds(self, region: str) -> dict[str, int]:
        """Ready servers by version."""
        return {v: len(g.ready) for v, g in self.servers[region].read().groups.items()}

    def weights(self, region: str) -> dict[str, int]:
        """Per cent by version that has any."""
        return {v: w for v, w in self.splits[region].read().weights.items() if w}


def steps(rolled: Rolled) -> list[str]:
    """`region step result` of everything that was done."""
    return [
        f"{each.action.split('/', 2)[2].replace('/', ' ', 1)} {each.result.value}"
        for each in rolled.report.outcomes
    ]


def plan_of(rolled: Rolled) -> Plan:
    return rolled.report.plan
