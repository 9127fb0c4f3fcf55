"""A byte budget for what is in memory between source and targets.

Whatever the size of a model, the parts in flight share one budget: concurrency is the budget
divided by the part size. Large buffers are kept and used again, because a fresh one costs a
page fault for every 4 KiB.
"""

from __future__ import annotations

import threading
from collections import defaultdict

POOLED_BYTES_MIN = 1024 * 1024


class BufferPool:
    """Hands out `bytearray`s of at least the size asked for, never more than `budget_bytes` in all.

    One buffer is always granted, even if it alone is larger than the budget: a part must fit
    somewhere for the transfer to go on.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._used_bytes = 0
        self._free: dict[int, list[bytearray]] = defaultdict(list)
        self._free_bytes = 0
        self._changed = threading.Condition()

    def acquire(self, size_bytes: int, *, timeout_seconds: float | None) -> bytearray | None:
        """A buffer, or None when none came free in time. `None` seconds waits for ever."""
        with self._changed:
            granted = self._changed.wait_for(
                lambda: self._used_bytes == 0 or self._used_bytes + size_bytes <= self.budget_bytes,
                timeout_seconds,
            )
            if not granted:
                return None
            self._used_bytes += size_bytes
            if self._free[size_bytes]:
                self._free_bytes -= size_bytes
                return self._free[size_bytes].pop()
            if self._used_bytes + self._free_bytes > self.budget_bytes:
                self._free.clear()
                self._free_bytes = 0
        return bytearray(size_bytes)

    def release(self, buffer: bytearray) -> None:
        """Give a buffer back."""
        size_bytes = len(buffer)
        with self._changed:
            self._used_bytes -= size_bytes
            if size_bytes >= POOLED_BYTES_MIN:
                self._free[size_bytes].append(buffer)
                self._free_bytes += size_bytes
            self._changed.notify_all()

    @property
    def used_bytes(self) -> int:
        with self._changed:
            return self._used_bytes


class SharedBuffer:
    """One part on its way to several targets; released when the last of them is done with it."""

    def __init__(self, pool: BufferPool, buffer: bytearray, size_bytes: int) -> None:
        self._pool = pool
        self._buffer: bytearray | None = buffer
        self.view = memoryview(buffer)[:size_bytes]
        self._holders = 1
        self._lock = threading.Lock()

    def hold(self) -> None:
        """One more holder."""
        with self._lock:
            self._holders += 1

    def drop(self) -> None:
        """One holder fewer; the last one returns the buffer to the pool."""
        with self._lock:
            self._holders -= 1
            if self._holders or self._buffer is None:
                return
            buffer, self._buffer = self._buffer, None
        self.view.release()
        self._pool.release(buffer)
