"""Could traffic move now? Asked all the time, so that the night brings no surprise. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.failover.decision.case import Case, Closed, case_of, verdicts_in_force
from mlplatform.failover.decision.gates import closed_gates
from mlplatform.failover.decision.headroom import lacking, room_of
from mlplatform.failover.decision.seen import Gate, Mode, Request, Seen


@dataclass(frozen=True, slots=True)
class Ready:
    """Whether all that one region serves on a route could go to another."""

    route: str
    source: str
    target: str
    closed: Closed | None = None
    """The first gate that fails."""

    @property
    def failing(self) -> str:
        """Its name; empty when none does."""
        return self.closed.name.value if self.closed else ""

    @property
    def detail(self) -> str:
        """What was measured, against what."""
        return self.closed.reason if self.closed else ""


def readiness(topology: Topology, seen: Seen, now: datetime) -> Iterator[Ready]:
    """For each route, each region that serves it and each other region of it. The source's own
    verdict does not count: the question is asked before it is sick."""
    verdicts = verdicts_in_force(topology, seen)
    for name, there in seen.routes.items():
        request = Request(Mode.UNPLANNED, routes=(name,))
        case = case_of(topology, seen, request, now.date(), name, verdicts)
        if isinstance(case, Unknown):
            regions = list(topology.traffic.routes[name].weights)
            closed = Closed(Gate.VERDICT, f"its weights are unknown: {case.reason}", unknown=True)
            for source in regions:
                for target in regions:
                    if source != target:
                        yield Ready(name, source, target, closed)
            continue
        gates = {region: closed_gates(case, region) for region in case.weights}
        for source in sorted(case.serving):
            for target in there.standby or case.weights:
                if target != source and target in case.weights:
                    found = gates[target][0] if gates[target] else _room(case, source, target)
                    yield Ready(name, source, target, found)


def _room(case: Case, source: str, target: str) -> Closed | None:
    room = room_of(case, target)
    if isinstance(room, Closed):
        return room
    after = {**case.weights, source: 0, target: case.weights[target] + case.weights[source]}
    return lacking(case, after, {target: room}).get(target)
