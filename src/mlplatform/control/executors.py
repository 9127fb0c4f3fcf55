"""Where calls to several stores run: in daemon threads, or one after the other.

The simulation and the tests use `InlineExecutor`, so that the order of effects is the program's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any


class InlineExecutor(Executor):
    """Runs each call at once, in the caller's thread. What is no `Exception` (a simulated crash, a
    Ctrl-C) goes straight through, as it would without an executor."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class DaemonThreads(Executor):
    """A daemon thread a call. `ThreadPoolExecutor` would make the process wait, at its end, for a
    store that does not answer; whoever uses this bounds the calls that are under way."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, name="mlplatform-control", daemon=True).start()
        return future
