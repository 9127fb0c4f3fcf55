"""What is done in one region, step by step: servers of the old and the new version, the share of
requests that the new one has, and how long it takes to go back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlplatform.core.placement import ModelVersion
from mlplatform.core.rollout import Strategy
from mlplatform.rollout.plan.steps import Case, Kind, Step, steps_of

LOAD_SECONDS = 40.0


def case(servers: int, at_once: int = 1, **strategy: Any) -> Case:
    return Case(
        subject=ModelVersion("m", "v2"),
        last_good="v1",
        region="eu",
        servers=servers,
        strategy=Strategy(**strategy),
        at_once=at_once,
        bake_seconds=1800,
        actuator="caddy://127.0.0.1:2019/m",
        load_seconds=LOAD_SECONDS,
    )


def told(of: Case) -> list[tuple[str, int, int, int, float | None]]:
    return [(s.key, s.old, s.new, s.weight, s.undo_seconds) for s in steps_of(of)]


BEGIN = (("preflight", 0), ("pin", 0))

CASES: dict[str, tuple[Case, list[tuple[str, int, int, int, float | None]]]] = {
    # step, old servers, new servers, per cent for the new version, seconds to undo
    "a canary with room for one more": (
        case(4),
        [
            ("preflight", 4, 0, 0, 0),
            ("pin", 4, 0, 0, 0),
            ("load-1", 4, 1, 0, 0),
            ("warm-up-1", 4, 1, 0, 0),
            ("weight-1", 4, 1, 1, 0),
            ("weight-5", 4, 1, 5, 0),
            ("weight-25", 4, 1, 25, 0),
            ("shrink-3", 3, 1, 25, 40),
            ("load-2", 3, 2, 25, 40),
            ("warm-up-2", 3, 2, 25, 40),
            ("weight-50", 3, 2, 50, 40),
            ("shrink-2", 2, 2, 50, 80),
            ("load-3", 2, 3, 50, 80),
            ("warm-up-3", 2, 3, 50, 80),
            ("weight-75", 2, 3, 75, 80),
            ("shrink-1", 1, 3, 75, 120),
            ("load-4", 1, 4, 75, 120),
            ("warm-up-4", 1, 4, 75, 120),
            ("promote", 1, 4, 100, 120),
            ("bake", 1, 4, 100, 120),
            ("retire", 0, 4, 100, None),
        ],
    ),
    "a canary of one server, beside the other": (
        case(1, weights=(10, 50)),
        [
            ("preflight", 1, 0, 0, 0),
            ("pin", 1, 0, 0, 0),
            ("load-1", 1, 1, 0, 0),
            ("warm-up-1", 1, 1, 0, 0),
            ("weight-10", 1, 1, 10, 0),
            ("weight-50", 1, 1, 50, 0),
            ("promote", 1, 1, 100, 0),
            ("bake", 1, 1, 100, 0),
            ("retire", 0, 1, 100, None),
        ],
    ),
    "a canary without room: one old server stays until the bake is over": (
        case(3, surge_servers=0, weights=(5,)),
        [
            ("preflight", 3, 0, 0, 0),
            ("pin", 3, 0, 0, 0),
            ("shrink-2", 2, 0, 0, 40),
            ("load-1", 2, 1, 0, 40),
            ("warm-up-1", 2, 1, 0, 40),
            ("weight-5", 2, 1, 5, 40),
            ("weight-50", 2, 1, 50, 40),
            ("shrink-1", 1, 1, 50, 80),
            ("load-2", 1, 2, 50, 80),
            ("warm-up-2", 1, 2, 50, 80),
            ("promote", 1, 2, 100, 80),
            ("bake", 1, 2, 100, 80),
            ("retire", 0, 2, 100, None),
            ("load-3", 0, 3, 100, None),
            ("warm-up-3", 0, 3, 100, None),
        ],
    ),
    "blue/green": (
        case(3, kind="blue_green"),
        [
            ("preflight", 3, 0, 0, 0),
            ("pin", 3, 0, 0, 0),
            ("load-3", 3, 3, 0, 0),
            ("warm-up-3", 3, 3, 0, 0),
            ("promote", 3, 3, 100, 0),
            ("bake", 3, 3, 100, 0),
            ("retire", 0, 3, 100, None),
        ],
    ),
    "in place: the first alone, then as many as may be away": (
        case(4, 2, kind="in_place"),
        [
            ("preflight", 4, 0, 0, 0),
            ("pin", 4, 0, 0, 0),
            ("replace-1", 3, 1, 25, 40),
            ("warm-up-1", 3, 1, 25, 40),
            ("observe-1", 3, 1, 25, 40),
            ("replace-3", 1, 3, 75, 80),
            ("warm-up-3", 1, 3, 75, 80),
            ("observe-3", 1, 3, 75, 80),
            ("replace-4", 0, 4, 100, 80),
            ("warm-up-4", 0, 4, 100, 80),
            ("bake", 0, 4, 100, 80),
            ("retire", 0, 4, 100, None),
        ],
    ),
}


@pytest.mark.parametrize(("of", "steps"), CASES.values(), ids=CASES)
def test_the_steps_of_a_region(
    of: Case, steps: list[tuple[str, int, int, int, float | None]]
) -> None:
    assert told(of) == steps


def test_how_long_going_back_takes_is_unknown_where_nobody_has_measured_a_load() -> None:
    steps = {s.key: s for s in steps_of(replace(case(4), load_seconds=None))}
    assert steps["weight-25"].undo_seconds == 0
    assert steps["shrink-3"].undo_seconds is None
    assert "nobody knows how long that takes" in steps["shrink-3"].undo
    assert steps["load-1"].least_seconds is None


def test_every_step_says_what_it_waits_for_touches_and_how_it_is_undone() -> None:
    for of, _ in CASES.values():
        for step in steps_of(of):
            assert all((step.does, step.gate, step.touches, step.undo)), step.key


WORLDS = [
    replace(case(servers, at_once), strategy=strategy)
    for servers in range(1, 10)
    for at_once in range(1, servers + 1)
    for strategy in (
        Strategy(kind="in_place"),
        Strategy(kind="blue_green"),
        *(
            Strategy(surge_servers=surge, weights=weights)
            for surge in range(0 if servers > 1 else 1, 4)
            for weights in ((1, 5, 25, 50), (33, 99))
        ),
    )
]


def test_nothing_gets_more_than_its_servers_bear() -> None:
    """Over all small regions: requests go to servers that are there, never more servers than there
    is room for, and never back and forth."""
    for of in WORLDS:
        steps = list(steps_of(of))
        keys = [step.key for step in steps]
        assert len(set(keys)) == len(keys)
        before = steps[0]
        for step in steps:
            assert before.old >= step.old, (of, step.key)
            assert (before.new, before.weight) <= (step.new, step.weight), (of, step.key)
            assert step.weight == 0 or step.new > 0, (of, step.key)
            assert step.weight == 100 or step.old > 0, (of, step.key)
            assert step.old + step.new <= of.servers + room(of), (of, step.key)
            assert overload(of, step) <= 1.1, (of, step.key)
            before = step
        assert (before.old, before.new, before.weight) == (0, of.servers, 100)


def room(of: Case) -> int:
    beside = {"in_place": 0, "blue_green": of.servers, "canary": of.strategy.surge_servers}
    return beside[of.strategy.kind]


def overload(of: Case, step: Step) -> float:
    """What the busier arm bears, as a part of what it may while as many as may be away are away;
    weights are whole per cents, so a little more than 1 is no more than rounding."""
    if of.strategy.kind == "in_place" or step.kind in (Kind.LOAD, Kind.WARM_UP):
        return 0.0
    n, away = of.servers, 0 if room(of) else min(of.at_once, of.servers - 1)
    arms = ((100 - step.weight, step.old), (step.weight, step.new))
    worst = max(share / 100 * n / max(servers, 1) for share, servers in arms if share)
    return worst / (n / (n - away))
