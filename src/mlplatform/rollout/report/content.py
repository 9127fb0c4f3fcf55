"""What a report of a rollout tells, as values: what became of it, by whose hand, on what evidence,
what it cost, and how soon a bad version was caught. Pure.

It is told from what was kept: the journal, the windows, approvals and orders. The evidence is drawn
from the windows by the policy of today's topology; what was decided by is what the journal has. Who
reads it is told where the two may differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from mlplatform.control.journal import Entry
from mlplatform.control.journal import Kind as EntryKind
from mlplatform.control.orders import Order
from mlplatform.core.money import Cost
from mlplatform.core.plan import JSON, Action, Outcome, Plan, Result
from mlplatform.core.rollout import Rollout
from mlplatform.core.seen import Unknown
from mlplatform.rollout.course.decide import regions_of
from mlplatform.rollout.operations import Stands, StepStands, region_state
from mlplatform.rollout.plan.policy import policy_of
from mlplatform.rollout.plan.steps import Kind
from mlplatform.rollout.records import Approval, Ordered
from mlplatform.rollout.verdict.book import Book
from mlplatform.rollout.verdict.judge import judge
from mlplatform.rollout.verdict.policy import Metric
from mlplatform.rollout.verdict.window import Event, Window
from mlplatform.rollout.watching import evidence_json, scatter_of

_HOUR_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Kept:
    """What was kept of a rollout."""

    stands: Stands
    entries: Sequence[Entry]
    section: Rollout
    """The topology's, as it is now."""
    section_digest: str
    """Its fingerprint, as plans rest on it."""
    windows: Mapping[str, Sequence[Window]] = field(default_factory=dict)
    """By region."""
    approvals: Sequence[Approval] = ()
    ordered: Sequence[Ordered] = ()
    """By whom something was ordered of it."""
    orders: Sequence[Order] = ()
    """About this rollout, whether they still stand or not."""
    gpus: Mapping[str, int] = field(default_factory=dict)
    """By product: how many a server takes."""
    cost: Cost | None = None
    """What its plan was to cost by list prices."""
    unread: Sequence[str] = ()
    """What could not be read of it, and why."""


@dataclass(frozen=True, slots=True)
class Hand:
    """What somebody did."""

    at: datetime
    what: str
    by: str
    verified: str = ""
    """Who vouches for who they are; empty: nobody does."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StepTold:
    """One step that was begun."""

    name: str
    does: str
    result: str
    detail: str
    back: bool
    """Whether it is of the way back."""
    began: datetime | None
    ended: datetime | None

    @property
    def seconds(self) -> float | None:
        """How long it took; None: not over, or not known."""
        if self.began is None or self.ended is None:
            return None
        return max(0.0, (self.ended - self.began).total_seconds())


@dataclass(frozen=True, slots=True)
class Weighed:
    """From when on the version had that share."""

    at: datetime
    percent: int


@dataclass(frozen=True, slots=True)
class Measured:
    """The share of a window's requests that the version got."""

    start: datetime
    end: datetime
    percent: float


@dataclass(frozen=True, slots=True)
class Climb:
    """The evidence against the version at a look, in powers of ten."""

    at: datetime
    log10_e: float


@dataclass(frozen=True, slots=True)
class MetricTold:
    """One metric in one region: what was counted of both arms, and what follows."""

    metric: str
    ground: str
    words: str
    log10_e: float | None
    log10_e_needed: float | None
    requests: float
    failures: float
    fleet_requests: float
    fleet_failures: float
    ratio: float | None
    ratio_upper: float | None
    excess_upper: float | None
    climb: tuple[Climb, ...]

    @property
    def bound(self) -> str:
        """How much worse than the fleet it may be, in words."""
        told = [] if self.ratio is None else [f"{self.ratio:.3g} times the fleet's rate"]
        if self.ratio_upper is not None:
            told.append(f"surely not more than {self.ratio_upper:.3g} times")
        if self.excess_upper is not None:
            told.append(f"surely not more than {100 * self.excess_upper:+.2g} points")
        return ", ".join(told) or "not known"


@dataclass(frozen=True, slots=True)
class RegionTold:
    """What became of one region."""

    region: str
    wave: int
    version: str
    last_good: str
    """Empty: nothing served there before."""
    servers: int
    state: str
    """In words: `operations.region_state`."""
    steps: tuple[StepTold, ...]
    not_begun: int
    """How many steps were planned and not begun."""
    decision: str
    """What the last verdict said; empty: none was needed."""
    because: tuple[str, ...]
    weights: tuple[Weighed, ...]
    shares: tuple[Measured, ...]
    metrics: tuple[MetricTold, ...]
    events: Mapping[Event, int]
    """In how many windows something happened."""
    bake_requests: float | None = None
    bake_failures: float | None = None
    """Since it had all requests; None: nothing was counted."""
    server_seconds: float = 0.0
    """Of servers beside those that served before."""

    @property
    def began(self) -> datetime | None:
        """When its first step was begun."""
        return min((s.began for s in self.steps if s.began is not None), default=None)

    @property
    def ended(self) -> datetime | None:
        """When its last step was over."""
        return max((s.ended for s in self.steps if s.ended is not None), default=None)


@dataclass(frozen=True, slots=True)
class Caught:
    """How soon a version was left that had to be."""

    region: str
    why: str
    seconds: float | None
    """From its first share of requests to the decision; None: it never had any."""
    left_seconds: float | None
    """From the decision until it had no requests there any more."""
    whole_seconds: float | None
    """From the decision until everything was as before, everywhere."""


@dataclass(frozen=True, slots=True)
class Content:
    """All of it."""

    operation: str
    subject: str
    version: str
    state: str
    """As `rollout status` says it."""
    because: str
    began: datetime
    ended: datetime | None
    by: str
    made: datetime
    hands: tuple[Hand, ...]
    regions: tuple[RegionTold, ...]
    """By wave."""
    caught: Caught | None
    requests: float
    failures: float
    """That the version answered, as far as they were counted: while it was watched."""
    planned_hours: Mapping[str, float]
    """GPU-hours beside those of the servers before, by product, as the plan had it at the least."""
    taken_hours: Mapping[str, float]
    """The same, by how long the steps took."""
    cost: Cost | None
    left_out: tuple[str, ...]

    @property
    def waves(self) -> Mapping[int, tuple[RegionTold, ...]]:
        """Regions by wave."""
        found: dict[int, tuple[RegionTold, ...]] = {}
        for each in self.regions:
            found[each.wave] = (*found.get(each.wave, ()), each)
        return found

    @property
    def seconds(self) -> float | None:
        """How long it took; None while it is open."""
        return None if self.ended is None else (self.ended - self.began).total_seconds()


def content_of(kept: Kept, made: datetime) -> Content:
    """What is told of a rollout."""
    stands, entries = kept.stands, kept.entries
    agreed = Plan.model_validate(entries[0].payload["plan"])
    times = _times(entries)
    regions = _regions(kept, agreed, times)
    closed = next((e.at for e in entries if e.kind is EntryKind.CLOSED), None)
    baked = [(r.bake_requests or 0.0, r.bake_failures or 0.0) for r in regions]
    compared = [_canary(kept.windows.get(r.region, ())) for r in regions]
    return Content(
        operation=stands.operation,
        subject=str(stands.request.subject),
        version=stands.request.subject.version,
        state=stands.state,
        because=stands.because,
        began=entries[0].at,
        ended=closed,
        by=entries[0].writer,
        made=made,
        hands=hands_of(entries, kept.approvals, kept.ordered, kept.orders),
        regions=regions,
        caught=_caught(kept, regions),
        requests=sum(requests for requests, _ in (*compared, *baked)),
        failures=sum(failures for _, failures in (*compared, *baked)),
        planned_hours=_planned_hours(agreed),
        taken_hours={
            product: count * sum(r.server_seconds for r in regions) / _HOUR_SECONDS
            for product, count in kept.gpus.items()
        },
        cost=kept.cost,
        left_out=tuple(_left_out(kept, agreed, regions)),
    )


# --- steps --------------------------------------------------------------------------------------


def _times(entries: Sequence[Entry]) -> Mapping[str, datetime]:
    """When each step was begun first."""
    found: dict[str, datetime] = {}
    for entry in entries:
        if entry.kind is EntryKind.INTENT:
            for key in entry.payload.get("actions", ()):
                found.setdefault(key, entry.at)
    return found


def _regions(kept: Kept, agreed: Plan, times: Mapping[str, datetime]) -> tuple[RegionTold, ...]:
    by_region: dict[str, list[StepStands]] = {}
    for step in kept.stands.steps:
        if step.action.kind != Kind.APPROVE:
            by_region.setdefault(step.action.region, []).append(step)
    climbs, judged = _drawn(kept, agreed, list(by_region))
    told = []
    for region, steps in by_region.items():
        windows = kept.windows.get(region, ())
        verdict = _recorded(steps) or (judged.get(region, {}) if windows else {})
        begun = [step for step in steps if step.begun]
        first = steps[0].action.parameters
        baked = [
            s.outcome.measured
            for s in steps
            if s.action.kind == Kind.BAKE and s.outcome is not None
        ]
        counted = next((each for each in baked if "requests" in each), None)
        told.append(
            RegionTold(
                region=region,
                wave=int(first["wave"]),
                version=kept.stands.request.subject.version,
                last_good=str(first["last_good"]),
                servers=int(first["servers"]),
                state=region_state(steps, closed=kept.stands.closed),
                steps=tuple(_step(each, times) for each in begun),
                not_begun=len(steps) - len(begun),
                decision=str(verdict.get("decision", "")),
                because=tuple(str(each) for each in verdict.get("because", ())),
                weights=tuple(_weights(begun, times)),
                shares=tuple(_shares(windows)),
                metrics=tuple(
                    _metric(each, climbs.get((region, each["metric"]), ()))
                    for each in verdict.get("evidence", ())
                ),
                events=_events(windows),
                bake_requests=float(counted["requests"]) if counted else None,
                bake_failures=float(counted["failures"]) if counted else None,
                server_seconds=_server_seconds(begun, times),
            )
        )
    return tuple(sorted(told, key=lambda each: each.wave))


def _baked(steps: Sequence[StepStands]) -> JSON | None:
    """What was counted since the version had all requests."""
    for step in steps:
        if step.action.kind == Kind.BAKE and step.outcome is not None:
            return step.outcome.measured if "requests" in step.outcome.measured else None
    return None


def _is_back(action: Action) -> bool:
    return bool(action.parameters.get("going_back"))


def _step(step: StepStands, times: Mapping[str, datetime]) -> StepTold:
    action, outcome = step.action, step.outcome
    return StepTold(
        name=action.key.split("/", 3)[3],
        does=action.reason,
        result=step.result,
        detail=outcome.detail if outcome is not None else "",
        back=_is_back(action),
        began=times.get(action.key),
        ended=outcome.finished_at if outcome is not None else None,
    )


def _server_seconds(begun: Sequence[StepStands], times: Mapping[str, datetime]) -> float:
    """Servers beside those before, from each step's begin to the next one's."""
    placed = sorted(
        ((times[s.action.key], s) for s in begun if s.action.key in times), key=lambda each: each[0]
    )
    if not placed:
        return 0.0
    _, last = placed[-1]
    ends = [at for at, _ in placed[1:]]
    ends.append((last.outcome.finished_at if last.outcome else None) or placed[-1][0])
    total = 0.0
    for (at, step), end in zip(placed, ends, strict=True):
        told = step.action.parameters
        beside = int(told["old_servers"]) + int(told["new_servers"]) - int(told["servers"])
        total += max(0, beside) * max(0.0, (end - at).total_seconds())
    return total


def _weights(begun: Sequence[StepStands], times: Mapping[str, datetime]) -> Iterator[Weighed]:
    """A share is given as its step begins, and watched after that; a promotion is watched first."""
    for step in sorted(begun, key=lambda each: times[each.action.key]):
        kind, outcome = step.action.kind, step.outcome
        if kind == Kind.WEIGHT:
            yield Weighed(times[step.action.key], int(step.action.parameters["weight"]))
        elif kind == Kind.PROMOTE and outcome is not None and outcome.result is Result.DONE:
            yield Weighed(outcome.finished_at or times[step.action.key], 100)


# --- evidence -----------------------------------------------------------------------------------


def _recorded(steps: Sequence[StepStands]) -> JSON:
    """The last verdict that a step ended with."""
    outcomes = [
        s.outcome for s in steps if s.outcome is not None and "verdict" in s.outcome.measured
    ]
    dated = sorted(outcomes, key=_finished)
    return dict(dated[-1].measured["verdict"]) if dated else {}


def _finished(outcome: Outcome) -> datetime:
    return outcome.finished_at or datetime.min.replace(tzinfo=UTC)


def _drawn(
    kept: Kept, agreed: Plan, regions: Sequence[str]
) -> tuple[Mapping[tuple[str, str], tuple[Climb, ...]], Mapping[str, JSON]]:
    """The climb of the evidence by region and metric, and what today's policy says of a region."""
    counted = [w for region in regions for w in kept.windows.get(region, ())]
    if not counted:
        return {}, {}
    section = kept.section.verdict
    named = regions_of(agreed)
    policy = policy_of(section, named)
    scatter = scatter_of(section, named, kept.entries[0].at.date())
    book = Book(policy, scatter).after(w for w in counted if w.region in named)
    climbs = {
        (region, metric.value): tuple(
            Climb(_at(point.end), point.log10_e) for point in book.climb(region, Metric(metric))
        )
        for region in regions
        if kept.windows.get(region)
        for metric in policy.metrics
    }
    judged = {each.region: evidence_json(each, policy) for each in judge(book).regions}
    return climbs, judged


def _metric(evidence: Mapping[str, Any], climb: tuple[Climb, ...]) -> MetricTold:
    return MetricTold(
        metric=str(evidence["metric"]),
        ground=str(evidence["ground"]),
        words=str(evidence["words"]),
        log10_e=evidence["log10_e"],
        log10_e_needed=evidence["log10_e_needed"],
        requests=float(evidence["requests"]),
        failures=float(evidence["failures"]),
        fleet_requests=float(evidence["fleet_requests"]),
        fleet_failures=float(evidence["fleet_failures"]),
        ratio=evidence["ratio"],
        ratio_upper=evidence["ratio_upper"],
        excess_upper=evidence["excess_upper"],
        climb=climb,
    )


def _canary(windows: Sequence[Window]) -> tuple[float, float]:
    """Requests to the version, and those that failed, in all windows that could be read."""
    arms = [w.canary for w in windows if not isinstance(w.canary, Unknown)]
    return sum(each.requests for each in arms), sum(each.errors for each in arms)


def _shares(windows: Sequence[Window]) -> Iterator[Measured]:
    for window in windows:
        if isinstance(window.canary, Unknown) or isinstance(window.fleet, Unknown):
            continue
        both = window.canary.requests + window.fleet.requests
        if both > 0:
            share = 100 * window.canary.requests / both
            yield Measured(_at(window.start), _at(window.end), share)


def _events(windows: Sequence[Window]) -> Mapping[Event, int]:
    found = {event: sum(event in each.events for each in windows) for event in Event}
    return {event: count for event, count in found.items() if count}


def _at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


# --- hands, money, time -------------------------------------------------------------------------


_ORDERED = {
    "promote": "promoted it by hand, without waiting for the verdict",
    "abort": "ended it",
    "pause": "paused it",
    "resume": "took back a pause of it",
    "undo": "ordered that the last good version comes back",
}


def hands_of(
    entries: Sequence[Entry],
    approvals: Sequence[Approval],
    ordered: Sequence[Ordered],
    orders: Sequence[Order],
) -> tuple[Hand, ...]:
    """Who had a hand in a rollout, the first first. Of an order that nobody is noted to have given
    it is told which process did."""
    told = [
        Hand(each.at, "approved its plan", each.by, each.verified, each.reason)
        for each in approvals
    ]
    told.append(Hand(entries[0].at, "began it", entries[0].writer))
    told += [
        Hand(each.at, _ORDERED.get(each.what, each.what), each.by, each.verified, each.reason)
        for each in ordered
    ]
    noted = {(each.what, each.at) for each in ordered}
    for order in orders:
        what = order.kind.value if order.stands else "resume"
        if what in _ORDERED and (what, order.at) not in noted:
            told.append(Hand(order.at, _ORDERED[what], order.by, reason=order.reason))
    for before, after in pairwise(entries):
        if after.writer != before.writer:
            told.append(Hand(after.at, "went on with it", after.writer))
    return tuple(sorted(told, key=lambda each: each.at))


def _planned_hours(agreed: Plan) -> Mapping[str, float]:
    found: dict[str, float] = {}
    for action in agreed.actions:
        for used in action.consumes:
            if used.resource == "gpu":
                name = used.product or "GPU"
                found[name] = found.get(name, 0.0) + used.amount / _HOUR_SECONDS
    return found


def _caught(kept: Kept, regions: Sequence[RegionTold]) -> Caught | None:
    if not kept.stands.going_back:
        return None
    failed = [
        (step.ended, region)
        for region in regions
        for step in region.steps
        if step.result == "failed" and not step.back and step.ended is not None
    ]
    back = [
        (step.began, region)
        for region in regions
        for step in region.steps
        if step.back and step.began is not None
    ]
    if not failed and not back:
        return None
    decided, region = min(failed or back, key=lambda each: each[0])
    first = next((each.at for each in region.weights if each.percent), None)
    left = next(
        (each.at for each in region.weights if not each.percent and each.at >= decided), None
    )
    gone = next(
        (s.ended for s in region.steps if s.back and s.began == left and s.ended is not None), None
    )
    ends = [s.ended for each in regions for s in each.steps if s.back]
    whole = None
    if kept.stands.closed and ends and None not in ends:
        whole = max(each for each in ends if each is not None)
    return Caught(
        region=region.region,
        why=kept.stands.going_back,
        seconds=(decided - first).total_seconds() if first is not None else None,
        left_seconds=(gone - decided).total_seconds() if gone is not None else None,
        whole_seconds=(whole - decided).total_seconds() if whole is not None else None,
    )


def _left_out(kept: Kept, agreed: Plan, regions: Sequence[RegionTold]) -> Iterator[str]:
    yield from kept.unread
    if agreed.basis.get("rollout") != kept.section_digest:
        yield (
            "The topology's rollout section has changed since: the climb of the evidence is drawn "
            "by what it says now; every decision is told as it was recorded."
        )
    if any(region.weights for region in regions):
        yield (
            "Requests are counted from window to window while the version is watched; those in "
            "between, while weights move, and on the way back are in no count."
        )
    unpriced = [str(a.figures["unpriced"]) for a in agreed.actions if "unpriced" in a.figures]
    if unpriced:
        yield _first("Not in the plan's GPU-hours", list(dict.fromkeys(unpriced)))
    rest = [e for e in (kept.cost.left_out if kept.cost is not None else ()) if e not in unpriced]
    if rest:
        yield _first("Not in the cost", rest)
    for region in regions:
        if region.weights and not kept.windows.get(region.region):
            yield f"No windows of {region.region} were kept, so nothing of them is drawn."


def _first(what: str, reasons: Sequence[str]) -> str:
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return f"{what}: {reasons[0]}{more}."
