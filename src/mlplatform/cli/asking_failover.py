"""What rollout asks of failover: how regions stand, and to move a part of a share. Features do not
know each other; commands know both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

from mlplatform.core.errors import CheckFailed, LeaseHeld, Unavailable, UsageError
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology

if TYPE_CHECKING:
    from mlplatform.control.reconcile import Report
    from mlplatform.failover.decision.seen import Load, Request, RouteSeen, Seen
    from mlplatform.failover.effects import Estate
    from mlplatform.failover.history.recoveries import Operation
    from mlplatform.ports.traffic import TrafficFeatures, Weights
    from mlplatform.rollout.plan.seen import Rule, Standing


def asking_failover(topology: Topology, stop: Callable[[], bool]) -> AskingFailover:
    """Whom rollout asks. Nothing is read before that."""
    if not topology.traffic.routes:
        return AskingFailover(topology, None)
    from mlplatform.failover.failover_controller import open_estate

    return AskingFailover(topology, open_estate(topology, stop=stop))


@dataclass(frozen=True, slots=True)
class AskingFailover:
    """A `Failover` over an estate; None where the topology has no route, so that no region can be
    under failover."""

    topology: Topology
    estate: Estate | None

    def standings(
        self, model: str, lent: Mapping[str, Weights] = MappingProxyType({})
    ) -> dict[str, Standing | Unknown]:
        """How each region stands. Nothing is claimed and nothing changed."""
        from mlplatform.rollout.plan.seen import Standing

        if self.estate is None:
            return {region: Standing() for region in self.topology.regions}
        return standings_of(self.topology, self.estate.observe(), model, lent)

    def hand_over(self, region: str, route: str, keep: int, *, reason: str) -> Weights:
        """A planned failover of one route, of which the region keeps a part."""
        from mlplatform.failover.decision.seen import Mode, Request

        if self.estate is None or route not in self.topology.traffic.routes:
            raise CheckFailed(f"{route}: no such route any more", hint="plan again")
        found = self._look(self.estate, route)
        if why := found.of_others(reason) or found.moved(region, reason):
            raise LeaseHeld(why)
        request = Request(Mode.PLANNED, source=region, routes=(route,), keep=keep, reason=reason)
        said, unknown = _asked(self.estate, route, request)
        weights = _weights(self.estate, route)
        if 0 < weights.get(region, 0) <= keep:
            return weights
        said = said or f"{region} has {weights.get(region, 0)} points of route {route}"
        if unknown:
            raise Unavailable(f"{region} cannot be left {keep} points of route {route}: {said}")
        raise CheckFailed(
            f"{region} is not left {keep} points of route {route}: {said}",
            hint=f"mlplatform failover plan --from {region} --route {route} --planned "
            f"--keep {keep} shows every gate",
        )

    def take_back(self, region: str, route: str, *, reason: str) -> str:
        """A failback of one route to one region; first what was left of handing it over is ended,
        for its weights are to come back in any case. What others have left since is theirs to bring
        back, and this with it."""
        from mlplatform.failover.decision.seen import Mode, Request
        from mlplatform.failover.operations import abort, request_of

        if self.estate is None or route not in self.topology.traffic.routes:
            return ""
        found = self._look(self.estate, route)
        ours = [left for left in found.left if _is_asked_by(reason, left)]
        for left in ours:
            if request_of(left.plan).mode is Mode.PLANNED:
                with suppress(UsageError):  # it has ended meanwhile
                    abort(self.estate, left.name, reason=reason)
        if ours:
            found = self._look(self.estate, route)
        if found.is_back(region, reason):
            return ""
        said = found.of_others(reason)
        if not said:
            request = Request(Mode.FAILBACK, targets=(region,), routes=(route,), reason=reason)
            said, _ = _asked(self.estate, route, request)
            found = self._look(self.estate, route)
            if found.is_back(region, reason):
                return ""
        has, wanted = found.points(region)
        return f"{region} has {has} of {wanted} points of {route}: {said}"

    def _look(self, estate: Estate, route: str) -> Shares:
        now = estate.clock.now()
        return Shares(
            route,
            estate.memory.operations(now, [route]).get(route, ()),
            _weights(estate, route),
            _held(self.topology.traffic.routes[route].weights, estate.open_traffic(route).features),
            now,
        )


@dataclass(frozen=True, slots=True)
class Shares:
    """A route, as it was found. What was asked for a rollout is told by its `reason`."""

    route: str
    operations: Sequence[Operation]
    """What was done on it, oldest first."""
    weights: Weights
    wanted: Weights
    """As the topology wants them, as far as the actuator can hold that."""
    now: datetime

    @property
    def left(self) -> list[Operation]:
        """What is under way, or was left."""
        return [operation for operation in self.operations if not operation.closed]

    def points(self, region: str) -> tuple[int, int]:
        """What a region has, and what the topology wants it to have."""
        return self.weights.get(region, 0), self.wanted.get(region, 0)

    def of_others(self, reason: str) -> str:
        """What is under way that others began; empty where nothing is."""
        for left in self.left:
            if not _is_asked_by(reason, left):
                return (
                    f"operation {left.name} on {self.route} is under way, or was left: mlplatform "
                    f"failover resume {left.name} goes on with it, abort ends it"
                )
        return ""

    def moved(self, region: str, reason: str) -> str:
        """What others have made of a region's share; empty where it is as the topology wants it, or
        as `reason` has left it."""
        has, wanted = self.points(region)
        by = self.left_by(region, reason)
        if has == wanted or by == reason:
            return ""
        said = f"operation {by} has left it" if by else "others have moved it"
        return (
            f"{region} has {has} of {wanted} points of {self.route}, and {said}: mlplatform "
            f"failover back --route {self.route} brings it back"
        )

    def is_back(self, region: str, reason: str) -> bool:
        """Whether nothing that was asked is under way, and the region has its share, or what it
        lacks others have taken."""
        if any(_is_asked_by(reason, left) for left in self.left):
            return False
        has, wanted = self.points(region)
        return has >= wanted or self.left_by(region, reason) != reason

    def left_by(self, region: str, reason: str) -> str:
        """What took weight from a region last: `reason`, or the name of another's operation. Empty
        where no operation did."""
        from mlplatform.failover.decision.seen import Mode
        from mlplatform.failover.history.recoveries import recoveries_of

        by = ""
        for operation in self.operations:
            ours = _is_asked_by(reason, operation)
            if ours and _may_have_left(operation, region):
                by = reason
            for each in recoveries_of(operation, self.now, self.weights):
                if each.source != region or not each.moved or each.mode is Mode.DRILL:
                    continue
                if not ours or each.mode is not Mode.PLANNED:
                    by = operation.name
        return by


def _asked(estate: Estate, route: str, request: Request) -> tuple[str, bool]:
    """Why it was not done, as far as it was not, and whether that may pass by itself."""
    from mlplatform.failover.operations import move

    return _why_not(move(estate, route, request))


def _weights(estate: Estate, route: str) -> Weights:
    from mlplatform.ports.traffic import RouteState

    state = estate.read_routes([route])[route]
    if not isinstance(state, RouteState):
        raise Unavailable(f"the weights of route {route} cannot be read: {state.reason}")
    return state.weights


def _held(weights: Weights, features: TrafficFeatures) -> Weights:
    from mlplatform.ports.traffic import expressible

    return expressible(weights, features) if weights else {}


def _is_asked_by(reason: str, operation: Operation) -> bool:
    """Whether an operation was begun for the same rollout. Its undo is another operation of it, so
    that what stands before the comma tells."""
    told = str(next(iter(operation.actions.values())).parameters.get("reason", ""))
    return told.partition(", ")[0] == reason.partition(", ")[0]


def _may_have_left(operation: Operation, region: str) -> bool:
    """Whether a shift away from a region was begun; one that was aborted cannot say how it went."""
    begun = (operation.actions.get(step.action) for step in operation.steps)
    return any(
        action is not None and action.kind == "shift" and action.parameters["source"] == region
        for action in begun
    )


def _why_not(report: Report) -> tuple[str, bool]:
    from mlplatform.core.plan import Result

    holds = [hold for hold in report.plan.holds if not hold.aside]
    ill = [o for o in report.outcomes if o.result in (Result.FAILED, Result.UNKNOWN)]
    said = "; ".join([*(f"{h.region}: {h.reason}" for h in holds), *(o.detail for o in ill)])
    sure = any(not hold.unknown for hold in holds) or any(o.result is Result.FAILED for o in ill)
    return said, bool(said) and not sure


def standings_of(
    topology: Topology,
    seen: Seen,
    model: str,
    lent: Mapping[str, Weights] = MappingProxyType({}),
) -> dict[str, Standing | Unknown]:
    """By region: why nothing may begin there, and what enters it for a model. `lent`: by route, the
    weights that it has because a region handed over a part of its share."""
    from mlplatform.failover.decision.case import verdicts_in_force
    from mlplatform.failover.verdict.judge import Health
    from mlplatform.ports.traffic import RouteState
    from mlplatform.rollout.plan.seen import Rule, Standing

    verdicts = verdicts_in_force(topology, seen) if topology.traffic.vantages else {}
    found: dict[str, Standing | Unknown] = {}
    for region in topology.regions:
        closed: dict[Rule, str] = {}
        unknown = ""
        for name, there in seen.routes.items():
            wanted = lent.get(name) or _held(topology.traffic.routes[name].weights, there.features)
            who = "a rollout left it" if name in lent else "the topology wants"
            if isinstance(there.state, RouteState):
                _compare(name, region, there.state.weights, wanted, closed, who)
            elif region in wanted:
                unknown = unknown or f"route {name}: {there.state.reason}"
            _of_operations(there, region, wanted, closed)
        verdict = verdicts.get(region)
        if verdict is not None and verdict.health is not Health.HEALTHY:
            why = verdict.because[0] if verdict.because else "no reason was given"
            said = f"{region} is {verdict.health.value}: {why}"
            if verdict.health is Health.UNKNOWN:
                unknown = unknown or said
            else:
                closed[Rule.UNHEALTHY] = said
        # What is known to stand in the way is said, whatever else is not known.
        if unknown and not closed:
            found[region] = Unknown(unknown)
        else:
            found[region] = Standing(closed, _load(topology, seen, region, model))
    return found


def _compare(
    route: str,
    region: str,
    weights: Mapping[str, int],
    wanted: Mapping[str, int],
    closed: dict[Rule, str],
    who: str,
) -> None:
    """A region that has not what the topology gives it has been left, or bears another's share,
    whoever moved it."""
    from mlplatform.rollout.plan.seen import Rule

    has, gets = weights.get(region, 0), wanted.get(region, 0)
    if wanted and has != gets:
        rule = Rule.UNDER_FAILOVER if has < gets else Rule.FAILOVER_TARGET
        closed.setdefault(rule, f"route {route} gives it {has} %, {who} {gets}")


def _of_operations(
    there: RouteSeen, region: str, wanted: Mapping[str, int], closed: dict[Rule, str]
) -> None:
    """What is under way on a route, or was left. While it has moved nothing, it may yet bring any
    region of the route more."""
    from mlplatform.rollout.plan.seen import Rule

    for recovery in there.recoveries:
        if recovery.ended_seconds_ago is not None:
            continue
        said = f"{recovery.operation} on {there.name} is under way, or was left"
        if region == recovery.source:
            closed[Rule.UNDER_FAILOVER] = said
        elif region in (recovery.targets or wanted):
            closed[Rule.FAILOVER_TARGET] = said
    if (drained := there.drained.get(region)) is not None:
        said = f"its servers send clients away, as {drained.operation} told them to"
        closed[Rule.DRAINED] = said


def _load(topology: Topology, seen: Seen, region: str, model: str) -> float | Unknown:
    """Of all routes that carry the model, together."""
    loads = [
        there.load.get(region, Unknown(f"route {name}: nobody measured what enters {region}"))
        for name, there in seen.routes.items()
        if model in topology.traffic.routes[name].models
        and region in topology.traffic.routes[name].weights
    ]
    return _together(loads, region)


def _together(loads: Iterable[Load | Unknown], region: str) -> float | Unknown:
    total = 0.0
    for load in loads:
        if isinstance(load, Unknown):
            return load
        most = [figure for figure in (load.now, load.peak) if figure is not None]
        if not most:
            return Unknown(f"there is no sample of what enters {region}")
        total += max(most)
    return total
