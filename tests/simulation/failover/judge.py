"""What failover promises, asserted at every write to an actuator and at every journal entry.

What the judge takes for known is what evidence could have told: what every honest vantage has seen
for longer than a record may be old, what the servers themselves say. It leaves out what lies in
between, so that all that it says is wrong is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlplatform.control.journal import Entry, Kind
from mlplatform.core.plan import Result
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.failover.decision.decide import FEATURE
from mlplatform.failover.decision.seen import Mode, Seen
from mlplatform.ports.traffic import RouteState, Weights
from tests.simulation.failover.ground import UNFIT, Ill, Region, Route
from tests.simulation.failover.vantages import Sight, Vantage
from tests.simulation.judge import Judge
from tests.simulation.schedule import Process, Scheduler
from tests.simulation.stores import Site


def lease_key(route: str) -> str:
    return f"leases/{FEATURE}/{route}.json"


@dataclass(frozen=True, slots=True)
class Look:
    """One round of observing, in true time."""

    began: float
    ended: float


@dataclass(slots=True)
class Operation:
    """What the journal has of one."""

    name: str
    route: str
    actions: dict[str, Mapping[str, Any]]
    """All that any revision planned, by key."""
    begun: bool = False
    closed: bool = False
    """As soon as any store has it: who wrote it may not know."""
    ok: dict[str, bool] = field(default_factory=dict)
    """By action: whether its last outcome was good."""
    done: set[str] = field(default_factory=set)
    """Shifts that really were."""

    @property
    def is_open(self) -> bool:
        """Something may have been done of it, and it is not over."""
        return self.begun and not self.closed

    @property
    def passed(self) -> bool:
        """Every outcome that was told is a good one."""
        return bool(self.ok) and all(self.ok.values())

    @property
    def mode(self) -> str:
        return str(next(iter(self.actions.values()))["parameters"]["mode"])


@dataclass(frozen=True, slots=True)
class Sent:
    """A write as its sender sent it."""

    process: Process
    route: str
    weights: Weights
    look: Look | None
    operation: Operation | None
    action: Mapping[str, Any] | None
    """The shift that it carries out, as the journal announced it."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Weight that an unplanned failover took from a region."""

    at: float
    route: str
    source: str
    points: int


class FailoverJudge(Judge):
    """The invariants of DESIGN.md that are failover's."""

    def __init__(
        self,
        scheduler: Scheduler,
        control: list[Site],
        topology: Topology,
        regions: Mapping[str, Region],
        routes: Mapping[str, Route],
        vantages: Sequence[Vantage],
        *,
        sane: bool,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(scheduler, control, tell=tell)
        self.topology = topology
        self.regions = regions
        self.routes = routes
        self.vantages = vantages
        self.sane = sane
        """Whether wall clocks are nearly right. Where they are not, what is reckoned by them is
        not judged: windows, hold-offs, cooldowns."""
        probing = topology.traffic.probe
        self.interval = probing.interval_seconds
        self.fresh_seconds = 1.1 * (3 * self.interval + 5.0) + 3.0
        """For longer no record is believed."""
        self.known_seconds = self.fresh_seconds + 1.1 * (probing.fall + 1) * self.interval + 5.0
        """What has been so for so long, every vantage that speaks at all has said."""
        self.operations: dict[str, Operation] = {}
        self.looks: dict[str, Look] = {}
        self.intents: dict[tuple[str, str], tuple[Operation, frozenset[str]]] = {}
        """By process and route: what it announced last."""
        self.leased_at: dict[tuple[str, str], float] = {}
        """By lease and process."""
        self.epochs: dict[str, int] = {name: route.state.epoch for name, route in routes.items()}
        """The highest that each actuator knows."""
        self.owners: dict[tuple[str, int], str] = {}
        """By route and epoch: the one process that may write under it."""
        self.taken: list[Taken] = []
        self.ours: dict[str, Weights | None] = dict.fromkeys(routes)
        """What we wrote last, as far as the journal tells it."""
        self.by_hand: dict[str, Weights] = {}
        """What somebody else has set since."""
        self.drilled: set[str] = set()
        self.locked: dict[str, float] = {}
        """By scope, since when everybody must know."""
        self.overridden: set[str] = set()
        self._attempts: set[tuple[object, ...]] = set()

    # What processes do that is no effect.

    def looked(self, process: Process, began: float, seen: Seen) -> None:
        """A process has looked at the world, and decides by that."""
        self.looks[process.name] = Look(began, self.scheduler.now)
        for route in seen.routes.values():
            if isinstance(route.state, Unknown) and "internal error" in route.state.reason:
                raise self.fail(f"{process}: {route.state.reason}")

    def leased(self, process: Process, key: str, generation: int) -> None:
        self.leased_at[key, process.name] = self.scheduler.now

    def emptied(self, site: Site) -> None:
        super().emptied(site)
        if self.control_lost:
            self.operations.clear()
            self.ours = dict.fromkeys(self.routes)
            self.locked.clear()

    # The journal.

    def written(self, process: Process, entry: Entry) -> None:
        operation = self.operations.get(entry.operation)
        if operation is None and entry.kind is Kind.PLAN:
            self._planned(entry)  # who wrote it may die before it is told, and another goes on
        elif operation is not None and entry.kind is Kind.REVISION:
            operation.actions |= _actions(entry)
        elif operation is not None and entry.kind is Kind.CLOSED:
            operation.closed = True

    def appended(self, process: Process, entry: Entry) -> None:
        operation = self.operations.get(entry.operation)
        if operation is None:
            return  # of before the control store was lost
        if entry.kind is Kind.INTENT:
            self._intends(process, operation, entry)
        elif entry.kind is Kind.OUTCOME:
            self._outcome(process, operation, entry.payload)
        elif entry.kind is Kind.CLOSED and operation.mode == Mode.DRILL and operation.passed:
            self.drilled.add(operation.route)

    def _planned(self, entry: Entry) -> None:
        actions = _actions(entry)
        route = str(next(iter(actions.values()))["subject"])
        self.operations[entry.operation] = Operation(entry.operation, route, actions)

    def _intends(self, process: Process, operation: Operation, entry: Entry) -> None:
        # A plan alone is no operation: who was deposed may still have one, and do nothing of it.
        for other in self.operations.values():
            if other is not operation and other.route == operation.route and other.is_open:
                raise self.fail(
                    f"{process} begins {operation.name} on {operation.route}, where {other.name} "
                    "is under way"
                )
        operation.begun = True
        if entry.writer != process.name:
            return  # settled for somebody who may be gone
        keys = frozenset(entry.payload["actions"])
        self.intents[process.name, operation.route] = (operation, keys)
        shifts = any(operation.actions[key]["kind"] == "shift" for key in keys)
        owner = self.owners.get((operation.route, entry.fence))
        if shifts and owner != process.name:
            raise self.fail(
                f"{process} decides on {operation.route} under epoch {entry.fence}, which its "
                "target has not been told of"
            )

    def _outcome(self, process: Process, operation: Operation, outcome: Mapping[str, Any]) -> None:
        key, result = outcome["action"], outcome["result"]
        action = operation.actions[key]
        operation.ok[key] = result in (Result.DONE, Result.NOTHING)
        undrained = action["kind"] == "undrain" and result == Result.DONE
        if undrained and self.regions[action["region"]].lame:
            raise self.fail(f"{process} recorded that {action['region']} is ready again")
        if action["kind"] != "shift":
            return
        after = action["parameters"]["after"]
        if result == Result.DONE and key not in operation.done:
            raise self.fail(f"{process} recorded {after} as done, which was never written")
        state = self.routes[operation.route].state
        if key in operation.done and (
            result == Result.DONE or (operation.ok[key] and state.weights == after)
        ):
            self.ours[operation.route] = after
        if (
            result == Result.FAILED
            and outcome["error"] == "ConditionFailed"
            and key in operation.done
            and (state.weights, state.writer) == (after, process.name)
        ):
            raise self.fail(f"{process} recorded as failed what it has written: {after}")

    # Actuators.

    def sends(
        self, process: Process, route: Route, weights: Weights, epoch: int, expected: RouteState
    ) -> Sent:
        """A write is about to be sent, before anything can go wrong with it."""
        operation, keys = self.intents.get((process.name, route.name), (None, frozenset()))
        action = None
        if operation is not None:
            for key in keys:
                planned = operation.actions[key]
                if planned["kind"] == "shift" and planned["parameters"]["after"] == weights:
                    action = planned
        attempt = (process.name, route.name, epoch, expected.tag, tuple(sorted(weights.items())))
        if attempt not in self._attempts and weights != expected.weights:
            # Only the first attempt is guarded: the next ones are the policy's business.
            self._attempts.add(attempt)
            if not self.believes(process, lease_key(route.name)) and not self.control_lost:
                raise self.fail(f"{process} moves {route} without holding its lease")
        look = self.looks.get(process.name)
        return Sent(process, route.name, dict(weights), look, operation, action)

    def changed_by_hand(self, route: Route) -> None:
        """Somebody, or a restart, has changed what an actuator holds."""
        self._whole(route.state)
        self.epochs[route.name] = route.state.epoch
        self.by_hand[route.name] = dict(route.state.weights)

    def wrote(self, sent: Sent, before: RouteState, after: RouteState) -> None:
        """A write has taken effect."""
        self._whole(after)
        name, process = sent.route, sent.process
        if after.epoch < self.epochs[name]:
            raise self.fail(
                f"{process} wrote to {name} under epoch {after.epoch}, after {self.epochs[name]}"
            )
        self.epochs[name] = after.epoch
        owner = self.owners.setdefault((name, after.epoch), process.name)
        if owner != process.name and not self.control_lost:
            raise self.fail(f"{process} and {owner} both write to {name} under {after.epoch}")
        if after.weights == before.weights:
            return
        self._change(sent, before.weights, after.weights)
        self.by_hand.pop(name, None)

    def _whole(self, state: RouteState) -> None:
        if sum(state.weights.values()) != 100 or min(state.weights.values()) < 0:
            raise self.fail(f"weights do not total 100: {state.weights}")

    def _change(self, sent: Sent, before: Weights, after: Weights) -> None:
        process, name, action, operation = sent.process, sent.route, sent.action, sent.operation
        if action is None or operation is None or sent.look is None:
            if self.control_lost:
                return  # it was announced to a store that has forgotten it
            raise self.fail(f"{process} moves {name} to {after}, which no journal announced")
        asked = action["parameters"]
        if asked["before"] != before:
            raise self.fail(
                f"{process} writes {after} over {before}, and planned it for {asked['before']}"
            )
        held = self.leased_at.get((lease_key(name), process.name), float("inf"))
        if sent.look.began < held and not self.control_lost:
            raise self.fail(f"{process} moves {name} by what it saw before it held the route")
        move = Move(self, sent.look, name, before, after, asked)
        for wrong in move.wrongs():
            raise self.fail(f"{process} moves {name} from {before} to {after}: {wrong}")
        operation.done.add(action["key"])
        if asked["mode"] == Mode.UNPLANNED and asked.get("source"):
            source = asked["source"]
            points = before.get(source, 0) - after.get(source, 0)
            self.taken.append(Taken(self.scheduler.now, name, source, points))

    # What evidence could know.

    def voters(self, region: str) -> list[Vantage]:
        """Vantages that may vote on a region, and have written of late."""
        since = self.scheduler.now - self.fresh_seconds
        return [
            vantage
            for vantage in self.vantages
            if vantage.region != region and vantage.written and vantage.written[-1][0] >= since
        ]

    def agreed(self, region: str, since: Callable[[Sight], float | None]) -> float | None:
        """Since when all honest voters have seen something, if they do, and outnumber who lies."""
        voters = self.voters(region)
        honest = [vantage for vantage in voters if vantage.honest]
        domains = {vantage.domain for vantage in honest}
        if len(domains) < (1 if len(honest) == len(voters) else 2):
            return None
        times = [since(vantage.sights[region]) for vantage in honest]
        return None if None in times else max(time for time in times if time is not None)

    def known_down(self, region: str, at: float) -> bool:
        """Whether whoever looked then must have known that it is down."""
        since = self.agreed(region, lambda sight: sight.down_since)
        return since is not None and since <= at - self.known_seconds

    def known_wrong(self, region: str, at: float) -> bool:
        since = self.agreed(region, lambda sight: sight.wrong_since)
        honest = {vantage.domain for vantage in self.voters(region) if vantage.honest}
        return len(honest) > 1 and since is not None and since <= at - self.known_seconds

    def known_well(self, region: str, at: float) -> bool:
        since = self.agreed(region, lambda sight: sight.well_since)
        honest = {vantage.domain for vantage in self.voters(region) if vantage.honest}
        return len(honest) > 1 and since is not None and since <= at - self.known_seconds

    def surely_unhealthy(self, region: str, at: float) -> tuple[float, float] | None:
        """Between when and when every vantage saw it turn sick, if the verdict on it was the worst
        beyond doubt."""
        voters = [vantage for vantage in self.vantages if vantage.region != region]
        speaking = all(
            vantage.written
            and vantage.written[-1][0] >= at - 2 * self.interval
            and region in vantage.written[-1][1]
            for vantage in voters
        )
        if not speaking or any(vantage.lied for vantage in voters):
            return None
        needed = self.topology.traffic.safety.domains
        if len({vantage.domain for vantage in voters}) < needed or self.regions[region].was_lame:
            return None
        times = [vantage.sights[region].down_since for vantage in voters]
        found = [time for time in times if time is not None]
        if len(found) < len(times) or max(found) > at - self.known_seconds:
            return None
        return min(found), max(found)


@dataclass(frozen=True, slots=True)
class Move:
    """Weights that were changed, and what may be wrong with that."""

    judge: FailoverJudge
    look: Look
    route: str
    before: Weights
    after: Weights
    asked: Mapping[str, Any]

    @property
    def mode(self) -> str:
        return str(self.asked["mode"])

    @property
    def automatic(self) -> bool:
        return bool(self.asked.get("automatic"))

    def breaks(self, rule: str) -> bool:
        return rule in self.asked.get("broken", ())

    @property
    def gaining(self) -> list[str]:
        return [region for region, weight in self.after.items() if weight > self.before[region]]

    def wrongs(self) -> Iterator[str]:
        """All that speaks against it."""
        yield from self._gates()
        yield from self._orders()
        yield from self._consent()
        if self.mode == Mode.UNPLANNED:
            yield from self._panic()
            yield from self._cap()
        if self.mode == Mode.FAILBACK:
            yield from self._hold_off()
        if self.automatic:
            yield from self._by_itself()

    def _gates(self) -> Iterator[str]:
        judge, at = self.judge, self.look.began
        for region in self.gaining:
            ills = judge.regions[region].ills
            if not self.breaks("verdict") and region not in judge.overridden:
                if judge.known_down(region, at):
                    yield f"{region} was long known to be down"
                if judge.known_wrong(region, at) and not self.breaks("golden"):
                    yield f"{region} was long known to answer wrongly"
            if self.asked.get("step") == "back":
                continue  # a drill's trickle goes back to where the rest of it still is
            for ill in UNFIT:
                if ills.get(ill, at) < at and not self.breaks(_GATES[ill]):
                    yield f"{region} {ill.value}"
            if ills.get(Ill.ROOM, at) < at and not self.breaks("headroom"):
                yield f"{region} has no room"

    def _orders(self) -> Iterator[str]:
        for scope in (self.route, "all"):
            since = self.judge.locked.get(scope)
            if since is not None and since < self.look.began and not self.breaks("lock"):
                yield f"{scope} is locked"

    def _consent(self) -> Iterator[str]:
        judge = self.judge
        theirs, ours = judge.by_hand.get(self.route), judge.ours[self.route]
        if theirs is None or ours is None or self.breaks("weights-changed-by-hand"):
            return
        if theirs == self.before and _serving(theirs) != _serving(ours):
            planned = [
                action["parameters"]["after"]
                for operation in judge.operations.values()
                for action in operation.actions.values()
                if operation.route == self.route and action["kind"] == "shift"
            ]
            if theirs not in planned:
                yield f"somebody set it to {theirs} since we wrote {ours}"

    def _panic(self) -> Iterator[str]:
        judge, source = self.judge, self.asked["source"]
        if self.breaks("panic") or judge.overridden:
            return
        together = judge.topology.traffic.safety.together_seconds - 2 * judge.interval
        sick = judge.surely_unhealthy(source, self.look.began)
        for other in self.before:
            too = judge.surely_unhealthy(other, self.look.began)
            if other == source or sick is None or too is None:
                continue
            if max(*sick, *too) - min(*sick, *too) < together:
                yield f"{source} and {other} turned sick together"

    def _cap(self) -> Iterator[str]:
        judge, source = self.judge, self.asked["source"]
        if self.breaks("cap") or not judge.sane or judge.control_lost:
            return
        safety = judge.topology.traffic.safety
        since = self.look.began - 0.95 * safety.window_seconds + 10.0
        taken = [each for each in judge.taken if each.route == self.route and each.at >= since]
        points = self.before.get(source, 0) - self.after.get(source, 0)
        total = points + sum(each.points for each in taken)
        others = {each.source for each in taken} - {source}
        if others and total > 100 * safety.moved_per_window:
            yield f"{total} points in a window, from {source} and {', '.join(sorted(others))}"

    def _hold_off(self) -> Iterator[str]:
        judge = self.judge
        if self.breaks("hold-off") or self.asked.get("step") == "returned" or judge.overridden:
            return
        hold_off = judge.topology.traffic.safety.hold_off_seconds
        for region in self.gaining:
            was_down = judge.agreed(region, lambda sight: sight.was_down)
            if was_down is None:
                continue
            honest = [v.sights[region].was_down for v in judge.voters(region) if v.honest]
            if min(honest) > self.look.began - 0.9 * hold_off + 2 * judge.interval:
                yield f"{region} was down {self.look.began - min(honest):.0f} s ago"

    def _by_itself(self) -> Iterator[str]:
        judge, route = self.judge, self.judge.topology.traffic.routes[self.route]
        if route.mode != "auto":
            yield "the route only advises"
        if self.route not in judge.drilled:
            yield "no drill was ever passed"
        if self.mode != Mode.UNPLANNED or judge.overridden:
            return
        source = self.asked["source"]
        if judge.known_well(source, self.look.began):
            yield f"{source} was long known to be well"
        # A wrong wall clock, and a store that hid a record for a while, make it look newer.
        since = self.look.began - judge.fresh_seconds * (1 if judge.sane else 2)
        voting: set[str] = set()
        down: set[str] = set()
        for vantage in judge.vantages:
            said = [downs for at, downs in vantage.written if since <= at <= self.look.ended]
            if vantage.region == source or not said:
                continue
            voting.add(vantage.domain)
            if any(source in downs for downs in said):
                down.add(vantage.domain)
        needed = judge.topology.traffic.safety.domains
        if len(voting) < needed or 2 * len(down) <= needed:
            yield (
                f"{len(down)} of {len(voting)} domains called {source} down of late, and it takes "
                f"most of {needed} or more"
            )


_GATES = {Ill.VERSION: "version", Ill.BYTES: "digest", Ill.CANARY: "canary"}


def _actions(entry: Entry) -> dict[str, Mapping[str, Any]]:
    return {action["key"]: action for action in entry.payload["plan"]["actions"]}


def _serving(weights: Weights) -> dict[str, int]:
    return {region: weight for region, weight in weights.items() if weight}
