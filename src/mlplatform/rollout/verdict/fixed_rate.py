"""Whether errors have risen above a rate that was promised, looked at as often as one likes. Pure.

While a version is promoted nothing serves beside it to be compared with, so it is held to the bar
by which it was promoted. The evidence is a bet against "no more than that rate", as in `e_process`:
Ville's inequality holds at every look.
"""

from __future__ import annotations

import math

_FACTORS = (1.5, 2.0, 4.0, 8.0, 16.0, 64.0)
_RATE_LEAST = 1e-6
_RATE_MOST = 0.999


def bar(fleet_requests: float, fleet_failures: float, *, delta: float, epsilon: float) -> float:
    """The rate of errors that is still promotable beside a fleet like that: the greater of both
    bars of promotion. A fleet without errors is taken to have half of one."""
    rate = (fleet_failures + 0.5) / (fleet_requests + 1.0)
    return min(_RATE_MOST, max((1 + delta) * rate, rate + epsilon))


def log10_e(requests: float, failures: float, rate: float, *, phi: float = 1.0) -> float:
    """The odds against "no more than `rate` of requests fail", as a power of ten. `phi`: by what
    failures come in clusters."""
    rate = min(_RATE_MOST, max(_RATE_LEAST, rate))
    bets = []
    for factor in _FACTORS:
        worse = min(_RATE_MOST, factor * rate)
        if worse <= rate:
            continue
        gain = failures * math.log(worse / rate)
        gain += (requests - failures) * math.log((1 - worse) / (1 - rate))
        bets.append(gain / phi)
    if not bets:
        return 0.0
    most = max(bets)
    total = sum(math.exp(each - most) for each in bets) / len(bets)
    return (most + math.log(total)) / math.log(10)
