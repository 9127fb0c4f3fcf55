"""The load of a route where nobody measures it: as the topology declares it, until that expires.
Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

from mlplatform.core.seen import Unknown
from mlplatform.core.traffic import Route
from mlplatform.failover.seen import Load


def with_declared(
    route: Route, weights: Mapping[str, int], loads: Mapping[str, Load | Unknown], today: date
) -> Mapping[str, Load | Unknown]:
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
        if isinstance(measured, Load) and (measured.now is not None or measured.peak is not None):
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
