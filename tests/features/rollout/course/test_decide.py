"""What is left of a rollout: the rest of its steps, or the way back, of which regions and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from mlplatform.core.plan import Action, Plan
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.ports.servers import Group
from mlplatform.rollout.course.decide import Course, RegionNow, go_on, is_back, why_back
from tests.features.rollout.plan.world import ONE, REGIONS, TWO, planned, topology

POLICY: dict[str, Any] = {"strategy": {"weights": [50], "step_seconds": 0}}
LOADS = {"load_seconds": 20}


def world(**waves: Any) -> Topology:
    return topology({**POLICY, "waves": {"spare_region": False, **waves}}, model=LOADS)


def agreed(of: Topology) -> Plan:
    plan = planned(of=of)
    assert not plan.holds
    return plan


def regions_of(plan: Plan) -> list[str]:
    """In their order, each once."""
    return list(dict.fromkeys(action.region for action in plan.actions))


def steps_of(plan: Plan, region: str) -> list[str]:
    return [a.key.rpartition("/")[2] for a in plan.actions if a.region == region]


def until(plan: Plan, region: str, step: str) -> list[Action]:
    """Every action up to that one."""
    keys = [action.key for action in plan.actions]
    return list(plan.actions[: 1 + keys.index(f"rollout/m@v2/{region}/{step}")])


def keys(actions: Sequence[Action]) -> frozenset[str]:
    return frozenset(action.key for action in actions)


def stands(old: int, new: int, weight: int) -> RegionNow:
    groups = {
        version: Group(version, digest, count, tuple(f"{version}:{n}" for n in range(count)))
        for version, digest, count in (("v1", ONE, old), ("v2", TWO, new))
        if count
    }
    return RegionNow({"v1": 100 - weight, "v2": weight}, groups)


NOW = dict.fromkeys(REGIONS, stands(4, 1, 50))


def failed(plan: Plan, region: str, step: str, *, why: str = "it is worse", **more: Any) -> Course:
    """All before that step was done, and it failed."""
    actions = until(plan, region, step)
    return Course(
        agreed=plan,
        done=keys(actions[:-1]),
        begun=keys(actions),
        failed={actions[-1].key: why},
        regions=NOW,
        **more,
    )


def test_what_is_not_done_is_left() -> None:
    of = world()
    plan = agreed(of)
    assert go_on(of, Course(plan)) == plan
    done = until(plan, "ap", "warm-up-1")
    left = go_on(of, Course(plan, done=keys(done), begun=keys(done)))
    assert left.actions == plan.actions[len(done) :]
    assert go_on(of, Course(plan, done=keys(plan.actions))).noop


def test_nothing_of_the_way_there_is_begun_after_a_failure() -> None:
    of = world()
    plan = agreed(of)
    left = go_on(of, failed(plan, "ap", "weight-50"))
    assert is_back(left.actions) == "weight-50 in ap: it is worse"
    assert all("/undo/" in action.key for action in left.actions)
    assert not keys(plan.actions) & keys(left.actions)


REASONS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, ""),
    "a step failed": ({"failed": {"rollout/m@v2/ap/load-1": "no room"}}, "load-1 in ap: no room"),
    "it was aborted": ({"aborted": "enough"}, "aborted: enough"),
    "it was decided before: that stays the reason": (
        {
            "going_back": "weight-50 in ap: worse",
            "aborted": "enough",
            "failed": {"rollout/m@v2/ap/load-1": "no room"},
        },
        "weight-50 in ap: worse",
    ),
    "the first that failed": (
        {"failed": {"rollout/m@v2/ap/load-2": "b", "rollout/m@v2/ap/load-1": "a"}},
        "load-1 in ap: a",
    ),
    "what failed and was done after all is no reason": (
        {
            "failed": {"rollout/m@v2/ap/load-1": "a"},
            "done": frozenset({"rollout/m@v2/ap/load-1"}),
        },
        "",
    ),
}


@pytest.mark.parametrize("name", REASONS)
def test_why_it_goes_back(name: str) -> None:
    told, reason = REASONS[name]
    assert why_back(Course(agreed(world()), **told)) == reason


# Waves: ap has the least of the world's traffic, then eu, then us.
RETURNED: dict[str, tuple[dict[str, Any], str, tuple[str, str], list[str]]] = {
    "the first wave": ({}, "keep", ("ap", "weight-50"), ["ap"]),
    "a later wave: earlier ones are kept": ({}, "keep", ("eu", "weight-50"), ["eu"]),
    "a later wave: earlier ones go back, the last first": (
        {},
        "return",
        ("us", "weight-50"),
        ["us", "eu", "ap"],
    ),
    "the second wave, and they go back": ({}, "return", ("eu", "bake"), ["eu", "ap"]),
    "a wave of two goes back whole": (
        {"concurrency": 2},
        "keep",
        ("ap", "weight-50"),
        ["ap", "eu"],
    ),
    "who is over in a wave of two stays": (
        {"concurrency": 2},
        "keep",
        ("eu", "retire"),
        ["eu"],
    ),
}


@pytest.mark.parametrize("name", RETURNED)
def test_which_regions_go_back(name: str) -> None:
    waves, earlier, (region, step), told = RETURNED[name]
    of = topology(
        {**POLICY, "waves": {"spare_region": False, **waves}, "undo": {"earlier_waves": earlier}},
        model=LOADS,
    )
    assert regions_of(go_on(of, failed(agreed(of), region, step))) == told


def test_when_only_a_question_was_asked_nothing_goes_back() -> None:
    of = world(approval="first")
    plan = agreed(of)
    course = Course(plan, begun=keys(plan.actions[:1]), aborted="enough", regions=NOW)
    left = go_on(of, course)
    assert left.noop
    assert not left.holds


def test_when_it_was_ordered_all_regions_go_back_those_that_are_over_too() -> None:
    of = world()
    plan = agreed(of)
    course = Course(plan, going_back="slow", whole=True, regions=NOW)
    assert regions_of(go_on(of, course)) == ["us", "eu", "ap"]


def carried_on(of: Topology, course: Course, now: RegionNow, steps: int) -> Course:
    """So many steps of the way back are done, and the region is read as it is then."""
    way = course.way or go_on(of, course).actions
    done = [action for action in way if action.key not in course.done][:steps]
    return replace(
        course, way=way, done=course.done | keys(done), regions={**course.regions, "ap": now}
    )


def test_the_way_back_keeps_its_keys_while_it_goes_as_decided() -> None:
    of = world()
    course = failed(agreed(of), "ap", "weight-50")
    way = go_on(of, course).actions
    assert [a.key for a in way] == [
        f"rollout/m@v2/ap/undo/{step}" for step in ("weight-0", "stop-0", "unpin")
    ]
    course = carried_on(of, course, stands(4, 1, 0), 1)
    assert go_on(of, course).actions == way[1:]
    course = carried_on(of, course, stands(4, 0, 0), 1)
    assert go_on(of, course).actions == way[2:]
    course = carried_on(of, course, stands(4, 0, 0), 1)
    assert go_on(of, course).noop


def test_what_another_hand_undid_is_done_again_under_another_key_and_not_for_ever() -> None:
    of = world()
    course = failed(agreed(of), "ap", "weight-50")
    for number in (2, 3):
        course = carried_on(of, course, stands(4, 1, 50), 1)
        again = go_on(of, course).actions
        assert again[0].key == f"rollout/m@v2/ap/undo/{number}/weight-0"
        kept = tuple(a for a in course.way if a.key in course.done)
        course = replace(course, way=(*kept, *again))
    course = carried_on(of, course, stands(4, 1, 50), 1)
    left = go_on(of, course)
    assert left.noop
    assert [hold.reason for hold in left.holds] == [
        (
            "weight-0 in ap was done 3 times, and is undone each time: another hand is at work "
            "there (GitOps, an autoscaler); stop that first"
        )
    ]


def test_a_region_that_cannot_be_read_is_waited_for_after_the_others() -> None:
    of = world(concurrency=2)
    course = failed(agreed(of), "ap", "weight-50")
    away = RegionNow(Unknown("HTTP 503"), Unknown("HTTP 503"))
    left = go_on(of, replace(course, regions={**NOW, "ap": away}))
    assert regions_of(left) == ["eu", "ap"]
    assert steps_of(left, "eu") == ["weight-0", "stop-0", "unpin"]
    assert steps_of(left, "ap") == ["look"]
    assert not left.holds


def test_a_region_whose_way_back_got_stuck_is_held_and_the_others_go_on() -> None:
    of = world(concurrency=2)
    course = failed(agreed(of), "ap", "weight-50")
    course = replace(course, stuck={"ap": "stop-0 in ap: Denied"})
    left = go_on(of, course)
    assert regions_of(left) == ["eu"]
    assert [(hold.region, hold.reason) for hold in left.holds] == [("ap", "stop-0 in ap: Denied")]


def test_servers_that_were_started_on_the_way_back_are_asked_before_they_bear_anything() -> None:
    of = world()
    course = failed(agreed(of), "ap", "weight-50", cold=frozenset({"ap"}))
    assert steps_of(go_on(of, course), "ap")[0] == "warm-up-4"
