"""What can be asked of rollout, each as one call: a command parses, calls one, renders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum

from mlplatform.control.journal import Kind as Entry
from mlplatform.control.journal import Stream
from mlplatform.control.lease import Lease, Waiting, holder_of, lease_for
from mlplatform.control.orders import Kind as OrderKind
from mlplatform.control.orders import Order
from mlplatform.control.reconcile import Report, resume, run
from mlplatform.core.errors import (
    IntegrityError,
    LeaseHeld,
    NoMajority,
    NotFound,
    Throttled,
    Unavailable,
    UsageError,
)
from mlplatform.core.placement import ModelVersion, parse_reference
from mlplatform.core.plan import Action, Outcome, Plan, Result
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.ports.identity import Identity
from mlplatform.rollout.course.approval import asked_of, occasion, standing_of
from mlplatform.rollout.course.decide import is_back, is_way_back, regions_of, versions_of
from mlplatform.rollout.effects import Sites
from mlplatform.rollout.identity import require_named
from mlplatform.rollout.plan.decide import FEATURE, check_request, decide
from mlplatform.rollout.plan.seen import Copy, Request, Seen
from mlplatform.rollout.plan.steps import Kind
from mlplatform.rollout.records import Approval, Ordered, StoredPlan, name_of
from mlplatform.rollout.rolling import NOT_WANTED, Roller
from mlplatform.rollout.watching import Looked, scatter_of

_CLOCKS_APART = timedelta(hours=1)
"""By how much the clocks of two machines may differ that have a hand on one plan."""

By = Callable[[], Identity]
"""Who it is that orders something, as far as anybody vouches for it. By default it is told who the
process is, which nobody vouches for."""


@dataclass(frozen=True, slots=True)
class Said:
    """What the caller wants to hear while a rollout runs, from several threads."""

    plan: Callable[[Plan, str], None] = lambda plan, operation: None
    outcome: Callable[[Outcome], None] = lambda outcome: None
    text: Callable[[str], None] = lambda text: None
    seen: Callable[[Looked], None] = lambda looked: None
    """What every window has come to."""
    recalled: Callable[[Stream], None] = lambda stream: None
    """An operation that another process began, before it is gone on with."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """What would be done, and what it was decided from."""

    request: Request
    seen: Seen
    plan: Plan


def request_for(topology: Topology, reference: str, regions: Sequence[str] = ()) -> Request:
    """What is asked by `model@version`, or by `model` where the topology names a version: in the
    regions named, else in all that the model belongs in."""
    name, version = parse_reference(reference)
    model = topology.model(name)
    version = version or model.version
    if version is None:
        raise UsageError(
            f"{name}: which version? The topology names none", hint=f"write {name}@VERSION"
        )
    request = Request(ModelVersion(name, version), tuple(regions) or model.regions)
    check_request(topology, request)
    return request


def propose(sites: Sites, request: Request) -> Proposal:
    """What a rollout would do, and why. Changes nothing. `UsageError` for a version that nobody has
    ever published, as far as every region and the control store can say; and for servers or an
    actuator that no adapter speaks."""
    _require_spoken(sites, request)
    seen = sites.observe(request)
    version = request.subject.version
    copies = [stands.copies.get(version) for stands in seen.regions.values()]
    nowhere = all(isinstance(copy, Copy) and copy == Copy() for copy in copies)
    if nowhere and seen.recorded_digest is None:
        raise UsageError(
            f"{request.subject}: there is no such version",
            hint=f"`mlplatform versions {request.subject.model}` lists those there are",
        )
    return Proposal(request, seen, decide(sites.topology, seen, sites.clock.now()))


def _require_spoken(sites: Sites, request: Request) -> None:
    """Opened, all of them, so that nothing is planned that could not be begun; none is asked."""
    section, subject = sites.topology.rollout, request.subject
    for region in request.regions:
        if section.servers_of(subject.model, region) is not None:
            sites.open_servers(subject.model, region)
        if section.actuator_of(subject.model, region) is not None:
            sites.open_split(subject.model, region, (subject.version,))


def left(sites: Sites, model: str) -> list[str]:
    """Rollouts of a model that are under way, or were left. Empty, too, where nobody can say."""
    with suppress(NoMajority):
        found = sites.journal.unfinished(lease=f"{FEATURE}/{model}")
        return [stream.operation for stream in found if stream.entries]
    return []


def doubts(topology: Topology, plan: Plan, today: date) -> list[str]:
    """Why the verdict will promote nothing, however well it does. Empty: it may."""
    section = topology.rollout.verdict
    judged = (
        action.region
        for action in plan.actions
        if action.kind == Kind.PROMOTE
        and action.parameters["last_good"]
        and "alpha_each" in action.parameters
    )
    if section.thresholds is not None or section.promote_on_time:
        return []
    scatter = scatter_of(section, [*judged][:1], today)
    return [each.reason for each in scatter.values() if isinstance(each, Unknown)]


class Ended(StrEnum):
    """What became of a rollout."""

    NOTHING = "nothing"
    """There was nothing to do."""
    HELD = "held"
    PROMOTED = "promoted"
    RETURNED = "returned"
    """The last good version serves again, wherever it was left."""
    PARTLY = "partly"
    """Some step of the way, there or back, did not end well: people have to look."""


@dataclass(frozen=True, slots=True)
class Rolled:
    """A rollout, when nobody is at work on it any more."""

    report: Report
    ended: Ended
    because: str = ""
    """Why it went back."""

    @property
    def stays_in(self) -> list[str]:
        """Regions in which it serves although it was returned: their wave was over."""
        done = [each.action for each in self.report.outcomes if each.result is Result.DONE]
        went = {key.split("/")[2] for key in done if is_way_back(key)}
        there = [key.split("/")[2] for key in done if key.endswith(f"/{Kind.PROMOTE}")]
        return [region for region in there if region not in went]

    @property
    def subject(self) -> str:
        """`model@version`, of whatever was begun."""
        keys = [outcome.action for outcome in self.report.outcomes]
        return keys[0].split("/")[1] if keys else ""

    @property
    def exit_code(self) -> int:
        """0 promoted · 3 returned, whole · 8 or the failures' own where people have to look."""
        if self.ended is Ended.RETURNED:
            return 3
        return self.report.exit_code


def ended(report: Report) -> Rolled:
    """What a report amounts to."""
    because = is_back(report.plan.actions)
    failed = [each for each in report.outcomes if not each.ok]
    if not report.outcomes:
        return Rolled(report, Ended.HELD if report.plan.holds else Ended.NOTHING)
    if not failed and not because:
        return Rolled(report, Ended.PROMOTED)
    back = [each for each in report.outcomes if is_way_back(each.action)]
    because = because or next((each.detail for each in failed), "")
    if any(not each.ok for each in back) or report.plan.holds:
        return Rolled(report, Ended.PARTLY, because)
    return Rolled(report, Ended.RETURNED, because)


def is_not_begun(outcome: Outcome) -> bool:
    """Whether a step was planned and, in the end, not wanted: nothing was done of it."""
    return outcome.result is Result.NOTHING and outcome.detail.startswith(NOT_WANTED)


def apply(
    sites: Sites, stored: StoredPlan, *, wait: Waiting = False, said: Said | None = None
) -> Rolled:
    """Carry out a plan that was agreed to, under the lease of its model. `StalePlan` where the
    world has changed since it was made; `LeaseHeld` where another hand is on the model, or where
    another rollout of it was left and has to be ended first."""
    said = said or Said()
    request = stored.request
    lease = lease_of(sites, request.subject.model, stored.plan)
    roller = _roller(sites, request, lease, said)
    roller.plan_name = stored.name

    # Whatever came of it: a plan that was found begun is finished, not begun a second time.
    roller.carried_out = any(
        left.agreed.digest == stored.plan.digest
        for left in sites.journal.unfinished(lease=lease.name)
        if left.entries
    )

    def finisher(left: Stream) -> Roller:
        asked = left.agreed
        if asked.digest != stored.plan.digest:
            raise LeaseHeld(
                f"a rollout of {asked.actions[0].subject} was left unfinished: {left.operation}",
                hint=f"`mlplatform rollout resume {left.operation}` goes on with it, "
                f"`mlplatform rollout abort {left.operation}` takes it back",
            )
        return _recalled(sites, left, lease, said)

    def begun(plan: Plan, operation: str) -> None:
        if not roller.operation and asked_of(stored.plan):  # the lease keeps all others from it
            before = operations_with(sites, stored.plan, operation)
            roller.plan_name = occasion(stored.name, len(before))
        said.plan(plan, operation)

    report = run(
        roller,
        sites.journal,
        lease,
        clock=sites.clock,
        wait=wait,
        approved=stored.plan,
        amend=True,
        stop=sites.stop,
        on_plan=begun,
        on_outcome=said.outcome,
        background=sites.background,
        finisher=finisher,
    )
    if report.operation is None and report.resumed:
        report = report.resumed[-1]
    return ended(report)


def lease_of(sites: Sites, model: str, plan: Plan) -> Lease:
    """One hand at a time on one model. Its generation is above every epoch at its entries."""
    versions = {region: versions_of(plan, region) for region in regions_of(plan)}

    def floor() -> int:
        """What cannot be read says nothing: a region that is away must not keep the others from
        going back. Where it knows a newer epoch, its entry refuses us."""
        epochs = [0]
        for region, those in versions.items():
            if sites.topology.rollout.actuator_of(model, region) is None:
                continue
            with suppress(Unavailable, Throttled):
                epochs.append(sites.open_split(model, region, those).read().epoch)
            with suppress(Unavailable, Throttled):
                epochs.append(sites.open_servers(model, region).read().epoch)
        return max(epochs)

    return lease_for(sites, f"{FEATURE}/{model}", floor=floor)


def _roller(
    sites: Sites, request: Request, lease: Lease, said: Said, *, agreed: Plan | None = None
) -> Roller:
    return Roller(
        sites,
        request,
        guard=lease.guard,
        epoch=lambda: lease.generation,
        told=said.text,
        seen=said.seen,
        agreed=agreed,
    )


def _recalled(sites: Sites, stream: Stream, lease: Lease, said: Said) -> Roller:
    roller = _roller(sites, request_of(stream), lease, said)
    said.recalled(stream)
    roller.recall(stream)
    outcomes = stream.outcomes()
    if any(each.key not in outcomes for each in asked_of(stream.agreed)):
        roller.plan_name = occasion_of(sites, stream)
    return roller


def request_of(stream: Stream) -> Request:
    """What an operation was asked to do."""
    agreed = stream.agreed
    model, _, version = agreed.actions[0].subject.partition("@")
    return Request(ModelVersion(model, version), tuple(regions_of(agreed)))


# Who says yes.


def operations_with(sites: Sites, plan: Plan, operation: str = "") -> list[str]:
    """Operations that carried out a plan and are over, the oldest first: all, or those before an
    operation that is over too. One whose journal is damaged may have been of this plan, and
    counts. `NoMajority` where that cannot be known."""
    found: list[str] = []
    for name in sites.journal.operations(since=_made_at(sites, plan)):
        if f"-{FEATURE}-" not in name:
            continue
        try:
            stream = sites.journal.open(name)
            same = bool(stream.entries) and stream.agreed.digest == plan.digest
        except NotFound:
            continue
        except IntegrityError:
            found.append(name)
            continue
        if name == operation and stream.closed:
            break
        if same and stream.closed and name != operation:
            found.append(name)
    return found


def _made_at(sites: Sites, plan: Plan) -> datetime | None:
    """Before when no operation carried a plan out; None where that is not known."""
    try:
        return sites.records.plan(name_of(plan)).made_at - _CLOCKS_APART
    except (IntegrityError, UsageError):
        return None


def occasion_of(sites: Sites, stream: Stream) -> str:
    """Under which name an operation is agreed to."""
    plan = stream.agreed
    return occasion(name_of(plan), len(operations_with(sites, plan, stream.operation)))


@dataclass(frozen=True, slots=True)
class Approved:
    """A yes that was recorded."""

    stored: StoredPlan
    approval: Approval
    before: Sequence[str]
    """Operations with the same plan that are over: it is not they that were agreed to."""


def approve(sites: Sites, name: str, *, by: By, reason: str) -> Approved:
    """Say yes to a plan, for the operation that is under way with it or else the next. `Denied` for
    somebody who may not, where the topology names who may."""
    stored = sites.records.plan(name)
    who = by()
    require_named(who, sites.topology.rollout.waves.approvers, "approve rollouts")
    before = operations_with(sites, stored.plan)
    approval = sites.records.approve(
        occasion(stored.name, len(before)), by=who.by, verified=who.verified, reason=reason
    )
    return Approved(stored, approval, before)


# What was begun.


def operations_of(sites: Sites, reference: str = "") -> Iterator[Stream]:
    """Rollouts, the newest first: all, or those of `model`, `model@version`, or one by its id."""
    if f"-{FEATURE}-" in reference:
        yield open_operation(sites, reference)
        return
    model, version = parse_reference(reference) if reference else ("", None)
    for name in reversed(sites.journal.operations()):
        if f"-{FEATURE}-" not in name:
            continue
        try:
            stream = sites.journal.open(name)
        except (IntegrityError, NoMajority, NotFound):
            continue
        if not stream.entries or not stream.agreed.actions:
            continue
        subject = request_of(stream).subject
        if model in ("", subject.model) and version in (None, subject.version):
            yield stream


def open_operation(sites: Sites, operation: str) -> Stream:
    """One rollout by its id; `UsageError` if there is none."""
    try:
        return sites.journal.open(operation)
    except NotFound as error:
        raise UsageError(str(error), hint=error.hint) from error


def newest(sites: Sites, reference: str) -> Stream:
    """The newest rollout that a reference may mean; `UsageError` if there was none."""
    for stream in operations_of(sites, reference):
        return stream
    raise UsageError(
        f"{reference}: nothing of it was ever rolled out",
        hint="`mlplatform rollout history` lists what was",
    )


def require_open(stream: Stream) -> None:
    """`UsageError` for one that is over."""
    if stream.closed:
        raise UsageError(
            f"{stream.operation} is over already",
            hint=f"`mlplatform rollout status {stream.operation}` tells how it ended",
        )


def order(
    sites: Sites, kind: OrderKind, reference: str, *, reason: str, by: By | None = None
) -> tuple[Stream, Ordered]:
    """Pause, abort or promote the rollout that is under way, or was left. Anybody may pull a brake:
    it is pulled before anybody is asked who does. `Denied` for somebody who may not go on without
    the verdict, where the topology names who may approve."""
    stream = newest(sites, reference)
    require_open(stream)
    who: Identity | None = None
    if kind is OrderKind.PROMOTE:
        who = _who(sites, by)
        approvers = sites.topology.rollout.waves.approvers
        require_named(who, approvers, "promote without the verdict")
    given = sites.orders.give(kind, stream.operation, reason=reason)
    return stream, _note_order(sites, given, who or _who(sites, by))


def _who(sites: Sites, by: By | None) -> Identity:
    return by() if by is not None else Identity(sites.writer)


def _note_order(sites: Sites, given: Order, who: Identity) -> Ordered:
    what = given.kind.value if given.stands else "resume"
    return _note(sites, given.scope, what, who, given.reason, given.at)


def _note(
    sites: Sites, operation: str, what: str, who: Identity, reason: str, at: datetime
) -> Ordered:
    ordered = Ordered(
        operation=operation, what=what, by=who.by, verified=who.verified, reason=reason, at=at
    )
    sites.records.note(ordered)
    return ordered


def go_on(
    sites: Sites,
    reference: str,
    *,
    by: By | None = None,
    wait: Waiting = False,
    said: Said | None = None,
) -> Rolled | None:
    """Take back a pause, and finish what was left. None where another process is at work on it,
    which hears of it within seconds."""
    said = said or Said()
    stream = newest(sites, reference)
    require_open(stream)
    with suppress(NotFound):
        over = sites.orders.take_back(OrderKind.PAUSE, stream.operation, reason="resumed")
        _note_order(sites, over, _who(sites, by))
    try:
        return ended(_resume(sites, stream, wait=wait, said=said))
    except LeaseHeld:
        if wait:
            raise
        return None


def _resume(sites: Sites, stream: Stream, *, said: Said, wait: Waiting = False) -> Report:
    lease = lease_of(sites, request_of(stream).subject.model, stream.agreed)
    return resume(
        stream.operation,
        _recalled(sites, stream, lease, said),
        sites.journal,
        lease,
        clock=sites.clock,
        wait=wait,
        amend=True,
        stop=sites.stop,
        on_plan=said.plan,
        on_outcome=said.outcome,
        background=sites.background,
    )


def abort(
    sites: Sites, reference: str, *, reason: str, by: By | None = None, said: Said | None = None
) -> tuple[Stream, Rolled | None]:
    """End a rollout and go back. By whoever is at work on it; by us, where nobody is."""
    stream, _ = order(sites, OrderKind.ABORT, reference, reason=reason, by=by)
    try:
        return stream, ended(_resume(sites, stream, said=said or Said()))
    except LeaseHeld:
        return stream, None


def undo(
    sites: Sites,
    reference: str,
    *,
    reason: str,
    by: By | None = None,
    wait: Waiting = False,
    said: Said | None = None,
) -> Rolled | None:
    """Bring back the last good version in every region of the newest rollout that a reference may
    mean, whether it is over or not. None where another process does it."""
    said = said or Said()
    stream = newest(sites, reference)
    if not stream.closed:
        return abort(sites, reference, reason=reason, by=by, said=said)[1]
    who = _who(sites, by)
    plan = stream.agreed
    request = request_of(stream)
    lease = lease_of(sites, request.subject.model, plan)
    roller = _roller(sites, request, lease, said, agreed=plan)
    roller.going_back, roller.whole = reason, True

    known: set[str] = set()

    def finisher(left: Stream) -> Roller:
        known.add(left.operation)
        return _recalled(sites, left, lease, said)

    def begun(fresh: Plan, operation: str) -> None:
        if operation not in known:
            known.add(operation)
            _note(sites, operation, "undo", who, reason, sites.clock.now())
        said.plan(fresh, operation)

    report = run(
        roller,
        sites.journal,
        lease,
        clock=sites.clock,
        wait=wait,
        amend=True,
        stop=sites.stop,
        on_plan=begun,
        on_outcome=said.outcome,
        background=sites.background,
        finisher=finisher,
    )
    return ended(report)


# How it stands.


@dataclass(frozen=True, slots=True)
class StepStands:
    """One step of a rollout."""

    action: Action
    result: str
    """`done`, `failed`, `unknown`, `nothing-to-do`; `under way`, or `waits`."""
    outcome: Outcome | None = None
    begun: bool = False
    """Whether anything may have been done of it."""
    waits: str = ""
    """For whom, where somebody has to say yes, and how."""

    @property
    def wrong(self) -> bool:
        """Whether it did not end well, or nobody knows how it did."""
        return self.result in ("failed", "unknown")


_ONLY_LOOKS = (Kind.APPROVE, Kind.PREFLIGHT)
"""Steps of which nothing has to be taken back, however they end."""


def region_state(steps: Sequence[StepStands], *, closed: bool) -> str:
    """What became of a region, in words: `promoted`, `returned`, `not begun`, `under way`, `going
    back`, `people have to look`. One of which nothing was changed before it went wrong is returned:
    the last good version has served all the time."""
    begun = [step for step in steps if step.begun]
    if not begun:
        return "not begun"
    back = [step for step in begun if is_way_back(step.action.key)]
    if not closed:
        return "going back" if back else "under way"
    wrong = [step for step in begun if step.wrong or step.outcome is None]
    if back:
        return "people have to look" if any(step in back for step in wrong) else "returned"
    if wrong:
        looked = all(step.action.kind in _ONLY_LOOKS for step in begun)
        return "returned" if looked else "people have to look"
    return "promoted" if len(begun) == len(steps) else "people have to look"


@dataclass(frozen=True, slots=True)
class AtWork:
    """Who had a hand on a rollout last."""

    holder: str
    until: datetime
    """For how long others keep off it, by the holder's clock, if nothing more is heard of them."""
    is_over: bool
    """Whether that has passed, by ours."""


@dataclass(frozen=True, slots=True)
class Stands:
    """One rollout, as its journal tells it."""

    operation: str
    request: Request
    closed: bool
    steps: tuple[StepStands, ...]
    going_back: str = ""
    paused: str = ""
    at_work: AtWork | None = None
    """Whoever had a hand on it last; None where nobody has, or it is over."""

    @property
    def waits_for_people(self) -> bool:
        """Whether it goes on only once somebody does something."""
        if self.closed:
            return False
        said = not any(each.waits for each in self.steps)
        return bool(self.paused) or not said or self.at_work is None or self.at_work.is_over

    @property
    def regions(self) -> Mapping[str, str]:
        """What became of each region, in words."""
        steps: dict[str, list[StepStands]] = {}
        for step in self.steps:
            if step.action.kind != Kind.APPROVE:
                steps.setdefault(step.action.region, []).append(step)
        return {each: region_state(those, closed=self.closed) for each, those in steps.items()}

    @property
    def state(self) -> str:
        """What became of it, or becomes, in words."""
        if not self.closed:
            return "paused" if self.paused else "going back" if self.going_back else "open"
        states = set(self.regions.values())
        if "people have to look" in states:
            return "people have to look"
        return "promoted" if states == {"promoted"} else "returned"

    @property
    def because(self) -> str:
        """Why it went back, or did not go on."""
        wrong = (each.outcome.detail for each in self.steps if each.wrong and each.outcome)
        return self.going_back or (next(wrong, "") if self.closed else "")


def stands(sites: Sites, stream: Stream) -> Stands:
    """How far a rollout has come."""
    outcomes = stream.outcomes()
    begun: set[str] = set()
    actions: dict[str, Action] = {}
    for entry in stream.entries:
        if entry.kind in (Entry.PLAN, Entry.REVISION):
            for action in Plan.model_validate(entry.payload["plan"]).actions:
                actions.setdefault(action.key, action)
        elif entry.kind is Entry.INTENT:
            begun.update(entry.payload.get("actions", ()))
    steps = []
    waits = "" if stream.closed else _waits(sites, stream)
    for key, action in actions.items():
        outcome = outcomes.get(key)
        if outcome is not None:
            result = outcome.result.value
            if outcome.result is Result.NOTHING and key not in begun:
                result = "not done"
        else:
            result = "under way" if key in begun and not stream.closed else "waits"
        unsaid = outcome is None and action.kind == Kind.APPROVE
        did = key in begun and not (outcome is not None and is_not_begun(outcome))
        steps.append(StepStands(action, result, outcome, did, waits if unsaid else ""))
    paused = [
        each.reason or f"by {each.by}"
        for each in (sites.orders.read() if not stream.closed else ())
        if each.kind is OrderKind.PAUSE and each.scope == stream.operation
    ]
    return Stands(
        stream.operation,
        request_of(stream),
        stream.closed,
        tuple(steps),
        is_back(stream.plan.actions),
        paused[0] if paused else "",
        None if stream.closed else _at_work(sites, stream),
    )


def _at_work(sites: Sites, stream: Stream) -> AtWork | None:
    held = holder_of(sites.control, stream.lease)
    if held is None:
        return None
    return AtWork(held.holder, held.expires_at, is_over=held.expires_at < sites.clock.now())


def _waits(sites: Sites, stream: Stream) -> str:
    """Who has to say yes to an operation, and how; empty where nobody has to any more."""
    plan = stream.agreed
    if not (asked := asked_of(plan)):
        return ""
    before, name = operations_with(sites, plan, stream.operation), name_of(plan)
    approvals = sites.records.approvals(occasion(name, len(before)))
    return standing_of(asked[0], name, approvals, len(before)).waits
