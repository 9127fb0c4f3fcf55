"""One executor thread a model version, and those who wait for it: inference never runs on the event
loop, which goes on answering health while a model computes.

Who waits, and which of them run next, is the batcher's to say; it is asked under a lock, by the
loop when a request comes, and by the executor when it has finished: no batch waits for the loop to
be woken, and nobody polls. All else happens on the loop, so that counts need no lock.

A thread cannot be killed. When a batch runs for longer than it may, its model is unwell: whoever is
in it or behind it is refused at once, and whoever comes. There is no second executor, for a backend
belongs to one thread, and the hung one may hold the device, a lock, or half the memory. The server
is not ready meanwhile, so that a balancer sends nobody else. If the batch ends after all, the model
is well again; if it does not, only a restart helps.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, cast

from mlplatform_serving.backends.port import Backend
from mlplatform_serving.batching.batcher import Batcher
from mlplatform_serving.batching.decide import (
    Admit,
    Dispatch,
    Refusal,
    Refuse,
    Rule,
    Shed,
    Wait,
)
from mlplatform_serving.batching.latency import LearnedLatency
from mlplatform_serving.batching.request import Request
from mlplatform_serving.errors import ClientGone, InferenceFailed, ServingError, Unavailable
from mlplatform_serving.models.batches import Batches, Tensors
from mlplatform_serving.models.statistics import Statistics
from mlplatform_serving.models.waking import Bell, Waker

log = logging.getLogger("batch_processor")

GONE = "mlplatform.gone"
"""In a request's scope: what is to be called when its client goes away before it is answered, and
says whether that is so.
Reading on until the connection ends, ASGI's way to notice that, takes a task for each request."""
PRIORITY = 5
"""Of a request that names none, on a scale where 1 goes first."""
PRIORITY_MAX = 9
"""Who names another names none, as Triton has it."""
REFUSED = b"x-mlplatform-refused"
"""The header that says why a request was refused, in one word."""


_SHORT_SECONDS = 0.001
"""A batch that takes no longer is begun on the loop's core: what another one's waking costs is much
of it."""
QUEUE_BYTES = 256 * 1024 * 1024
"""What the inputs of those who wait may take, of each model."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an operator sets for every model; its own configuration may state another cap."""

    batch_size_max: int = 32
    batch_size_enforced: bool = False
    """Whether a request with more items than a batch has is refused; else it runs alone."""
    window_seconds: float = 0.0
    """A fixed window: see `Rule`."""
    queue_requests: int = 256
    queue_bytes: int = QUEUE_BYTES
    answer_seconds: float = 60.0
    """When an answer must be there, where the request does not say."""
    batch_seconds_max: float = 60.0
    """A batch that runs for longer hangs."""


@dataclass(slots=True)
class Done:
    """An inference's outputs, and where its time went, in nanoseconds."""

    outputs: Tensors
    queue_ns: int
    compute_ns: int


Told = Callable[[Done | Exception], None]
"""What is to be called when an inference is over."""


@dataclass(slots=True, eq=False, kw_only=True)
class Work(Request):
    """An inference that waits or runs."""

    inputs: Tensors
    rows: int
    """How many rows of a batch's outputs are its; 0: it is alone."""
    told: Told
    at_once: Callable[[Done], None] | None = None
    gone: bool = False
    """Whether nobody waits for it any longer."""
    answered: bool = False
    """Whether the executor has answered it itself."""


@dataclass(slots=True)
class _Ran:
    """A batch that is over, and what became of it."""

    batch: Dispatch
    results: Sequence[Done] | Exception
    compute_ns: int


@dataclass(slots=True)
class _Refused:
    """Whom the executor refused."""

    requests: Sequence[Request]
    because: Refusal


class Instance:
    """A loaded model and the thread that runs it. To be made and used on the event loop."""

    def __init__(
        self,
        name: str,
        backend: Backend,
        limits: Limits,
        statistics: Statistics,
    ) -> None:
        """What it does is counted in `statistics`."""
        self.name = name
        self.backend = backend
        self.statistics = statistics
        self.pending = 0
        """Inferences that wait or run."""
        self.limits = limits
        self.hung = False
        """Whether a batch has run for longer than it may, and still does."""
        stated = backend.signature.batch_size_max
        self.batches = Batches(
            name,
            backend.signature,
            limits.batch_size_max if stated is None else stated,
            enforced=limits.batch_size_enforced or stated is not None,
        )
        cap = self.batches.cap
        self._rule = Rule(
            cap=cap,
            queue_requests=limits.queue_requests,
            queue_bytes=limits.queue_bytes,
            window_seconds=limits.window_seconds if cap > 1 else 0.0,
        )
        self._loop = asyncio.get_running_loop()
        self._ids = count()
        self._closing = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._given_up: Dispatch | None = None
        """The batch that hangs; who was in it has been told."""
        self._timer: asyncio.TimerHandle | None = None
        self._look_at = 0.0
        # Under the lock; the executor sleeps when nothing runs.
        self._lock = threading.Lock()
        self._batcher = Batcher(self._rule, LearnedLatency(cap))
        self._began = 0.0
        self._asleep = False
        self._stopping = False
        # From the executor to the loop.
        self._done: deque[_Ran | _Refused] = deque()
        self._told = False
        self._answers = 0
        self._answers_told = 0
        """How many answers have gone out from the executor, and of how many the loop knows."""
        self._bell = Bell()
        self._ring_near = partial(self._bell.ring, near=True)
        self._waker = Waker(self._loop, self._collect)
        # A model that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=f"executor-{name}", daemon=True)
        self._thread.start()

    async def infer(
        self,
        inputs: Tensors,
        *,
        deadline: float | None = None,
        priority: int = PRIORITY,
        scope: MutableMapping[str, Any] | None = None,
    ) -> Done:
        """`submit`, and wait. In the request's ASGI scope it leaves what is to be called when the
        client goes away; that ends in `ClientGone`."""
        answer: asyncio.Future[Done] = self._loop.create_future()

        def told(result: Done | Exception) -> None:
            if answer.done():
                return
            if isinstance(result, Done):
                answer.set_result(result)
            else:
                answer.set_exception(result)

        work = self.submit(inputs, told, deadline=deadline, priority=priority)
        if scope is not None:
            scope[GONE] = answer.cancel
        try:
            return await answer
        except asyncio.CancelledError:
            self.forget(work)
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                raise ClientGone from None
            raise
        finally:
            if scope is not None:
                # A connection keeps the scope of its last request, and this the outputs.
                scope.pop(GONE, None)

    def submit(
        self,
        inputs: Tensors,
        told: Told,
        *,
        at_once: Callable[[Done], None] | None = None,
        deadline: float | None = None,
        priority: int = PRIORITY,
    ) -> Work:
        """Have it run, in the batch that it fits; `told` is called on the loop, later, with what
        became of it. Where it runs alone and nobody waits, `at_once` is called before that, in the
        executor's thread: to wake the loop takes longer than many an inference. By the deadline, on
        the clock of `time.perf_counter`, the answer must be there; of two priorities the lower goes
        first.

        `Unavailable` when it cannot be answered in time, too many wait, the model hangs or is being
        unloaded, now or later; `BadRequest` when it brings too much; `InferenceFailed` if the model
        fails."""
        if self._closing:
            raise Unavailable(f"model {self.name} is being unloaded")
        if self.hung:
            raise self._hangs()
        key, size, rows = self.batches.place(inputs)
        now = time.perf_counter()
        work = Work(
            next(self._ids),
            key,
            now,
            now + self.limits.answer_seconds if deadline is None else deadline,
            size,
            priority,
            sum([each.nbytes for each in inputs.values()]),
            inputs=inputs,
            rows=rows,
            told=told,
            at_once=at_once,
        )
        look_at = now + self.limits.batch_seconds_max
        with self._lock:
            answer = self._batcher.offer(work, now)
            if isinstance(answer, Dispatch):
                self._began = now
            else:
                hopeless_at = work.deadline - self._batcher.latency.seconds(size, key)
                look_at = min(look_at, hopeless_at)
            wakes = self._asleep and not isinstance(answer, Refuse)
            if wakes:
                self._asleep = False
        if isinstance(answer, Refuse):
            raise self._refusal(answer.because)
        self.pending += 1
        if wakes:
            # After all who have come with it: they may run together, and what is woken sooner takes
            # the interpreter from those who are still being read.
            near = isinstance(answer, Dispatch) and _is_short(answer)
            self._loop.call_soon(self._ring_near if near else self._bell.ring)
        if self._timer is None or look_at < self._look_at:
            self._look_when(look_at)
        if isinstance(answer, Admit) and answer.displaced:
            self._refuse(answer.displaced, Refusal.DISPLACED)
        return work

    def forget(self, work: Work) -> bool:
        """Nobody waits for it any longer. Once it runs it runs to the end: others may be in its
        batch. False where it has been answered already, of which the loop is still to be told."""
        with self._lock:
            if work.answered:
                return False
            work.gone = True
            try:
                self._batcher.forget(work)
            except KeyError:
                return True
        self.statistics.gone += 1
        self.pending -= 1
        if not self.pending and self._closing:
            self._idle.set()
        return True

    async def settled(self) -> None:
        """Until all that has been answered is counted: who has its answer finds it there."""
        while self._answers != self._answers_told:
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Take no more, finish what waits, end the thread and give the model's memory back. Of a
        model that hangs, the thread does that itself should it ever come back."""
        self._closing = True
        while self.pending:
            self._idle.clear()
            await self._idle.wait()
        with self._lock:
            self._stopping = True
            self._asleep = False
        self._bell.ring()
        if self._timer is not None:
            self._timer.cancel()
        if self.hung:
            log.error("model %s hangs and keeps its memory", self.name, extra={"model": self.name})
            return
        await asyncio.to_thread(self._thread.join)
        self._waker.close()
        self._bell.close()

    # --- in the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        batch = self._next([])
        while batch is not None:
            if not _is_short(batch):
                self._bell.go_anywhere()
            began = self._began = time.perf_counter()
            over = [self._computed(batch, began)]
            seconds = time.perf_counter() - began
            # A failure is no news of how long batches take, nor is one too large to be one.
            learned = isinstance(over[0].results, list) and not self._oversized(batch)
            self._answer_at_once(over[0])
            batch = None  # nothing is held while the next one is waited for, neither here nor there
            batch = self._next(over, seconds if learned else None)
        try:
            self.backend.close()
        except Exception as error:
            log.error("closing failed", exc_info=error, extra={"model": self.name})

    def _next(self, over: list[_Ran], seconds: float | None = None) -> Dispatch | None:
        """What to run, once there is something; None at the end. The batch that is over, which is
        taken from the list, took so long.

        The loop is told of it when the next one is known: by then it wakes to an interpreter that
        nobody holds, which is worth more than what deciding takes."""
        while True:
            now = time.perf_counter()
            with self._lock:
                self._asleep = False
                if over:
                    self._batcher.finished(seconds)
                step: Dispatch | Wait | Shed | None = None
                if not self._stopping:
                    step = self._batcher.running or self._batcher.next(now)
                    self._asleep = isinstance(step, Wait)
            if over:
                self._tell(over.pop())
            if isinstance(step, Wait):
                self._bell.wait(None if step.until is None else step.until - now)
            elif isinstance(step, Shed):
                self._tell(_Refused(step.requests, step.because))
            else:
                return step

    def _computed(self, batch: Dispatch, began: float) -> _Ran:
        works = cast("Sequence[Work]", batch.batch)
        compute_ns = 0
        results: list[Done] | Exception
        try:
            inputs = self.batches.joined([work.inputs for work in works])
            computing = time.perf_counter_ns()
            outputs = self.backend.infer(inputs)
            compute_ns = time.perf_counter_ns() - computing
            parts = self.batches.parted(outputs, [work.rows for work in works])
            results = [
                Done(part, int((began - work.arrival) * 1e9), compute_ns)
                for work, part in zip(works, parts, strict=True)
            ]
        except BaseException as error:  # the thread outlives whatever a backend raises
            results = self._failed(error)
        return _Ran(batch, results, compute_ns)

    def _answer_at_once(self, ran: _Ran) -> None:
        """Only who came alone: what is answered here keeps those who wait from the model."""
        work = cast("Work", ran.batch.batch[0])
        if work.at_once is None or len(ran.batch.batch) > 1 or isinstance(ran.results, Exception):
            return
        with self._lock:
            if work.gone or self._given_up is ran.batch or self._batcher.backlog.items:
                return
            work.answered = True
            self._answers += 1
        try:
            work.at_once(ran.results[0])
        except Exception as error:
            log.error("an answer failed", exc_info=error, extra={"model": self.name})

    def _oversized(self, batch: Dispatch) -> bool:
        return self.batches.mixes and not cast("Work", batch.batch[0]).rows

    def _failed(self, error: BaseException) -> Exception:
        if isinstance(error, ServingError):
            return error.with_traceback(None)  # which would hold the batch
        log.error("Prediction failed: %s", error, exc_info=error, extra={"model": self.name})
        return InferenceFailed(f"model {self.name} failed")

    def _tell(self, news: _Ran | _Refused) -> None:
        """Waking the loop costs more than a small inference does: it is woken once for all that is
        done by then. What is appended after the flag is down wakes it anew."""
        self._done.append(news)
        if not self._told:
            self._told = True
            self._waker.wake()

    # --- on the loop -----------------------------------------------------------------------------

    def _collect(self) -> None:
        self._told = False
        while self._done:
            news = self._done.popleft()
            if isinstance(news, _Ran):
                self._ran(news)
            else:
                self._refuse(news.requests, news.because)

    def _ran(self, ran: _Ran) -> None:
        works = cast("Sequence[Work]", ran.batch.batch)
        self._answers_told += works[0].answered
        size = sum([work.rows or 1 for work in works])
        if isinstance(ran.results, Exception):
            self.statistics.failed_batch(ran.batch.because, size)
        else:
            self.statistics.ran_batch(ran.batch.because, size, ran.compute_ns)
        if ran.batch is self._given_up:
            self._given_up, self.hung = None, False
            log.warning("model %s hung, and goes on", self.name, extra={"model": self.name})
            return
        for place, work in enumerate(works):
            results = ran.results
            self._answered(work, results if isinstance(results, Exception) else results[place])

    def _answered(self, work: Work, answer: Done | Exception) -> None:
        self.pending -= 1
        if not self.pending and self._closing:
            self._idle.set()
        if not work.gone:
            work.told(answer)

    def _refuse(self, requests: Sequence[Request], because: Refusal) -> None:
        for work in cast("Sequence[Work]", requests):
            self._answered(work, self._refusal(because))

    def _refusal(self, because: Refusal) -> Exception:
        """In Triton's words, as far as it has any; counted."""
        self.statistics.refused(because)
        name = self.name
        if because in {Refusal.QUEUE_REQUESTS, Refusal.QUEUE_BYTES, Refusal.DISPLACED}:
            said = f"Exceeds maximum queue size: model {name} has no room for more"
            if because is Refusal.DISPLACED:
                said += ", and a request of a higher priority came"
        elif because is Refusal.EXPIRED:
            said = f"Request timeout expired before model {name} could be asked"
        else:
            said = (
                f"Request timeout expired: model {name} could not answer in the time it was given"
            )
        return Unavailable(said, headers=((REFUSED, because.encode()),))

    # --- the watch -------------------------------------------------------------------------------

    def _look_when(self, at: float) -> None:
        """One timer for all who wait: at the first instant when somebody may have become hopeless
        while a batch runs, or the batch may hang."""
        if self._timer is not None:
            self._timer.cancel()
        self._look_at = at
        self._timer = self._loop.call_later(max(0.0, at - time.perf_counter()), self._look)

    def _look(self) -> None:
        self._timer = None
        now = time.perf_counter()
        shed: list[Shed] = []
        until: float | None = None
        with self._lock:
            running, hangs_at = self._batcher.running, self._began + self.limits.batch_seconds_max
            while running is not None:
                step = self._batcher.next(now)
                if isinstance(step, Shed):
                    shed.append(step)
                    continue
                until = cast("Wait", step).until
                break
        for step in shed:
            self._refuse(step.requests, step.because)
        if running is None:
            hangs_at = now + self.limits.batch_seconds_max
        elif now >= hangs_at:
            if self._hang(running):
                return
            hangs_at = now + self.limits.batch_seconds_max
        if self.pending:
            self._look_when(hangs_at if until is None else min(hangs_at, until))

    def _hang(self, running: Dispatch) -> bool:
        """Whether it does, and is not over this moment."""
        with self._lock:
            if cast("Work", running.batch[0]).answered:
                return False
            self.hung, self._given_up = True, running
            waiting = self._batcher.clear()
        log.error(
            "model %s hangs: a batch has run for more than %g s; %d in it and %d behind it are "
            "refused, and whoever comes; only a restart helps, if it does not end",
            self.name,
            self.limits.batch_seconds_max,
            len(running.batch),
            len(waiting),
            extra={"model": self.name},
        )
        for request in (*running.batch, *waiting):
            self._answered(cast("Work", request), self._hangs())
        return True

    def _hangs(self) -> Unavailable:
        self.statistics.refused("hung")
        return Unavailable(
            f"model {self.name} hangs; another server may answer", headers=((REFUSED, b"hung"),)
        )


def _is_short(batch: Dispatch) -> bool:
    """Whether it is known to take so little that the waking of a core would be much of it."""
    return 0 < batch.seconds < _SHORT_SECONDS
