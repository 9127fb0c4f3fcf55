"""What every simulated world has: control stores in trouble, processes that crash and are started
again, and three acts: the storm, the calm, and the question whether all is well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from random import Random

from mlplatform.adapters.memory import MemoryStore
from mlplatform.control.retry import Retry, RetryingStore
from mlplatform.core.errors import MlplatformError
from tests.simulation.control import SimControl
from tests.simulation.judge import Judge, Violation
from tests.simulation.line import CALM, Fate
from tests.simulation.schedule import Crash, Process, Scheduler
from tests.simulation.stores import SimStore, Site


class World:
    """Everything there is, for one seed."""

    judge: Judge
    control: list[Site]
    pace: float
    """How many seconds a call usually takes."""
    slow_seconds = 5.0
    """How many it takes where somebody is slow."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.scheduler = Scheduler()
        self.processes: list[Process] = []
        self.restarts_left = 3
        self.storm = False
        self.clock = Process(self.scheduler, "stores", self.random)
        """Of everything that is no process."""

    def run(self) -> None:
        """All of it. Raises `Violation`."""
        raise NotImplementedError

    # Control stores.

    def control_site(self, name: str) -> Site:
        site = Site(name, MemoryStore(name, clock=self.clock), CALM, self.random)
        site.is_control = True
        return site

    def control_of(self, process: Process, retry: Retry) -> SimControl:
        """A process's own way to the control stores."""
        members = [RetryingStore(SimStore(process, s, self.judge), retry) for s in self.control]
        process.random.shuffle(members)
        return SimControl(process, self.judge, members)

    def ail(self, site: Site) -> str:
        """Any one of three control stores may be lost, slow, read-only, rebuilt empty, or lie."""
        kind = self.random.choice(("not", "lost", "slow", "read-only", "rebuilt", "lies"))
        if kind == "lost":
            site.lost = True
            site.inner.drop()
        elif kind == "read-only":
            site.read_only = True
        elif kind == "slow":
            site.weather = replace(site.weather, latency_seconds=self.slow_seconds)
        if kind not in ("rebuilt", "lies"):
            return kind
        # A member that has forgotten, or lies, is the one fault that a majority of three bears:
        # the other two must not fail finally at the same time.
        for member in self.control:
            steady = member.weather.without(Fate.LATE, Fate.DENIED, Fate.FULL, Fate.BREAKS)
            member.weather = replace(steady, in_a_row=2)
        if kind == "lies":
            fates = {**site.weather.fates, Fate.STALE: 0.1, Fate.CORRUPT: 0.1}
            site.weather = replace(site.weather, fates=fates)
        else:
            self.scheduler.later(self.soon(60), lambda: self.rebuild(site))
        return kind

    def rebuild(self, site: Site) -> None:
        """Whatever was there is gone, and somebody has made an empty one."""
        self.judge.trace(None, site, "is rebuilt, empty")
        fresh = MemoryStore(site.name, clock=self.clock)
        fresh._features = site.inner.features
        fresh._numbers = count(1_000_000 + self.judge.calls)  # no store gives a tag twice
        site.inner = fresh
        site.forget()
        self.judge.emptied(site)

    def soon(self, calls: float) -> float:
        """Some time in which at most so many calls can be made one after the other."""
        return self.random.uniform(0, calls) * self.pace * 10

    # Processes.

    def process(self, role: str) -> Process:
        name = f"{role}-{len(self.processes)}"
        process = Process(self.scheduler, name, Random(self.random.getrandbits(64)))
        self.processes.append(process)
        return process

    def start(self, role: str, work: Callable[[Process], object], after: float) -> Process:
        process = self.process(role)
        if self.random.random() < 0.03:
            process.stop_at = self.scheduler.now + after + self.soon(8)

        def live() -> None:
            process.started_at = self.scheduler.now
            self.judge.trace(process, "starts")
            try:
                work(process)
            except Crash:
                self.again(role, work)
                raise
            except MlplatformError as error:
                self.judge.trace(process, "ends", error=error)
                self.again(role, work)
            except Violation:
                raise
            except Exception as error:
                raise self.judge.fail(f"{process}: internal error: {error!r}") from error
            else:
                self.judge.trace(process, "ends")
            finally:
                process.dead = True

        self.scheduler.spawn(process, live, after=after)
        return process

    def again(self, role: str, work: Callable[[Process], object]) -> None:
        """Somebody else, somewhere else, tries the same."""
        if self.storm and self.restarts_left and self.random.random() < 0.8:
            self.restarts_left -= 1
            self.start(role, work, self.random.expovariate(1 / 15))
