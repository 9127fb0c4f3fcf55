"""What is to become of one route, before it is a plan: steps, requests for servers, and holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mlplatform.core.plan import Hold
from mlplatform.failover.decision.case import Case, Closed
from mlplatform.failover.decision.headroom import Demand, Room
from mlplatform.failover.decision.seen import Gate
from mlplatform.ports.traffic import Weights


@dataclass(frozen=True, slots=True)
class Step:
    """New weights, and the wait until clients have followed."""

    after: Weights
    reason: str
    name: str = ""
    """`5 %`, `back`: what tells one step of several from the others."""
    hold_seconds: float = 0.0
    """How long they must prove themselves after that."""
    carries_on: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """More servers, wanted where there are too few."""

    region: str
    model: str
    has: int
    servers: int


@dataclass(slots=True)
class Draft:
    """What was worked out for a route. Requests for servers stand beside the steps: nothing counts
    on them."""

    region: str
    """The region that it is about: the one that is left, or the one that is returned to."""
    steps: list[Step] = field(default_factory=list)
    asks: list[Ask] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    closed: dict[str, tuple[Closed, ...]] = field(default_factory=dict)
    """By candidate: what keeps it from being one, that is not broken."""
    rooms: dict[str, Room | Closed] = field(default_factory=dict)
    demand: Demand | Closed | None = None
    source: str | None = None
    """Where weight is taken from, if it is one region."""
    nearest: Weights | None = None
    """Weights that there was too little room for: what servers are asked for."""
    asks_first: bool = True
    """Whether servers are asked for before the first step."""
    leaves: bool = False
    """Whether the source gets nothing in the end, so that it can be drained for this route."""

    def weigh(
        self, case: Case, regions: Iterable[str], gates: Mapping[str, tuple[Closed, ...]]
    ) -> None:
        """Remember what is closed where, and hold each of those regions for it."""
        for region in regions:
            self.closed[region] = gates[region]
            self.holds += case.holds(region, gates[region])


def headroom_holds(case: Case, lacking: Mapping[str, Closed]) -> list[Hold]:
    """A hold for each region that has too little room."""
    return [
        case.hold(region, closed, unknown=closed.unknown)
        for region, closed in sorted(lacking.items())
        if not case.breaks(Gate.HEADROOM)
    ]
