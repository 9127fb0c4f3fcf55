"""A world from a seed: regions and control stores of mixed dialects, weather, processes that run
the real code, an adversary; then calm, an operator, and the question whether all is well."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from random import Random

from mlplatform.adapters.memory import CRC32C, CRC64NVME, FEATURES, MemoryStore
from mlplatform.control.executors import InlineExecutor
from mlplatform.control.quorum import ControlStore
from mlplatform.control.reconcile import Report
from mlplatform.control.retry import Retry, RetryingStore
from mlplatform.core.digest import Evidence
from mlplatform.core.errors import MlplatformError, VersionConflict
from mlplatform.core.plan import Result
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.ports.store import Condition, StoreFeatures
from mlplatform.replication import operations
from mlplatform.replication.decide import Request
from mlplatform.replication.effects import Publisher, Replicas
from mlplatform.replication.transfer import Settings
from mlplatform.replication.verify import Depth, Verdict
from tests.simulation.contents import SUBJECT, Contents
from tests.simulation.judge import Judge, Violation
from tests.simulation.schedule import Crash, Process, Scheduler
from tests.simulation.stores import CALM, Fate, SimStore, Site, Weather

CALLS_MAX = 350
"""Calls to stores before the faults stop."""

FOLDER = "simulated"
"""Publishers read from memory: nobody finds this on a disk."""

NAMES = ("ams", "bom", "cdg", "dub")

DIALECTS: Mapping[str, Callable[[str, Process], MemoryStore]] = {
    "whole": lambda name, clock: MemoryStore(name, features=FEATURES, clock=clock),
    "like-gcs": lambda name, clock: MemoryStore(
        name,
        features=replace(FEATURES, conditional_delete=False),
        clock=clock,
        states=(CRC32C,),
    ),
    "like-azure": lambda name, clock: MemoryStore(
        name,
        features=StoreFeatures(evidence=Evidence.STORE_PARTS),
        clock=clock,
        states=(CRC64NVME,),
    ),
    "like-files": lambda name, clock: MemoryStore(
        name,
        features=StoreFeatures(evidence=Evidence.READ_BACK),
        clock=clock,
        states_parts=True,
    ),
    "states-nothing": lambda name, clock: MemoryStore(
        name,
        features=StoreFeatures(evidence=Evidence.READ_BACK, conditional_delete=False),
        clock=clock,
    ),
    "large-parts": lambda name, clock: MemoryStore(
        name, features=replace(FEATURES, part_bytes_min=128), clock=clock
    ),
}

SETTINGS = Settings(budget_bytes=4096, make_executor=lambda workers, name: InlineExecutor())


class SimControl(ControlStore):
    """The control store of one process, which tells the judge what it was told."""

    def __init__(self, process: Process, judge: Judge, members: Sequence[RetryingStore]) -> None:
        super().__init__(members, process, executor=InlineExecutor())
        self._process = process
        self._judge = judge

    def create(self, key: str, body: bytes) -> None:
        super().create(key, body)
        self._judge.acked(self._process, key, body)

    def swap(
        self, key: str, body: bytes, when: Sequence[Condition | None]
    ) -> tuple[str | MlplatformError | None, ...]:
        if not key.startswith("leases/"):
            return super().swap(key, body, when)
        began = self._judge.lease_swap(self._process, key, body)
        tags = super().swap(key, body, when)
        if sum(isinstance(tag, str) for tag in tags) >= self.majority:
            self._judge.lease_swapped(self._process, key, body, began)
        return tags


class World:
    """Everything there is, for one seed."""

    def __init__(self, seed: int, *, tell: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.random = random = Random(seed)
        self.scheduler = Scheduler()
        self.processes: list[Process] = []
        self._restarts_left = 3
        self._storm = True
        weather = self._weather()
        clock = Process(self.scheduler, "stores", random)
        self._clock = clock
        self.regions = {
            name: Site(name, DIALECTS[random.choice(tuple(DIALECTS))](name, clock), weather, random)
            for name in NAMES[: random.choice((2, 2, 2, 3, 3, 4))]
        }
        truthful = weather.without(Fate.STALE, Fate.CORRUPT)
        self.control = [
            Site(f"control{n}", DIALECTS["whole"](f"control{n}", clock), truthful, random)
            for n in range(random.choice((1, 3)))
        ]
        for site in self.control:
            site.is_control = True
        self.contents = Contents.make("contents", random)
        candidates = [self.contents]
        if random.random() < 0.1:
            candidates.append(self.contents.rival(random))
        self.judge = Judge(self.scheduler, candidates, self.regions, self.control, tell=tell)
        self.home = next(iter(self.regions))
        self._homes = {self.contents.name: self.home}
        """Where each contents are published."""
        self.topology = Topology.model_validate(
            {
                "control": [f"memory://{site}" for site in self.control],
                "regions": {name: {"store": f"memory://{name}"} for name in self.regions},
                "models": {
                    SUBJECT.model: {
                        "version": SUBJECT.version,
                        "home": self.home,
                        "replicate_to": [name for name in self.regions if name != self.home],
                    }
                },
            }
        )
        self._ail_control()
        self._populate(candidates)

    # What it is made of.

    def _weather(self) -> Weather:
        """Which kinds of trouble this world has, and how much: not all worlds have all."""
        random = self.random
        trouble = random.choice((0.0, 0.02, 0.05, 0.15))
        crashes = random.choice((0.0, 0.004, 0.015))
        kinds = [fate for fate in Fate if fate is not Fate.WORKS and random.random() < 0.5]
        shares = {fate: random.random() for fate in kinds}
        total = sum(shares.values()) or 1.0
        fates = {fate: trouble * share / total for fate, share in shares.items()}
        fates[Fate.CRASH_BEFORE] = fates[Fate.CRASH_AFTER] = crashes
        return Weather(
            fates,
            latency_seconds=random.choice((0.02, 0.1, 0.5, 1.5)),
            pauses=random.choice((0.0, 0.0, 0.005, 0.02)),
        )

    def _ail_control(self) -> None:
        """Any one of three control stores may be lost, slow, read-only, rebuilt empty, or lie."""
        random = self.random
        if len(self.control) == 1:
            return
        ailing = random.choice(self.control)
        kind = random.choice(("none", "lost", "slow", "read-only", "rebuilt", "lies"))
        if kind == "lost":
            ailing.lost = True
            ailing.inner.drop()
        elif kind == "read-only":
            ailing.read_only = True
        elif kind == "slow":
            ailing.weather = replace(ailing.weather, latency_seconds=5.0)
        if kind not in ("rebuilt", "lies"):
            return
        # A member that has forgotten, or lies, is the one fault that a majority of three bears:
        # the other two must not fail finally at the same time.
        for site in self.control:
            site.weather = site.weather.without(Fate.LATE, Fate.DENIED, Fate.FULL, Fate.BREAKS)
            site.weather = replace(site.weather, in_a_row=2)
        if kind == "lies":
            fates = {**ailing.weather.fates, Fate.STALE: 0.1, Fate.CORRUPT: 0.1}
            ailing.weather = replace(ailing.weather, fates=fates)
        else:
            self.scheduler.later(self._soon(60), lambda: self._rebuild(ailing))

    def _rebuild(self, site: Site) -> None:
        self.judge.trace(None, site, "is rebuilt, empty")
        site.inner = DIALECTS["whole"](site.name, self._clock)
        site.inner._numbers = count(1_000_000)  # no store gives a tag twice
        site.past.clear()

    def _soon(self, seconds: float) -> float:
        """A moment in the first so many seconds of a world of ordinary latency."""
        return self.random.uniform(0, seconds) * self.control[0].weather.latency_seconds * 10

    def _populate(self, candidates: Sequence[Contents]) -> None:
        random = self.random
        self._start("publisher", lambda p: self._publish(p, candidates[0], self.home), 0.0)
        if len(candidates) > 1:
            home = random.choice(tuple(self.regions))
            self._homes[candidates[1].name] = home
            self._start("rival", lambda p: self._publish(p, candidates[1], home), self._soon(5))
        if random.random() < 0.15:
            self._start(
                "publisher", lambda p: self._publish(p, candidates[0], self.home), self._soon(10)
            )
        for _ in range(random.choice((1, 1, 2, 3))):
            self._start("replicator", self._replicate, self._soon(12))
        for _ in range(random.choice((0, 0, 1, 2))):
            self._start("operator", self._resume, self._soon(25))
        for _ in range(random.choice((0, 0, 1, 2))):
            self._start("verifier", self._verify, self._soon(25))
        if random.random() < 0.08:
            self._start("withdrawer", self._withdraw, self._soon(15))
        for _ in range(random.choice((0, 0, 0, 1, 2, 4))):
            self.scheduler.later(self._soon(25), self._flip)
        if random.random() < 0.15:
            site = random.choice(tuple(self.regions.values()))
            start = self._soon(15)
            site.outages.append((start, start + self._soon(30)))

    # Processes.

    def _start(self, role: str, work: Callable[[Process], None], after: float) -> None:
        process = Process(
            self.scheduler, f"{role}-{len(self.processes)}", Random(self.random.getrandbits(64))
        )
        if self.random.random() < 0.03:
            process.stop_at = self.scheduler.now + after + self._soon(8)
        self.processes.append(process)

        def live() -> None:
            process.started_at = self.scheduler.now
            self.judge.trace(process, "starts")
            try:
                work(process)
            except Crash:
                self._again(role, work)
                raise
            except MlplatformError as error:
                self.judge.trace(process, "ends", error=error)
                self._again(role, work)
            except Violation:
                raise
            except Exception as error:
                raise self.judge.fail(f"{process}: internal error: {error!r}") from error
            else:
                self.judge.trace(process, "ends")
            finally:
                process.dead = True

        self.scheduler.spawn(process, live, after=after)

    def _again(self, role: str, work: Callable[[Process], None]) -> None:
        """Somebody else, somewhere else, tries the same."""
        if self._storm and self._restarts_left and self.random.random() < 0.8:
            self._restarts_left -= 1
            self._start(role, work, self.random.expovariate(1 / 15))

    def replicas(self, process: Process) -> Replicas:
        """What a process works with: its own way to every store."""
        retry = Retry(
            process, process.random, attempts=4, deadline_seconds=60.0, stop=process.stop
        )
        members = [RetryingStore(SimStore(process, s, self.judge), retry) for s in self.control]
        process.random.shuffle(members)
        stores = {name: SimStore(process, s, self.judge) for name, s in self.regions.items()}
        return Replicas(
            topology=self.topology,
            open_store=stores.__getitem__,
            control=SimControl(process, self.judge, members),
            retry=retry,
            clock=process,
            random=process.random,
            writer=process.name,
            stop=process.stop,
            settings=SETTINGS,
            executor=InlineExecutor(),
            background=process.keeper,
        )

    def _publish(self, process: Process, contents: Contents, region: str) -> Report:
        request = Request(SUBJECT, (region,), region, folder=FOLDER, reason="published here")
        replicas = self.replicas(process)
        controller = Publisher(replicas, request, contents.manifest, contents, lambda: None)
        wait = process.random.random() < 0.7
        report = operations.publish(replicas, controller, wait=wait)
        return self._reported(process, report, (region,), contents)

    def _replicate(self, process: Process) -> Report:
        replicas = self.replicas(process)
        names = list(self.regions)
        targets = process.random.sample(names, process.random.randint(1, len(names)))
        if process.random.random() < 0.6:
            targets = []
        request = operations.request_for(replicas, SUBJECT, targets=targets)
        wait = process.random.random() < 0.7
        report = operations.replicate(replicas, request, wait=wait)
        return self._reported(process, report, request.targets, None)

    def _resume(self, process: Process) -> None:
        for _, report in operations.resume(self.replicas(process), None):
            self._reported(process, report, (), None)

    def _verify(self, process: Process) -> None:
        depth = process.random.choice((Depth.QUICK, Depth.DEEP))
        before = {name: set(self.judge.wrong(site)) for name, site in self.regions.items()}
        results = operations.check(self.replicas(process), SUBJECT, [], depth)
        for name, result in results.items():
            self.judge.trace(process, f"found {name} {result.verdict}")
            if depth is Depth.DEEP and result.verdict is Verdict.GOOD:
                self._found_good(process, name, before[name])

    def _found_good(self, process: Process, region: str, before: set[str]) -> None:
        """What deep found good was not wrong all the time."""
        lied = self.judge.lies[process.name, region, Fate.STALE]
        still = before & set(self.judge.wrong(self.regions[region]))
        if still and not lied and self.judge.last_wrong.get(region) == float("inf"):
            since = self.judge.wrong_since(region)
            if since < process.started_at:
                raise self.judge.fail(f"{process} found {region} good, where {still} are wrong")

    def _withdraw(self, process: Process) -> None:
        self.judge.withdrawing = True
        answers = self.replicas(process).withdraw(SUBJECT, "simulated")
        if not any(isinstance(answer, Unknown) for answer in answers.values()):
            self.judge.withdrawn_at = self.scheduler.now

    def _flip(self) -> None:
        """The adversary flips a bit of something."""
        site = self.random.choice(tuple(self.regions.values()))
        sessions = [s for s in site.inner._sessions.values() if s.parts]
        if sessions and self.random.random() < 0.5:
            session = self.random.choice(sessions)
            index = self.random.choice(sorted(session.parts))
            self.judge.trace(None, "flips a bit in part", index, "of", session.key, "in", site)
            site.inner.damage_part(session.id, index, 0)
            self.judge.rotten_uploads.add(session.id)
            return
        keys = [key for key in site.keys(SUBJECT.prefix) if site.inner._objects[key].body]
        if not keys:
            return
        key = self.random.choice(keys)
        body, _ = site.object(key) or (b"", None)
        self.judge.trace(None, "flips a bit of", key, "in", site)
        site.inner.damage(key, self.random.randrange(len(body)))
        site.remember(key, self.scheduler.now)
        self.judge.flipped(site, key)

    def _reported(
        self,
        process: Process,
        report: Report,
        regions: Iterable[str],
        contents: Contents | None,
    ) -> Report:
        """Whether a report tells the truth."""
        judge = self.judge
        for part in (*report.resumed, report):
            for outcome in part.outcomes:
                if outcome.detail.startswith("internal error"):
                    raise judge.fail(f"{process}: {outcome.detail}")
        judge.trace(process, "reports", report.exit_code, [o.result.value for o in report.outcomes])
        if report.exit_code == 0 and not judge.withdrawing and not report.plan.holds:
            for region in regions:
                if not judge.shows(region, contents):
                    raise judge.fail(f"{process} reports success, {region} does not show it")
        return report

    # The two acts.

    def run(self) -> None:
        """The storm, the calm, and the question. Raises `Violation`."""
        try:
            self.judge.calls_max = CALLS_MAX
            self.scheduler.run()
            self._calm_down()
            self._settle()
        finally:
            self.scheduler.kill(self.processes)

    def _calm_down(self) -> None:
        self.judge.trace(None, "the faults stop")
        self._storm = False
        for site in (*self.regions.values(), *self.control):
            site.weather = CALM
            site.outages.clear()
        if self.random.random() < 0.5:
            self.scheduler.kill(self.processes)
        self.judge.calls_max = self.judge.calls + 3000
        self.scheduler.enough = False
        self.scheduler.run()
        if self.scheduler.enough:
            raise self.judge.fail("what runs does not end, although all stores answer")

    def _settle(self) -> None:
        operator = Process(self.scheduler, "settler", Random(self.seed))
        self.processes.append(operator)

        def live() -> None:
            try:
                self._converge(operator)
            except MlplatformError as error:
                raise self.judge.fail(f"all stores answer, and yet: {error!r}") from error
            operator.dead = True

        self.scheduler.spawn(operator, live)
        self.judge.calls_max = self.judge.calls + 3000
        self.scheduler.run()
        if self.scheduler.enough:
            raise self.judge.fail("it does not settle")

    def _converge(self, operator: Process) -> None:
        """What an operator types when the weather is fine again; then all must be well."""
        judge = self.judge
        replicas = self.replicas(operator)
        request = operations.request_for(replicas, SUBJECT)
        contents = judge.winner or self.contents
        wanted = list(self.regions)
        if judge.withdrawing:
            self._publish_again(replicas, contents)
            operations.replicate(replicas, request, wait=True)
        else:
            for _ in range(3):
                published = self._publish_again(replicas, contents)
                replicated = operations.replicate(replicas, request, wait=True)
                found = operations.check(replicas, SUBJECT, [], Depth.DEEP)
                for result in found.values():
                    judge.trace(operator, "found", result.region, result.verdict, result.findings)
                if all(result.verdict is Verdict.GOOD for result in found.values()):
                    break
            else:
                raise judge.fail("does not converge")
            self._succeeded("publish", published)
            self._succeeded("replicate", replicated)
            for name, site in self.regions.items():
                if not judge.shows(name, contents) or judge.wrong(site):
                    raise judge.fail(f"found good, and {name} is not: {judge.wrong(site)}")
        before = self._journal()
        again = operations.replicate(replicas, request, wait=True)
        if not again.plan.noop or again.operation or self._journal() != before:
            raise judge.fail(f"a second run has something to do: {again.plan.actions}")
        left = [s.operation for s in operations.journal_of(replicas).unfinished()]
        if left:
            raise judge.fail(f"unfinished operations are left: {left}")
        if not judge.withdrawing:
            pending = operations.pending(replicas.grid(), operator.now())
            if pending or len(wanted) != sum(1 for p in replicas.grid() if p.verified_at):
                raise judge.fail(f"the grid does not show it: {pending}")

    def _publish_again(self, replicas: Replicas, contents: Contents) -> Report | None:
        """Whoever published finishes what they left, the one who lost too."""
        report = None
        for published in (contents, *self.judge.candidates.values()):
            if published is contents and report is not None:
                continue
            with suppress(VersionConflict):
                found = self._publishes(replicas, published)
                report = report or found
        return report

    def _publishes(self, replicas: Replicas, contents: Contents) -> Report:
        home = self._homes[contents.name]
        request = Request(SUBJECT, (home,), home, folder=FOLDER)
        publisher = Publisher(replicas, request, contents.manifest, contents, lambda: None)
        return operations.publish(replicas, publisher, wait=True)

    def _succeeded(self, what: str, report: Report | None) -> None:
        if report is None:
            raise self.judge.fail(f"all stores answer, and {what} is refused")
        bad = [o for o in report.outcomes if o.result in (Result.FAILED, Result.UNKNOWN)]
        if bad or report.plan.holds:
            raise self.judge.fail(f"all stores answer, and {what} fails: {bad or report.plan.holds}")

    def _journal(self) -> list[tuple[str, str]]:
        return [(site.name, key) for site in self.control for key in site.keys("journal/")]
