"""Ctrl-C: once asks the work to stop and report, twice leaves at once.

SIGTERM, which is how Kubernetes and CI ask, counts the same. Outside `working` there is nothing to
be left in order, and either ends the command directly.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

from mlplatform.core.errors import Interrupted

if TYPE_CHECKING:
    from mlplatform.cli.console import Console

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = "\x1b[?25h"


@contextmanager
def stopped_by_signals(console: Console) -> Iterator[threading.Event]:
    """An event that the first signal sets; the second ends the process, whatever it is doing."""
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            _write(
                f"{_SHOW_CURSOR if console.animated else ''}interrupted twice: leaving at once\n"
            )
            # Threads may be waiting for a store; nothing needs their goodbye, since what was
            # finished is recorded.
            os._exit(Interrupted.exit_code)
        stop.set()
        _write("stopping: finishing what is under way; once more to leave at once\n")

    with _handling(on_signal):
        yield stop


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does: by `KeyboardInterrupt`."""

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handling(on_signal):
        yield


@contextmanager
def _handling(on_signal: signal._HANDLER) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    before = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write(text: str) -> None:
    """To stderr directly: a signal may come while Python's own stream is being written."""
    with suppress(OSError):
        os.write(2, text.encode())
