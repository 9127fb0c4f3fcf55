"""What a model version has done since it was loaded, in the form of Triton's statistics."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class _Spent:
    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        self.count += 1
        self.ns += ns

    def as_json(self) -> dict[str, int]:
        return {"count": self.count, "ns": self.ns}


@dataclass(slots=True)
class Statistics:
    """Counts and sums; only the event loop writes them."""

    success: _Spent = field(default_factory=_Spent)
    fail: _Spent = field(default_factory=_Spent)
    queue: _Spent = field(default_factory=_Spent)
    compute: _Spent = field(default_factory=_Spent)
    last_inference_ms: int = 0

    def succeeded(self, total_ns: int, queue_ns: int, compute_ns: int) -> None:
        """One inference was answered."""
        self.success.add(total_ns)
        self.queue.add(queue_ns)
        self.compute.add(compute_ns)
        self.last_inference_ms = int(time.time() * 1000)

    def as_json(self, name: str, version: str) -> dict[str, Any]:
        """One entry of `model_stats`."""
        nothing = {"count": 0, "ns": 0}
        return {
            "name": name,
            "version": version,
            "last_inference": self.last_inference_ms,
            "inference_count": self.success.count,
            "execution_count": self.success.count,
            "inference_stats": {
                "success": self.success.as_json(),
                "fail": self.fail.as_json(),
                "queue": self.queue.as_json(),
                "compute_input": nothing,
                "compute_infer": self.compute.as_json(),
                "compute_output": nothing,
                "cache_hit": nothing,
                "cache_miss": nothing,
            },
            "batch_stats": [],
        }
