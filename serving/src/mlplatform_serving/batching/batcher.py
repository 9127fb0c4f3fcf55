"""The batching of one executor as a machine without a clock, a thread or a socket: it is told what
happened and when, and says what is to be done.

    arrive   → admitted, or refused
    next     → a batch to run, requests to refuse, or a wait
    offer    → arrive and next in one step where nobody waits and nothing runs
    finished → what ran teaches the latency model
    forget   → a client went away
    clear    → nobody waits any more

After `arrive` with a free executor, after `finished`, and at the instant that a `Wait` names: call
`next` until it says `Wait` or `Dispatch`.
"""

from __future__ import annotations

from collections import Counter
from math import inf

from mlplatform_serving.batching.backlog import Backlog
from mlplatform_serving.batching.decide import (
    Admit,
    Because,
    Dispatch,
    Refusal,
    Refuse,
    Rule,
    Shed,
    Wait,
    admit,
    decide,
)
from mlplatform_serving.batching.latency import Learner
from mlplatform_serving.batching.request import Request

SHORT_SECONDS = 0.001
"""Learning takes 16 µs of the executor's time: too much after a batch that was over so soon."""
SELDOM = 8
"""Of those, one in so many is learned from, once so many were."""


_ADMITTED = Admit()


class Batcher:
    """Who waits for one executor, what runs on it, and why."""

    def __init__(self, rule: Rule, latency: Learner) -> None:
        self.rule = rule
        self.latency = latency
        self.backlog = Backlog()
        self.running: Dispatch | None = None
        self.dispatched: Counter[Because] = Counter()
        self.refused: Counter[Refusal] = Counter()
        self.sizes: Counter[int] = Counter()
        """Batches by their items."""
        self._busy_until = 0.0
        self._short = 0
        self._size = 0

    @property
    def busy_until(self) -> float | None:
        """When the running batch is over, by the model; None: nothing runs."""
        return None if self.running is None else self._busy_until

    def arrive(self, request: Request, now: float) -> Admit | Refuse:
        """A request comes. Those displaced wait no longer and are to be refused."""
        answer = admit(request, self.backlog, now, self.latency, self.rule, self.busy_until)
        if isinstance(answer, Admit):
            if answer.displaced:
                self._refuse(answer.displaced, Refusal.DISPLACED)
            self.backlog.add(request)
        else:
            self.refused[answer.because] += 1
            if answer.because is Refusal.PREDICTED_LATE and self.running is None:
                self.backlog.refused_in_a_row += 1
        return answer

    def offer(self, request: Request, now: float) -> Dispatch | Admit | Refuse:
        """A request comes. Where it meets nobody and nothing, it runs at once: what `arrive` and
        `next` would say, at a quarter of their price."""
        if self.running is not None:
            return self._beside(request, now) or self.arrive(request, now)
        if self.backlog.items or self.rule.window_seconds > 0:
            return self.arrive(request, now)
        seconds = self.latency.seconds(request.size, request.key)
        left = request.deadline - now
        late = left <= 0 or left < seconds or request.deadline < now + seconds
        if late or request.size > self.rule.cap:
            return self.arrive(request, now)
        full = request.size == self.rule.cap
        answer = Dispatch((request,), Because.FULL if full else Because.ALL, seconds)
        self._start(answer, now)
        return answer

    def _beside(self, request: Request, now: float) -> Admit | None:
        """Whether a request that comes while a batch runs may wait, where that is beyond doubt:
        there is room, whoever waits could be mixed with it, and it has time for a batch more than
        there could be."""
        backlog, rule, size = self.backlog, self.rule, request.size
        waiting = backlog.items
        if waiting and backlog.only_lane(request) is None:
            return None
        batches = waiting // rule.cap + 2
        full_seconds = self.latency.seconds(rule.cap, request.key)
        finish = max(now, self._busy_until) + batches * full_seconds
        if (
            not 0 < size <= rule.cap
            or not now < request.deadline < inf
            or finish > request.deadline
        ):
            return None
        if len(backlog) >= rule.queue_requests or backlog.bytes + request.bytes > rule.queue_bytes:
            return None
        backlog.add(request)
        return _ADMITTED

    def next(self, now: float) -> Dispatch | Wait | Shed:
        """What is to be done. Whoever is dispatched or shed waits no longer; a batch runs now."""
        answer = decide(self.backlog, now, self.latency, self.rule, self.busy_until)
        if isinstance(answer, Shed):
            self._refuse(answer.requests, answer.because)
        elif isinstance(answer, Dispatch):
            self.backlog.dispatched(answer.batch)
            self._start(answer, now)
        return answer

    def _start(self, batch: Dispatch, now: float) -> None:
        self.backlog.refused_in_a_row = 0
        self.running = batch
        self._busy_until = now + batch.seconds
        self.dispatched[batch.because] += 1
        self._size = batch.size
        self.sizes[self._size] += 1

    def finished(self, seconds: float | None) -> None:
        """The running batch is over and took so long; None: it failed, and says nothing about how
        long one takes."""
        running = self.running
        if running is None:
            raise RuntimeError("nothing runs")
        self.running = None
        if seconds is not None and seconds < SHORT_SECONDS:
            self._short += 1
            if self._short > SELDOM and self._short % SELDOM:
                return
        if seconds is not None:
            self.latency.observe(self._size, running.batch[0].key, seconds)

    def forget(self, request: Request) -> None:
        """Its client went away while it waited. `KeyError`: it does not wait."""
        self.backlog.remove((request,))

    def clear(self) -> tuple[Request, ...]:
        """Nobody waits any more; who did."""
        waiting = tuple(self.backlog)
        self.backlog.remove_all()
        return waiting

    def _refuse(self, requests: tuple[Request, ...], because: Refusal) -> None:
        self.backlog.remove(requests)
        self.refused[because] += len(requests)
        if because is Refusal.HOPELESS and self.running is None:
            self.backlog.refused_in_a_row += len(requests)
