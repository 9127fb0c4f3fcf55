"""Batching rules in virtual time: one ideal executor, seeded arrivals, no clock and no thread.

Each rule is told who comes and when the executor frees, and says which requests run. The others'
rules are written anew from their sources, each at its kindest: no poll, no HTTP, and the parameter
that suits it best where it has one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from random import Random
from typing import Protocol

from mlplatform_serving.batching.batcher import Batcher
from mlplatform_serving.batching.decide import Dispatch, Rule, Shed
from mlplatform_serving.batching.latency import LearnedLatency
from mlplatform_serving.batching.request import Key, Request

KEY = Key("model", "1")
WARM_UP = 0.1
"""The share of a run that counts for nothing: rules learn in it."""


@dataclass(frozen=True, slots=True)
class Profile:
    """`fixed + each × items`, and what the clients allow, by turns. Seconds."""

    name: str
    fixed: float
    each: float
    deadlines: tuple[float, ...]
    cap: int = 32
    jitter: float = 0.03

    def seconds(self, size: int) -> float:
        return self.fixed + self.each * size

    @property
    def capacity(self) -> float:
        """Items a second in full batches."""
        return self.cap / self.seconds(self.cap)


class Policy(Protocol):
    """A batching rule. Who is not in a batch by the end was refused."""

    def arrive(self, request: Request, now: float) -> None:
        """A request comes."""

    def pick(self, now: float) -> Sequence[Request] | float | None:
        """The executor is free: a batch; or the instant to ask again; or None, until one comes."""

    def finished(self, batch: Sequence[Request], began: float, seconds: float) -> None:
        """What it picked took so long."""


class Ours:
    """This package."""

    def __init__(self, profile: Profile, rule: Rule | None = None) -> None:
        self.batcher = Batcher(rule or Rule(cap=profile.cap), LearnedLatency(profile.cap))

    def arrive(self, request: Request, now: float) -> None:
        self.batcher.arrive(request, now)

    def pick(self, now: float) -> Sequence[Request] | float | None:
        while isinstance(answer := self.batcher.next(now), Shed):
            pass
        return answer.batch if isinstance(answer, Dispatch) else answer.until

    def finished(self, batch: Sequence[Request], began: float, seconds: float) -> None:
        self.batcher.finished(seconds)


class Cork:
    """BentoML 1.4, `_internal/marshal/dispatcher.py`: least squares over the last 50 batches, at
    most every 5 s; the head is cancelled when waiting and running the whole queue would take it to
    `max_latency`; a cork while `n (wn + 1 ms + a) <= 0.95 × mean wait`. It knows one latency for
    all requests. Its poll of 1 ms is kept only as the term in that formula."""

    def __init__(self, profile: Profile, latency_seconds: float) -> None:
        self._profile = profile
        self._latency = latency_seconds
        self._queue: deque[Request] = deque()
        self._ran: deque[tuple[int, float, float]] = deque(maxlen=50)
        self._a = min(2.0, latency_seconds * 2 / 30)
        self._b = min(1.0, latency_seconds / 30)
        self._wait = 0.0
        self._fitted_at = -5.0

    def arrive(self, request: Request, now: float) -> None:
        self._queue.append(request)

    def pick(self, now: float) -> Sequence[Request] | float | None:
        queue = self._queue
        while len(queue) > 1:
            waited = now - queue[0].arrival
            if waited + self._a * len(queue) + self._b < self._latency:
                break
            queue.popleft()
        if not queue:
            return None
        n = len(queue)
        newest = now - queue[-1].arrival
        if n < self._profile.cap:
            over = self._wait * 0.95 / n - 0.001 - self._a - newest
            if over > 1e-9:
                return now + over
        return [queue.popleft() for _ in range(min(n, self._profile.cap))]

    def finished(self, batch: Sequence[Request], began: float, seconds: float) -> None:
        self._ran.append((len(batch), seconds, began - batch[0].arrival))
        if len(self._ran) > 8 and began - self._fitted_at < 5:
            return
        self._fitted_at = began
        count = len(self._ran)
        mean_n = sum(n for n, _, _ in self._ran) / count
        mean_seconds = sum(took for _, took, _ in self._ran) / count
        spread = sum((n - mean_n) ** 2 for n, _, _ in self._ran)
        if spread:
            slope = sum((n - mean_n) * (took - mean_seconds) for n, took, _ in self._ran) / spread
        else:
            slope = mean_seconds * mean_n / (mean_n**2 + 1)  # the least norm, as lstsq answers
        self._a = max(1e-6, slope)
        self._b = max(0.0, mean_seconds - slope * mean_n)
        self._wait = max(0.0, sum(wait for _, _, wait in self._ran) / count)


class Greedy:
    """Triton, `dynamic_batch_scheduler.cc`: first in, first out; when an instance frees, what is
    queued up to the cap. With a queue time-out (`timeout_action: REJECT`,
    `allow_timeout_override`), whoever has waited longer than its deadline less `reserve` is refused
    when the batch is formed."""

    def __init__(self, profile: Profile, reserve_seconds: float | None = None) -> None:
        self._cap = profile.cap
        self._reserve = reserve_seconds
        self._queue: deque[Request] = deque()

    def arrive(self, request: Request, now: float) -> None:
        self._queue.append(request)

    def pick(self, now: float) -> Sequence[Request] | float | None:
        queue = self._queue
        batch: list[Request] = []
        while queue and len(batch) < self._cap:
            request = queue.popleft()
            if self._reserve is None or now <= request.deadline - self._reserve:
                batch.append(request)
        return batch or None

    def finished(self, batch: Sequence[Request], began: float, seconds: float) -> None:
        pass


class Window:
    """A fixed window: a batch leaves when it is full, or its oldest request is so old."""

    def __init__(self, profile: Profile, window_seconds: float) -> None:
        self._cap = profile.cap
        self._window = window_seconds
        self._queue: deque[Request] = deque()

    def arrive(self, request: Request, now: float) -> None:
        self._queue.append(request)

    def pick(self, now: float) -> Sequence[Request] | float | None:
        queue = self._queue
        if not queue:
            return None
        until = queue[0].arrival + self._window
        if len(queue) < self._cap and now < until:
            return until
        return [queue.popleft() for _ in range(min(len(queue), self._cap))]

    def finished(self, batch: Sequence[Request], began: float, seconds: float) -> None:
        pass


class NaiveEdf:
    """Earliest deadline first, the batch cut to what its head can bear (Clockwork, without its
    admission): who is over its deadline is dropped, and nobody else."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._queue: list[tuple[float, int, Request]] = []

    def arrive(self, request: Request, now: float) -> None:
        heappush(self._queue, (request.deadline, request.id, request))

    def pick(self, now: float) -> Sequence[Request] | float | None:
        queue = self._queue
        profile = self._profile
        while queue and queue[0][0] <= now + profile.seconds(1):
            heappop(queue)
        if not queue:
            return None
        slack = queue[0][0] - now
        size = min(profile.cap, max(1, int((slack - profile.fixed) / profile.each)))
        return [heappop(queue)[2] for _ in range(min(size, len(queue)))]

    def finished(self, batch: Sequence[Request], began: float, seconds: float) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the requests of a run."""

    requests: int
    in_time: int
    late: int
    answers: int
    """In time, and while requests came: what was still to be done at the end flatters nobody."""
    seconds: float

    @property
    def share(self) -> float:
        return self.in_time / self.requests

    @property
    def goodput(self) -> float:
        """Answers in time, a second."""
        return self.answers / self.seconds


class Arrivals(Protocol):
    """Who comes when."""

    def __call__(
        self, profile: Profile, rate: float, seconds: float, random: Random
    ) -> list[Request]:
        """So many a second, for so long; deadlines drawn alike from the profile's."""


def poisson(profile: Profile, rate: float, seconds: float, random: Random) -> list[Request]:
    """Each comes whenever it likes."""
    return _arrivals(profile, lambda now: rate, seconds, random)


def bursts(profile: Profile, rate: float, seconds: float, random: Random) -> list[Request]:
    """The same rate on the whole: in a fifth of each second twice of it, else three quarters."""
    return _arrivals(profile, lambda now: rate * (2 if now % 1 < 0.2 else 0.75), seconds, random)


def _arrivals(
    profile: Profile, rate: Callable[[float], float], seconds: float, random: Random
) -> list[Request]:
    requests: list[Request] = []
    now = 0.0
    while (now := now + random.expovariate(rate(now))) < seconds:
        allowed = random.choice(profile.deadlines)
        requests.append(Request(len(requests), KEY, now, now + allowed))
    return requests


def run(
    profile: Profile,
    policy: Policy,
    requests: Sequence[Request],
    random: Random,
    speed: Callable[[float], float] = lambda now: 1.0,
) -> Outcome:
    """All requests through one executor; `speed` is by how much it is slower at an instant."""
    counted_from = requests[-1].arrival * WARM_UP
    counted_to = requests[-1].arrival
    in_time = late = answers = 0
    free_at = 0.0
    running: tuple[Sequence[Request], float, float] | None = None
    wake: float | None = None
    place = 0
    count = len(requests)
    while True:
        arrival = requests[place].arrival if place < count else None
        if running is not None:
            if arrival is not None and arrival <= free_at:
                policy.arrive(requests[place], arrival)
                place += 1
                continue
            now = free_at
            batch, began, seconds = running
            running = None
            policy.finished(batch, began, seconds)
            made_it = [request for request in batch if request.deadline >= now]
            answers += len(made_it) if counted_from <= now < counted_to else 0
            counted = sum(request.arrival >= counted_from for request in batch)
            counted_in_time = sum(request.arrival >= counted_from for request in made_it)
            in_time += counted_in_time
            late += counted - counted_in_time
        elif arrival is not None and (wake is None or arrival <= wake):
            now = arrival
            policy.arrive(requests[place], now)
            place += 1
        elif wake is not None:
            now = wake
        else:
            break
        wake = None
        picked = policy.pick(now)
        if isinstance(picked, float):
            wake = max(picked, now)
        elif picked:
            jitter = max(0.5, random.gauss(1.0, profile.jitter))
            size = sum(request.size for request in picked)
            seconds = profile.seconds(size) * jitter * speed(now)
            running = picked, now, seconds
            free_at = now + seconds
    came = sum(request.arrival >= counted_from for request in requests)
    return Outcome(came, in_time, late, answers, counted_to - counted_from)
