"""A world from a seed: regions, routes, vantages, control stores, Prometheus, controllers and
operators that run the real code, an adversary; then calm, an operator, and the question whether all
is well."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

from mlplatform.adapters.memory_traffic import FEATURES, MemoryTraffic
from mlplatform.control.executors import InlineExecutor
from mlplatform.control.orders import Kind as OrderKind
from mlplatform.control.retry import Retry
from mlplatform.control.retry_traffic import RetryingTraffic
from mlplatform.core.errors import IntegrityError, MlplatformError, NotFound, StalePlan, UsageError
from mlplatform.core.plan import Plan
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.failover import operations
from mlplatform.failover.decision.seen import Mode, Request
from mlplatform.failover.evidence.outside import OutsideView
from mlplatform.failover.evidence.reader import EvidenceReader
from mlplatform.failover.watch import Watch
from mlplatform.ports.traffic import Weights, equal_shares, expressible
from tests.simulation import world
from tests.simulation.failover.estate import SimEstate, SimWatch, Stand
from tests.simulation.failover.ground import (
    MODEL,
    UNFIT,
    Ill,
    Region,
    Route,
    load_of,
)
from tests.simulation.failover.judge import FailoverJudge
from tests.simulation.failover.lines import (
    LOAD,
    SUCCESS,
    Monitoring,
    SimFleet,
    SimPrometheus,
    SimTraffic,
)
from tests.simulation.failover.past import EPOCH_OF_THE_DRILL, drilled
from tests.simulation.failover.vantages import Vantage, Watchtower
from tests.simulation.line import CALM, Cut, Fate, Network, Weather
from tests.simulation.schedule import Process

NAMES = ("ams", "bom", "cdg", "dub", "ewr")
ELSEWHERE = ("fra", "gru", "hkg", "iad")
"""Places without a region, for vantages and controllers."""
REQUESTS_PER_SECOND = 100.0
CALLS_MAX = 20_000
"""Far more than any world needs: one that makes more runs in circles."""

KINDS = (
    Fate.CRASH_BEFORE,
    Fate.CRASH_AFTER,
    Fate.BEFORE,
    Fate.THROTTLED,
    Fate.HANGS,
    Fate.DENIED,
    Fate.AFTER,
    Fate.LATE,
)
"""What befalls calls."""
_OFTEN = {Fate.AFTER: 4, Fate.LATE: 4}
"""What is worth more than its share: the answers that leave a caller in doubt."""


class World(world.World):
    """Regions and routes, and who looks after them."""

    judge: FailoverJudge
    slow_seconds = 0.5
    """Members are asked one after the other here, each several times in a round."""

    def __init__(self, seed: int, *, tell: Callable[[str], None] | None = None) -> None:
        super().__init__(seed)
        random = self.random
        self.pace = random.choice((0.01, 0.03, 0.1))
        self.network = Network()
        self.sane = random.random() < 0.8
        """Whether wall clocks are nearly right."""
        self.watching = True
        self.control = [self.control_site(f"control{n}") for n in range(random.choice((1, 3)))]
        for site, place in zip(self.control, ELSEWHERE, strict=False):
            site.names = (site.name, f"{place}-control")
        names = NAMES[: random.choice((2, 2, 2, 3, 3, 3, 3, 3, 4, 5))]
        self.regions = {name: Region(name, random, servers=40) for name in names}
        settings = self._settings()
        self.topology = Topology.model_validate(settings)
        traffic = self.topology.traffic
        self.interval = traffic.probe.interval_seconds
        self.routes = {name: self._route(name) for name in traffic.routes}
        self.vantages = [
            Vantage(
                name,
                each.region,
                each.domain_of(name),
                self.scheduler,
                random,
                wall_offset=self._wall_offset(),
            )
            for name, each in traffic.vantages.items()
        ]
        self.monitoring = Monitoring(self.regions, random)
        self.monitoring.load = lambda r: load_of(self.regions, self.routes.values(), r)
        self.monitoring.peak = self._peak
        self.judge = FailoverJudge(
            self.scheduler,
            self.control,
            self.topology,
            self.regions,
            self.routes,
            self.vantages,
            sane=self.sane,
            tell=tell,
        )
        self.tower = Watchtower(
            self.vantages,
            self.regions,
            self.routes,
            self.control,
            self.network,
            traffic.probe,
            self.scheduler,
            random,
        )
        if random.random() < 0.9:
            self._was_drilled()

    # What it is made of.

    def _settings(self) -> dict[str, Any]:
        random, regions = self.random, list(self.regions)
        routes = {}
        for name in ("api", "web")[: random.choice((1, 1, 1, 1, 1, 2))]:
            routes[name] = {
                "actuator": f"memory://{name}",
                "front_door": f"http://{name}.test",
                "models": [MODEL],
                "weights": random.choice(_SHARES[len(regions)])(regions),
                "mode": random.choice(("auto", "auto", "auto", "auto", "auto", "advise")),
            }
        measured = random.random() < 0.75
        if not measured:
            for route in routes.values():
                route["peak"] = {
                    "requests_per_second": REQUESTS_PER_SECOND,
                    "measured_on": "2026-01-01",
                    "expires_on": "2027-01-01",
                }
        step_seconds = random.choice((0, 0, 5))
        return {
            "control": [f"memory://{site}" for site in self.control],
            "regions": {
                name: {"store": f"memory://{name}", "endpoint": f"http://{name}.test"}
                for name in regions
            },
            "models": {MODEL: {"version": "v2", "home": regions[0], "replicate_to": regions[1:]}},
            "prometheus": {"url": "http://prometheus.test", "region_label": "region"},
            "traffic": {
                "routes": routes,
                "vantages": self._vantages(regions),
                "probe": {
                    "interval_seconds": 5,
                    "timeout_seconds": 2,
                    "rise": 2,
                    "fall": random.choice((1, 2, 2, 3)),
                },
                "objective": {
                    "success_query": SUCCESS if measured else None,
                    "load_query": LOAD if measured else None,
                },
                "safety": {
                    "together_seconds": random.choice((20, 30, 60)),
                    "window_seconds": random.choice((120, 600)),
                    "moved_per_window": random.choice((0.5, 0.6, 0.8, 1.0)),
                    "cooldown_seconds": random.choice((0, 20, 60)),
                    "hold_off_seconds": random.choice((30, 60, 120)),
                    "hold_off_seconds_max": 240,
                    "failback_steps": random.choice(([100], [50], [10, 50])),
                    "step_seconds": step_seconds,
                    "drill_percent": random.choice((1, 5)),
                },
            },
        }

    def _vantages(self, regions: Sequence[str]) -> dict[str, dict[str, str]]:
        """Mostly in three failure domains or more, beside the region that they stand in."""
        random = self.random
        count = random.choice((3, 3, 4, 4, 5, 6))
        inside = min(random.choice((0, 0, 1, 2)), len(regions))
        places: list[dict[str, str]] = [{"region": name} for name in regions[:inside]]
        domains = ELSEWHERE[: random.choice((2, 4, 4, 4, 4, 4, 4))]
        places += [
            {"domain": domains[n % len(domains)]} for n in range(max(count - len(places), 2))
        ]
        return {f"vantage{n}": place for n, place in enumerate(places)}

    def _route(self, name: str) -> Route:
        random = self.random
        features = FEATURES
        ttl_seconds = None
        kind = random.choice(("router", "router", "records", "plain"))
        if kind != "router":
            features = replace(features, ttl=True, all_or_nothing=kind == "plain")
            ttl_seconds = random.choice((4.0, 12.0))
        wanted = self.topology.traffic.routes[name].weights
        traffic = MemoryTraffic(
            list(wanted),
            name=name,
            weights=expressible(wanted, features),
            features=features,
            ttl_seconds=ttl_seconds,
            propagation_seconds=random.choice((0.0, 0.0, 0.5, 4.0)),
            clock=self.clock,
        )
        return Route(
            name,
            traffic,
            random,
            requests_per_second=REQUESTS_PER_SECOND,
            resolvers=random.choice((1, 3)),
            now=lambda: self.scheduler.now,
        )

    def _was_drilled(self) -> None:
        """Each route's standby was proven yesterday."""
        for name, route in self.routes.items():
            weights = dict(route.state.weights)
            for key, body in drilled(name, weights).items():
                for site in self.control:
                    site.inner.put(key, body)
                    site.remember(key, -1.0)
            route.traffic.restore(replace(route.state, epoch=EPOCH_OF_THE_DRILL, writer="past"))
            route.changed()
            self.judge.drilled.add(name)
            self.judge.ours[name] = weights
            self.judge.epochs[name] = EPOCH_OF_THE_DRILL

    def _peak(self, region: str) -> float:
        """What entered at the peak of the hour."""
        peak = 0.0
        for name, route in self.routes.items():
            wanted = self.topology.traffic.routes[name].weights
            share = route.requests_per_second * wanted.get(region, 0) / 100
            peak += max(share, route.entering(region))
        return peak

    def _wall_offset(self) -> float:
        """By how much a wall clock is wrong."""
        if self.sane:
            return self.random.uniform(-1.0, 1.0)
        return self.random.choice((0.0, 1.0, -1.0)) * self.random.uniform(0, 4 * 3600)

    # Processes.

    def process(self, role: str) -> Process:
        process = super().process(role)
        process.network = self.network
        process.names = (process.name, self.random.choice((*self.regions, *ELSEWHERE)))
        process.set_wall(self._wall_offset(), rate=1.0 if self.sane else None)
        return process

    def estate(self, process: Process) -> SimEstate:
        """What a process works with: its own way to everything."""
        retry = Retry(
            process,
            process.random,
            attempts=3,
            base_seconds=0.2,
            deadline_seconds=8.0,
            stop=process.stop,
        )
        actuators = {
            name: RetryingTraffic(SimTraffic(process, route, self.judge, self._by_hand), retry)
            for name, route in self.routes.items()
        }
        fleets = {
            name: SimFleet(process, region, self.judge) for name, region in self.regions.items()
        }
        control = self.control_of(process, retry)
        prometheus = SimPrometheus(process, self.monitoring, self.judge)
        outside = OutsideView(self.topology, prometheus)
        vantages = list(self.topology.traffic.vantages)
        return SimEstate(
            topology=self.topology,
            control=control,
            open_traffic=actuators.__getitem__,
            open_fleet=fleets.__getitem__,
            look=EvidenceReader(control, vantages, process, outside).read,
            stand=Stand(self.regions, fleets, process),
            loads=lambda routes: {route: outside.loads(route=route) for route in routes},
            lags=dict,
            resolve=self._resolved,
            clock=process,
            random=process.random,
            writer=process.name,
            stop=process.stop,
            executor=InlineExecutor(),
            make_executor=lambda workers: InlineExecutor(),
            background=process.keeper,
            process=process,
            judge=self.judge,
        )

    def _resolved(self, route: str) -> Mapping[str, frozenset[str] | Unknown]:
        """Where resolvers send clients."""
        there = self.routes[route]
        if there.state.ttl_seconds is None:
            return {}
        return {
            f"resolver{n}": frozenset(r for r, w in there.followed(n).items() if w)
            for n in range(len(there.phases))
        }

    def _watch(self, process: Process) -> None:
        watch = SimWatch(self.estate(process), in_background=False, judge=self.judge)
        interval_seconds = process.random.choice((10.0, 15.0, 20.0, 30.0))
        while self.watching and not process.stop():
            watch.one_round()
            process.sleep(interval_seconds)

    # What operators do.

    def _operate(self, process: Process) -> None:
        deeds = (
            (6, self._fail_over),
            (2, self._drill),
            (2, self._go_back),
            (2, self._lock),
            (1, self._maintain),
            (1, self._override),
            (2, self._pause),
            (2, self._abort),
            (2, self._resume),
        )
        (deed,) = process.random.choices([d for _, d in deeds], [w for w, _ in deeds])
        deed(process)

    def _any_route(self, process: Process) -> str:
        return process.random.choice(list(self.routes))

    def _fail_over(self, process: Process) -> None:
        random = process.random
        route = self._any_route(process)
        weights = self.routes[route].state.weights
        serving = [region for region, weight in weights.items() if weight]
        sick = [region for region in serving if self.regions[region].ills]
        source = random.choice(sick or serving)
        mode = random.choice((Mode.PLANNED, Mode.UNPLANNED, Mode.UNPLANNED))
        others = [region for region in self.regions if region != source]
        targets = tuple(random.sample(others, 1)) if random.random() < 0.3 else ()
        self._ask(process, Request(mode, source=source, targets=targets, routes=(route,)))

    def _drill(self, process: Process) -> None:
        self._ask(process, Request(Mode.DRILL, routes=(self._any_route(process),)))

    def _go_back(self, process: Process) -> None:
        self._ask(process, Request(Mode.FAILBACK, routes=(self._any_route(process),)))

    def _ask(self, process: Process, request: Request) -> None:
        """Plan, look at it for a while, agree."""
        random = process.random
        if random.random() < 0.2:
            rules = ("cap", "cooldown", "hold-off", "panic", "weights-changed-by-hand", "headroom")
            broken = frozenset(random.sample(rules, random.choice((1, 2))))
            request = replace(request, broken=broken)
        request = replace(request, reason="an operator wants it")
        estate = self.estate(process)
        proposal = operations.propose(estate, request)
        process.sleep(random.choice((0.0, 2.0, 20.0, 90.0)))
        moves = operations.carry_out(estate, proposal, wait=random.random() < 0.5)
        for route, report in moves.reports.items():
            told = [outcome.result.value for outcome in report.outcomes]
            self.judge.trace(process, "reports", route, report.exit_code, told)
        for error in moves.errors.values():
            raise error

    def _lock(self, process: Process) -> None:
        estate = self.estate(process)
        scope = process.random.choice((self._any_route(process), "all"))
        operations.order(estate, OrderKind.LOCK, scope, reason="an incident")
        self.judge.locked.setdefault(scope, self.scheduler.now)
        process.sleep(process.random.uniform(20, 120))
        self.judge.locked.pop(scope, None)
        operations.take_back(estate, OrderKind.LOCK, scope, reason="it is over")

    def _maintain(self, process: Process) -> None:
        region = process.random.choice(list(self.regions))
        operations.order(self.estate(process), OrderKind.MAINTENANCE, region, reason="new kernel")

    def _override(self, process: Process) -> None:
        region = process.random.choice(list(self.regions))
        self.judge.overridden.add(region)
        operations.order(
            self.estate(process),
            OrderKind.OVERRIDE,
            region,
            reason="I know better",
            value=process.random.choice(("healthy", "unhealthy")),
            lasts=timedelta(seconds=process.random.uniform(30, 300)),
        )

    def _pause(self, process: Process) -> None:
        estate = self.estate(process)
        for stream in operations.open_operations(estate):
            operations.order(estate, OrderKind.PAUSE, stream.operation, reason="wait")
            process.sleep(process.random.uniform(5, 60))
            operations.take_back(estate, OrderKind.PAUSE, stream.operation, reason="go on")

    def _abort(self, process: Process) -> None:
        estate = self.estate(process)
        for stream in operations.open_operations(estate):
            with suppress(UsageError):  # it is over already
                operations.abort(estate, stream.operation, reason="enough")

    def _resume(self, process: Process) -> None:
        for operation, report in operations.resume_left(self.estate(process)):
            self.judge.trace(process, "resumed", operation, report.exit_code)

    # What happens to the world.

    def _brew(self) -> None:
        """How unkind the weather is: not all worlds have all."""
        random = self.random
        trouble = random.choice((0.0, 0.0, 0.01, 0.04))
        crashes = random.choice((0.0, 0.0, 0.002, 0.006))
        kinds = [fate for fate in KINDS if random.random() < 0.5]
        shares = {fate: random.random() * _OFTEN.get(fate, 1) for fate in kinds}
        total = sum(shares.values()) or 1.0
        fates: dict[Fate, float] = {f: trouble * share / total for f, share in shares.items()}
        fates[Fate.CRASH_BEFORE] = fates[Fate.CRASH_AFTER] = crashes
        weather = Weather(
            fates, latency_seconds=self.pace, pauses=random.choice((0.0, 0.0, 0.001, 0.004))
        )
        for place in (*self.control, *self.regions.values(), self.monitoring):
            place.weather = weather
        at_actuators = {fate: 2 * chance for fate, chance in fates.items()}
        for route in self.routes.values():
            odd = random.choice((None, None, Fate.EMPTY, Fate.STALE, Fate.BY_HAND))
            more = {odd: 0.15} if odd is not None else {}
            route.weather = replace(weather, fates=at_actuators | more)
        self.tower.loss = random.choice((0.0, 0.0, 0.1, 0.3))
        if len(self.control) > 1:
            self.ail(random.choice(self.control))
        elif random.random() < 0.05:
            self.scheduler.later(self._when(), lambda: self.rebuild(self.control[0]))

    def _when(self) -> float:
        """Some moment of the storm."""
        return self.random.uniform(1, 0.8 * self.storm_seconds)

    def _befall(self) -> None:
        """What the adversary has in store."""
        random, later = self.random, self.scheduler.later
        names = list(self.regions)
        for _ in range(random.choice((0, 0, 1))):
            self._sicken(random.choice(names), random.choice((*UNFIT, Ill.ROOM)), self._when())
        incident = random.choice(
            ("one dies", "one dies", "one dies", "cascade", "together", "flaps", "gray", "nothing")
        )
        at = random.uniform(1, 0.25 * self.storm_seconds)
        first = self._busiest() if random.random() < 0.7 else random.choice(names)
        others = [name for name in names if name != first]
        if incident in ("one dies", "cascade", "together"):
            self._sicken(first, Ill.DOWN, at, for_good=True)
        if incident == "cascade":
            for name in random.sample(others, random.choice((1, min(2, len(others))))):
                at += random.uniform(40, 90)
                self._sicken(name, Ill.DOWN, at, for_good=True)
        elif incident == "together":
            self._sicken(random.choice(others), Ill.DOWN, at + random.uniform(0, 6), for_good=True)
        elif incident == "flaps":
            for _ in range(3):
                self._sicken(first, Ill.DOWN, at, lasts=random.uniform(30, 70))
                at += random.uniform(80, 140)
        elif incident == "gray":
            self._sicken(first, random.choice((Ill.WRONG, Ill.SLOW)), at)
        for _ in range(random.choice((0, 0, 0, 1, 2))):
            self._cut()
        self._trouble_vantages()
        if random.random() < 0.1:
            mood = random.choice(("empty", "nan"))
            later(self._when(), lambda: setattr(self.monitoring, "mood", mood))
        for route in self.routes.values():
            if random.random() < 0.12:
                later(self._when(), partial(self._by_hand, route))
            if random.random() < 0.08:
                later(self._when(), partial(self._restart, route))
            if random.random() < 0.1:
                start = self.scheduler.now + self._when()
                route.outages.append((start, start + random.uniform(10, 60)))

    def _busiest(self) -> str:
        weights = next(iter(self.routes.values())).state.weights
        return max(weights, key=lambda region: weights[region])

    def _sicken(
        self,
        name: str,
        ill: Ill,
        after: float,
        *,
        lasts: float | None = None,
        for_good: bool = False,
    ) -> None:
        region = self.regions[name]

        def fall() -> None:
            if not self.storm:
                return
            self.judge.trace(None, f"{name}: {ill.value}")
            region.fall_ill(ill, self.scheduler.now)
            if ill is Ill.DOWN:
                region.lame = False  # servers that start anew know nothing of it
                for process in self.processes:
                    if name in process.names and self.random.random() < 0.6:
                        process.dead = True

        def rise() -> None:
            if not self.storm:
                return
            self.judge.trace(None, f"{name}: {ill.value} no more")
            region.recover(ill)

        self.scheduler.later(after, fall)
        if lasts is None and not for_good and self.random.random() < 0.5:
            lasts = self.random.uniform(20, 100)
        if lasts is not None:
            self.scheduler.later(after + lasts, rise)

    def _cut(self) -> None:
        """The network between two is cut for a while, one way or both."""
        random = self.random
        places = [*self.regions, *ELSEWHERE]
        everything = [
            *places,
            *(each.name for each in self.vantages),
            *(site.name for site in self.control),
            *self.routes,
            "prometheus",
        ]
        here = random.choice(places)
        there = random.choice(("*", *everything))
        start = self.scheduler.now + self._when()
        end = start + random.uniform(10, 120)
        self.judge.trace(None, f"{here} and {there} are cut off from {start:.0f} to {end:.0f}")
        ways = random.choice((((here, there), (there, here)), ((here, there),), ((there, here),)))
        for sender, receiver in ways:
            self.network.cuts.append(Cut(sender, receiver, start, end))

    def _trouble_vantages(self) -> None:
        random = self.random
        for vantage in self.vantages:
            throw = random.random()
            start = self.scheduler.now + self._when()
            span = (start, start + random.uniform(20, 150))
            if throw < 0.08:
                vantage.away.append(span)
            elif throw < 0.13:
                vantage.blind.append(span)
        if random.random() < 0.05:
            start = self.scheduler.now + self._when()
            for vantage in self.vantages:
                vantage.away.append((start, start + 100))
        if random.random() < 0.15:
            liar = random.choice(self.vantages)
            of = frozenset(random.sample(list(self.regions), random.choice((1, 1, 2))))
            self.judge.trace(None, f"{liar.name} lies of {', '.join(sorted(of))}")
            liar.lies_of = of
            liar.lied = True

    def _by_hand(self, route: Route) -> None:
        """Somebody changes the weights past every rule."""
        names = list(route.state.weights)
        inside = self.random.sample(names, self.random.randint(1, len(names)))
        weights: Weights = {**dict.fromkeys(names, 0), **equal_shares(inside)}
        if weights == route.state.weights or not self.storm:
            return
        self.judge.trace(None, f"somebody sets {route} to {weights}")
        route.traffic.change_by_hand(weights)
        route.changed()
        self.judge.changed_by_hand(route)

    def _restart(self, route: Route) -> None:
        """The router comes back with what it held some time ago."""
        then = self.random.choice(route.past)
        if then.state == route.state or not self.storm:
            return
        self.judge.trace(None, f"{route} restarts with {then.state.weights}, {then.state.epoch}")
        route.traffic.restore(then.state)
        route.changed()
        self.judge.changed_by_hand(route)

    # The acts.

    def run(self) -> None:
        """The storm, the calm, and the question. Raises `Violation`."""
        random = self.random
        try:
            self.storm = True
            self.storm_seconds = random.choice((80.0, 120.0, 180.0))
            self.judge.calls_max = CALLS_MAX
            self._brew()
            self._befall()
            for _ in range(random.choice((0, 1, 1, 1, 2, 2, 3))):
                self.start("watch", self._watch, random.uniform(0, 0.5 * self.storm_seconds))
            for _ in range(random.choice((0, 0, 1, 1, 2))):
                self.start("operator", self._operate, self._when())
            self.scheduler.run(until=self.storm_seconds)
            self._calm_down()
            self._settle()
            if self.scheduler.enough:
                raise self.judge.fail("it goes round in circles")
        finally:
            self.scheduler.kill(self.processes)

    def _calm_down(self) -> None:
        """The faults stop. What died may stay dead."""
        random = self.random
        self.judge.trace(None, "the faults stop")
        self.storm = self.watching = False
        for place in (
            *self.control,
            *self.regions.values(),
            *self.routes.values(),
            self.monitoring,
        ):
            place.weather = CALM
            place.outages.clear()
        self.network.cuts.clear()
        self.monitoring.mood = ""
        self.tower.loss = 0.0
        for vantage in self.vantages:
            vantage.away.clear()
            vantage.blind.clear()
            vantage.lies_of = frozenset()
            vantage.wall_offset = 0.0
        for name, region in self.regions.items():
            for ill in tuple(region.ills):
                if ill is not Ill.DOWN or random.random() < 0.4:
                    self.judge.trace(None, f"{name}: {ill.value} no more")
                    region.recover(ill)
        if random.random() < 0.5:
            self.scheduler.kill(self.processes)

    def _settle(self) -> None:
        settler = self.process("settler")
        settler.names = (settler.name,)
        settler.set_wall(0.0, rate=1.0)
        done = False

        def live() -> None:
            nonlocal done
            try:
                self._converge(settler)
            except MlplatformError as error:
                raise self.judge.fail(f"all is calm, and yet: {error!r}") from error
            except Exception as error:
                raise self.judge.fail(f"internal error: {error!r}") from error
            done = True

        self.scheduler.spawn(settler, live)
        self.scheduler.run(until=self.scheduler.now + 3600, over=lambda: done)
        if not done:
            raise self.judge.fail("it does not settle")

    def _converge(self, settler: Process) -> None:
        """What an operator types when the weather is fine again; then all must be well."""
        judge, estate = self.judge, self.estate(settler)
        self._take_orders_back(estate)
        settler.sleep(4 * self.interval)
        self._wait_for_others(settler)
        self._take_orders_back(estate)
        self._rest(settler, judge.known_seconds + self.topology.traffic.safety.hold_off_seconds)
        if judge.control_lost:
            self._abandon_torn(estate)
        for operation, report in operations.resume_left(estate, wait=True):
            judge.trace(settler, "resumed", operation, report.exit_code)
        watch = SimWatch(estate, in_background=False, judge=judge)
        self._until_quiet(settler, watch)
        had_to_leave = False
        for name, route in self.routes.items():
            for region in [r for r, w in route.state.weights.items() if w]:
                if self.regions[region].down:
                    self._leave(settler, estate, name, region)
                    had_to_leave = True
        left = [stream.operation for stream in operations.open_operations(estate)]
        if left:
            raise judge.fail(f"unfinished operations are left: {left}")
        if had_to_leave:
            # What a window held back may be done once it is over: that is not done twice.
            self._rest(settler, self.topology.traffic.safety.window_seconds)
            self._until_quiet(settler, watch)
            before = self._everything()
            watch.one_round()
            if self._everything() != before:
                raise judge.fail("a second run has something to do")

    def _wait_for_others(self, settler: Process) -> None:
        for _ in range(60):
            if all(process.dead for process in self.processes if process is not settler):
                return
            settler.sleep(15.0)
        raise self.judge.fail("what runs does not end, although all is calm")

    def _rest(self, settler: Process, seconds: float) -> None:
        """Time passes, in which nothing happens."""
        self.tower.quiet_until = self.scheduler.now + seconds
        settler.sleep(seconds + 4 * self.interval)

    def _take_orders_back(self, estate: SimEstate) -> None:
        for order in estate.orders.read():
            with suppress(NotFound):  # somebody else has just done so
                estate.orders.take_back(order.kind, order.scope, reason="it is over")
        self.judge.locked.clear()

    def _until_quiet(self, settler: Process, watch: Watch) -> None:
        for _ in range(8):
            before = self._everything()
            watch.one_round()
            if self._everything() == before:
                return
            self._rest(settler, self.topology.traffic.safety.cooldown_seconds)
        raise self.judge.fail("the watch does not come to rest")

    def _leave(self, settler: Process, estate: SimEstate, route: str, region: str) -> None:
        """A dead region has weight still: either the watch may not act, or nobody else is well."""
        weights = self.routes[route].state.weights
        if not weights[region]:
            return  # with another
        if self.routes[route].traffic.features.all_or_nothing and any(
            weights[name] and self.regions[name].ills for name in weights if name != region
        ):
            return  # what one loses there, another ill one gets
        well = [
            name for name in weights if not self.regions[name].ills and not self.regions[name].lame
        ]
        if not well:
            return
        if self._should_have(route, region):
            raise self.judge.fail(
                f"{region} is dead, {', '.join(well)} could take over, and {route} is {weights}"
            )
        rules = frozenset({"cap", "panic", "weights-changed-by-hand"})
        request = Request(Mode.UNPLANNED, source=region, routes=(route,), broken=rules)
        proposal = operations.propose(estate, request)
        if not any(self._leaves(plan, region) for plan in proposal.plans.values()):
            raise self.judge.fail(f"{region} is dead, {well} is well, and yet: {proposal.plans}")
        if settler.random.random() < 0.6:
            return  # it could be done; that it is done then, enough other worlds show
        moves = operations.carry_out(estate, proposal, wait=True)
        if any(isinstance(error, StalePlan) for error in moves.errors.values()):
            # Somebody got well in between; who is told so looks again.
            settler.sleep(4 * self.interval)
            moves = operations.carry_out(estate, operations.propose(estate, request), wait=True)
        for error in moves.errors.values():
            raise error
        weights = self.routes[route].state.weights
        if weights[region]:
            raise self.judge.fail(f"{region} is dead, and {route} is {weights} all the same")
        if not operations.propose(estate, request).noop:
            raise self.judge.fail("it is left, and is to be left again")

    def _leaves(self, plan: Plan, region: str) -> bool:
        return any(
            action.kind == "shift" and not action.parameters["after"][region]
            for action in plan.actions
        )

    def _should_have(self, route: str, region: str) -> bool:
        """Whether the watch could have left a dead region by itself."""
        judge = self.judge
        settings = self.topology.traffic
        if settings.routes[route].mode != "auto" or route not in judge.drilled:
            return False
        if judge.control_lost or not judge.sane or route in judge.by_hand:
            return False
        eligible = {v.domain for v in self.vantages if v.region != region}
        if len(eligible) < settings.safety.domains:
            return False
        ill = [name for name in self.regions if name != region and self.regions[name].ills]
        return not ill and not judge.taken

    def _abandon_torn(self, estate: SimEstate) -> None:
        """What a lost control store leaves of a journal cannot be trusted; an operator says so."""
        for operation in estate.journal.operations():
            try:
                estate.journal.open(operation)
            except IntegrityError:
                estate.journal.abandon(operation)

    def _everything(self) -> tuple[object, ...]:
        journal = [(site.name, key) for site in self.control for key in site.keys("journal/")]
        return (*journal, *(route.state for route in self.routes.values()))


_SHARES: Mapping[int, Sequence[Callable[[Sequence[str]], dict[str, int]]]] = {
    count: (
        lambda names: dict(equal_shares(names)),
        lambda names: {name: 100 if n == 0 else 0 for n, name in enumerate(names)},
        lambda names: {name: 60 if n == 0 else 40 if n == 1 else 0 for n, name in enumerate(names)},
    )
    for count in range(2, 6)
}
