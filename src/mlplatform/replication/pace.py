"""How fast a target may be written, and which one is too slow to share a read with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

CONCURRENCY_MAX = 64
RAISE_AFTER = 32
"""Sends without a complaint after which one more may run at once."""
HALVE_EVERY_SECONDS = 1.0
"""Requests that were under way together are turned away together: that is one complaint."""


class Pace:
    """How many sends may run at once: halved on `Throttled`, raised again slowly (AIMD); and how
    fast they go. `now` is a monotonic clock."""

    def __init__(self, now: Callable[[], float], limit: int = CONCURRENCY_MAX) -> None:
        self.limit = limit
        self._now = now
        self._running = 0
        self._running_bytes = 0
        self._calm = 0
        self._halved_at: float | None = None
        self._sent_bytes = 0
        self._busy_seconds = 0.0
        self._busy_since = 0.0
        self._changed = threading.Condition()

    @contextmanager
    def turn(self, size_bytes: int = 0) -> Iterator[None]:
        """Wait for a turn, and hold it for a send of `size_bytes`."""
        with self._changed:
            self._changed.wait_for(lambda: self._running < self.limit)
            if not self._running:
                self._busy_since = self._now()
            self._running += 1
            self._running_bytes += size_bytes
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._running_bytes -= size_bytes
                if not self._running:
                    self._busy_seconds += self._now() - self._busy_since
                self._changed.notify()

    def throttled(self) -> None:
        """The store asked to slow down."""
        with self._changed:
            now = self._now()
            self._calm = 0
            if self._halved_at is None or now - self._halved_at >= HALVE_EVERY_SECONDS:
                self._halved_at = now
                # What ran is what was too much; a listing may be turned away while nothing does.
                self.limit = max(1, min(self.limit, self._running or self.limit) // 2)

    def sent(self, size_bytes: int) -> None:
        """A send went through."""
        with self._changed:
            self._sent_bytes += size_bytes
            self._calm += 1
            if self._calm >= RAISE_AFTER and self.limit < CONCURRENCY_MAX:
                self._calm = 0
                self.limit += 1
                self._changed.notify()

    def rate_bytes_per_second(self) -> float | None:
        """At most this fast: while it had something to send, counting what is under way as sent.

        None before the first send. Time without work does not count: in a shared read every target
        gets the same bytes in the same time, and the fast one waits.
        """
        with self._changed:
            busy_seconds = self._busy_seconds
            if self._running:
                busy_seconds += self._now() - self._busy_since
            if busy_seconds <= 0:
                return None
            return (self._sent_bytes + self._running_bytes) / busy_seconds


@dataclass(frozen=True, slots=True)
class Pacing:
    """One target of a shared read that still wants parts, when the budget is full."""

    region: str
    queued_bytes: int
    rate_bytes_per_second: float | None


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
                and slow.rate_bytes_per_second is not None
                and fast.rate_bytes_per_second is not None
                and slow.rate_bytes_per_second < ratio * fast.rate_bytes_per_second
            ):
                return slow.region
    return None
