"""What 2,000 times loading, asking and unloading a model leaves behind: what is resident after the
last, less what is after the hundredth. numpy and ONNX Runtime (magika) in turn, in one process."""

from __future__ import annotations

import json
import os
import sys

from benchmarks.measure import MIB, Result, Row, run

CYCLES = 2000
LIMIT_BYTES = 5e6


def measure(cycles: int = CYCLES) -> Result:
    """One run; it takes about two minutes."""
    result = Result("serving_memory", f"{cycles} cycles of load and unload in one server")
    argv = [sys.executable, "-m", "tests.serving.loading.cycles", str(cycles)]
    told = json.loads(run(argv, dict(os.environ)).output)
    left = told["after_last_bytes"] - told["after_base_bytes"]
    row = Row(
        "resident more than after the hundredth", "MiB", [left / MIB], limit=LIMIT_BYTES / MIB
    )
    result.rows.append(row)
    return result
