"""What was done on a route before, told by the journal: open and past recoveries, and the weights
that we wrote last."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import NamedTuple

from mlplatform.control.executors import InlineExecutor
from mlplatform.control.journal import Entry, Journal, Kind, Stream
from mlplatform.core.errors import IntegrityError, NotFound, Unsupported
from mlplatform.core.plan import Action, Outcome, Plan, Result
from mlplatform.failover.decision.case import weights_key
from mlplatform.failover.decision.decide import FEATURE
from mlplatform.failover.decision.seen import Drained, Mode, Recovery

log = logging.getLogger(__name__)

WRONG_CLOCKS = timedelta(hours=6)
"""By how much the clock of whoever began an operation may differ from ours."""
LIST_ANEW = timedelta(minutes=10)
"""How often what began longer ago is listed again: `history import` brings what was done while no
control store could be written."""
_AT_ONCE = 16
LOOK_BACK = timedelta(days=45)
"""Longer than any hold-off, and than a drill is good for, by default."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation on one route, as its stream tells it."""

    name: str
    route: str
    entries: Sequence[Entry]
    plan: Plan
    """As last revised."""
    outcomes: Mapping[str, Outcome]
    closed: bool
    actions: Mapping[str, Action]
    """Every action that any revision of the plan had, by key."""
    steps: Sequence[Step]
    """What was begun and done, in the order in which it was recorded."""

    @property
    def began_at(self) -> datetime:
        return self.entries[0].at

    @property
    def ended_at(self) -> datetime | None:
        return self.entries[-1].at if self.closed else None


class Step(NamedTuple):
    """What an entry says of one action."""

    fence: int
    number: int
    action: str
    ok: bool
    """It was done; else it was begun."""


def operation_of(stream: Stream) -> Operation | None:
    """The operation that a stream tells of; None for one of another feature, or without actions."""
    plan = stream.plan
    if plan.feature != FEATURE or not plan.actions:
        return None
    return Operation(
        name=stream.operation,
        route=plan.actions[0].subject,
        entries=stream.entries,
        plan=plan,
        outcomes=stream.outcomes(),
        closed=stream.closed,
        actions=_actions(stream.entries),
        steps=tuple(_steps(stream.entries)),
    )


def _actions(entries: Sequence[Entry]) -> Mapping[str, Action]:
    found: dict[str, Action] = {}
    for entry in entries:
        if entry.kind in (Kind.PLAN, Kind.REVISION):
            plan = Plan.model_validate(entry.payload["plan"])
            found.update({action.key: action for action in plan.actions})
    return found


def _steps(entries: Sequence[Entry]) -> Iterator[Step]:
    for entry in entries:
        if entry.kind is Kind.INTENT:
            for key in entry.payload["actions"]:
                yield Step(entry.fence, entry.number, key, ok=False)
        elif entry.kind is Kind.OUTCOME:
            outcome = Outcome.model_validate(entry.payload)
            if outcome.ok:
                yield Step(entry.fence, entry.number, outcome.action, ok=True)


def recoveries_of(
    operation: Operation, now: datetime, held: Mapping[str, int] | None = None
) -> list[Recovery]:
    """An operation as `decide` looks back on it: one recovery for each region that was left, and
    why, since a further fault amends the operation that is under way. `held`: the weights that the
    target has now, if they are known. Ages are by wall clocks, which may differ between who wrote
    and who reads: they are never negative."""
    actions = operation.actions
    first = next(iter(actions.values()))
    found: dict[tuple[Mode, str | None], list[Action]] = {_purpose(first): []}
    for key in dict.fromkeys(step.action for step in _shifts(operation, held)):
        found.setdefault(_purpose(actions[key]), []).append(actions[key])
    return [
        _recovery(operation, mode, source, shifts, first, now)
        for (mode, source), shifts in found.items()
    ]


def _purpose(action: Action) -> tuple[Mode, str | None]:
    asked = action.parameters
    return Mode(asked.get("mode", Mode.UNPLANNED.value)), asked.get("source")


def _shifts(operation: Operation, held: Mapping[str, int] | None) -> Iterator[Step]:
    """The shifts that were done, as far as anybody can tell: also one that was begun, of which
    nobody could say what became of it, if the target now holds its weights."""
    for step in operation.steps:
        action = operation.actions.get(step.action)
        if action is None or action.kind != "shift":
            continue
        outcome = operation.outcomes.get(step.action)
        open_ = outcome is None or outcome.result is Result.UNKNOWN
        if outcome is not None and _was_given_up(operation, action, outcome):
            continue
        if step.ok or (open_ and action.parameters["after"] == held):
            yield step


def _was_given_up(operation: Operation, action: Action, outcome: Outcome) -> bool:
    """Whether nothing was to be done of a shift any more, and other weights were there than its."""
    found = outcome.measured.get("basis", {}).get(f"route/{operation.route}")
    return found is not None and found != weights_key(action.parameters["after"])


def _recovery(
    operation: Operation,
    mode: Mode,
    source: str | None,
    shifts: Sequence[Action],
    first: Action,
    now: datetime,
) -> Recovery:
    began_with: Mapping[str, int] = shifts[0].parameters["before"] if shifts else {}
    ended_with: Mapping[str, int] = shifts[-1].parameters["after"] if shifts else {}
    first_after: Mapping[str, int] = shifts[0].parameters["after"] if shifts else {}
    targets = tuple(r for r, weight in first_after.items() if weight > began_with.get(r, 0))
    if mode is Mode.FAILBACK:
        moved = sum(ended_with.get(r, 0) - began_with.get(r, 0) for r in targets)
    else:
        moved = sum(
            max(0, s.parameters["before"].get(source, 0) - s.parameters["after"].get(source, 0))
            for s in shifts
        )
    ended = operation.ended_at
    return Recovery(
        operation=operation.name,
        mode=mode,
        source=source,
        began_seconds_ago=_ago(operation.began_at, now),
        ended_seconds_ago=_ago(ended, now) if ended else None,
        targets=targets,
        moved=max(0, moved),
        passed=bool(shifts)
        and all(shift.key in operation.outcomes for shift in shifts)
        and all(outcome.ok for outcome in operation.outcomes.values()),
        automatic=bool(first.parameters.get("automatic")),
        had=shifts[0].figures.get("load_before", {}) if shifts else {},
        brought=_brought(shifts),
        drained=any(
            action.kind == "drain" and action.region == source
            for action in map(operation.actions.get, (step.action for step in operation.steps))
            if action is not None
        ),
    )


def _brought(shifts: Sequence[Action]) -> dict[str, float]:
    found: dict[str, float] = {}
    for shift in shifts:
        for region, load in shift.figures.get("load_moved", {}).items():
            found[region] = found.get(region, 0.0) + load
    return found


def written_by(
    operations: Iterable[Operation], held: Mapping[str, int]
) -> Mapping[str, int] | None:
    """The weights that we wrote last on a route: of the newest shift that was done, or that was
    begun and whose weights the target now holds (`held`), for its writer may have died before it
    could say so, or never have learnt it. By the fence, which no clock can put out of order."""
    last: tuple[int, int] = (-1, -1)
    weights: Mapping[str, int] | None = None
    for operation in operations:
        for step in _shifts(operation, held):
            if (step.fence, step.number) > last:
                last = (step.fence, step.number)
                weights = operation.actions[step.action].parameters["after"]
    return weights


def drained_by(operations: Iterable[Operation], now: datetime) -> dict[str, Drained]:
    """The regions whose servers were told to send clients away, or may have been, and of which
    nobody has recorded since that they were told otherwise. `operations`: of a route, oldest first.
    Servers that know no such thing are not told."""
    found: dict[str, Drained] = {}
    for operation in operations:
        for step in operation.steps:
            action = operation.actions.get(step.action)
            if action is not None and action.kind == "drain":
                since = _ago(operation.began_at, now)
                found[action.region] = Drained(
                    operation.name, since, open=not operation.closed, tried_seconds_ago=since
                )
            elif action is not None and action.kind == "undrain" and step.ok:
                found.pop(action.region, None)
        for key, outcome in operation.outcomes.items():
            action = operation.actions.get(key)
            if action is None or outcome.ok or action.region not in found:
                continue
            if outcome.error == Unsupported.__name__:
                found.pop(action.region)
            elif action.kind == "undrain":
                before = found[action.region]
                found[action.region] = replace(
                    before,
                    tries=before.tries + 1,
                    tried_seconds_ago=_ago(outcome.finished_at or operation.began_at, now),
                    why=outcome.detail,
                )
    return found


@dataclass(slots=True)
class Memory:
    """The journal's failover operations. What is closed is read once and remembered."""

    journal: Journal
    executor: Executor = field(default_factory=InlineExecutor)
    """Where streams are read: whoever begins in the middle of the night has 45 days to read."""
    _closed: dict[str, Operation | None] = field(default_factory=dict)
    _route_of: dict[str, str] = field(default_factory=dict)
    """Of what is open still."""
    _known: list[str] = field(default_factory=list)
    """Ids that were listed before: mostly, only what may be newer is listed again."""
    _listed_at: datetime | None = None
    """When all were."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def operations(
        self, now: datetime, routes: Collection[str] | None = None
    ) -> Mapping[str, Sequence[Operation]]:
        """By route, of all or of those named, oldest first. A stream that cannot be trusted is
        logged and left out: `history` names it."""
        found: dict[str, list[Operation]] = {}
        for operation in self._read_all(self._names(now), routes):
            found.setdefault(operation.route, []).append(operation)
        # By the fence, which no clock can put out of order.
        for operations in found.values():
            operations.sort(key=lambda each: (each.entries[0].fence, each.began_at))
        return found

    def _names(self, now: datetime) -> Sequence[str]:
        with self._lock:
            last = self._listed_at
        anew = last is None or abs(now - last) >= LIST_ANEW
        since = now - (LOOK_BACK if anew else WRONG_CLOCKS)
        listed = [n for n in self.journal.operations(since=since) if f"-{FEATURE}-" in n]
        with self._lock:
            if anew:
                self._listed_at = now
                self._known = [name for name in self._known if name not in self._closed]
            self._known = sorted({*self._known, *listed})
            for gone in self._closed.keys() - set(self._known):
                del self._closed[gone]
            return list(self._known)

    def _read_all(
        self, names: Iterable[str], routes: Collection[str] | None
    ) -> Iterator[Operation]:
        """Several at once. What is open on a route that is not asked about is not read again."""
        here: dict[str, Operation | None] = {}
        waiting: deque[str] = deque()
        for name in names:
            if name in self._closed:
                here[name] = self._closed[name]
            elif routes is None or self._route_of.get(name) in (None, *routes):
                waiting.append(name)

        def work() -> None:
            while True:
                try:
                    name = waiting.popleft()
                except IndexError:
                    return
                here[name] = self._read(name)

        for each in [self.executor.submit(work) for _ in range(min(_AT_ONCE, len(waiting)))]:
            each.result()
        for operation in here.values():
            if operation is not None and (routes is None or operation.route in routes):
                yield operation

    def _read(self, name: str) -> Operation | None:
        try:
            stream = self.journal.open(name)
            if not stream.entries:
                return None  # it was interrupted before it had a plan
            operation = operation_of(stream)
        except (IntegrityError, NotFound) as error:
            log.error("operation %s cannot be read: %s", name, error)
            return None
        if stream.closed:
            self._closed[name] = operation
            self._route_of.pop(name, None)
        elif operation is not None:
            self._route_of[name] = operation.route
        return operation


def _ago(at: datetime, now: datetime) -> float:
    return max(0.0, (now - at).total_seconds())
