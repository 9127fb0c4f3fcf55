"""Which weights a rollout may have left, and what it makes of others."""

from __future__ import annotations

from typing import Any

import pytest

from mlplatform.core.plan import Action, Plan
from mlplatform.rollout.course.shares import by_another_hand, may_have_left, share_meanwhile
from tests.features.rollout.plan.world import planned, topology


def plan_of(**strategy: Any) -> Plan:
    plan = planned(
        of=topology(
            {"strategy": strategy, "waves": {"spare_region": False}}, model={"load_seconds": 20}
        )
    )
    assert not plan.holds
    return plan


CANARY = plan_of(weights=[10, 50])
IN_PLACE = plan_of(kind="in_place")


def step(plan: Plan, name: str) -> Action:
    return next(a for a in plan.actions if a.key == f"rollout/m@v2/us/{name}")


LEFT: dict[str, tuple[Plan, str, dict[str, bool], set[int]]] = {
    "before anything": (CANARY, "preflight", {}, {0}),
    "before its first share": (CANARY, "weight-10", {}, {0}),
    "its first share was being given": (CANARY, "weight-10", {"begun": True}, {0, 10}),
    "between shares": (CANARY, "load-2", {}, {25}),
    "between shares, and somebody died": (CANARY, "load-2", {"begun": True}, {0, 25}),
    "between shares, and it crashed": (CANARY, "load-2", {"at_zero": True}, {0, 25}),
    "before promotion": (CANARY, "promote", {}, {75}),
    "while it was promoted": (CANARY, "promote", {"begun": True}, {0, 75, 100}),
    "in the bake": (CANARY, "bake", {}, {100}),
    "in place, the first": (IN_PLACE, "replace-1", {}, {0}),
    "in place, after the first": (IN_PLACE, "warm-up-1", {}, {0}),
    "in place, before the next": (IN_PLACE, "replace-3", {}, {25}),
    "in place, the next was begun": (IN_PLACE, "replace-3", {"begun": True}, {0, 25, 50, 75}),
    "in place, what the others bear meanwhile": (IN_PLACE, "warm-up-3", {}, {50}),
    "in place, the last": (IN_PLACE, "warm-up-4", {}, {100}),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_it_may_have_left(name: str) -> None:
    plan, key, told, shares = LEFT[name]
    assert may_have_left(plan, step(plan, key), **told) == shares


def test_what_stays_bears_all_while_servers_are_replaced() -> None:
    found = [share_meanwhile(IN_PLACE, step(IN_PLACE, f"replace-{new}")) for new in (1, 3, 4)]
    assert found == [0, 50, 100]


FOUND = {
    "as it was left": ({"v1": 90, "v2": 10}, {10}, ""),
    "one of two that it may have left": ({"v1": 100, "v2": 0}, {0, 10}, ""),
    "a third version without a share": ({"v0": 0, "v1": 90, "v2": 10}, {10}, ""),
    "all of it": ({"v1": 0, "v2": 100}, {100}, ""),
    "reverted": (
        {"v1": 100, "v2": 0},
        {10},
        "weights there are v1 100 %, and this rollout had left v2 10 %",
    ),
    "a third version has a share": (
        {"v0": 10, "v1": 80, "v2": 10},
        {10},
        "weights there are v0 10 %, v1 80 %, v2 10 %, and this rollout had left v2 10 %",
    ),
    "nothing gets anything": (
        {"v1": 0, "v2": 0},
        {0, 10},
        "weights there are nothing, and this rollout had left v2 0 or 10 %",
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_whose_weights_they_are(name: str) -> None:
    weights, shares, told = FOUND[name]
    assert by_another_hand(weights, "v1", "v2", frozenset(shares)) == told
