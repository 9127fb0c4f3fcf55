"""Phi accrual: how surprising a silence is, given how regularly answers came before. Pure.

Hayashibara, Défago, Yared and Katayama, "The φ accrual failure detector" (2004), in the normal form
that Akka uses. The exponential form needs 18 mean intervals for the same suspicion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, pstdev

SUSPICION = 8.0
"""Akka's default threshold: wrong once in 10^8, if intervals are normal. They are not, in the tail;
that is why phi only ever suspects."""
SIGMA_SECONDS_MIN = 1.0
"""Ten times Akka's floor of 100 ms: it waits for heartbeats inside a cluster, we for probes from
other continents."""
INTERVALS_MIN = 3
"""Fewer say nothing of how regular they are."""


def phi(silence_seconds: float, intervals_seconds: Sequence[float], *, at_least: float) -> float:
    """Minus the decimal logarithm of the chance that an answer still comes after such a silence.

    `at_least` is the interval that is aimed at: answers that came quicker than that make nobody
    impatient. 0 where too few intervals are known; infinite where a float holds the chance no more.
    """
    if len(intervals_seconds) < INTERVALS_MIN:
        return 0.0
    mean = max(fmean(intervals_seconds), at_least)
    sigma = max(pstdev(intervals_seconds), SIGMA_SECONDS_MIN)
    chance = 0.5 * math.erfc((silence_seconds - mean) / (sigma * math.sqrt(2)))
    return -math.log10(chance) if chance > 0 else math.inf
