"""The control store of one process, which tells the judge what it was told."""

from __future__ import annotations

from collections.abc import Sequence

from mlplatform.control.executors import InlineExecutor
from mlplatform.control.quorum import ControlStore
from mlplatform.control.retry import RetryingStore
from mlplatform.core.errors import MlplatformError
from mlplatform.ports.store import Condition
from tests.simulation.judge import Judge
from tests.simulation.schedule import Process


class SimControl(ControlStore):
    """The real one, overheard."""

    def __init__(self, process: Process, judge: Judge, members: Sequence[RetryingStore]) -> None:
        super().__init__(members, process, executor=InlineExecutor())
        self._process = process
        self._judge = judge

    def create(self, key: str, body: bytes) -> None:
        super().create(key, body)
        self._judge.acked(self._process, key, body)

    def swap(
        self, key: str, body: bytes, when: Sequence[Condition | None]
    ) -> tuple[str | MlplatformError | None, ...]:
        if not key.startswith("leases/"):
            return super().swap(key, body, when)
        began = self._judge.lease_swap(self._process, key, body)
        tags = super().swap(key, body, when)
        if sum(isinstance(tag, str) for tag in tags) >= self.majority:
            self._judge.lease_swapped(self._process, key, body, began)
        return tags
