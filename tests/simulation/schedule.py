"""Virtual time, and greenlets that take turns in it.

One real thread runs everything. Whatever a simulated process does outside itself (a call to a
store, a sleep) ends in `Scheduler.sleep`, which is the only place where another may come on. Who
comes on is decided by who is due next, and who is due next by seeded latencies: the same seed gives
the same interleaving, always.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from math import inf
from random import Random
from typing import TYPE_CHECKING

from greenlet import getcurrent, greenlet

if TYPE_CHECKING:
    from tests.simulation.line import Network

EPOCH = datetime(2026, 3, 1, tzinfo=UTC)


class Crash(BaseException):
    """The process is gone. No `Exception`, so that no handler survives it; what its `finally`
    blocks still ask of the world raises it again."""


class Task:
    """A flow of control: a process, or its lease's keeper."""

    def __init__(self, process: Process, run: Callable[[], None], hub: greenlet) -> None:
        self.process = process
        self.greenlet = greenlet(run, parent=hub)
        self.over = False
        self.resting = False
        """In a sleep that its process can end at once."""


class Process:
    """Something that can crash and be frozen on its own, with clocks of its own."""

    def __init__(self, scheduler: Scheduler, name: str, random: Random) -> None:
        self.scheduler = scheduler
        self.name = name
        self.random = random
        self.dead = False
        self.frozen_until = 0.0
        self.started_at = scheduler.now
        self.tasks: list[Task] = []
        self.stop_at: float | None = None
        self.network: Network | None = None
        """What stands between it and all places; None: nothing ever does."""
        self.names: tuple[str, ...] = (name,)
        """By which the network knows it: its own, and where it stands."""
        # Wall clocks are wrong by hours and drift. Monotonic ones start anywhere; they run at
        # nearly true rates, which is all that the lease's margin allows for.
        self._wall_offset = random.choice((0.0, 1.0, -1.0)) * random.uniform(0, 4 * 3600)
        self._wall_rate = random.uniform(0.9, 1.1)
        self._monotonic_offset = random.uniform(0, 1e6)
        self._monotonic_rate = random.uniform(0.97, 1.03)

    def __repr__(self) -> str:
        return self.name

    def set_wall(self, offset_seconds: float, *, rate: float | None = None) -> None:
        """How wrong its wall clock is; at which rate it runs stays as it is with None."""
        self._wall_offset = offset_seconds
        self._wall_rate = self._wall_rate if rate is None else rate

    # The `Clock` port.

    def now(self) -> datetime:
        true = self.scheduler.now
        return EPOCH + timedelta(seconds=self._wall_offset + true * self._wall_rate)

    def monotonic(self) -> float:
        return self._monotonic_offset + self.scheduler.now * self._monotonic_rate

    def sleep(self, seconds: float) -> None:
        self.scheduler.sleep(self, seconds / self._monotonic_rate)

    # Life and death.

    def stop(self) -> bool:
        """Whether the operator has pressed Ctrl-C."""
        return self.stop_at is not None and self.scheduler.now >= self.stop_at

    def crash(self) -> None:
        self.dead = True
        raise Crash

    def freeze(self, seconds: float) -> None:
        """Stop-the-world, a laptop's lid: nothing of it runs before that time is over."""
        self.frozen_until = self.scheduler.now + seconds

    def keeper(self, loop: Callable[[Callable[[float], bool]], None]) -> Callable[[], None]:
        """The lease's `Background`: a second task of this process, as a thread would be."""
        told = False

        def wait(seconds: float) -> bool:
            task.resting = True
            self.sleep(seconds)
            task.resting = False
            return told

        task = self.scheduler.spawn(self, lambda: loop(wait))

        def end() -> None:
            nonlocal told
            told = True
            for _ in range(8):  # as long as `in_thread` waits for a renewal that is under way
                if task.over or task.resting:
                    break
                self.sleep(0.25)
            if task.resting:
                self.scheduler.wake(task)

        return end


class Scheduler:
    """What is due next, runs next."""

    def __init__(self) -> None:
        self.now = 0.0
        self.failure: BaseException | None = None
        self._due: list[tuple[float, int, Task | Callable[[], None]]] = []
        self._number = 0
        self._hub = getcurrent()
        self.current: Task
        self.enough = False
        """Set to make `run` return."""

    def spawn(self, process: Process, run: Callable[[], None], *, after: float = 0.0) -> Task:
        """A task of `process`, which starts in `after` seconds."""
        task = Task(process, lambda: self._run(task, run), self._hub)
        process.tasks.append(task)
        self._push(self.now + after, task)
        return task

    def later(self, seconds: float, effect: Callable[[], None]) -> None:
        """Something that happens by itself: a request that was under way arrives."""
        self._push(self.now + seconds, effect)

    def sleep(self, process: Process, seconds: float) -> None:
        """Let time pass for the current task. Raises `Crash` if its process is gone by then."""
        wake = max(self.now + seconds, process.frozen_until)
        alone = not self._due or self._due[0][0] > wake
        if alone and not process.dead and not self.enough:
            self.now = wake  # nobody is due before: no need to change over
            return
        if not process.dead:
            task = self.current
            self._push(wake, task)
            self._hub.switch()
            # A frozen process wakes when it is thawed, whenever its sleep ended.
            while process.frozen_until > self.now and not process.dead:
                self._push(process.frozen_until, task)
                self._hub.switch()
        if process.dead:
            raise Crash

    def wake(self, task: Task) -> None:
        """Cut its sleep short, for good: it must not sleep again."""
        self._push(self.now, task)

    def run(self, until: float = inf, *, over: Callable[[], bool] | None = None) -> None:
        """Until nothing is due, or there is `enough`, or it is `over`. Raises what a task failed
        with."""
        while self._due and not self.enough:
            if self._due[0][0] > until:
                self.now = max(self.now, until)
                return
            if over is not None and over():
                return
            due, _, what = heappop(self._due)
            self.now = max(self.now, due)
            if isinstance(what, Task):
                if not what.over:
                    self.current = what
                    what.greenlet.switch()
            else:
                what()
            if self.failure is not None:
                raise self.failure

    def kill(self, processes: list[Process]) -> None:
        """`kill -9`, all at once."""
        for process in processes:
            process.dead = True
        for process in processes:
            for task in process.tasks:
                self._end(task)

    def _end(self, task: Task) -> None:
        if not task.over:
            task.over = True
            if task.greenlet:  # it has begun
                task.greenlet.throw(Crash)

    def _push(self, due: float, what: Task | Callable[[], None]) -> None:
        self._number += 1
        heappush(self._due, (due, self._number, what))

    def _run(self, task: Task, run: Callable[[], None]) -> None:
        try:
            if not task.process.dead:
                run()
        except Crash:
            pass
        except BaseException as error:
            if self.failure is None:
                self.failure = error
        finally:
            task.over = True
