"""The loop that every feature runs: observe → decide → act → record.

    acquire the lease
      → finish what a crash left under it: observe and decide again; what the journal says is done
        is skipped, what is decided still is done, the rest needs nothing more
      → observe → decide → write the plan
      → for each batch: guard the lease, write the intent, act, write each outcome
      → close

A crash between any two of these leaves a stream that anyone can go on with. A run that finds
nothing to do writes nothing to the journal.

Where the world moves while it is acted on, `amend` looks again before each batch: what is no longer
decided is not begun, and what is decided newly revises the plan, in the same operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from mlplatform.control.journal import Journal, Kind, Stream
from mlplatform.control.lease import Background, Lease, Waiting
from mlplatform.core.errors import (
    Fenced,
    Interrupted,
    LeaseHeld,
    MlplatformError,
    NoMajority,
    StalePlan,
    UsageError,
    VersionConflict,
)
from mlplatform.core.plan import JSON, Action, Hold, Outcome, Plan, Result
from mlplatform.ports.clock import Clock

Seen = TypeVar("Seen")

_STOPS = (Fenced, Interrupted, LeaseHeld, NoMajority, StalePlan)
"""Errors after which nothing more may be done; the operation stays open, to be resumed."""

_GRAVEST_FIRST = (1, 2, 4, 3, 7, 6, 5)
"""Exit codes of failures: which one tells, when all failed and not all alike."""


class Controller(Protocol[Seen]):
    """What a feature is. `observe` reads the world; `decide` judges it, purely; `act` performs the
    actions of one batch and yields each outcome as it is known."""

    @property
    def feature(self) -> str:
        """For operation ids: `replicate`, `failover`."""
        ...

    def observe(self) -> Seen: ...

    def decide(self, seen: Seen, now: datetime) -> Plan: ...

    def act(self, actions: Sequence[Action], operation: str) -> Iterator[Outcome]:
        """An action that fails is an `Outcome`. What is raised stops the operation where nothing
        more may be done (`Fenced`, `Interrupted`, …); any other error of ours leaves the actions
        that have no outcome yet `UNKNOWN`."""
        ...


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did."""

    plan: Plan
    """What was decided; after a resume, what was left of the operation."""
    operation: str | None = None
    """None when there was nothing to do, and nothing was written."""
    outcomes: tuple[Outcome, ...] = ()
    """Of every action of the operation, those before a crash included."""
    resumed: tuple[Report, ...] = ()
    """Operations that a crash had left, finished first. What failed of them was decided anew."""

    @property
    def exit_code(self) -> int:
        """The code of a command that ends with this report."""
        return exit_code(self.outcomes, self.plan.holds)


def exit_code(outcomes: Iterable[Outcome], holds: Iterable[Hold] = ()) -> int:
    """0 all done · 8 some done, some failed · the failures' own code if nothing was done · 3 if
    something asked for is held · 5 if something is unknown, and nothing worse."""
    holds = tuple(hold for hold in holds if not hold.aside)
    outcomes = tuple(outcomes)
    failed = {outcome.exit_code or 1 for outcome in outcomes if outcome.result is Result.FAILED}
    if failed and any(outcome.ok for outcome in outcomes):
        return 8
    if failed:
        return next((code for code in _GRAVEST_FIRST if code in failed), max(failed))
    if any(not hold.unknown for hold in holds):
        return 3
    unknown = any(outcome.result is Result.UNKNOWN for outcome in outcomes)
    return 5 if unknown or any(hold.unknown for hold in holds) else 0


def propose(controller: Controller[Seen], clock: Clock) -> Plan:
    """`--plan`: observe and decide, and touch nothing."""
    return controller.decide(controller.observe(), clock.now())


def run(
    controller: Controller[Seen],
    journal: Journal,
    lease: Lease,
    *,
    clock: Clock,
    wait: Waiting = False,
    approved: Plan | None = None,
    amend: bool = False,
    independent: bool = True,
    stop: Callable[[], bool] | None = None,
    on_plan: Callable[[Plan, str], None] | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
    background: Background | None = None,
    finisher: Callable[[Stream], Controller[Any] | None] | None = None,
) -> Report:
    """Acquire the lease, finish what a crash left, then observe, decide, act and record.

    `finisher` gives the controller that goes on with an operation that was left, None where only
    another process can: it stays unfinished. Another request's controller would take what it was
    not asked for as no longer wanted. By default `controller` finishes its own feature's.
    `approved`: the plan that somebody agreed to; `StalePlan` if the world has changed since, other
    than by finishing what was left.
    `amend`: before each batch after the first, observe and decide again, and follow that.
    `independent`: a batch that fails does not stop the next.
    `on_plan` gets the plan and the operation before anything is done, and each revision.
    """
    with holding(lease, background, wait=wait):
        return run_held(
            controller,
            journal,
            lease,
            clock=clock,
            approved=approved,
            amend=amend,
            independent=independent,
            stop=stop,
            on_plan=on_plan,
            on_outcome=on_outcome,
            finisher=finisher,
        )


def run_held(
    controller: Controller[Seen],
    journal: Journal,
    lease: Lease,
    *,
    clock: Clock,
    approved: Plan | None = None,
    amend: bool = False,
    independent: bool = True,
    stop: Callable[[], bool] | None = None,
    on_plan: Callable[[Plan, str], None] | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
    finisher: Callable[[Stream], Controller[Any] | None] | None = None,
) -> Report:
    """`run`, by whoever is `holding` the lease already: a controller that goes round and round."""
    loop = _Loop(
        controller, lease, lease.generation, clock, amend, independent, stop, on_plan, on_outcome
    )
    resumed = tuple(loop.finish_left(journal, finisher))
    plan = propose(controller, clock)
    done_already = plan.noop and any(each.outcomes for each in resumed)
    if approved is not None and not done_already:
        _require_unchanged(approved, plan)
        plan = approved
    if plan.noop:
        return Report(plan, resumed=resumed)
    lease.guard()
    operation = journal.new_operation(plan.feature)
    stream = journal.start(operation, plan, lease=lease.name, fence=loop.fence)
    if on_plan is not None:
        on_plan(plan, operation)
    loop.carry_out(stream, plan.actions)
    plan = stream.plan if amend else plan
    return Report(plan, operation, tuple(stream.outcomes().values()), resumed)


def resume(
    operation: str,
    controller: Controller[Seen],
    journal: Journal,
    lease: Lease,
    *,
    clock: Clock,
    wait: Waiting = False,
    amend: bool = False,
    independent: bool = True,
    stop: Callable[[], bool] | None = None,
    on_plan: Callable[[Plan, str], None] | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
    background: Background | None = None,
) -> Report:
    """Finish one operation that was left unfinished, by whomever. `lease` is the one under which
    it ran (`Stream.lease`)."""
    with holding(lease, background, wait=wait):
        fence = lease.generation
        loop = _Loop(controller, lease, fence, clock, amend, independent, stop, on_plan, on_outcome)
        return loop.finish(journal.open(operation))


@contextmanager
def holding(
    lease: Lease, background: Background | None = None, *, wait: Waiting = False
) -> Iterator[None]:
    """The lease, acquired, kept and released."""
    lease.acquire(wait=wait)
    try:
        with lease.keep(background):
            yield
    finally:
        lease.release()


@dataclass(frozen=True, slots=True)
class _Loop(Generic[Seen]):
    """What `run` and `resume` share, once the lease is held."""

    controller: Controller[Seen]
    lease: Lease
    fence: int
    """What is known is recorded although the lease may have lapsed: the number was still free."""
    clock: Clock
    amend: bool
    independent: bool
    stop: Callable[[], bool] | None
    on_plan: Callable[[Plan, str], None] | None
    on_outcome: Callable[[Outcome], None] | None

    def finish_left(
        self, journal: Journal, finisher: Callable[[Stream], Controller[Any] | None] | None
    ) -> Iterator[Report]:
        """Finish what was left under this lease, as far as it can be from here."""
        for stream in journal.unfinished(lease=self.lease.name):
            stream.settle()
            if finisher is not None:
                by = None if stream.closed else finisher(stream)
            else:
                same = stream.plan.feature == self.controller.feature
                by = self.controller if same else None
            if by is not None or stream.closed:
                yield replace(self, controller=by or self.controller).finish(stream)

    def finish(self, stream: Stream) -> Report:
        """Go on with what another process left."""
        stream.settle()
        self._require_own(stream)
        plan = stream.plan
        if stream.closed:
            return Report(plan, stream.operation, tuple(stream.outcomes().values()))
        self._append(stream, Kind.NOTE, {"text": "resumed"})
        fresh = self._decide_anew(plan)
        done = {key for key, outcome in stream.outcomes().items() if outcome.ok}
        open_ = [action for action in plan.actions if action.key not in done]
        left = self._still_wanted(stream, open_, fresh)
        self.carry_out(stream, left)
        rest = fresh.model_copy(update={"actions": tuple(left)})
        return Report(rest, stream.operation, tuple(stream.outcomes().values()))

    def _still_wanted(
        self, stream: Stream, left: Sequence[Action], fresh: Plan
    ) -> Sequence[Action]:
        """What to go on with: of `left`, what is decided still, and, where plans are amended, what
        is decided newly. The rest gets its outcome."""
        done = {key for key, outcome in stream.outcomes().items() if outcome.ok}
        decided = {action.key: action for action in fresh.actions if action.key not in done}
        wanted: list[Action] = []
        if self.amend and decided.keys() - {action.key for action in stream.plan.actions}:
            self._append(stream, Kind.REVISION, {"plan": fresh.model_dump(mode="json")})
            if self.on_plan is not None:
                self.on_plan(fresh, stream.operation)
            wanted = list(decided.values())
        revised = {action.key for action in wanted}
        held = {(hold.subject, hold.region): hold for hold in fresh.holds}
        for action in left:
            if action.key in revised:
                continue
            if action.key in decided or (action.carries_on and stream.begun):
                wanted.append(decided.get(action.key, action))
            else:
                hold = held.get((action.subject, action.region))
                self._record(stream, _undecided(action, hold, fresh.basis))
        return wanted

    def _decide_anew(self, plan: Plan) -> Plan:
        """What is decided now of `plan`; what is refused for good is held."""
        try:
            return propose(self.controller, self.clock)
        except VersionConflict as refusal:
            holds = (
                Hold(subject=action.subject, region=action.region, reason=str(refusal))
                for action in plan.actions
            )
            return Plan(feature=plan.feature, holds=tuple(holds))

    def carry_out(self, stream: Stream, actions: Sequence[Action]) -> None:
        """Perform `actions`, batch by batch, and close the stream."""
        left: Sequence[Action] = list(actions)
        failed = begun = False
        while left or (self.amend and begun):
            if left and self.stop is not None and self.stop():
                raise Interrupted(
                    f"operation {stream.operation}: interrupted between actions",
                    hint="what is finished is recorded; run again to go on",
                )
            if failed and not self.independent:
                self._skip(stream, [action for action in left if not action.carries_on])
                left = [action for action in left if action.carries_on]
            elif self.amend and begun:
                left = self._still_wanted(stream, left, self._decide_anew(stream.plan))
            if not left:
                break
            name, batch = next(iter(batches(left).items()))
            keys = [action.key for action in batch]
            left = [action for action in left if action.key not in keys]
            begun = True
            self.lease.guard()
            self._append(stream, Kind.INTENT, {"actions": keys, "batch": name})
            for outcome in self._act(stream, batch):
                self._record(stream, outcome)
                failed |= not outcome.ok
        self._append(stream, Kind.CLOSED, {"text": "every action has its outcome"})

    def _act(self, stream: Stream, batch: Sequence[Action]) -> Iterator[Outcome]:
        """One outcome for each action, whatever the controller does."""
        waiting = {action.key: action for action in batch}
        detail, error_name, code = "no outcome was given", None, 0
        try:
            for outcome in self.controller.act(batch, stream.operation):
                if waiting.pop(outcome.action, None) is None:
                    raise LookupError(f"an outcome for {outcome.action}, which was not asked for")
                yield outcome
        except _STOPS:
            raise
        except MlplatformError as error:
            detail, error_name, code = str(error), type(error).__name__, error.exit_code
        for key in waiting:
            yield Outcome(
                action=key, result=Result.UNKNOWN, detail=detail, error=error_name, exit_code=code
            )

    def _skip(self, stream: Stream, batch: Iterable[Action]) -> None:
        for action in batch:
            detail = "not begun, because a step before it failed"
            self._record(
                stream,
                Outcome(action=action.key, result=Result.FAILED, detail=detail, exit_code=8),
            )

    def _record(self, stream: Stream, outcome: Outcome) -> None:
        if outcome.finished_at is None:
            outcome = outcome.model_copy(update={"finished_at": self.clock.now()})
        self._append(stream, Kind.OUTCOME, outcome.model_dump(mode="json"))
        if self.on_outcome is not None:
            self.on_outcome(outcome)

    def _append(self, stream: Stream, kind: Kind, payload: JSON) -> None:
        stream.append(kind, payload, fence=self.fence)

    def _require_own(self, stream: Stream) -> None:
        if stream.lease != self.lease.name:
            raise UsageError(
                f"operation {stream.operation} runs under the lease {stream.lease!r}, "
                f"not {self.lease.name!r}"
            )


def batches(actions: Iterable[Action]) -> Mapping[str, Sequence[Action]]:
    """Actions by batch, in the order in which the plan first names each; one without a batch is its
    own."""
    found: dict[str, list[Action]] = {}
    for action in actions:
        found.setdefault(action.batch or action.key, []).append(action)
    return found


def _undecided(action: Action, hold: Hold | None, basis: Mapping[str, str]) -> Outcome:
    """What became of an action that was planned and, on resuming, is not decided any more; with
    what was found of its subject, which tells whether it was done already."""
    if hold is None:
        detail = "no longer decided: done already, or not wanted any more"
        found = {name: value for name, value in basis.items() if action.subject in name}
        return Outcome(
            action=action.key, result=Result.NOTHING, detail=detail, measured={"basis": found}
        )
    if hold.unknown:
        return Outcome(action=action.key, result=Result.UNKNOWN, detail=hold.reason)
    return Outcome(action=action.key, result=Result.FAILED, detail=hold.reason, exit_code=3)


def _same(planned: Action, decided: Action | None) -> bool:
    return (
        decided is not None
        and decided.kind == planned.kind
        and decided.parameters == planned.parameters
    )


def _require_unchanged(approved: Plan, fresh: Plan) -> None:
    """`StalePlan`, naming what changed, unless `fresh` rests on what `approved` rested on."""
    if fresh.noop and not fresh.holds and not approved.noop:
        raise StalePlan(
            "nothing of the plan is left to do: somebody else has done it, or its cause has gone",
            hint="make the plan again to see how things stand",
        )
    changed = sorted(
        name
        for name in approved.basis.keys() | fresh.basis.keys()
        if approved.basis.get(name) != fresh.basis.get(name)
    )
    if not changed:
        now = {action.key: action for action in fresh.actions}
        changed = sorted(
            f"{action.subject} in {action.region}"
            for action in approved.actions
            if not _same(action, now.get(action.key))
        )
    if changed:
        raise StalePlan(
            f"the plan no longer holds: {', '.join(changed)} changed since it was made",
            hint="make the plan again and look at it before agreeing to it",
        )
