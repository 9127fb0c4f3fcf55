"""What a model version has done since it was loaded, in the form of Triton's statistics; of these
the metrics are made."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

SECONDS = (
    *(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.35, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Upper bounds of the histograms: from half a millisecond, and close together around 100 ms, the
usual target."""
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Upper bounds of the histogram of batches."""
SHED_REASONS = ("queue_full", "deadline", "memory")
"""Why an inference is refused to keep the rest in time. Each is stated from the first, as 0."""
_SHED = {
    **dict.fromkeys(("queue_requests", "queue_bytes", "displaced"), "queue_full"),
    **dict.fromkeys(("expired", "predicted_late", "hopeless", "yielded"), "deadline"),
}
"""What metrics call the refusals of the batcher."""
_BOUNDS_NS = tuple(int(seconds * 1e9) for seconds in SECONDS)


@dataclass(slots=True)
class Spent:
    """How often, how long in sum, and how often how long."""

    count: int = 0
    ns: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))

    def add(self, ns: int) -> None:
        """Once more, for so long."""
        self.count += 1
        self.ns += ns
        self.buckets[bisect_left(_BOUNDS_NS, ns)] += 1

    def as_json(self) -> dict[str, int]:
        """In Triton's form."""
        return {"count": self.count, "ns": self.ns}


@dataclass(slots=True)
class Sizes:
    """How many batches, of how many in sum, and how many of each size."""

    count: int = 0
    total: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(SIZES) + 1))

    def add(self, size: int) -> None:
        """One batch more, of so many."""
        self.count += 1
        self.total += size
        self.buckets[bisect_left(SIZES, size)] += 1


@dataclass(slots=True)
class Statistics:
    """Counts and sums; only the event loop writes them."""

    success: Spent = field(default_factory=Spent)
    fail: Spent = field(default_factory=Spent)
    queue: Spent = field(default_factory=Spent)
    compute: Spent = field(default_factory=Spent)
    batches: Sizes = field(default_factory=Sizes)
    """What the model was given at a time; stated as `model_serving_batch_size`."""
    shed: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(SHED_REASONS, 0)))
    """What was refused, by reason; stated as `model_serving_shed_total`."""
    because: Counter[str] = field(default_factory=Counter)
    """Why each batch was formed as it was."""
    refusals: Counter[str] = field(default_factory=Counter)
    """Why inferences were refused, more finely than `shed` has it."""
    gone: int = 0
    """Inferences whose clients went away while they waited, and that were not run."""
    items: int = 0
    """Rows that were answered, of all requests."""
    failed_batches: int = 0
    by_size: dict[int, list[int]] = field(default_factory=dict)
    """Of the batches of each size, how many there were, and their nanoseconds."""
    last_inference_ms: int = 0

    def ran_batch(self, because: str, size: int, compute_ns: int) -> None:
        """A batch of so many rows was computed."""
        self.batches.add(size)
        self.because[because] += 1
        self.items += size
        found = self.by_size.get(size)
        if found is None:
            found = self.by_size[size] = [0, 0]
        found[0] += 1
        found[1] += compute_ns

    def failed_batch(self, because: str, size: int) -> None:
        """A batch failed, and with it whoever was in it."""
        self.batches.add(size)
        self.because[because] += 1
        self.failed_batches += 1

    def refused(self, because: str) -> None:
        """An inference was refused to keep the rest in time."""
        self.refusals[because] += 1
        if shed := _SHED.get(because):
            self.shed[shed] += 1

    def succeeded(self, at: float, total_ns: int, queue_ns: int, compute_ns: int) -> None:
        """One inference was answered; `at` in seconds since the epoch."""
        self.success.add(total_ns)
        self.queue.add(queue_ns)
        self.compute.add(compute_ns)
        self.last_inference_ms = int(at * 1000)

    def as_json(self, name: str, version: str) -> dict[str, Any]:
        """One entry of `model_stats`."""
        nothing = {"count": 0, "ns": 0}
        return {
            "name": name,
            "version": version,
            "last_inference": self.last_inference_ms,
            "inference_count": self.items,
            "execution_count": self.batches.count - self.failed_batches,
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
            "batch_stats": [
                {
                    "batch_size": size,
                    "compute_input": nothing,
                    "compute_infer": {"count": batches, "ns": ns},
                    "compute_output": nothing,
                }
                for size, (batches, ns) in sorted(self.by_size.items())
            ],
            # Ours: why each batch was formed, and why requests were refused.
            "batches": dict(self.because),
            "refused": dict(self.refusals),
            "gone": self.gone,
        }
