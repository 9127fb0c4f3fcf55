"""When requests are due, decided before the first is sent: an open loop asks as users do, who do
not wait for one another's answers. Pure and seeded: the same plan again, on any machine.

A closed loop, where so many clients each wait for their answer, sends less the slower the server
is, and never meets the time that users would have waited (Tene, "How NOT to Measure Latency";
Schroeder et al., "Open Versus Closed", NSDI '06).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Bursts:
    """So many more requests at one instant, every so many seconds."""

    size: int
    every_seconds: float


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Due times in seconds from the start, `rate` a second on average, each independent of all
    others."""
    random = Random(seed)  # noqa: S311 - chance that can be had again, not a secret
    due, at = [], random.expovariate(rate)
    while at < seconds:
        due.append(at)
        at += random.expovariate(rate)
    return due


def with_bursts(due: Sequence[float], bursts: Bursts | None, seconds: float) -> list[float]:
    """These and the bursts', in order. The first burst comes after one interval."""
    if bursts is None:
        return list(due)
    times = []
    number = 1
    while number * bursts.every_seconds < seconds:
        times += [number * bursts.every_seconds] * bursts.size
        number += 1
    return sorted([*due, *times])
