"""How the event loop and a thread wake one another: by a pipe, each way.

What it costs is the waking of a core: where it sleeps, in a virtual machine above all, longer than
a small model takes. The loop is about to wait itself when it wakes a thread, so that its own core,
warm and awake, is the one to go on with; but the kernel, which cannot know that, looks for an idle
one. Hence `near`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import select
import threading
from collections.abc import Callable

_MANY = 4096


def _current_core() -> Callable[[], int] | None:
    """Glibc's and musl's; None elsewhere."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    # It only reads: the interpreter need not be let go for it.
    return getattr(ctypes.PyDLL(None), "sched_getcpu", None)


class Bell:
    """A thread waits for it; anybody may ring it. Several rings before it looks are one."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self._waiter: int | None = None
        self._current_core = _current_core()
        self._cores: set[int] = set()
        self._bound_to: int | None = None

    def ring(self, *, near: bool = False) -> None:
        """From any thread. `near`: whoever rings is about to sleep, and the thread that wakes is to
        go on with its core, until it says `go_anywhere`."""
        if near and self._current_core is not None and self._waiter is not None:
            core = self._current_core()
            if core != self._bound_to:
                self._bind(self._waiter, {core})
                self._bound_to = core
        os.write(self._write, b"!")

    def wait(self, seconds: float | None = None) -> None:
        """Until it has rung, or for so long. Always in the same thread."""
        if self._waiter is None and self._current_core is not None:
            self._cores = os.sched_getaffinity(0)
            self._waiter = threading.get_native_id()
        if seconds is not None:
            poll = select.poll()
            poll.register(self._read, select.POLLIN)
            if not poll.poll(max(0.0, seconds * 1000)):
                return
        os.read(self._read, _MANY)

    def go_anywhere(self) -> None:
        """In the thread that waits: it has more to do than is worth another core's waking, or may
        start threads, which would be bound as it is."""
        if self._bound_to is not None:
            self._bind(0, self._cores)
            self._bound_to = None

    def _bind(self, thread: int, cores: set[int]) -> None:
        try:
            os.sched_setaffinity(thread, cores)
        except OSError:  # the system does not let it, or has taken those cores away
            self._current_core = None

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
