"""Ctrl-C: once asks the work to stop and report, twice leaves at once.

SIGTERM, which is how Kubernetes and CI ask, counts the same. Outside `working` there is nothing to
be left in order, and either ends the command directly.

The kernel may give a signal to any thread, while Python handles it in the main thread alone, which
hears nothing as long as it waits for a lock, and a command that works in threads waits for theirs:
https://docs.python.org/3/library/signal.html#signals-and-threads. So whoever gets it, the main
thread is woken.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

from mlplatform.core.errors import Interrupted

if TYPE_CHECKING:
    from mlplatform.cli.console import Console

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_WAKES = signal.SIGURG
"""Nobody minds one too many: Go's runtime took it for the same purpose, https://go.dev/issue/24543."""
_WAKE_AGAIN_SECONDS = 0.05
_SHOW_CURSOR = "\x1b[?25h"


@contextmanager
def stopped_by_signals(console: Console) -> Iterator[Callable[[], bool]]:
    """Whether to stop: so once a signal has come. The second ends the process, whatever it is
    doing."""
    # No lock and no event, which has one: the handler may run while the same thread holds it.
    stop = False

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal stop
        if stop:
            _write(
                f"{_SHOW_CURSOR if console.animated else ''}interrupted twice: leaving at once\n"
            )
            # Threads may be waiting for a store; nothing needs their goodbye, since what was
            # finished is recorded.
            os._exit(Interrupted.exit_code)
        stop = True
        _write("stopping: finishing what is under way; once more to leave at once\n")

    with _handling(on_signal):
        yield lambda: stop


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does: by `KeyboardInterrupt`. Every command is in one."""

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _waking_the_main_thread(), _handling(on_signal):
        yield


@contextmanager
def _handling(on_signal: signal._HANDLER) -> Iterator[None]:
    if not _may_handle():
        yield
        return
    before = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _waking_the_main_thread() -> Iterator[None]:
    """Whatever of `_SIGNALS` comes, and to whichever thread, the main thread handles it now."""
    if not _may_handle():
        yield
        return
    main = threading.get_ident()
    awake = ended = False

    def woken(_number: int, _frame: FrameType | None) -> None:
        nonlocal awake
        awake = True  # and so has handled what came, since those have lower numbers

    def wake() -> None:
        nonlocal awake
        while came := os.read(reading, 64):
            if not any(number in came for number in _SIGNALS):
                continue
            awake = False
            while not (awake or ended):  # it may have been about to wait when the first one came
                signal.pthread_kill(main, _WAKES)
                time.sleep(_WAKE_AGAIN_SECONDS)

    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    handler = signal.signal(_WAKES, woken)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    waker = threading.Thread(target=wake, name="mlplatform-signals", daemon=True)
    waker.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        ended = True
        os.close(writing)
        waker.join()
        os.close(reading)
        signal.signal(_WAKES, handler)


def _may_handle() -> bool:
    """Only the main thread may."""
    return threading.current_thread() is threading.main_thread()


def _write(text: str) -> None:
    """To stderr directly: a signal may come while Python's own stream is being written."""
    with suppress(OSError):
        os.write(2, text.encode())
