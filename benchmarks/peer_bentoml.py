"""BentoML around a sleep, in an environment of its own, by `bentoml serve`. Milliseconds for each
batch and each item, and the latency that it may promise, are in variables."""

from __future__ import annotations

import os
import time

import bentoml

FIXED, EACH = (float(os.environ[name]) for name in ("PEER_FIXED_MS", "PEER_EACH_MS"))
LATENCY_MS = int(float(os.environ["PEER_LATENCY_MS"]))


@bentoml.service(workers=1, traffic={"timeout": 600})
class Sleeper:
    """Gives back what it is given."""

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=LATENCY_MS)  # type: ignore[untyped-decorator]
    def predict(self, x: list[float]) -> list[float]:
        """After as long as it takes."""
        time.sleep((FIXED + EACH * len(x)) / 1000)
        return x
