"""What a load does, it does in a thread of its own, within a time, and so many at once.

Python cannot end a thread. A load that is given up goes on until it looks at its progress; one that
hangs in a backend keeps its slot for as long as it hangs, so that never more threads hang than
there are slots, and whoever wants to load then is told so and not left waiting.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

from mlplatform_serving.errors import LoadFailed, Unavailable
from mlplatform_serving.models.progress import Progress

log = logging.getLogger("model_loader")

T = TypeVar("T")


class Slots:
    """How many loads run at once, and how long each may take. To be used on the event loop."""

    def __init__(self, number: int, timeout_seconds: float | None) -> None:
        self.timeout_seconds = timeout_seconds
        self._number = number
        self._taken = 0
        self._hung = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Wait for one. `Unavailable` if all are taken by loads that were given up and have not
        ended: nobody knows when they will."""
        self._check()
        if self._taken < self._number:
            self._taken += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.give()
            raise
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)

    def give(self) -> None:
        """Another may load."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._taken -= 1

    def hang(self) -> None:
        """A load was given up and has not ended: it keeps its slot."""
        self._hung += 1
        if self._hung == self._number:
            for turn in self._waiting:
                if not turn.done():
                    turn.set_exception(self._all_hang())

    def ended(self) -> None:
        """One that was given up has ended after all."""
        self._hung -= 1
        self.give()

    def _check(self) -> None:
        if self._hung == self._number:
            raise self._all_hang()

    def _all_hang(self) -> Unavailable:
        return Unavailable(
            f"{self._hung} loads hang, and no more than {self._number} may run "
            "(MAX_CONCURRENT_LOADS): the server must be started anew to load anything"
        )


class Job:
    """One load, with its slot: `async with Job(…) as job: await job.run(…)`."""

    def __init__(self, name: str, slots: Slots, progress: Progress) -> None:
        self.progress = progress
        self._name = name
        self._slots = slots
        self._loop = asyncio.get_running_loop()
        self._ends_at: float | None = None
        self._running = False
        self._left = False
        self._waiting: asyncio.Future[object] | None = None

    async def __aenter__(self) -> Self:
        await self._slots.take()
        if self._slots.timeout_seconds is not None:
            self._ends_at = self._loop.time() + self._slots.timeout_seconds
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._left = True
        if self._running:
            self._slots.hang()
        else:
            self._slots.give()

    def stop(self, reason: str) -> None:
        """Give it up: whoever waits is told so now, and the thread at its next byte."""
        self.progress.stop(reason)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(LoadFailed(reason))

    async def run(self, work: Callable[[], T], discard: Callable[[T], object]) -> T:
        """`work` in a thread. What it gives when nobody waits for it any more is discarded.
        `LoadFailed` if the time is over, or it was stopped."""
        self.progress.check()
        answer: asyncio.Future[T] = self._loop.create_future()
        self._waiting = answer  # type: ignore[assignment]
        self._running = True

        def ended(given: T | None, error: Exception | None) -> None:
            self._running = False
            if self._left:
                self._slots.ended()
                log.warning("a load that was given up has ended: %s", self._name)
            if answer.done():
                if error is None:
                    threading.Thread(target=discard, args=(given,), daemon=True).start()
            elif error is None:
                answer.set_result(given)  # type: ignore[arg-type]
            else:
                answer.set_exception(error)

        def call() -> None:
            given: T | None = None
            failed: Exception | None = None
            try:
                given = work()
            except BaseException as error:
                failed = _tellable(error)
            try:
                self._loop.call_soon_threadsafe(ended, given, failed)
            except RuntimeError:
                return  # the loop has ended

        # Not the loop's own pool: a process does not end before its threads have.
        threading.Thread(target=call, name=f"load-{self._name}", daemon=True).start()
        try:
            async with asyncio.timeout_at(self._ends_at):
                return await answer
        except TimeoutError:
            reason = (
                f"Model loading timeout after {self._slots.timeout_seconds:g} seconds "
                f"(MODEL_LOAD_TIMEOUT), while {self.progress.told()}"
            )
            self.progress.stop(reason)
            raise LoadFailed(reason) from None
        except asyncio.CancelledError:
            self.progress.stop("the server is stopping")
            raise


def _tellable(error: BaseException) -> Exception:
    """A backend that ends the interpreter ends its load; and no future takes a StopIteration."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    told = RuntimeError(f"{type(error).__name__}: {error}")
    told.__cause__ = error
    return told
