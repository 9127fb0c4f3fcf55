"""A region whose load leaves no server to spare, which hands a part of its share to others while
its servers change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from mlplatform.control.lease import lease_for
from mlplatform.control.orders import Kind as OrderKind
from mlplatform.core.errors import CheckFailed, Fenced, LeaseHeld, MlplatformError, Unavailable
from mlplatform.core.seen import Unknown
from mlplatform.ports.servers import Ailing, Group, Stuck
from mlplatform.rollout import operations
from mlplatform.rollout.operations import Ended
from mlplatform.rollout.plan.seen import Rule, Standing
from tests.features.rollout.plan.world import WEIGHTS

from .test_lives import BAD, HANDS_OVER, SCENARIOS
from .test_troubles import APPROVED, begun, detail_of, once, promoted, returned, share
from .world import World, steps

IN_PLACE = SCENARIOS["in place"].world["policy"]


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


@pytest.mark.parametrize("load", [357.0, 360.0, 363.0])
def test_a_plan_holds_while_its_load_moves_a_little(load: float) -> None:
    world = busy()
    plan = world.plan("us")
    world.loads = {"us": load}
    promoted(world, world.apply(plan=plan))
    assert world.between.asked[0].startswith("us keeps 42 of api")


@pytest.mark.parametrize(
    ("planned", "now", "policy", "said"),
    [
        (200.0, 350.0, HANDS_OVER["policy"], "us: by its load now no server can be spared, unless"),
        (350.0, 399.0, HANDS_OVER["policy"], "by its load now it may keep 37 points of route api"),
        (110.0, 290.0, IN_PLACE, "by its load now 1 of its servers may be away at once"),
    ],
)
def test_a_load_that_has_outgrown_a_plan_is_found_before_a_server_goes(
    planned: float, now: float, policy: Mapping[str, Any], said: str
) -> None:
    """Hours pass until somebody says yes."""
    world = busy(loads={"us": planned}, policy={**policy, "waves": APPROVED["waves"]})
    plan = world.plan("us")

    def says_yes() -> None:
        world.loads["us"] = now
        world.sites().records.approve(plan.name, by="ada", verified="the cluster", reason="")

    once(world, lambda: world.time.seconds > 900, says_yes)
    rolled = world.apply(plan=plan)
    assert rolled.ended is Ended.RETURNED
    assert said in detail_of(rolled, "preflight")
    assert world.holds("us") == {"v1": 4}
    assert not world.between.asked


@pytest.mark.parametrize("rule", [Rule.UNDER_FAILOVER, Rule.FAILOVER_TARGET, Rule.UNHEALTHY])
def test_it_is_not_handed_over_while_failover_is_at_work_there(rule: Rule) -> None:
    world = busy()
    asked: list[bool] = []
    real = world.between.standings

    def standings(model: str, lent: Any) -> dict[str, Any]:
        found = real(model, lent)
        if world.sites().pins.read() and len(asked) < 50:
            asked.append(bool(world.between.asked))
            found["us"] = Standing({rule: "it is its turn"})
        return found

    world.between.standings = standings  # type: ignore[method-assign]
    promoted(world, world.apply("us"))
    assert asked == [False] * 50


def test_of_two_that_would_hand_over_in_one_region_the_second_waits() -> None:
    """Another model's rollout has looked at the region, and moves its part while this one looks."""
    world = busy()
    other = lease_for(world.sites("two"), "hand-over/us")
    other.acquire()
    asked: list[int] = []
    real = world.between.hand_over

    def hand_over(*told: Any, **more: Any) -> Any:
        asked.append(round(world.time.monotonic()))
        return real(*told, **more)

    def moved() -> None:
        other.release()
        world.between.closed["us"] = Standing({Rule.UNDER_FAILOVER: "route other gives it 30 %"})

    def renewed(seconds: float) -> None:
        del seconds
        if world.time.monotonic() < 300:
            other.guard()

    world.between.hand_over = hand_over  # type: ignore[method-assign]
    world.time.meanwhile.append(renewed)
    once(world, lambda: world.time.monotonic() > 300, moved)
    once(world, lambda: world.time.monotonic() > 900, world.between.closed.clear)
    promoted(world, world.apply("us"))
    assert asked[0] >= 900
    assert any("hand-over/us is held by two" in text for text in world.said)
    assert any("under-failover: route other gives it 30 %" in text for text in world.said)


def test_one_that_died_while_it_handed_over_keeps_nobody_waiting() -> None:
    world = busy()
    lease_for(world.sites("two"), "hand-over/us").acquire()
    promoted(world, world.apply("us"))
    assert world.between.weights == WEIGHTS


@pytest.mark.parametrize("error", [LeaseHeld("by a watch"), Fenced("by a newer one")])
@pytest.mark.parametrize("what", ["hand_over", "take_back"])
def test_who_holds_the_route_is_waited_for(what: str, error: MlplatformError) -> None:
    world = busy()
    held: list[str] = []
    real = getattr(world.between, what)

    def refuses(*asked: Any, **told: Any) -> Any:
        if len(held) < 20:
            held.append(what)
            raise error
        return real(*asked, **told)

    setattr(world.between, what, refuses)
    promoted(world, world.apply("us"))
    assert world.between.weights == WEIGHTS
    assert len(held) == 20


def test_where_nobody_answers_for_an_hour_it_comes_back_then_and_nothing_is_returned() -> None:
    world = busy()
    real, since = world.between.take_back, [0.0]

    def away(*asked: Any, **told: Any) -> str:
        since[0] = since[0] or world.time.monotonic()
        if world.time.monotonic() < since[0] + 3600:
            raise Unavailable("no answer", store="memory://api")
        return real(*asked, **told)

    world.between.take_back = away  # type: ignore[method-assign]
    promoted(world, world.apply("us"))
    assert world.between.weights == WEIGHTS


def ready(world: World) -> int:
    groups = world.servers["us"].read().groups
    return sum(len(groups.get(v, Group(v)).ready) for v in ("v1", "v2"))


def over() -> tuple[World, str]:
    """A rollout that is over, whose region has its share again; and its operation."""
    world = busy()
    rolled = world.apply("us")
    promoted(world, rolled)
    assert rolled.report.operation is not None
    world.look = lambda what: None
    return world, rolled.report.operation


def test_what_is_over_and_undone_hands_over_again() -> None:
    world, operation = over()
    shares: set[int] = set()

    def note(seconds: float) -> None:
        del seconds
        if ready(world) < 4:
            shares.add(world.between.weights["us"])

    world.time.meanwhile.append(note)
    undone = operations.undo(world.sites(), operation, reason="it bites")
    returned(world, undone)
    assert shares == {42}
    assert world.between.weights == WEIGHTS


@pytest.mark.parametrize(
    "error", [CheckFailed("headroom"), Unavailable("no answer"), LeaseHeld("by a watch")]
)
def test_what_is_undone_is_returned_though_nobody_else_can_bear_a_part(
    error: MlplatformError,
) -> None:
    world, operation = over()

    def refuses(*asked: Any, **told: Any) -> Any:
        raise error

    world.between.hand_over = refuses  # type: ignore[method-assign]
    undone = operations.undo(world.sites(), operation, reason="it bites")
    returned(world, undone)
    assert undone is not None
    assert "us bears all of api meanwhile: " in detail_of(undone, "undo/hand-over")


def test_what_answers_nothing_is_returned_at_once() -> None:
    world, operation = over()
    world.servers["us"].broken["v2"] = Ailing("v2", Stuck.CRASH, "out of luck")
    world.servers["us"].crash("v2", 4)
    undone = operations.undo(world.sites(), operation, reason="it bites")
    returned(world, undone)
    assert undone is not None
    assert not any("hand-over" in step for step in steps(undone))
