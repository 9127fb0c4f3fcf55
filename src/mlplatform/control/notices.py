"""Notices that hold nothing up: queued, and delivered beside whoever acts."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Sequence

from mlplatform.control import metrics
from mlplatform.control.retry import Retry
from mlplatform.core.errors import MlplatformError
from mlplatform.ports.notify import Notice, Receiver

log = logging.getLogger(__name__)

_WAITING_MAX = 200
_LAST_WORDS_SECONDS = 5.0

delivered = metrics.Family(
    "mlplatform_notices_total", "Notices, by receiver and result.", ("receiver", "result")
)


class Notices:
    """Tells every receiver, each from a thread of its own, so that a slow one delays no other.

    What cannot be delivered is logged, never raised. When too many wait, the oldest is dropped:
    who reads is told what is so now.
    """

    def __init__(self, receivers: Sequence[Receiver], retry: Retry) -> None:
        self._retry = retry
        self._queues: list[tuple[Receiver, queue.Queue[Notice]]] = []
        for receiver in receivers:
            waiting: queue.Queue[Notice] = queue.Queue(_WAITING_MAX)
            self._queues.append((receiver, waiting))
            threading.Thread(
                target=self._deliver,
                args=(receiver, waiting),
                name=f"mlplatform-notices-{receiver.name}",
                daemon=True,
            ).start()

    def tell(self, notice: Notice) -> None:
        """Queue it. Returns at once."""
        for receiver, waiting in self._queues:
            while True:
                try:
                    waiting.put_nowait(notice)
                    break
                except queue.Full:
                    self._drop_oldest(receiver, waiting)

    def close(self, *, timeout_seconds: float = _LAST_WORDS_SECONDS) -> bool:
        """Wait for what is queued, as long as that; whether all was delivered or given up."""
        ended = threading.Event()

        def join() -> None:
            for _, waiting in self._queues:
                waiting.join()
            ended.set()

        threading.Thread(target=join, name="mlplatform-notices-close", daemon=True).start()
        return ended.wait(timeout_seconds)

    def _deliver(self, receiver: Receiver, waiting: queue.Queue[Notice]) -> None:
        while True:
            notice = waiting.get()
            try:
                send(receiver, notice, self._retry)
            except MlplatformError as error:
                log.error("%s was not told: %s: %s", receiver.name, notice.title, error)
            except Exception:
                log.exception("%s was not told: %s", receiver.name, notice.title)
            finally:
                waiting.task_done()

    def _drop_oldest(self, receiver: Receiver, waiting: queue.Queue[Notice]) -> None:
        try:
            dropped = waiting.get_nowait()
        except queue.Empty:
            return
        waiting.task_done()
        delivered.add(receiver=receiver.name, result="dropped")
        log.error("%s was not told: %s: too many wait", receiver.name, dropped.title)


def send(receiver: Receiver, notice: Notice, retry: Retry) -> None:
    """Deliver one notice, under the policy."""
    try:
        retry.call(lambda: receiver.send(notice), what=f"notify {receiver.name}")
    except MlplatformError:
        delivered.add(receiver=receiver.name, result="failed")
        raise
    delivered.add(receiver=receiver.name, result="ok")
