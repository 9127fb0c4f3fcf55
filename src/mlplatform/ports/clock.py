"""Time as a port: wall time for people, monotonic time for decisions, sleep for waiting."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Wall clocks lie across machines; only `monotonic` may decide anything."""

    def now(self) -> datetime:
        """Wall time, timezone-aware UTC: for people and records, never compared across writers."""
        ...

    def monotonic(self) -> float:
        """Seconds on this process's own clock, never going back."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        # Where a machine can be suspended, only the boot clock counts the time that it slept: with
        # the other, a laptop whose lid was closed would believe that it still holds its lease.
        return time.clock_gettime(_CLOCK)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
