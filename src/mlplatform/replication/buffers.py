"""A byte budget for what is in memory between source and targets.

Whatever the size of a model, the parts in flight share one budget: concurrency is the budget
divided by the part size. Large buffers are kept and used again, because a fresh one costs a
page fault for every 4 KiB.
"""

from __future__ import annotations

import threading
from contextlib import suppress

POOLED_BYTES_MIN = 1024 * 1024


class BufferPool:
    """Hands out `bytearray`s of the size asked for, never more than `budget_bytes` in all.

    One buffer is always granted, even if it alone is larger than the budget: a part must fit
    somewhere for the transfer to go on.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._used_bytes = 0
        self._peak_bytes = 0
        self._free: dict[int, list[bytearray]] = {}
        self._free_bytes = 0
        self._changed = threading.Condition()

    def acquire(
        self, size_bytes: int, *, timeout_seconds: float | None, charge_bytes: int | None = None
    ) -> bytearray | None:
        """A buffer, or None when none came free in time. `None` seconds waits for ever.

        `charge_bytes` is what it takes of the budget, if that is more than its size.
        """
        charge_bytes = charge_bytes or size_bytes
        with self._changed:
            granted = self._changed.wait_for(
                lambda: (
                    self._used_bytes == 0 or self._used_bytes + charge_bytes <= self.budget_bytes
                ),
                timeout_seconds,
            )
            if not granted:
                return None
            self._used_bytes += charge_bytes
            if free := self._free.get(size_bytes):
                self._free_bytes -= size_bytes
                buffer = free.pop()
            else:
                buffer = None
            if self._used_bytes + self._free_bytes > self.budget_bytes:
                self._free.clear()
                self._free_bytes = 0
            self._peak_bytes = max(self._peak_bytes, self._used_bytes + self._free_bytes)
        return bytearray(size_bytes) if buffer is None else buffer

    def release(self, buffer: bytearray, *, charge_bytes: int | None = None) -> None:
        """Give a buffer back, with the charge it was acquired for. One that somebody still looks
        at, such as a request that was given up, is not used again: nothing may be written over it.
        """
        size_bytes = len(buffer)
        reuse = size_bytes >= POOLED_BYTES_MIN and not _is_viewed(buffer)
        with self._changed:
            self._used_bytes -= charge_bytes or size_bytes
            if reuse:
                self._free.setdefault(size_bytes, []).append(buffer)
                self._free_bytes += size_bytes
            self._changed.notify_all()

    @property
    def used_bytes(self) -> int:
        with self._changed:
            return self._used_bytes

    @property
    def peak_bytes(self) -> int:
        """The most that was ever held, lent out or kept for the next."""
        with self._changed:
            return self._peak_bytes


class SharedBuffer:
    """One part on its way to several targets; released when the last of them is done with it."""

    def __init__(
        self,
        pool: BufferPool,
        buffer: bytearray,
        size_bytes: int,
        *,
        charge_bytes: int | None = None,
    ) -> None:
        self._pool = pool
        self._buffer: bytearray | None = buffer
        self.charge_bytes = charge_bytes or len(buffer)
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
        with suppress(BufferError):
            self.view.release()
        self._pool.release(buffer, charge_bytes=self.charge_bytes)


def _is_viewed(buffer: bytearray) -> bool:
    """Whether any view of it exists: then, and only then, it refuses to change its size."""
    try:
        buffer.append(buffer.pop())
    except BufferError:
        return True
    return False
