"""A world from a seed: regions and control stores of mixed dialects, weather, processes that run
the real code, an adversary; then calm, an operator, and the question whether all is well."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

from mlplatform.adapters.memory import CRC32C, CRC64NVME, FEATURES, MemoryStore
from mlplatform.control.executors import InlineExecutor
from mlplatform.control.reconcile import Report
from mlplatform.control.retry import Retry
from mlplatform.core.digest import UNKNOWN_DIGESTS, Evidence
from mlplatform.core.errors import Fenced, IntegrityError, MlplatformError, VersionConflict
from mlplatform.core.plan import Result
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.ports.store import StoreFeatures
from mlplatform.replication import operations
from mlplatform.replication.decide import Request
from mlplatform.replication.effects import Publisher, Replicas
from mlplatform.replication.transfer import Settings
from mlplatform.replication.verify import Depth, Verdict
from tests.simulation import world
from tests.simulation.line import CALM, Fate, Weather
from tests.simulation.replication.contents import BLOCK_BYTES, SUBJECT, Contents
from tests.simulation.replication.judge import ReplicationJudge
from tests.simulation.schedule import Process
from tests.simulation.stores import SimStore, Site

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

KINDS = tuple(fate for fate in Fate if fate not in (Fate.WORKS, Fate.EMPTY, Fate.BY_HAND))
"""What befalls calls to stores."""

_OFTEN = {Fate.AFTER: 4, Fate.LATE: 4, Fate.CORRUPT: 2}
"""What is worth more than its share: the answers that leave a caller in doubt."""

SETTINGS = Settings(budget_bytes=4096, make_executor=lambda workers, name: InlineExecutor())


class World(world.World):
    """Regions, control stores, and one version of one model on its way."""

    judge: ReplicationJudge

    def __init__(self, seed: int, *, tell: Callable[[str], None] | None = None) -> None:
        super().__init__(seed)
        random = self.random
        self._forgets = False
        """Whether the only control store is to be lost."""
        self.pace = random.choice((0.02, 0.1, 0.5, 1.5))
        self.regions = {
            name: self._site(name, random.choice(tuple(DIALECTS)))
            for name in NAMES[: random.choice((2, 2, 2, 3, 3, 4))]
        }
        self.control = [self.control_site(f"control{n}") for n in range(random.choice((1, 3)))]
        self.home = next(iter(self.regions))
        self.contents = Contents.make("contents", random)
        candidates = [self.contents]
        self._homes = {self.contents.name: self.home}
        """Where each contents are published."""
        if random.random() < 0.1:
            candidates.append(self.contents.rival(random))
            self._homes[candidates[1].name] = random.choice(tuple(self.regions))
        self.judge = ReplicationJudge(
            self.scheduler, candidates, self.regions, self.control, tell=tell
        )
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

    # What it is made of.

    def _site(self, name: str, dialect: str) -> Site:
        return Site(name, DIALECTS[dialect](name, self.clock), CALM, self.random)

    def _brew(self) -> None:
        """Which kinds of trouble this world has, and how much: not all worlds have all."""
        random = self.random
        trouble = random.choice((0.0, 0.03, 0.1, 0.25))
        crashes = random.choice((0.0, 0.005, 0.02))
        kinds = [fate for fate in KINDS if random.random() < 0.5]
        shares = {fate: random.random() * _OFTEN.get(fate, 1) for fate in kinds}
        total = sum(shares.values()) or 1.0
        fates: dict[Fate, float] = {f: trouble * share / total for f, share in shares.items()}
        fates[Fate.CRASH_BEFORE] = fates[Fate.CRASH_AFTER] = crashes
        weather = Weather(
            fates, latency_seconds=self.pace, pauses=random.choice((0.0, 0.0, 0.005, 0.02))
        )
        for site in self.regions.values():
            site.weather = weather
        for site in self.control:
            site.weather = weather.without(Fate.STALE, Fate.CORRUPT)
        if random.random() < 0.15:
            site = random.choice(tuple(self.regions.values()))
            start = self.scheduler.now + self.soon(15)
            site.outages.append((start, start + self.soon(30)))
        if len(self.control) > 1:
            self.ail(random.choice(self.control))
        elif len(self.judge.candidates) == 1 and random.random() < 0.08:
            self._forgets = True
            self.scheduler.later(self.soon(40), lambda: self.rebuild(self.control[0]))

    def _begin(self) -> None:
        """Nothing is there yet."""
        random = self.random
        self.start("publisher", self._publish_home, 0.0)
        if random.random() < 0.15:
            self.start("publisher", self._publish_home, self.soon(10))
        self._populate(replicators=(1, 1, 2, 3), verifiers=(0, 0, 1, 2), flips=(0, 0, 0, 1, 2, 4))

    def _go_on(self) -> None:
        """All was well; then something rotted, and perhaps somebody has found that."""
        random = self.random
        founder = self.process("founder")
        self.scheduler.spawn(founder, lambda: self._found(founder))
        self.scheduler.run()
        if random.random() < 0.5:
            for _ in range(random.choice((1, 1, 2, 3))):
                self._harm()
            auditor = self.process("auditor")
            self.scheduler.spawn(auditor, lambda: self._verify(auditor, Depth.DEEP))
            self.scheduler.run()
        if random.random() < 0.2:
            self.start("publisher", self._publish_home, self.soon(20))
        self._populate(replicators=(1, 2, 3), verifiers=(1, 2, 3), flips=(1, 2, 4, 6))

    def _found(self, founder: Process) -> None:
        self._publish(founder, self.contents, self.home)
        operations.replicate(
            replicas := self.replicas(founder), operations.request_for(replicas, SUBJECT)
        )
        founder.dead = True

    def _populate(
        self, *, replicators: Sequence[int], verifiers: Sequence[int], flips: Sequence[int]
    ) -> None:
        random = self.random
        if len(self.judge.candidates) > 1:
            self.start("rival", self._publish_rival, self.soon(5))
        for _ in range(random.choice(replicators)):
            self.start("replicator", self._replicate, self.soon(12))
        for _ in range(random.choice((0, 0, 1, 2))):
            self.start("operator", self._resume, self.soon(25))
        for _ in range(random.choice(verifiers)):
            self.start("verifier", self._verify, self.soon(25))
        if random.random() < 0.1:
            self.start("cleaner", self._clean, self.soon(25))
        if random.random() < 0.08:
            self.start("withdrawer", self._withdraw, self.soon(15))
        for _ in range(random.choice(flips)):
            self.scheduler.later(self.soon(25), self._harm)
        if random.random() < 0.15:
            self._litter(random.choice(tuple(self.regions.values())))
        if random.random() < 0.05:
            site = random.choice(tuple(self.regions.values()))
            self.scheduler.later(self.soon(30), lambda: self.rebuild(site))

    def _litter(self, site: Site) -> None:
        """Somebody, some day, began to upload other bytes of the same size."""
        for key, body in self.contents.objects.items():
            part_bytes = max(BLOCK_BYTES, site.inner.features.part_bytes_min)
            if len(body) > part_bytes:
                upload = site.inner.begin(key, size_bytes=len(body), part_bytes=part_bytes)
                for index in range(-(-len(body) // part_bytes)):
                    size_bytes = min(part_bytes, len(body) - index * part_bytes)
                    if self.random.random() < 0.7:
                        other = self.random.randbytes(size_bytes)
                        upload.part(index, other, digests=UNKNOWN_DIGESTS)

    # Processes.

    def replicas(self, process: Process) -> Replicas:
        """What a process works with: its own way to every store."""
        retry = Retry(process, process.random, attempts=4, deadline_seconds=60.0, stop=process.stop)
        control = self.control_of(process, retry)
        stores = {name: SimStore(process, s, self.judge) for name, s in self.regions.items()}
        return Replicas(
            topology=self.topology,
            open_store=stores.__getitem__,
            control=control,
            retry=retry,
            clock=process,
            random=process.random,
            writer=process.name,
            stop=process.stop,
            settings=SETTINGS,
            executor=InlineExecutor(),
            background=process.keeper,
        )

    def _publish_home(self, process: Process) -> Report:
        return self._publish(process, self.contents, self.home)

    def _publish_rival(self, process: Process) -> Report:
        rival = list(self.judge.candidates.values())[1]
        return self._publish(process, rival, self._homes[rival.name])

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

    def _verify(self, process: Process, depth: Depth | None = None) -> None:
        depth = depth or process.random.choice((Depth.QUICK, Depth.DEEP))
        before = {name: set(self.judge.wrong(site)) for name, site in self.regions.items()}
        results = operations.check(self.replicas(process), SUBJECT, [], depth)
        for name, result in results.items():
            self.judge.trace(process, f"found {name} {result.verdict}")
            if result.verdict is Verdict.MISMATCH:
                self.judge.found_wrong(process, name, [found.path for found in result.findings])
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

    def _clean(self, process: Process) -> None:
        """Drop what looks abandoned: by a wrong wall clock, what was begun a moment ago."""
        replicas = self.replicas(process)
        older_than = timedelta(seconds=process.random.choice((0, 1, 60)))
        waste, _ = operations.find_waste(replicas, [], older_than)
        cleaned = operations.clean(replicas, waste, older_than)
        for report in cleaned.reports:
            self._reported(process, report, (), None)

    def _withdraw(self, process: Process) -> None:
        self.judge.withdrawing = True
        answers = self.replicas(process).withdraw(SUBJECT, "simulated")
        if not any(isinstance(answer, Unknown) for answer in answers.values()):
            self.judge.withdrawn_at = self.scheduler.now

    def _harm(self) -> None:
        """The adversary flips a bit of something, or takes it away."""
        random = self.random
        site = random.choice(tuple(self.regions.values()))
        sessions = [session for session in site.inner._sessions.values() if session.parts]
        if sessions and random.random() < 0.5:
            session = random.choice(sessions)
            index = random.choice(sorted(session.parts))
            self.judge.trace(None, "flips a bit in part", index, "of", session.key, "in", site)
            site.inner.damage_part(session.id, index, 0)
            self.judge.rotten_uploads.add(session.id)
            return
        keys = [key for key in site.keys(SUBJECT.prefix) if site.inner._objects[key].body]
        if self._forgets:
            # The regions' records are then all that tells what the version is.
            keys = [key for key in keys if key != SUBJECT.manifest_key]
        else:
            keys += site.keys(SUBJECT.receipt_key)
        if not keys:
            return
        key = random.choice(keys)
        if random.random() < 0.2:
            self.judge.trace(None, "takes away", key, "in", site)
            site.inner.delete(key)
        else:
            self.judge.trace(None, "flips a bit of", key, "in", site)
            site.inner.damage(key, random.randrange(len(site.inner._objects[key].body)))
        site.remember(key, self.scheduler.now)
        self.judge.harmed(site, key)

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
                if not judge.shows(region, contents, process):
                    raise judge.fail(f"{process} reports success, {region} does not show it")
                if still := judge.knew(process, region):
                    raise judge.fail(
                        f"{process} reports success, and {region} stays wrong: {sorted(still)}"
                    )
        return report

    # The two acts.

    def run(self) -> None:
        """The storm, the calm, and the question. Raises `Violation`."""
        try:
            if self.random.random() < 0.3:
                self._go_on()
            else:
                self._begin()
            self.storm = True
            self._brew()
            self.judge.calls_max = self.judge.calls + CALLS_MAX
            self.scheduler.run()
            self._calm_down()
            self._settle()
        finally:
            self.scheduler.kill(self.processes)

    def _calm_down(self) -> None:
        self.judge.trace(None, "the faults stop")
        self.storm = False
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
        operator = self.process("settler")

        def live() -> None:
            try:
                self._converge(operator)
            except MlplatformError as error:
                raise self.judge.fail(f"all stores answer, and yet: {error!r}") from error
            except Exception as error:
                raise self.judge.fail(f"internal error: {error!r}") from error
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
        if judge.control_lost:
            self._abandon_torn(replicas)
            self._outrun(replicas)
        request = operations.request_for(replicas, SUBJECT)
        contents = judge.winner or self.contents
        wanted = list(self.regions)
        if judge.withdrawing:
            self._publish_again(replicas, contents)
            operations.replicate(replicas, request, wait=True)
        else:
            for _ in range(3):
                published = self._publish_again(replicas, contents)
                contents = judge.winner or contents
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
        for _ in operations.resume(replicas, None, wait=True):
            pass  # what a cleaner left
        before = self._journal()
        again = operations.replicate(replicas, request, wait=True)
        if not again.plan.noop or again.operation or self._journal() != before:
            raise judge.fail(f"a second run has something to do: {again.plan.actions}")
        left = [s.operation for s in operations.journal_of(replicas).unfinished()]
        if left:
            raise judge.fail(f"unfinished operations are left: {left}")
        if not judge.withdrawing:
            pending = operations.pending(replicas.catalogue.grid(), operator.now())
            if pending or len(wanted) != sum(1 for p in replicas.catalogue.grid() if p.verified_at):
                raise judge.fail(f"the grid does not show it: {pending}")

    def _abandon_torn(self, replicas: Replicas) -> None:
        """What a lost control store leaves of a journal cannot be trusted; an operator says so."""
        journal = operations.journal_of(replicas)
        for operation in journal.operations():
            try:
                journal.open(operation)
            except IntegrityError:
                journal.abandon(operation)

    def _outrun(self, replicas: Replicas) -> None:
        """Generations begin anew, and a journal written by an older one refuses the first few."""
        for _ in range(20):
            with suppress(Fenced):
                self._publish_again(replicas, self.judge.winner or self.contents)
                return

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
            raise self.judge.fail(
                f"all stores answer, and {what} fails: {bad or report.plan.holds}"
            )

    def _journal(self) -> list[tuple[str, str]]:
        return [(site.name, key) for site in self.control for key in site.keys("journal/")]
