"""A region whose load leaves no server to spare, which hands a part of its share to others while
its servers change."""

from __future__ import annotations

from typing import Any

import pytest

from mlplatform.control.orders import Kind as OrderKind
from mlplatform.core.seen import Unknown
from mlplatform.ports.servers import Group
from mlplatform.rollout import operations
from mlplatform.rollout.plan.seen import Rule, Standing
from tests.features.rollout.plan.world import WEIGHTS

from .test_lives import BAD, HANDS_OVER
from .test_troubles import begun, detail_of, once, promoted, returned, share
from .world import World, steps


def busy(**told: Any) -> World:
    return begun(**{**HANDS_OVER, **told})


def test_others_bear_a_part_from_before_the_first_server_goes_until_the_last_has_come() -> None:
    world = busy()
    between: list[tuple[int, int]] = []

    def note(seconds: float) -> None:
        del seconds
        groups = world.servers["us"].read().groups
        ready = sum(len(groups.get(v, Group(v)).ready) for v in ("v1", "v2"))
        now = (world.between.weights["us"], ready)
        if not between or between[-1] != now:
            between.append(now)

    world.time.meanwhile.append(note)
    rolled = world.apply("us")
    promoted(world, rolled)
    assert world.between.weights == WEIGHTS
    assert {kept for kept, ready in between if ready < 4} == {42}
    operation = rolled.report.operation
    assert world.between.asked == [
        f"us keeps 42 of api: the rollout of m@v2, {operation}",
        f"us back on api: the rollout of m@v2, {operation}",
    ]
    assert detail_of(rolled, "hand-over") == "us has 42 points of api, others the rest"


def test_a_bad_canary_is_returned_and_then_the_share_comes_back() -> None:
    world = busy(errors=BAD)
    rolled = world.apply("us")
    returned(world, rolled)
    assert world.between.weights == WEIGHTS
    assert steps(rolled)[-1] == "us undo/take-back done"


def test_where_failover_does_not_let_it_nothing_has_begun() -> None:
    world = busy()
    world.between.gate = "headroom: eu: 10 req/s free, 90 needed"
    rolled = world.apply("us")
    returned(world, rolled)
    assert "headroom: eu: 10 req/s free, 90 needed" in detail_of(rolled, "hand-over")
    assert {o.result.value for o in rolled.report.outcomes if "/undo/" in o.action} <= {
        "done",
        "nothing-to-do",
    }
    assert world.between.weights == WEIGHTS
    assert not [s for s in steps(rolled) if s.startswith(("us shrink", "us load")) and "done" in s]


def test_what_failover_moves_beyond_that_is_waited_for() -> None:
    """ap is lost in mid-canary, and us is given more than it was left with."""
    world = busy()
    lent: dict[str, int] = {}

    def lost() -> None:
        lent.update(world.between.weights)
        world.between.weights.update(us=80, eu=20, ap=0)

    once(world, lambda: share(world) == 10, lost)
    once(world, lambda: world.time.monotonic() > 900, lambda: world.between.weights.update(lent))
    promoted(world, world.apply("us"))
    assert any("waits: failover-target: route api gives us 80 %" in text for text in world.said)
    assert world.between.weights == WEIGHTS


def test_it_waits_for_failovers_gates_to_take_it_back_and_nothing_else_begins() -> None:
    waves = {"bake_seconds": 60, "spare_region": False}
    world = busy(policy={**HANDS_OVER["policy"], "waves": waves})
    once(
        world,
        lambda: world.weights("us") == {"v2": 100},
        lambda: setattr(world.between, "gate", "hold-off: us has been well for 10 s"),
    )
    waits = "take-back waits: us has 42 points of api: hold-off"
    once(
        world, lambda: waits in "".join(world.said[-1:]), lambda: setattr(world.between, "gate", "")
    )
    promoted(world, world.apply("us", "eu"), "us", "eu")
    assert world.between.weights == WEIGHTS


def test_an_abort_while_it_is_taken_back_returns_the_region_and_its_share() -> None:
    world = busy()
    once(
        world,
        lambda: world.weights("us") == {"v2": 100},
        lambda: setattr(world.between, "gate", "hold-off: us has been well for 10 s"),
    )

    def enough() -> None:
        name = operations.newest(world.sites(), "m").operation
        world.sites().orders.give(OrderKind.ABORT, name, reason="enough")
        world.between.gate = ""

    once(world, lambda: "take-back waits" in "".join(world.said), enough)
    world.apply("us")
    assert world.between.weights == WEIGHTS


@pytest.mark.parametrize("standing", [Standing({Rule.UNHEALTHY: "us is ill"}), Unknown("no word")])
def test_while_it_is_lent_what_else_stands_in_the_way_still_does(standing: Any) -> None:
    world = busy()
    told: list[str] = []
    real = world.between.standings

    def standings(model: str, lent: Any) -> dict[str, Any]:
        found = real(model, lent)
        if share(world) == 10 and len(told) < 50:
            told.append(model)
            found["us"] = standing
        return found

    world.between.standings = standings  # type: ignore[method-assign]
    promoted(world, world.apply("us"))
    assert len(told) == 50
