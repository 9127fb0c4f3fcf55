"""How far a load or a download is. One thread writes, others read; numbers need no lock."""

from __future__ import annotations

import time
from collections.abc import Callable

from mlplatform_serving.errors import LoadFailed


class Progress:
    """Bytes of one load. Whoever reads bytes for it says so here, and learns here that nobody waits
    for them any more."""

    def __init__(
        self, stage: str = "waiting", *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.stage = stage
        self.total_bytes = 0
        self.done_bytes = 0
        self.stopped: str | None = None
        """Why, if it was told to stop."""
        self._monotonic = monotonic
        self._began = monotonic()

    def begin(self, stage: str, total_bytes: int = 0) -> None:
        """Another stage, of so many bytes; 0: not known."""
        self.stage, self.total_bytes, self.done_bytes = stage, total_bytes, 0
        self._began = self._monotonic()
        self.check()

    def add(self, size_bytes: int) -> None:
        """So much more is done. `LoadFailed` if it was told to stop."""
        self.done_bytes += size_bytes
        self.check()

    def check(self) -> None:
        """`LoadFailed` if it was told to stop."""
        if self.stopped is not None:
            raise LoadFailed(self.stopped)

    def stop(self, reason: str) -> None:
        """Have it end at its next byte."""
        self.stopped = self.stopped or reason

    @property
    def seconds(self) -> float:
        """How long this stage has taken."""
        return self._monotonic() - self._began

    @property
    def bytes_per_second(self) -> float | None:
        """In this stage; None before anything is measured."""
        return self.done_bytes / self.seconds if self.seconds > 0 and self.done_bytes else None

    def told(self) -> str:
        """For people: `verifying: 41 % of 97.8 MB, 310 MB/s`."""
        words = self.stage
        if self.total_bytes:
            share = min(self.done_bytes / self.total_bytes, 1.0)
            words += f": {share:.0%} of {self.total_bytes / 1e6:.1f} MB"
            if self.bytes_per_second is not None:
                words += f", {self.bytes_per_second / 1e6:.0f} MB/s"
        return words
