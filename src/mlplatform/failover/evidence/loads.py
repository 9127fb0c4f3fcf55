"""The load of a route where nobody says what it is now: as it was last known, or as the topology
declares it. Pure, but for what `LastLoads` remembers."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from typing import TypeGuard

from mlplatform.core.seen import Unknown
from mlplatform.core.traffic import Route
from mlplatform.failover.decision.seen import Load

LAST_KNOWN_SECONDS = 3600.0
"""For how long the last known load stands in for one that cannot be read: monitoring may be lost
together with the region, and what moves is what was there before the fault."""

Loads = Mapping[str, Load | Unknown]
"""By region."""


class LastLoads:
    """Remembers what was measured last. Safe to share between threads."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[Load, float]] = {}
        self._lock = threading.Lock()

    def complete(self, route: str, loads: Loads, regions: Mapping[str, int], at: float) -> Loads:
        """`loads` of a route, with what was known last where nothing is known now. `at`: the time,
        in seconds of a monotonic clock."""
        found: dict[str, Load | Unknown] = dict(loads)
        with self._lock:
            for region in {*regions, *loads}:
                load = loads.get(region)
                if is_measured(load):
                    self._known[route, region] = (load, at)
                    continue
                known = self._known.get((route, region))
                if known is not None and at - known[1] <= LAST_KNOWN_SECONDS:
                    last, since = known
                    found[region] = replace(last, source=f"{last.source}, {at - since:.0f} s ago")
        return found


def is_measured(load: Load | Unknown | None) -> TypeGuard[Load]:
    """Whether there is any figure in it."""
    return isinstance(load, Load) and (load.now is not None or load.peak is not None)


def with_declared(route: Route, weights: Mapping[str, int], loads: Loads, today: date) -> Loads:
    """`loads` by region. What is not measured is taken to be the declared peak of the route: of
    what a region serves now, by its weight, and of its own peak, by the weight that it has when
    nothing is wrong, or has now, whichever is more. A measured figure always outranks it."""
    declared = route.peak
    if declared is None or declared.expires_on < today:
        return loads
    total = declared.requests_per_second
    found: dict[str, Load | Unknown] = {}
    for region in {*weights, *loads}:
        measured = loads.get(region)
        if is_measured(measured):
            found[region] = measured
            continue
        weight = weights.get(region, 0)
        most = max(weight, route.weights.get(region, 0))
        found[region] = Load(
            now=total * weight / 100,
            peak=total * most / 100,
            source=f"declared on {declared.measured_on}, until {declared.expires_on}",
        )
    return found
