"""One model to one target, against one `rclone copy`."""

from __future__ import annotations

from benchmarks import fanout
from benchmarks.measure import Result

PAIRS = 7


def measure(pairs: int) -> Result:
    """The same as `fanout`, with a single target: what is left is the cost of a byte."""
    return fanout.measure(pairs, targets=1)
