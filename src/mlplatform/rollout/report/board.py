"""A rollout under way, a line for each region: for one who watches it. Pure.

It is fed what the controller says anyway: plans, outcomes, and what each window has come to. Which
step is under way follows from these: the first batch of the plan that has no outcome yet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mlplatform.control.reconcile import batches
from mlplatform.core.plan import Action, Outcome, Plan, Result
from mlplatform.rollout.course.decide import is_back
from mlplatform.rollout.operations import is_not_begun
from mlplatform.rollout.plan.steps import Kind
from mlplatform.rollout.report import wording
from mlplatform.rollout.verdict.judge import Decision, Evidence
from mlplatform.rollout.watching import Looked

LOOKS_SHOWN = 24
"""The newest of the climb, a character each."""


@dataclass(frozen=True, slots=True)
class Line:
    """One region, as it stands."""

    wave: int
    region: str
    step: str
    """The one under way, or what became of the region."""
    place: str
    """`5/9`: how many steps have been begun, of how many."""
    seconds: float | None
    """Since the step was begun; None: none is under way."""
    share: int
    """Per cent that the version was given."""
    climb: str
    """The evidence against it, of the metric that is nearest to its bar; empty: nothing yet."""
    evidence: str
    mood: str = ""
    """`good`, `bad`, or neither."""


@dataclass(slots=True)
class _Region:
    wave: int
    steps: list[str] = field(default_factory=list)
    """Keys of those that are meant to be taken, there or back."""
    current: Action | None = None
    since: float = 0.0
    share: int = 0
    failed: bool = False
    back: bool = False
    looked: Looked | None = None


@dataclass(slots=True)
class Board:
    """How a rollout stands. Times are seconds by any clock that only rises."""

    operation: str = ""
    subject: str = ""
    going_back: str = ""
    _left: tuple[Action, ...] = ()
    _ended: dict[str, Outcome] = field(default_factory=dict)
    _regions: dict[str, _Region] = field(default_factory=dict)

    def plan(self, plan: Plan, operation: str, at: float) -> None:
        """What is to be done from now on: the plan that was agreed to, or the way back."""
        if operation != self.operation:
            self.operation, self.going_back = operation, ""
            self._regions, self._ended = {}, {}
        self.subject = plan.actions[0].subject if plan.actions else self.subject
        self._left = plan.actions
        self.going_back = is_back(plan.actions) or self.going_back
        anew: set[str] = set()
        for action in plan.actions:
            if action.kind == Kind.APPROVE:
                continue
            region = self._regions.setdefault(
                action.region, _Region(int(action.parameters["wave"]), since=at)
            )
            back = bool(action.parameters.get("going_back"))
            if back and not region.back and action.region not in anew:
                region.steps, region.back = [], True
            anew.add(action.region)
            if action.key not in region.steps:
                region.steps.append(action.key)
        self._go_on(at)

    def done_before(self, outcomes: Iterable[Outcome], at: float) -> None:
        """What another process had done already."""
        for outcome in outcomes:
            self.outcome(outcome, at)

    def outcome(self, outcome: Outcome, at: float) -> None:
        """A step is over."""
        self._ended[outcome.action] = outcome
        action = next((each for each in self._left if each.key == outcome.action), None)
        region = self._regions.get(action.region) if action is not None else None
        if action is not None and region is not None and not is_not_begun(outcome):
            region.failed |= not outcome.ok
            if action.kind == Kind.PROMOTE and outcome.result is Result.DONE:
                region.share = 100
            if action.kind == Kind.WEIGHT and outcome.ok:
                region.share = int(action.parameters["weight"])
        self._go_on(at)

    def looked(self, looked: Looked) -> None:
        """One more window was counted."""
        if looked.region in self._regions:
            self._regions[looked.region].looked = looked

    def lines(self, now: float, *, looks: int = LOOKS_SHOWN) -> list[Line]:
        """Every region, by wave."""
        ordered = sorted(self._regions.items(), key=lambda each: each[1].wave)
        return [self._line(name, region, now, looks) for name, region in ordered]

    def _go_on(self, at: float) -> None:
        """The batch that is under way now."""
        left = [action for action in self._left if action.key not in self._ended]
        under_way: Sequence[Action] = next(iter(batches(left).values()), ())
        current: dict[str, Action] = {}
        for action in under_way:
            names = action.parameters["regions"] if action.kind == Kind.APPROVE else [action.region]
            current.update((str(name), action) for name in names)
        for name, region in self._regions.items():
            begins = current.get(name)
            if begins is not None and begins != region.current:
                region.since = at
                if begins.kind == Kind.WEIGHT:
                    region.share = int(begins.parameters["weight"])
            region.current = begins

    def _line(self, name: str, region: _Region, now: float, looks: int) -> Line:
        ended = [key for key in region.steps if key in self._ended]
        taken = [key for key in ended if not is_not_begun(self._ended[key])]
        current = region.current
        step, mood = _standing(region, taken)
        begun = len(taken)
        if current is not None:
            step = current.key.split("/", 3)[3]
            begun += current.key in region.steps
            mood = "bad" if region.back else ""
        looked = region.looked
        worst = _nearest(looked) if looked is not None else None
        climb = evidence = ""
        if looked is not None and worst is not None:
            newest = looked.climb.get(worst.metric.value, ())[-looks:]
            climb = wording.spark(newest, worst.log10_e_needed)
            evidence = _told(worst, looked)
        return Line(
            region.wave,
            name,
            step,
            f"{begun}/{len(region.steps)}",
            now - region.since if current is not None else None,
            region.share,
            climb,
            evidence,
            mood,
        )


def _standing(region: _Region, taken: Sequence[str]) -> tuple[str, str]:
    """A region in which nothing is under way."""
    if len(taken) == len(region.steps):
        return ("returned", "bad") if region.back else ("promoted", "good")
    if region.failed:
        return "failed", "bad"
    return "waits", ""


def _nearest(looked: Looked) -> Evidence | None:
    """The metric whose evidence is nearest to its bar."""
    return max(
        looked.verdict.evidence,
        key=lambda each: each.log10_e / each.log10_e_needed,
        default=None,
    )


def _told(worst: Evidence, looked: Looked) -> str:
    verdict = looked.verdict
    told = (
        f"{worst.metric.value} {worst.failures:,.0f}/{worst.requests:,.0f}, fleet "
        f"{worst.fleet_failures:,.0f}/{worst.fleet_requests:,.0f}; "
        f"e {wording.e_value(worst.log10_e)} of {wording.e_value(worst.log10_e_needed)}: "
        f"{verdict.decision.value}"
    )
    if verdict.decision is Decision.HOLD:
        if math.isfinite(verdict.needed_seconds):
            told += f", {wording.duration(verdict.needed_seconds)} more at this traffic"
        else:
            told += ", and at this traffic no end to it"
    return told
