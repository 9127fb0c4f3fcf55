"""How the event loop and a thread wake one another: by a pipe, each way.

A pipe's writer tells the kernel that it will soon wait itself, so that the woken one may take over
its core, warm (Linux: `WF_SYNC`; for epoll since 6.13). A lock, an eventfd and
`call_soon_threadsafe` wake another core instead, which costs three times as much.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from collections.abc import Callable

_MANY = 4096


class Bell:
    """A thread waits for it; anybody may ring it. Several rings before it looks are one."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def ring(self) -> None:
        """From any thread."""
        os.write(self._write, b"!")

    def wait(self, seconds: float | None = None) -> None:
        """Until it has rung, or for so long."""
        if seconds is not None:
            poll = select.poll()
            poll.register(self._read, select.POLLIN)
            if not poll.poll(max(0.0, seconds * 1000)):
                return
        os.read(self._read, _MANY)

    def close(self) -> None:
        """When nobody waits and nobody rings any more."""
        os.close(self._read)
        os.close(self._write)


class Waker:
    """Has something called on the loop soon; several wakings may become one call."""

    def __init__(self, loop: asyncio.AbstractEventLoop, called: Callable[[], None]) -> None:
        self._loop = loop
        self._called = called
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        loop.add_reader(self._read, self._woken)

    def wake(self) -> None:
        """From any thread."""
        # Full: it has been woken often enough.
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b"!")

    def _woken(self) -> None:
        os.read(self._read, _MANY)
        self._called()

    def close(self) -> None:
        """On the loop, when nobody will wake it any more."""
        self._loop.remove_reader(self._read)
        os.close(self._read)
        os.close(self._write)
