"""One route as one request meets it: what each gate and each rule looks at, and what they say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date

from mlplatform.core.plan import Hold
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.core.traffic import Route, Safety
from mlplatform.failover.decision.seen import (
    Gate,
    Orders,
    Override,
    Recovery,
    Request,
    RouteSeen,
    Rule,
    Seen,
)
from mlplatform.failover.verdict.judge import Health, Verdict
from mlplatform.ports.traffic import RouteState, Weights, expressible


@dataclass(frozen=True, slots=True)
class Closed:
    """A gate or a rule that does not let something be done, and why: what was measured, against
    what."""

    name: Gate | Rule
    reason: str
    unknown: bool = False
    """It could not be read, so it is closed."""

    def __str__(self) -> str:
        return f"{self.name.value}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Case:
    """One route, one request, and the world as it was found."""

    topology: Topology
    request: Request
    today: date
    """Declared capacities expire by it. Nothing else asks what time it is."""
    name: str
    seen: RouteSeen
    state: RouteState
    orders: Orders
    verdicts: Mapping[str, Verdict]
    """Of every region, overrides heeded."""
    weights: Weights
    """As they are, of every region of the route."""
    wanted: Weights
    """As the topology wants them, as far as the actuator can hold that; empty where it does not
    say."""

    @property
    def route(self) -> Route:
        return self.topology.traffic.routes[self.name]

    @property
    def safety(self) -> Safety:
        return self.topology.traffic.safety

    @property
    def open(self) -> Recovery | None:
        """The operation that is under way on the route."""
        last = self.seen.recoveries[-1] if self.seen.recoveries else None
        return last if last is not None and last.ended_seconds_ago is None else None

    @property
    def serving(self) -> frozenset[str]:
        return frozenset(region for region, weight in self.weights.items() if weight)

    @property
    def candidates(self) -> tuple[str, ...]:
        """The regions of the route that might be given what the source has."""
        source, targets = self.request.source, self.request.targets
        return tuple(r for r in targets or self.weights if r in self.weights and r != source)

    def verdict(self, region: str) -> Verdict:
        """A region's verdict; unknown for one that somebody has put there, and nobody knows."""
        return self.verdicts.get(region) or Verdict(
            region, Health.UNKNOWN, because=("the topology names no such region",)
        )

    @property
    def overrides(self) -> tuple[Override, ...]:
        """Operators' words on regions of the route, those that have not expired."""
        return tuple(
            order
            for order in self.orders.overrides
            if order.region in self.weights and order.expires_in_seconds > 0
        )

    def breaks(self, name: Gate | Rule) -> bool:
        """Whether the operator breaks it on purpose."""
        return name.value in self.request.broken

    def hold(self, region: str, reason: object, *, unknown: bool = False) -> Hold:
        return Hold(subject=self.name, region=region, reason=str(reason), unknown=unknown)

    def holds(self, region: str, closed: Iterable[Closed]) -> list[Hold]:
        return [self.hold(region, each, unknown=each.unknown) for each in closed]


def case_of(
    topology: Topology,
    seen: Seen,
    request: Request,
    today: date,
    name: str,
    verdicts: Mapping[str, Verdict],
) -> Case | Unknown:
    """The case of one route; Unknown if its weights are. An answer that is empty, or that does not
    total 100, is no answer: an API that is ill lists nothing, with 200."""
    route_seen = seen.routes.get(name)
    if route_seen is None:
        return Unknown("nobody looked at the route")
    state = route_seen.state
    if isinstance(state, Unknown):
        return state
    if sum(state.weights.values()) != 100:
        said = weights_text(state.weights) or "nothing"
        return Unknown(f"the actuator answered with {said}, and weights total 100")
    declared = topology.traffic.routes[name].weights
    regions = dict.fromkeys((*declared, *sorted(state.weights)))
    wanted = {region: declared.get(region, 0) for region in regions} if declared else {}
    return Case(
        topology=topology,
        request=request,
        today=today,
        name=name,
        seen=route_seen,
        state=state,
        orders=seen.orders,
        verdicts=verdicts,
        weights={region: state.weights.get(region, 0) for region in regions},
        wanted=expressible(wanted, route_seen.features) if wanted else {},
    )


def verdicts_in_force(topology: Topology, seen: Seen) -> dict[str, Verdict]:
    """Every region's verdict; an operator's word that has not expired outranks what was judged."""
    found = {
        region: seen.verdicts.get(region)
        or Verdict(region, Health.UNKNOWN, because=("nobody has judged it",))
        for region in topology.regions
    }
    for order in seen.orders.overrides:
        judged = found.get(order.region)
        if judged is None or order.expires_in_seconds <= 0 or order.health not in set(Health):
            continue
        said = (
            f"{order.by} says so: {order.reason} "
            f"(for {order.expires_in_seconds:.0f} s more; judged {judged.health.value})"
        )
        found[order.region] = replace(
            judged,
            health=Health(order.health),
            because=(said, *judged.because),
            called_down=False,
            models={} if order.health == Health.HEALTHY else judged.models,
        )
    return found


def weights_text(weights: Weights) -> str:
    """For people: `us 50, eu 50`."""
    return ", ".join(f"{region} {weight}" for region, weight in weights.items())


def change_text(before: Weights, after: Weights) -> str:
    """For people: `us 50 → 0, eu 50 → 100`."""
    return ", ".join(
        f"{region} {before.get(region, 0)} → {weight}"
        for region, weight in after.items()
        if weight != before.get(region, 0)
    )


def weights_key(weights: Weights) -> str:
    """The same for the same weights: for keys of actions and fingerprints."""
    return ",".join(f"{region}={weight}" for region, weight in sorted(weights.items()) if weight)
