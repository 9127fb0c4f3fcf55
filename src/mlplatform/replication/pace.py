"""How fast a target may be written, and which one is too slow to share a read with."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

CONCURRENCY_MAX = 64
RAISE_AFTER = 32
"""Sends without a complaint after which one more may run at once."""


class Pace:
    """How many sends may run at once: halved on `Throttled`, raised again slowly (AIMD)."""

    def __init__(self, limit: int = CONCURRENCY_MAX) -> None:
        self.limit = limit
        self._running = 0
        self._calm = 0
        self._sent_bytes = 0
        self._since: float | None = None
        self._changed = threading.Condition()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn, and hold it."""
        with self._changed:
            self._changed.wait_for(lambda: self._running < self.limit)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify()

    def throttled(self) -> None:
        """The store asked to slow down."""
        with self._changed:
            self.limit = max(1, min(self.limit, max(self._running, 1)) // 2)
            self._calm = 0

    def sent(self, size_bytes: int, now: float) -> None:
        """A send went through, at `now` on the monotonic clock."""
        with self._changed:
            if self._since is None:
                self._since = now
            self._sent_bytes += size_bytes
            self._calm += 1
            if self._calm >= RAISE_AFTER and self.limit < CONCURRENCY_MAX:
                self._calm = 0
                self.limit += 1
                self._changed.notify()

    def rate_bytes_per_second(self, now: float) -> float:
        """Since the first send; 0 before it."""
        with self._changed:
            if self._since is None or now <= self._since:
                return 0.0
            return self._sent_bytes / (now - self._since)


@dataclass(frozen=True, slots=True)
class Pacing:
    """One target of a shared read, when the budget is full."""

    region: str
    queued_bytes: int
    rate_bytes_per_second: float


def laggard(
    targets: Sequence[Pacing], *, budget_bytes: int, ratio: float = 0.5, share: float = 0.5
) -> str | None:
    """The target that should leave the shared read, or None.

    Leaving costs a second read of the source, so it takes all three: it holds more than `share`
    of the budget, some other target has next to nothing left to send, and its rate is below
    `ratio` of that one's. A target that is merely a little slower sets the pace instead.
    """
    for slow in sorted(targets, key=lambda target: target.queued_bytes, reverse=True):
        for fast in targets:
            if (
                fast.region != slow.region
                and slow.queued_bytes > share * budget_bytes
                and fast.queued_bytes < 0.1 * budget_bytes
                and slow.rate_bytes_per_second < ratio * fast.rate_bytes_per_second
            ):
                return slow.region
    return None
