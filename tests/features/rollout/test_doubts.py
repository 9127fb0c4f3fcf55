"""What is told of a rollout before it begins: whether the verdict can promote anything, and what
was left of another."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from mlplatform.core.errors import Interrupted
from mlplatform.rollout import operations
from tests.features.rollout.rolling.world import POLICY, World

TODAY = date(2026, 11, 21)
UNDECLARED = {"metrics": ["errors"]}
CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "how errors scatter is declared": ({}, []),
    "it is not": (
        {"verdict": UNDECLARED},
        ["rollout.verdict.dispersion.errors is not declared"],
    ),
    "it was, and that has expired": (
        {
            "verdict": {
                **UNDECLARED,
                "dispersion": {
                    "errors": {"phi": 1, "measured_on": "2026-01-01", "expires_on": "2026-11-20"}
                },
            }
        },
        ["rollout.verdict.dispersion.errors expired on 2026-11-20; measure it again"],
    ),
    "one of two metrics": (
        {"verdict": {**POLICY["verdict"], "metrics": ["errors", "latency"]}},
        ["rollout.verdict.dispersion.latency is not declared"],
    ),
    "time may promote it": ({"verdict": {**UNDECLARED, "promote_on_time": True}}, []),
    "thresholds decide": ({"verdict": {**UNDECLARED, "thresholds": {}}}, []),
    "nothing is compared": ({"verdict": UNDECLARED, "strategy": {"kind": "blue_green"}}, []),
}


@pytest.mark.parametrize(("changed", "doubts"), CASES.values(), ids=CASES)
def test_whether_the_verdict_can_promote_anything(
    changed: dict[str, Any], doubts: list[str]
) -> None:
    world = World(policy={**POLICY, **changed})
    assert operations.doubts(world.topology, world.plan().plan, TODAY) == doubts


def test_where_nothing_serves_nothing_is_asked_of_the_verdict() -> None:
    world = World(policy={**POLICY, "verdict": UNDECLARED}, first=True)
    assert operations.doubts(world.topology, world.plan().plan, TODAY) == []


def test_what_was_left_of_a_model_is_told_until_it_is_over() -> None:
    world = World()
    until = world.time.seconds + 60
    world.stop = lambda: world.time.seconds > until
    with pytest.raises(Interrupted):
        world.apply("us")
    world.stop = lambda: False
    sites = world.sites()
    assert operations.left(sites, "m") == [operations.newest(sites, "m").operation]
    assert operations.left(sites, "another") == []
    world.go_on()
    assert operations.left(sites, "m") == []
