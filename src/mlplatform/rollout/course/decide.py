"""What is left of a rollout that has been agreed to: the rest of its steps, or the way back. Pure.

The plan says where each step leads, so what is left of it are the steps that are not done. One
reason to go back is enough, and holds from then on: a canary that was once returned is not tried
again by the same operation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mlplatform.core.placement import ModelVersion
from mlplatform.core.plan import Action, Hold, Plan, Severity
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.ports.servers import Group
from mlplatform.rollout.course.undo import Standing, back
from mlplatform.rollout.plan.decide import FEATURE
from mlplatform.rollout.plan.steps import SEVERE, Case, Kind, Step

UNDO = "undo"
"""Part of the key of every step of the way back."""


@dataclass(frozen=True, slots=True)
class RegionNow:
    """One region as it is, while a rollout goes through it."""

    weights: Mapping[str, int] | Unknown
    """By version, at its entry."""
    groups: Mapping[str, Group] | Unknown
    """By version."""


@dataclass(frozen=True, slots=True)
class Course:
    """How far an agreed rollout has come."""

    agreed: Plan
    done: frozenset[str] = frozenset()
    """Keys of steps that ended well."""
    begun: frozenset[str] = frozenset()
    """Keys of steps that may have had an effect."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """By key of a step: why it failed."""
    going_back: str = ""
    """Why it was decided to go back, once it was."""
    aborted: str = ""
    """Why somebody ordered it to be ended."""
    regions: Mapping[str, RegionNow] = field(default_factory=dict)
    whole: bool = False
    """Whether every region goes back, when one does: those that are over, too."""


def go_on(topology: Topology, course: Course) -> Plan:
    """What is left to do."""
    reason = why_back(course)
    if not reason:
        left = tuple(a for a in course.agreed.actions if a.key not in course.done)
        return course.agreed.model_copy(update={"actions": left})
    actions: list[Action] = []
    holds: list[Hold] = []
    for region in regions_to_return(topology, course):
        now = course.regions.get(region, _UNSEEN)
        for unread in (now.weights, now.groups):
            if isinstance(unread, Unknown):
                subject = course.agreed.actions[0].subject
                holds.append(
                    Hold(subject=subject, region=region, reason=unread.reason, unknown=True)
                )
                break
        else:
            actions += _back(topology, course, region, now, reason)
    left = tuple(action for action in actions if action.key not in course.done)
    return Plan(feature=FEATURE, actions=left, holds=tuple(holds), basis=dict(course.agreed.basis))


_UNSEEN = RegionNow(Unknown("it was not looked at"), Unknown("it was not looked at"))


def why_back(course: Course) -> str:
    """Why the rollout goes back; empty while it goes on."""
    if course.going_back:
        return course.going_back
    if course.aborted:
        return f"aborted: {course.aborted}"
    for action in course.agreed.actions:
        if action.key in course.failed and action.key not in course.done:
            step = action.key.rpartition("/")[2]
            return f"{step} in {action.region}: {course.failed[action.key]}"
    return ""


def regions_to_return(topology: Topology, course: Course) -> list[str]:
    """The regions that go back, the last that was begun first: those of the wave that failed; those
    of earlier waves where policy says so; all that are not over, where it was ordered."""
    waves: dict[str, int] = {}
    for action in course.agreed.actions:
        if action.kind != Kind.APPROVE and (course.whole or action.key in course.begun):
            waves[action.region] = int(action.parameters["wave"])
    if not waves:
        return []
    if course.whole:
        return sorted(waves, key=lambda region: -waves[region])
    newest = max(waves.values())
    returns = topology.rollout.undo.earlier_waves == "return"
    found = [
        region
        for region, wave in waves.items()
        if (wave == newest or returns) and not _is_over(course, region)
    ]
    if returns:
        found += [region for region, wave in waves.items() if wave < newest and region not in found]
    return sorted(dict.fromkeys(found), key=lambda region: -waves[region])


def _is_over(course: Course, region: str) -> bool:
    """Whether every step of a region has been done: what it holds has been baked."""
    return all(
        action.key in course.done for action in course.agreed.actions if action.region == region
    )


def _back(
    topology: Topology, course: Course, region: str, now: RegionNow, reason: str
) -> Iterator[Action]:
    first = next(a for a in course.agreed.actions if a.region == region and a.kind != Kind.APPROVE)
    case = case_of(topology, first)
    standing = standing_of(case, now)
    for step in back(case, standing):
        yield undo_action(first, step, reason)


def standing_of(case: Case, now: RegionNow) -> Standing:
    """Where a region stands between the two versions, from what was read of it."""
    groups = now.groups if not isinstance(now.groups, Unknown) else {}
    weights = now.weights if not isinstance(now.weights, Unknown) else {}
    old, new = groups.get(case.last_good), groups.get(case.version)
    return Standing(
        old=min(case.servers, len(old.ready)) if old is not None else 0,
        new=max(new.wanted, len(new.ready)) if new is not None else 0,
        weight=weights.get(case.version, 0),
        answers=new is not None and bool(new.ready),
    )


def case_of(topology: Topology, action: Action) -> Case:
    """What a recorded step says of its region's rollout."""
    told = action.parameters
    subject = ModelVersion(*action.subject.split("@", 1))
    section = topology.rollout
    return Case(
        subject=subject,
        last_good=str(told["last_good"]),
        region=action.region,
        servers=int(told["servers"]),
        strategy=section.strategy_of(subject.model, action.region),
        at_once=int(told["at_once"]),
        bake_seconds=section.waves.bake_seconds,
        actuator=section.actuator_of(subject.model, action.region),
        load_seconds=section.load_seconds_of(subject.model),
    )


def undo_action(first: Action, step: Step, reason: str) -> Action:
    """A step of the way back; `first` is any step of the way there, in the same region."""
    told = first.parameters
    return Action(
        key=f"{FEATURE}/{first.subject}/{first.region}/{UNDO}/{step.key}",
        kind=step.kind.value,
        subject=first.subject,
        region=first.region,
        reason=step.does,
        severity=Severity.SEVERE if step.kind in SEVERE else Severity.MILD,
        parameters={
            "wave": told["wave"],
            "digest": told["digest"],
            "last_good": told["last_good"],
            "last_good_digest": told["last_good_digest"],
            "servers": told["servers"],
            "at_once": told["at_once"],
            "old_servers": step.old,
            "new_servers": step.new,
            "weight": step.weight,
            "gate": step.gate,
            "touches": step.touches,
            "undo": step.undo,
            "undo_seconds": None,
            "least_seconds": 0.0,
            "going_back": reason,
        },
    )


def is_back(actions: Sequence[Action]) -> str:
    """Why a recorded plan goes back; empty where it is the way there."""
    told = (a.parameters.get("going_back") for a in actions)
    return next((str(reason) for reason in told if reason), "")
