"""Work handed to threads, so that none is lost, none is done twice, and all of it is waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor


class Latch:
    """Counts work under way; `wait` returns when there is none."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = threading.Condition()

    def add(self) -> None:
        with self._changed:
            self._count += 1

    def done(self) -> None:
        with self._changed:
            self._count -= 1
            if not self._count:
                self._changed.notify_all()

    def wait(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._count == 0)


def _nothing() -> None:
    return


class Job:
    """Work for a thread, done by it or dropped, never both; what is held for it is given back."""

    __slots__ = ("_claim", "_latch", "_release", "_work")

    def __init__(
        self,
        latch: Latch,
        work: Callable[[], None],
        release: Callable[[], None] = _nothing,
    ) -> None:
        self._latch = latch
        self._work = work
        self._release = release
        self._claim = threading.Lock()
        latch.add()

    def run(self) -> None:
        if self._claim.acquire(blocking=False):
            try:
                self._work()
            finally:
                self._over()

    def drop(self) -> None:
        if self._claim.acquire(blocking=False):
            self._over()

    def _over(self) -> None:
        self._work = _nothing  # which may refer to this job
        try:
            self._release()
        finally:
            self._latch.done()

    def hand_to(self, executor: Executor) -> Exception | None:
        """A pool that cannot start a thread raises, but keeps the work and may yet run it."""
        try:
            executor.submit(self.run)
        except Exception as error:
            self.drop()
            return error
        return None
