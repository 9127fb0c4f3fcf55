"""What the tables are written in: milliseconds, requests, and a latency that is known."""

from __future__ import annotations

from dataclasses import dataclass

from mlplatform_serving.batching.backlog import Backlog
from mlplatform_serving.batching.decide import Dispatch, Shed, Wait
from mlplatform_serving.batching.request import Key, Request


@dataclass(frozen=True)
class Known:
    """`fixed + each × items`, in milliseconds; right from the start."""

    fixed_ms: float = 4
    each_ms: float = 1

    def seconds(self, size: int, key: Key) -> float:
        return ms(self.fixed_ms + self.each_ms * size)

    def observe(self, size: int, key: Key, seconds: float) -> None:
        """There is nothing to learn."""


@dataclass(frozen=True)
class Waiting:
    """One who waits."""

    id: int
    deadline_ms: float
    size: int = 1
    priority: int = 0
    shape: str = "a"
    arrival_ms: float = 0
    bytes: int = 0

    @property
    def request(self) -> Request:
        key = Key("resnet50", "v1", self.shape)
        return Request(
            self.id,
            key,
            ms(self.arrival_ms),
            ms(self.deadline_ms),
            self.size,
            self.priority,
            self.bytes,
        )


def ms(milliseconds: float) -> float:
    return milliseconds / 1000


def backlog_of(*waiting: Waiting) -> Backlog:
    backlog = Backlog()
    for one in waiting:
        backlog.add(one.request)
    return backlog


def told(answer: Dispatch | Wait | Shed) -> str:
    """`run 1 2: full`, `refuse 3: hopeless`, `wait`, `wait until 15`."""
    if isinstance(answer, Wait):
        return "wait" if answer.until is None else f"wait until {answer.until * 1000:.6g}"
    requests = answer.batch if isinstance(answer, Dispatch) else answer.requests
    verb = "run" if isinstance(answer, Dispatch) else "refuse"
    return f"{verb} {' '.join(str(request.id) for request in requests)}: {answer.because}"
