"""What is left of a rollout that has been agreed to: the rest of its steps, or the way back. Pure.

The plan says where each step leads, so what is left of it are the steps that are not done. One
reason to go back is enough, and holds from then on: a canary that was once returned is not tried
again by the same operation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mlplatform.core.placement import ModelVersion
from mlplatform.core.plan import Action, Hold, Plan, Severity
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.ports.servers import Group
from mlplatform.rollout.course.undo import Standing, back, look
from mlplatform.rollout.plan.decide import FEATURE
from mlplatform.rollout.plan.steps import SEVERE, Case, Kind, Step

UNDO = "undo"
"""Part of the key of every step of the way back."""
REPEATS_MOST = 3
"""How often a step of the way back is done again because somebody has undone it."""


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
    way: tuple[Action, ...] = ()
    """The way back as it was last decided, done steps and all; empty before it was."""
    stuck: Mapping[str, str] = field(default_factory=dict)
    """By region: which step of the way back did not end well, and why. Nothing after it is done:
    it would rest on what is not so."""
    cold: frozenset[str] = frozenset()
    """Regions in which the way back has started servers that nobody has seen answer yet."""


def go_on(topology: Topology, course: Course) -> Plan:
    """What is left to do."""
    reason = why_back(course)
    if not reason:
        left = tuple(a for a in course.agreed.actions if a.key not in course.done)
        return course.agreed.model_copy(update={"actions": left})
    found: list[tuple[Action, Step]] = []
    unread: list[tuple[Action, Step]] = []
    holds: list[Hold] = []
    for region in regions_to_return(topology, course):
        first = first_step(course.agreed, region)
        case = case_of(topology, first)
        now = course.regions.get(region, _UNSEEN)
        unknown = now.weights if isinstance(now.weights, Unknown) else now.groups
        if region in course.stuck:
            holds.append(Hold(subject=first.subject, region=region, reason=course.stuck[region]))
        elif isinstance(unknown, Unknown):
            unread.append((first, look(case, unknown.reason)))
        else:
            steps = [(first, step) for step in back(case, standing_of(case, now, course))]
            again = _undone_again(course, region, steps)
            if again:
                holds.append(Hold(subject=first.subject, region=region, reason=again))
            else:
                found += steps
    actions = _keyed(course, [*found, *unread], reason)
    return Plan(feature=FEATURE, actions=actions, holds=tuple(holds), basis=course.agreed.basis)


def regions_of(agreed: Plan) -> list[str]:
    """The regions that a plan goes through, in its order."""
    return list(dict.fromkeys(a.region for a in agreed.actions if a.kind != Kind.APPROVE))


def first_step(agreed: Plan, region: str) -> Action:
    """The first step of a region, which says what each says: both versions, and how many serve."""
    return next(a for a in agreed.actions if a.region == region and a.kind != Kind.APPROVE)


def versions_of(agreed: Plan, region: str) -> tuple[str, ...]:
    """Between which a region's requests are divided: the last good one, if any serves, and the one
    on trial."""
    first = first_step(agreed, region)
    versions = (str(first.parameters["last_good"]), first.subject.partition("@")[2])
    return tuple(version for version in versions if version)


def is_way_back(key: str) -> bool:
    """Whether a step is one of the way back, by its key."""
    return f"/{UNDO}/" in key


def _keyed(course: Course, found: Sequence[tuple[Action, Step]], reason: str) -> tuple[Action, ...]:
    """Steps with the keys that they have already, where they are what is left of the way as it was
    last decided; otherwise it is decided anew, and no step is taken for one that was done before.
    """
    regions = {first.region for first, _ in found}
    left = [a for a in course.way if a.key not in course.done and a.region in regions]
    wanted = [(first.region, step.key) for first, step in found]
    if [(action.region, _step_of(action.key)) for action in left] == wanted:
        return tuple(left)
    number = 1 + max((_round_of(action.key) for action in course.way), default=0)
    return tuple(undo_action(first, step, reason, number) for first, step in found)


def _step_of(key: str) -> str:
    return key.rpartition("/")[2]


def _round_of(key: str) -> int:
    """Of a step of the way back: how often that had been decided."""
    before = key.partition(f"/{UNDO}/")[2].rpartition("/")[0]
    return int(before) if before else 1


def _undone_again(course: Course, region: str, steps: Sequence[tuple[Action, Step]]) -> str:
    """What another hand undoes, as often as it is done; empty while nothing is known of that."""
    inside = f"/{region}/{UNDO}/"
    done = [_step_of(key) for key in course.done if inside in key]
    for _, step in steps:
        if step.kind is not Kind.LOOK and (times := done.count(step.key)) >= REPEATS_MOST:
            return (
                f"{step.key} in {region} was done {times} times, and is undone each time: another "
                "hand is at work there (GitOps, an autoscaler); stop that first"
            )
    return ""


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


def standing_of(case: Case, now: RegionNow, course: Course) -> Standing:
    """Where a region stands between the two versions, from what was read of it and what has been
    done there."""
    inside = f"/{case.region}/{UNDO}/"
    done = {_step_of(key) for key in course.done if inside in key}
    groups = now.groups if not isinstance(now.groups, Unknown) else {}
    weights = now.weights if not isinstance(now.weights, Unknown) else {}
    old, new = groups.get(case.last_good), groups.get(case.version)
    return Standing(
        old=min(case.servers, len(old.ready)) if old is not None else 0,
        new=max(new.wanted, len(new.ready)) if new is not None else 0,
        weight=weights.get(case.version, 0),
        answers=new is not None and bool(new.ready),
        cold=case.region in course.cold,
        fenced=f"{Kind.STOP.value}-0" in done,
        unpinned=Kind.UNPIN.value in done,
        lent=bool(case.keeps) and _has_lent(case, course) and Kind.TAKE_BACK.value not in done,
        handed=Kind.HAND_OVER.value in done or _bears_less(case, course),
    )


def _has_lent(case: Case, course: Course) -> bool:
    """Whether others may bear a part of the region's share for this rollout."""
    there = f"{FEATURE}/{case.subject}/{case.region}/"
    if course.whole or any(
        key.startswith(f"{there}{UNDO}/") and _step_of(key) == Kind.HAND_OVER
        for key in course.begun
    ):
        return True
    began = f"{there}{Kind.HAND_OVER.value}" in course.begun
    return began and f"{there}{Kind.TAKE_BACK.value}" not in course.done


def _bears_less(case: Case, course: Course) -> bool:
    """Whether others bear it since the way there, and nobody has begun to take it back."""
    there = f"{FEATURE}/{case.subject}/{case.region}/"
    began = f"{there}{Kind.HAND_OVER.value}" in course.done
    return began and f"{there}{Kind.TAKE_BACK.value}" not in course.begun


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
        keeps={str(name): int(keep) for name, keep in action.figures.get("keeps", {}).items()},
    )


def undo_action(first: Action, step: Step, reason: str, number: int = 1) -> Action:
    """A step of the way back, which is decided for the `number`th time; `first` is any step of the
    way there, in the same region."""
    told = first.parameters
    again = f"{number}/" if number > 1 else ""
    return Action(
        key=f"{FEATURE}/{first.subject}/{first.region}/{UNDO}/{again}{step.key}",
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
        figures={"keeps": keeps} if (keeps := first.figures.get("keeps")) else {},
    )


def is_back(actions: Sequence[Action]) -> str:
    """Why a recorded plan goes back; empty where it is the way there."""
    told = (a.parameters.get("going_back") for a in actions)
    return next((str(reason) for reason in told if reason), "")
