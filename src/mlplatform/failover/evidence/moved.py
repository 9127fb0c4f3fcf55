"""The third clock: have clients really moved? Pure.

Three observers, each where it is there: probes through the front door, which say who answered them;
resolvers, which say where they send clients; and the load that enters a region. One that cannot be
asked is not heard; what it does not see, it does not claim.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from mlplatform.core.seen import Unknown
from mlplatform.failover.decision.seen import Load
from mlplatform.failover.evidence.record import Evidence, Path, Sample, VantageRecord

GONE_RATIO = 0.01
"""Below this share of what entered before, nobody comes any more but who never asks again."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What observers say of a route, some time after its weights were written."""

    observers: Mapping[str, bool] = field(default_factory=dict)
    """By observer: whether it sees nobody where nothing should go."""
    still: tuple[str, ...] = ()
    """Who still comes, as far as it can be named."""

    @property
    def over(self) -> bool:
        """Whether all who could see, see that it is over. Who can see nothing does not delay it."""
        return all(self.observers.values())

    @property
    def told(self) -> str:
        """In one line."""
        if not self.over:
            return f"clients still come: {'; '.join(self.still)}"
        return f"clients have moved, by {' and '.join(self.observers)}"


def who_still_comes(
    route: str,
    evidence: Evidence,
    loads: Mapping[str, Load | Unknown],
    *,
    weights: Mapping[str, int],
    load_before: Mapping[str, float],
    trusted: Collection[str],
    resolved: Mapping[str, frozenset[str] | Unknown],
    committed_seconds_ago: float,
) -> Moved:
    """Who goes to regions that get no weight any more.

    `load_before`: requests a second by region, as they were when it was decided. `trusted`: regions
    that are well, so that their counters say what they should; the load of a dead region reads 0,
    whoever still goes there. `resolved`: by resolver, the regions that it sends clients to.
    """
    empty = {region for region, weight in weights.items() if not weight}
    observers: dict[str, bool] = {}
    still: list[str] = []
    probed: list[bool] = []
    for name, sighting in evidence.vantages.items():
        record = sighting.record
        if isinstance(record, Unknown) or record.blind or sighting.stale:
            continue
        probe = _newest(record, route, committed_seconds_ago - sighting.age_seconds)
        if probe is None or (probe.ok and probe.region is None):
            continue
        probed.append(probe.ok and probe.region not in empty)
        if not probe.ok:
            still.append(f"{name} gets no good answer ({probe.error or 'failed'})")
        elif probe.region in empty:
            still.append(f"{name} is answered by {probe.region}")
    if probed:
        observers["probes through the front door"] = all(probed)
    told = {name: sent for name, sent in resolved.items() if not isinstance(sent, Unknown)}
    if told:
        observers["resolvers"] = not any(sent & empty for sent in told.values())
        still += [
            f"resolver {name} sends clients to {', '.join(sorted(sent & empty))}"
            for name, sent in told.items()
            if sent & empty
        ]
    measured = []
    for region in sorted(empty & set(trusted)):
        load, before = loads.get(region), load_before.get(region)
        if isinstance(load, Load) and load.now is not None and before:
            measured.append(load.now < GONE_RATIO * before)
            if not measured[-1]:
                share = 100 * load.now / before
                still.append(f"{region} gets {load.now:.3g} requests/s, {share:.2g} % of before")
    if measured:
        observers["the load that enters"] = all(measured)
    return Moved(observers, tuple(still))


def _newest(record: VantageRecord, route: str, since_seconds: float) -> Sample | None:
    """The newest probe through the front door, if it was sent since then."""
    for series in record.series:
        if series.path is Path.FRONT_DOOR and series.route == route and series.samples:
            newest = series.samples[-1]
            return newest if newest.seconds_ago < since_seconds else None
    return None
