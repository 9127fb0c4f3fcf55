"""One executor thread a model version, and a queue before it: inference never runs on the event
loop, which goes on answering health while a model computes.

All but the thread's own work happens on the loop, so that counts need no lock.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from queue import SimpleQueue

from mlplatform_serving.backends.port import Backend
from mlplatform_serving.errors import InferenceFailed, ServingError, Unavailable
from mlplatform_serving.models.waking import open_waker
from mlplatform_serving.protocol.datatypes import DTYPES
from mlplatform_serving.protocol.tensors import Array

log = logging.getLogger("batch_processor")


@dataclass(slots=True)
class Done:
    """An inference's outputs, and where its time went, in nanoseconds."""

    outputs: Mapping[str, Array]
    queue_ns: int
    compute_ns: int


@dataclass(slots=True)
class _Work:
    inputs: Mapping[str, Array]
    answer: asyncio.Future[Done]
    queued_ns: int


class Instance:
    """A loaded model and the thread that runs it. To be made and used on the event loop."""

    def __init__(self, name: str, backend: Backend, *, queue_size: int) -> None:
        """`name` is for logs; at most `queue_size` inferences wait or run."""
        self.name = name
        self.backend = backend
        self.pending = 0
        self._queue_size = queue_size
        self._outputs = [(spec, DTYPES[spec.datatype]) for spec in backend.signature.outputs]
        self._loop = asyncio.get_running_loop()
        self._work: SimpleQueue[_Work | None] = SimpleQueue()
        self._done: deque[tuple[_Work, Done | Exception | None]] = deque()
        self._told = False
        self._waker = open_waker(self._loop, self._collect)
        self._stopping = False
        self._idle = asyncio.Event()
        self._idle.set()
        # A model that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=f"executor-{name}", daemon=True)
        self._thread.start()

    async def infer(self, inputs: Mapping[str, Array]) -> Done:
        """Run it when its turn comes. `Unavailable` at once if too many wait, or it is being
        unloaded; `InferenceFailed` if the model fails."""
        if self._stopping:
            raise Unavailable(f"model {self.name} is being unloaded")
        if self.pending >= self._queue_size:
            raise Unavailable(f"model {self.name}: the queue is full, {self._queue_size} are in it")
        work = _Work(inputs, self._loop.create_future(), time.perf_counter_ns())
        self.pending += 1
        self._idle.clear()
        self._work.put(work)
        return await work.answer

    async def close(self) -> None:
        """Take no more, finish what waits, end the thread and give the model's memory back."""
        self._stopping = True
        await self._idle.wait()
        self._work.put(None)
        await asyncio.to_thread(self._thread.join)
        self._waker.close()
        self.backend.close()

    # --- in the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            answer: Done | Exception | None = None
            if not work.answer.cancelled():
                began = time.perf_counter_ns()
                try:
                    outputs = self.backend.infer(work.inputs)
                    self._check(outputs)
                    ended = time.perf_counter_ns()
                    answer = Done(outputs, began - work.queued_ns, ended - began)
                except Exception as error:
                    answer = self._failed(error)
            self._done.append((work, answer))
            if not self._told:
                self._told = True
                try:
                    self._waker.wake()
                except RuntimeError:
                    return  # the loop has ended, and with it whoever waited
            del work, answer

    def _check(self, outputs: Mapping[str, Array]) -> None:
        """A model that breaks its own word must not pass for one that answers."""
        for spec, dtype in self._outputs:
            array = outputs[spec.name]
            if array.dtype != dtype or not spec.admits(array.shape):
                raise TypeError(
                    f"output {spec.name} is {array.dtype} of shape {array.shape}, "
                    f"and not {spec.datatype} of {spec.shape}"
                )

    def _failed(self, error: Exception) -> Exception:
        if isinstance(error, ServingError):
            return error
        log.error("Prediction failed: %s", error, exc_info=error, extra={"model": self.name})
        return InferenceFailed(f"model {self.name} failed")

    # --- on the loop -----------------------------------------------------------------------------

    def _collect(self) -> None:
        """Waking the loop costs more than a small inference does: it is woken once for all that is
        done by then. What is appended after the flag is down wakes it anew."""
        self._told = False
        while self._done:
            self._ended(*self._done.popleft())

    def _ended(self, work: _Work, answer: Done | Exception | None) -> None:
        self.pending -= 1
        if not self.pending:
            self._idle.set()
        if answer is None or work.answer.done():
            return  # the client has gone
        if isinstance(answer, Done):
            work.answer.set_result(answer)
        else:
            work.answer.set_exception(answer)
