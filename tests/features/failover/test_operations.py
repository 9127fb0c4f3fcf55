"""A route moved from end to end, in virtual time: claimed, planned, written, watched, recorded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta

import pytest

from mlplatform.control.journal import Kind
from mlplatform.control.orders import Kind as OrderKind
from mlplatform.control.reconcile import Report
from mlplatform.core.errors import (
    Denied,
    Fenced,
    LeaseHeld,
    MlplatformError,
    NoMajority,
    StalePlan,
    Unavailable,
    Unsupported,
    UsageError,
)
from mlplatform.core.plan import Action, Outcome, Plan, Result
from mlplatform.failover import operations
from mlplatform.failover.decision.seen import Mode, Request
from mlplatform.failover.effects import Estate
from mlplatform.failover.history.recoveries import operation_of
from mlplatform.failover.history.timeline import clocks_of, markdown
from mlplatform.failover.operations import Left, Moves, Said
from mlplatform.ports.store import Stat
from mlplatform.ports.traffic import RouteState, Weights
from tests.features.control.members import Members, lost
from tests.features.control.weather import SkewedClock

from .estate import World

AWAY = Request(Mode.UNPLANNED, source="us", reason="us is dead")


def go(estate: Estate, request: Request = AWAY, said: Said | None = None) -> Moves:
    return operations.carry_out(estate, operations.propose(estate, request), said=said)


def outcomes(moves: Moves) -> dict[str, str]:
    return {
        outcome.action.split("/")[2]: outcome.result.value
        for outcome in moves.reports["api"].outcomes
    }


def dead_us(**settings: object) -> World:
    world = World(**settings)  # type: ignore[arg-type]
    world.kill("us")
    return world


def test_a_dead_region_is_left_and_the_route_is_claimed_first() -> None:
    world = dead_us()
    estate = world.estate()
    moves = go(estate)
    assert not moves.errors
    assert outcomes(moves) == {"shift": "done", "settle": "done"}
    assert dict(world.state.weights) == {"us": 0, "eu": 100}
    assert (world.state.epoch, world.state.writer) == (1, "ops@host:1")
    assert moves.reports["api"].exit_code == 0


def test_a_plan_claims_and_changes_nothing() -> None:
    world = dead_us()
    before = world.state
    proposal = operations.propose(world.estate(), AWAY)
    assert [action.kind for action in proposal.plans["api"].actions] == ["shift", "settle"]
    assert world.state == before
    assert not world.estate().journal.operations()


def test_a_second_run_has_nothing_to_do() -> None:
    world = dead_us()
    go(world.estate())
    proposal = operations.propose(world.estate(), AWAY)
    assert proposal.noop
    assert len(world.estate().journal.operations()) == 1


def test_the_three_clocks_are_in_the_record() -> None:
    world = dead_us(ttl_seconds=30.0, propagation_seconds=3.0, slow_clients=12.0)
    estate = world.estate()
    moves = go(estate)
    operation = moves.reports["api"].operation
    assert operation is not None
    told = operation_of(estate.journal.open(operation))
    assert told is not None
    clocks = clocks_of(told)
    assert clocks.committed_seconds == 0.0
    assert clocks.authoritative_seconds == pytest.approx(3, abs=0.6)
    assert clocks.observed_seconds is not None
    assert 30 <= clocks.observed_seconds < 36, "clients may keep what they were told for the TTL"
    text = markdown(told)
    assert "| authoritative | +3." in text
    assert "- verdicts: eu healthy, us unhealthy" in text
    assert "- requests a second: 150 needed (peak 100 × 1.5)" in text
    assert "us 100 → 0" in text


def test_clients_that_do_not_move_are_told() -> None:
    world = dead_us(slow_clients=1e6)
    moves = go(world.estate())
    assert outcomes(moves) == {"shift": "done", "settle": "unknown"}
    (settled,) = (o for o in moves.reports["api"].outcomes if "/settle/" in o.action)
    assert "fra gets no good answer" in settled.detail
    assert moves.reports["api"].exit_code == 5


def test_nobody_who_could_see_clients_move_is_told_too() -> None:
    world = dead_us()
    estate = world.estate()
    proposal = operations.propose(estate, AWAY)
    estate.loads = lambda routes: {}
    seen, estate.look = estate.look, lambda: World(watched=False).look()
    moves = operations.carry_out(estate, proposal)
    assert isinstance(moves.errors["api"], StalePlan), "blind, nothing is decided"
    estate.look = seen


def test_weights_that_somebody_changed_since_the_plan_are_not_overwritten() -> None:
    world = dead_us(weights={"us": 60, "eu": 40})
    estate = world.estate()
    proposal = operations.propose(estate, AWAY)
    world.traffic.change_by_hand({"us": 90, "eu": 10})
    moves = operations.carry_out(estate, proposal)
    assert isinstance(moves.errors["api"], StalePlan)
    assert dict(world.state.weights) == {"us": 90, "eu": 10}


def test_two_operators_at_once_one_acts() -> None:
    world = dead_us()
    first, second = world.estate(), world.estate("bob@host:2")
    proposal = operations.propose(second, AWAY)
    held: list[MlplatformError] = []

    def meanwhile(route: str, outcome: Outcome) -> None:
        moves = operations.carry_out(second, proposal)
        held.extend(moves.errors.values())

    go(first, said=Said(outcome=meanwhile))
    assert held
    assert all(isinstance(error, LeaseHeld | StalePlan) for error in held)
    assert len(first.journal.operations()) == 1


def test_a_deposed_controller_that_wakes_up_is_refused_by_the_target() -> None:
    world = dead_us(weights={"us": 50, "eu": 50})
    asleep = world.estate("asleep@host:9")
    lease = operations.lease_of(asleep, "api")
    lease.acquire()
    mover = operations._mover(asleep, "api", AWAY, lease, Said())
    plan = mover.decide(mover.observe(), world.time.now())
    world.time.sleep(100)  # its term is over, and it does not know yet
    operations.move(world.estate(), "api", AWAY, wait="silent")
    after = world.state
    mover.guard = lambda: None  # a clock that lies, a thread that slept between guard and write
    mover.epoch = lambda: 1
    with pytest.raises(Fenced):
        list(mover.act(plan.actions, "x"))
    with pytest.raises(Fenced):
        mover.observe()
    assert world.state == after


def test_a_lease_is_above_what_the_target_knows_though_the_control_store_was_rebuilt() -> None:
    world = dead_us()
    for _ in range(3):
        lease = operations.lease_of(world.estate(), "api")
        lease.acquire()
        world.estate().observe(epochs={"api": lease.generation})
        lease.release()
    assert world.state.epoch == 3
    for member in range(3):
        world.members.rebuild(member)
    go(world.estate())
    assert world.state.epoch == 4


@pytest.mark.parametrize("member", range(3))
def test_any_one_control_store_may_be_lost(member: int) -> None:
    world = dead_us()
    with lost(world.members, member):
        moves = go(world.estate())
    assert outcomes(moves) == {"shift": "done", "settle": "done"}


def test_without_a_majority_of_control_stores_nothing_is_done() -> None:
    world = dead_us()
    with lost(world.members, 0), lost(world.members, 1), pytest.raises(NoMajority):
        go(world.estate())
    assert dict(world.state.weights) == {"us": 100, "eu": 0}


def test_a_clock_that_is_an_hour_off_changes_nothing() -> None:
    world = dead_us()
    wrong = SkewedClock(world.time, wall_skew=timedelta(hours=1))
    moves = go(world.estate(clock=wrong))
    assert outcomes(moves) == {"shift": "done", "settle": "done"}


class Crash(BaseException):
    """The process ends here."""


def crash_at(moment: int) -> tuple[Said, list[int]]:
    count = [0]

    def tick(*_: object) -> None:
        count[0] += 1
        if count[0] == moment:
            raise Crash

    return Said(plan=tick, outcome=tick, text=tick), count


@pytest.mark.parametrize("moment", range(1, 5))
def test_a_crash_between_any_two_steps_is_gone_on_with_by_anyone(moment: int) -> None:
    world = dead_us()
    said, count = crash_at(moment)
    with pytest.raises(Crash):
        operations.move(world.estate("dead@host:1"), "api", AWAY, said=said)
    assert count[0] == moment
    world.time.sleep(60)
    other = world.estate("other@host:2")
    reports = dict(operations.resume_left(other))
    (name,) = other.journal.operations()
    assert set(reports) == {name}
    assert dict(world.state.weights) == {"us": 0, "eu": 100}
    assert other.journal.open(name).closed
    assert not operations.open_operations(other)
    assert operations.propose(other, AWAY).noop


def test_what_crashed_is_not_gone_on_with_when_the_world_has_changed() -> None:
    world = dead_us()
    said, _ = crash_at(1)  # planned, and not begun
    with pytest.raises(Crash):
        operations.move(world.estate("dead@host:1"), "api", AWAY, said=said)
    world.kill("eu")
    world.time.sleep(60)
    ((_, report),) = operations.resume_left(world.estate())
    assert dict(world.state.weights) == {"us": 100, "eu": 0}
    assert {o.result for o in report.outcomes} <= {Result.FAILED, Result.NOTHING, Result.UNKNOWN}


def test_the_target_fails_while_clients_move_and_the_same_operation_goes_elsewhere() -> None:
    world = World(
        regions=("us", "eu", "ap"),
        weights={"us": 100, "eu": 0, "ap": 0},
        load={"us": 100.0, "eu": 100.0, "ap": 0.0},
        slow_clients=20.0,
        settings={"safety": {"together_seconds": 1}},
        route={"mode": "auto"},
    )
    world.kill("us", ago=600)
    estate = world.estate()
    told: list[str] = []

    def fail_the_target(route: str, outcome: Outcome) -> None:
        if "/shift/" in outcome.action and not world.down - {"us"}:
            (target,) = (
                r for r, w in world.state.weights.items() if w == max(world.state.weights.values())
            )
            world.kill(target, ago=60)

    request = Request(
        Mode.UNPLANNED,
        source="us",
        targets=("eu",),
        reason="us is dead",
        broken=frozenset({"cap"}),
    )
    drilled(world)
    moves = go(estate, request, Said(outcome=fail_the_target, text=told.append))
    assert dict(world.state.weights) == {"us": 0, "eu": 0, "ap": 100}, told
    operation = moves.reports["api"].operation
    assert operation is not None
    stream = estate.journal.open(operation)
    assert [entry.kind for entry in stream.entries].count(Kind.REVISION) >= 1
    assert stream.closed
    others = [name for name in estate.journal.operations() if name != operation]
    assert len(others) == 1, "the drill alone"


def drilled(world: World) -> None:
    """A drill was passed, some days ago."""
    healthy = World(
        regions=world.regions,
        weights=world.weights,
        load=world.load,
        settings={"safety": {"step_seconds": 0}},
        members=world.members,
        time=world.time,
    )
    healthy.traffic = world.traffic
    drill = Request(Mode.DRILL, targets=("eu",), reason="monthly")
    moves = go(healthy.estate("drill@host:7"), drill)
    assert moves.reports["api"].exit_code == 0, moves
    assert dict(world.state.weights) == dict(world.weights)


def test_a_drill_is_a_trickle_and_back() -> None:
    world = World(settings={"safety": {"step_seconds": 5}})
    seen: list[dict[str, int]] = []
    said = Said(outcome=lambda route, outcome: seen.append(dict(world.state.weights)))
    moves = go(world.estate(), Request(Mode.DRILL, targets=("eu",)), said)
    assert {"us": 99, "eu": 1} in seen
    assert dict(world.state.weights) == {"us": 100, "eu": 0}
    assert moves.reports["api"].exit_code == 0


def test_a_drill_waits_for_its_last_clients_and_does_not_begin_anew() -> None:
    world = World(ttl_seconds=60.0, settings={"safety": {"step_seconds": 5}})
    moves = go(world.estate(), Request(Mode.DRILL, targets=("eu",)))
    results = [outcome.result.value for outcome in moves.reports["api"].outcomes]
    assert results == ["done"] * 4, moves.reports["api"].outcomes


def test_what_a_drill_moved_does_not_go_back_to_a_region_that_has_died() -> None:
    world = World(settings={"safety": {"step_seconds": 5}})

    def die(route: str, outcome: Outcome) -> None:
        if world.state.weights["eu"]:
            world.kill("us", ago=60)

    moves = go(world.estate(), Request(Mode.DRILL, targets=("eu",)), Said(outcome=die))
    assert dict(world.state.weights) == {"us": 99, "eu": 1}
    failed = [o for o in moves.reports["api"].outcomes if o.result is Result.FAILED]
    assert [outcome.error for outcome in failed] == ["CheckFailed"]
    assert "nothing goes back to us, which is unhealthy" in failed[0].detail


def test_a_planned_move_drains_the_source_and_leaves_it_ready_afterwards() -> None:
    world = World()
    lame: list[bool] = []
    said = Said(outcome=lambda route, outcome: lame.append(world.fleets["us"].lame))
    moves = go(world.estate(), Request(Mode.PLANNED, source="us", reason="kernel"), said)
    assert moves.reports["api"].exit_code == 0, moves.reports["api"].outcomes
    assert lame[0] is True
    assert lame[-1] is False
    assert dict(world.state.weights) == {"us": 0, "eu": 100}


def test_failback_goes_by_steps_and_one_bad_step_returns() -> None:
    world = dead_us(
        settings={"safety": {"hold_off_seconds": 60, "cooldown_seconds": 0, "step_seconds": 20}}
    )
    go(world.estate())
    world.revive("us", ago=5000)
    seen: list[int] = []
    said = Said(outcome=lambda route, outcome: seen.append(world.state.weights["us"]))
    back = Request(Mode.FAILBACK, targets=("us",), reason="it is well")
    moves = go(world.estate(), back, said)
    assert moves.reports["api"].exit_code == 0, moves
    assert list(dict.fromkeys(seen)) == [1, 5, 25, 50, 100]

    go_again = dead_us(
        settings={"safety": {"hold_off_seconds": 60, "cooldown_seconds": 0, "step_seconds": 20}}
    )
    go(go_again.estate())
    go_again.revive("us", ago=5000)

    def fail_at_25(route: str, outcome: Outcome) -> None:
        if "/shift/" in outcome.action and go_again.state.weights["us"] == 25:
            go_again.kill("us")

    moves = go(go_again.estate(), back, Said(outcome=fail_at_25))
    assert dict(go_again.state.weights) == {"us": 0, "eu": 100}
    assert len(go_again.estate().journal.operations()) == 2


def test_pause_resume_and_abort() -> None:
    world = dead_us(
        settings={"safety": {"hold_off_seconds": 60, "cooldown_seconds": 0, "step_seconds": 0}}
    )
    go(world.estate())
    world.revive("us", ago=5000)
    estate = world.estate()

    def abort(route: str, outcome: Outcome) -> None:
        if world.state.weights["us"] == 5:
            name = operations.open_operations(estate)[0].operation
            operations.abort(world.estate("boss@host:3"), name, reason="enough")

    back = Request(Mode.FAILBACK, targets=("us",))
    moves = go(estate, back, Said(outcome=abort))
    assert world.state.weights["us"] == 5
    report = moves.reports["api"]
    assert estate.journal.open(str(report.operation)).closed
    assert "aborted: enough" in " ".join(o.detail for o in report.outcomes)
    with pytest.raises(UsageError, match="is over already"):
        operations.abort(estate, str(report.operation), reason="x")


def test_a_lock_holds_and_says_why() -> None:
    world = dead_us()
    estate = world.estate()
    operations.order(estate, OrderKind.LOCK, "all", reason="incident 4711")
    proposal = operations.propose(estate, AWAY)
    assert proposal.noop
    assert "incident 4711" in proposal.plans["api"].holds[0].reason
    operations.take_back(estate, OrderKind.LOCK, "all", reason="over")
    assert not operations.propose(estate, AWAY).noop


@pytest.mark.parametrize(
    ("kind", "scope"),
    [(OrderKind.LOCK, "nowhere"), (OrderKind.MAINTENANCE, "mars"), (OrderKind.OVERRIDE, "mars")],
)
def test_an_order_about_nothing_is_refused(kind: OrderKind, scope: str) -> None:
    with pytest.raises(UsageError):
        operations.order(World().estate(), kind, scope, reason="x")


def test_weights_changed_by_hand_are_shown() -> None:
    world = dead_us()
    go(world.estate())
    assert not operations.stands(world.estate()).routes[0].by_hand
    world.traffic.change_by_hand({"us": 10, "eu": 90})
    (stands,) = operations.stands(world.estate()).routes
    assert stands.by_hand
    proposal = operations.propose(world.estate(), Request(Mode.UNPLANNED, source="us"))
    assert proposal.noop
    assert "weights-changed-by-hand" in proposal.plans["api"].holds[0].reason


def test_what_cannot_be_right() -> None:
    estate = World().estate()
    for request in (
        Request(Mode.UNPLANNED, source="us", targets=("us",)),
        Request(Mode.UNPLANNED, source="mars"),
        Request(Mode.UNPLANNED, source="us", routes=("nowhere",)),
        Request(Mode.UNPLANNED, source="us", models=("bert",)),
    ):
        with pytest.raises(UsageError):
            operations.propose(estate, request)


def test_who_was_not_chosen_stands_in_nobodys_way() -> None:
    world = World(
        regions=("us", "eu", "ap"),
        weights={"us": 100, "eu": 0, "ap": 0},
        load={"us": 100.0, "eu": 0.0, "ap": 0.0},
        version={"ap": "v0"},
    )
    world.kill("us")
    moves = go(world.estate())
    (held,) = {hold.region for hold in moves.reports["api"].plan.holds} - {"us"}
    assert held == "ap", "told, though"
    assert moves.reports["api"].exit_code == 0
    assert dict(world.state.weights) == {"us": 0, "eu": 100, "ap": 0}


BACK = Request(Mode.FAILBACK, targets=("us",), reason="it is well")


def stepping(hold_seconds: float = 3600) -> World:
    """A region that may have its traffic back, by steps that must hold for long."""
    world = dead_us(
        settings={
            "safety": {
                "hold_off_seconds": 60,
                "cooldown_seconds": 0,
                "step_seconds": hold_seconds,
            }
        }
    )
    go(world.estate())
    world.revive("us", ago=5000)
    return world


def at(world: World, after: float, act: Callable[[], None]) -> None:
    """`act`, once, when so much time has passed; whoever waits for ever is told."""
    began, sleep, done = world.time.monotonic(), world.time.sleep, False

    def asleep(seconds: float) -> None:
        nonlocal done
        sleep(seconds)
        passed = world.time.monotonic() - began
        assert passed < 7200, "this waits for ever"
        if not done and passed >= after:
            done = True
            act()

    world.time.sleep = asleep  # type: ignore[method-assign]


def left_on(estate: Estate) -> str:
    (stream,) = operations.open_operations(estate)
    return stream.operation


def test_an_abort_is_heard_in_the_middle_of_a_step_that_has_to_hold_for_an_hour() -> None:
    world = stepping()
    boss = world.estate("boss@host:3")
    at(world, 120, lambda: operations.abort(boss, left_on(boss), reason="wrong region"))
    began = world.time.monotonic()
    moves = go(world.estate(), BACK)
    assert world.time.monotonic() - began < 200
    assert world.state.weights["us"] == 1
    assert "aborted: wrong region" in str(moves.reports["api"].outcomes)


def test_whoever_is_refused_is_told_which_operation_it_is_and_how_to_end_it() -> None:
    world = stepping()
    boss = world.estate("boss@host:3")
    refused: list[LeaseHeld] = []

    def need_it_now() -> None:
        world.kill("eu")
        with pytest.raises(LeaseHeld) as held:
            operations.move(boss, "api", Request(Mode.UNPLANNED, source="eu"))
        refused.append(held.value)
        operations.abort(boss, left_on(boss), reason="eu is on fire")

    at(world, 120, need_it_now)
    moves = go(world.estate(), BACK)
    assert f"failover abort {moves.reports['api'].operation}" in str(refused[0].hint)
    assert "--wait" in str(refused[0].hint)


def test_a_paused_operation_can_be_aborted() -> None:
    world = stepping()
    boss = world.estate("boss@host:3")

    def pause() -> None:
        boss.orders.give(OrderKind.PAUSE, left_on(boss), reason="looking")
        at(world, 600, lambda: operations.abort(boss, left_on(boss), reason="enough"))

    at(world, 120, pause)
    began = world.time.monotonic()
    go(world.estate(), BACK)
    assert 600 < world.time.monotonic() - began < 900
    assert world.state.weights["us"] == 1
    assert not operations.open_operations(boss)


def left_by(world: World, request: Request, moment: int, writer: str = "dead@host:1") -> str:
    """An operation that its process left there."""
    said, _ = crash_at(moment)
    with pytest.raises(Crash):
        operations.move(world.estate(writer), "api", request, said=said)
    world.time.sleep(60)
    return left_on(world.estate())


def test_what_is_over_cannot_be_paused() -> None:
    world = dead_us()
    operation = str(go(world.estate()).reports["api"].operation)
    with pytest.raises(UsageError, match=f"{operation} is over already") as refused:
        operations.pause(world.estate(), operation, reason="looking")
    assert f"history --operation {operation}" in str(refused.value.hint)
    assert not world.estate().orders.read()


def test_who_paused_what_is_told_until_it_is_over() -> None:
    world = dead_us()
    operation = left_by(world, AWAY, 1)
    estate = world.estate()
    operations.pause(estate, operation, reason="looking")
    assert {name: order.reason for name, order in operations.paused(estate).items()} == {
        operation: "looking"
    }
    operations.abort(estate, operation, reason="seen enough")
    assert operations.paused(estate) == {}
    assert [order.kind for order in estate.orders.read()] == [OrderKind.ABORT]


def test_orders_about_operations_that_are_over_are_forgotten() -> None:
    world = dead_us()
    estate = world.estate()
    operations.order(estate, OrderKind.LOCK, "api", reason="audit")
    operations.take_back(estate, OrderKind.LOCK, "api", reason="over")
    operation = left_by(world, AWAY, 1)
    operations.abort(estate, operation, reason="no")
    (abort,) = estate.orders.read()
    assert abort.expires_at is not None
    world.time.sleep(86_400 * 44)
    operations.forget_orders(estate)
    assert estate.orders.read() == (abort,), "its fault may last still"
    world.time.sleep(86_400 * 2)
    assert estate.orders.read() == ()
    operations.forget_orders(estate)
    assert [order.kind for order in estate.orders.known()] == [OrderKind.LOCK]


def test_a_pause_of_what_is_under_way_is_not_forgotten() -> None:
    world = dead_us()
    operation = left_by(world, AWAY, 1)
    estate = world.estate()
    operations.pause(estate, operation, reason="looking")
    world.time.sleep(86_400 * 60)
    operations.forget_orders(estate)
    assert set(operations.paused(estate)) == {operation}


def test_what_was_aborted_after_a_crash_does_nothing_more() -> None:
    world = dead_us()
    said, _ = crash_at(1)  # planned, and not begun
    with pytest.raises(Crash):
        operations.move(world.estate("dead@host:1"), "api", AWAY, said=said)
    estate = world.estate()
    estate.orders.give(OrderKind.ABORT, left_on(estate), reason="no")
    world.time.sleep(60)
    list(operations.resume_left(estate))
    assert dict(world.state.weights) == {"us": 100, "eu": 0}
    assert not operations.open_operations(estate)


def test_an_abort_right_after_the_crash_ends_what_was_left_and_nobody_stays_drained() -> None:
    world = World()
    said, _ = crash_at(2)  # drained, and not shifted
    with pytest.raises(Crash):
        operations.move(
            world.estate("dead@host:1"),
            "api",
            Request(Mode.PLANNED, source="us", reason="kernel"),
            said=said,
        )
    assert world.fleets["us"].lame
    estate = world.estate()
    operations.abort(estate, left_on(estate), reason="no")
    assert not world.fleets["us"].lame
    assert dict(world.state.weights) == {"us": 100, "eu": 0}
    assert not operations.open_operations(estate)


def test_what_is_paused_is_finished_by_nobody_who_wants_something_else() -> None:
    world = World(
        regions=("us", "eu", "ap"),
        weights={"us": 50, "eu": 50, "ap": 0},
        load={"us": 50.0, "eu": 50.0, "ap": 0.0},
    )
    said, _ = crash_at(1)
    with pytest.raises(Crash):
        operations.move(
            world.estate("dead@host:1"),
            "api",
            Request(Mode.PLANNED, source="eu", reason="kernel"),
            said=said,
        )
    estate = world.estate()
    name = left_on(estate)
    estate.orders.give(OrderKind.PAUSE, name, reason="looking")
    world.kill("us")
    world.time.sleep(60)
    before = len(estate.journal.open(name).entries)
    with pytest.raises(LeaseHeld, match="paused: looking") as held:
        operations.move(estate, "api", AWAY)
    assert f"abort {name}" in str(held.value.hint)
    assert world.state.weights["eu"] == 50
    assert len(estate.journal.open(name).entries) == before
    operations.abort(estate, name, reason="us is on fire")
    assert operations.move(estate, "api", AWAY).exit_code == 0
    assert world.state.weights["us"] == 0


def three() -> World:
    return World(
        regions=("us", "eu", "ap"),
        weights={"us": 50, "eu": 50, "ap": 0},
        load={"us": 50.0, "eu": 50.0, "ap": 0.0},
        settings={"safety": {"step_seconds": 0, "cooldown_seconds": 600}},
        route={"mode": "auto"},
    )


DRAIN_US = Request(
    Mode.PLANNED, source="us", targets=("ap",), reason="kernel", broken=frozenset({"headroom"})
)
LEAVE_EU = Request(Mode.UNPLANNED, source="eu", routes=("api",), reason="eu is unhealthy")


@pytest.mark.parametrize("moment", [1, 2, 3], ids=["planned", "drained", "shifted"])
def test_a_fault_is_never_held_up_by_what_an_operator_left_and_does_not_carry_it_on(
    moment: int,
) -> None:
    world = three()
    drilled(world)
    operation = left_by(world, DRAIN_US, moment, "alice@laptop:7")
    drained = world.fleets["us"].lame
    assert drained is (moment > 1)
    before = dict(world.state.weights)
    world.kill("eu")
    order: list[tuple[str, bool]] = []
    estate = world.estate("watch@host:1")

    def done(route: str, outcome: Outcome) -> None:
        if outcome.result is Result.DONE:
            order.append((outcome.action.split("/")[2], world.fleets["us"].lame))

    request = replace(LEAVE_EU, automatic=True)
    began = world.time.monotonic()
    report = operations.move(estate, "api", request, said=Said(outcome=done))
    assert world.time.monotonic() - began < 60
    after = {region: weight for region, weight in world.state.weights.items() if weight}
    assert after.get("eu", 0) == 0, order
    assert after.get("us", 0) >= before["us"], "nothing more is taken from us"
    assert order[0] == ("shift", drained), "first of all, traffic is moved"
    assert not world.fleets["us"].lame
    (amended,) = report.resumed
    assert amended.operation == operation
    stream = estate.journal.open(operation)
    assert stream.closed
    (note,) = (
        entry.payload["text"]
        for entry in stream.entries
        if entry.kind is Kind.NOTE and entry.payload["text"] != "resumed"
    )
    assert "watch@host:1: eu is unhealthy; what alice@laptop:7 left of it is amended" in note
    told = operation_of(stream)
    assert told is not None
    assert note in markdown(told)
    assert stream.plan.actions[0].parameters["broken"] == [], "nor is what they broke broken"


def test_what_one_operator_left_is_ended_by_another_who_has_an_emergency() -> None:
    world = three()
    operation = left_by(world, DRAIN_US, 2, "alice@laptop:7")
    world.kill("eu")
    bob = world.estate("bob@host:2")
    proposal = operations.propose(bob, LEAVE_EU)
    assert proposal.left == {
        "api": f"operation {operation} (planned), by alice@laptop:7, is ended where it stands, "
        "and this is done instead"
    }
    (agreed,) = (a for a in proposal.plans["api"].actions if a.kind == "shift")
    moves = operations.carry_out(bob, proposal)
    assert not moves.errors
    assert dict(world.state.weights) == agreed.parameters["after"]
    assert not world.fleets["us"].lame
    ended = bob.journal.open(operation)
    assert ended.closed
    assert any("ended: eu is unhealthy" in each.detail for each in ended.outcomes().values())
    assert len(bob.journal.operations()) == 2


def test_the_same_again_goes_on_with_what_was_left() -> None:
    world = three()
    operation = left_by(world, DRAIN_US, 2, "alice@laptop:7")
    bob = world.estate("bob@host:2")
    proposal = operations.propose(bob, DRAIN_US)
    assert "is gone on with first" in proposal.left["api"]
    moves = operations.carry_out(bob, proposal)
    assert not moves.errors, "it is done, and not stale"
    assert moves.reports["api"].exit_code == 0
    assert bob.journal.operations() == [operation]
    assert dict(world.state.weights) == {"us": 0, "eu": 50, "ap": 50}


BY_ALICE = Request(Mode.PLANNED, source="us", targets=("ap",))


@pytest.mark.parametrize(
    ("why", "left", "asked", "becomes"),
    [
        ("a watch's, by a watch", replace(LEAVE_EU, automatic=True),
         replace(LEAVE_EU, automatic=True), Left.GONE_ON_WITH),
        ("a watch's, by an operator", replace(LEAVE_EU, automatic=True), BY_ALICE,
         Left.GONE_ON_WITH),
        ("an operator's, by a watch", BY_ALICE, replace(LEAVE_EU, automatic=True), Left.AMENDED),
        ("the same by a watch", LEAVE_EU, replace(LEAVE_EU, automatic=True), Left.AMENDED),
        ("the same by an operator", BY_ALICE, replace(BY_ALICE, reason="again"),
         Left.GONE_ON_WITH),
        ("elsewhere", BY_ALICE, replace(BY_ALICE, targets=("eu",)), Left.ENDED),
        ("with a rule broken", BY_ALICE, replace(BY_ALICE, broken=frozenset({"cap"})),
         Left.ENDED),
        ("an emergency", BY_ALICE, LEAVE_EU, Left.ENDED),
        ("another plan", BY_ALICE, Request(Mode.PLANNED, source="eu"), Left.KEPT),
        ("a drill", BY_ALICE, Request(Mode.DRILL, targets=("ap",)), Left.KEPT),
        ("another plan that breaks the rule", BY_ALICE,
         Request(Mode.PLANNED, source="eu", broken=frozenset({"one-recovery"})), Left.ENDED),
    ],
)  # fmt: skip
def test_what_becomes_of_what_was_left(
    why: str, left: Request, asked: Request, becomes: Left
) -> None:
    world = three()
    estate = world.estate()
    action = Action(
        key="failover/api/shift/x",
        kind="shift",
        subject="api",
        region="us",
        reason=why,
        parameters={
            "mode": left.mode.value,
            "source": left.source,
            "targets": list(left.targets),
            "automatic": left.automatic,
            "broken": sorted(left.broken),
        },
    )
    plan = Plan(feature="failover", actions=(action,))
    stream = estate.journal.start(estate.journal.new_operation("failover"), plan)
    assert operations.becomes_of(stream, asked) is becomes


def left_drained(world: World) -> str:
    """A planned move that is over, and could not tell the servers of us so."""

    def deafen(route: str, outcome: Outcome) -> None:
        world.fleets["us"].deaf = True

    moves = go(
        world.estate(), Request(Mode.PLANNED, source="us", reason="kernel"), Said(outcome=deafen)
    )
    report = moves.reports["api"]
    assert report.exit_code == 8, "partly applied"
    assert world.fleets["us"].lame
    return str(report.operation)


def test_servers_that_were_left_in_lame_duck_are_known_until_they_are_told() -> None:
    world = World()
    operation = left_drained(world)
    estate = world.estate()
    (row,) = operations.stands(estate).routes
    drained = row.drained["us"]
    assert (drained.operation, drained.open, drained.tries) == (operation, False, 1)
    assert "3 of 5 pods were not reached" in drained.why
    assert operations.undrain(estate, "us", reason="try").reports["api"].exit_code == 1
    assert operations.stands(estate).routes[0].drained["us"].tries == 2
    world.fleets["us"].deaf = False
    before = world.state
    report = operations.undrain(estate, "us", reason="they are back").reports["api"]
    assert [outcome.result for outcome in report.outcomes] == [Result.DONE]
    assert not world.fleets["us"].lame
    assert world.state == before, "nothing is moved, and nothing claimed"
    assert operations.stands(estate).routes[0].drained == {}
    assert len(estate.journal.operations()) == 3


def test_servers_that_are_being_drained_are_not_told_that_they_may_serve() -> None:
    world = World()
    operation = left_by(world, Request(Mode.PLANNED, source="us", reason="kernel"), 2)
    estate = world.estate()
    assert operations.stands(estate).routes[0].drained["us"].open
    report = operations.undrain(estate, "us", reason="why not").reports["api"]
    assert report.exit_code == 3
    assert f"{operation} on api drains it" in report.plan.holds[0].reason
    assert world.fleets["us"].lame
    assert left_on(estate) == operation


def test_servers_in_lame_duck_for_no_known_reason_can_be_told_too() -> None:
    world = World()
    world.fleets["eu"].lame = True
    assert operations.undrain(world.estate(), "eu", reason="by hand").reports["api"].exit_code == 0
    assert not world.fleets["eu"].lame
    with pytest.raises(UsageError, match="mars: no such region"):
        operations.undrain(world.estate(), "mars", reason="x")


@pytest.mark.parametrize("by", ["resume", "the next move"])
def test_an_undrain_that_was_left_moves_nothing_when_it_is_gone_on_with(by: str) -> None:
    """It names the region that was left: gone on with as a move, it would be left again."""
    world = World(weights={"us": 50, "eu": 50}, load={"us": 50.0, "eu": 50.0})
    world.fleets["us"].lame = True
    said, _ = crash_at(1)
    with pytest.raises(Crash):
        operations.undrain(world.estate("dead@host:1"), "us", reason="x", said=said)
    world.time.sleep(60)
    estate = world.estate()
    name = left_on(estate)
    if by == "resume":
        list(operations.resume_left(estate))
        assert dict(world.state.weights) == {"us": 50, "eu": 50}
    else:
        world.kill("eu")
        operations.move(estate, "api", Request(Mode.UNPLANNED, source="eu", reason="dead"))
        assert dict(world.state.weights) == {"us": 100, "eu": 0}
    assert estate.journal.open(name).closed


def test_servers_that_know_no_lame_duck_are_not_left_in_it() -> None:
    world = World()
    world.fleets["us"].lame_duck = unknown_to_them  # type: ignore[method-assign]
    go(world.estate(), Request(Mode.PLANNED, source="us", reason="kernel"))
    assert dict(world.state.weights) == {"us": 0, "eu": 100}
    assert operations.stands(world.estate()).routes[0].drained == {}


def unknown_to_them(*, enter: bool) -> None:
    raise Unsupported("its servers know no lame duck")


def test_an_empty_answer_is_no_epoch_of_zero() -> None:
    world = dead_us()
    go(world.estate())
    world.traffic.restore(RouteState({}))
    with pytest.raises(Unavailable, match="answered with nothing"):
        operations.lease_of(world.estate(), "api").acquire()


def test_an_epoch_that_another_has_claimed_is_not_ours() -> None:
    world = World()
    state = world.state
    world.traffic.write(state.weights, epoch=5, writer="other@host:9", expected=state)
    with pytest.raises(Fenced, match="claimed under epoch 5 by other@host:9"):
        world.estate().observe(["api"], epochs={"api": 5})
    world.traffic.change_by_hand(state.weights)
    seen = world.estate().observe(["api"], epochs={"api": 5})
    assert seen.routes["api"].state == world.state, "a hand names no writer, and changes no epoch"


def test_no_route_waits_until_the_clients_of_another_have_moved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [f"route-{n}" for n in range(100)]
    world = dead_us()
    proposal = operations.propose(world.estate(), AWAY)
    plan = proposal.plans["api"]
    together = threading.Barrier(len(names), timeout=30)

    def move(estate: Estate, name: str, *_: object, **__: object) -> Report:
        together.wait()
        if name == names[7]:
            raise KeyError("unforeseen")
        return Report(plan)

    monkeypatch.setattr(operations, "move", move)
    moves = operations.carry_out(
        world.estate(), replace(proposal, plans=dict.fromkeys(names, plan))
    )
    assert len(moves.reports) == 99
    assert "KeyError" in str(moves.errors[names[7]])


def test_two_without_a_control_store_between_them_do_not_act_under_one_epoch() -> None:
    world = dead_us()
    first = world.estate("ann@host:1", members=Members(1))
    second = world.estate("bob@host:2", members=Members(1))
    leases = [operations.lease_of(each, "api") for each in (first, second)]
    assert [lease.acquire() for lease in leases] == [1, 1]
    first.observe(["api"], epochs={"api": 1})
    with pytest.raises(Fenced, match="under epoch 1 by ann@host:1"):
        second.observe(["api"], epochs={"api": 1})
    leases[1].release()
    assert operations.move(second, "api", AWAY).exit_code == 0
    assert (world.state.epoch, world.state.writer) == (2, "bob@host:2")


@pytest.mark.parametrize(
    ("away", "answers"), [((), True), ((1,), True), ((0, 1), False), ((0, 1, 2), False)]
)
def test_nobody_acts_beside_a_control_store_that_answers(
    away: tuple[int, ...], answers: bool
) -> None:
    world = dead_us()
    estate = world.estate(members=Members(1))
    estate.bypassed = world.members.retrying(world.time)
    with ExitStack() as gone:
        for member in away:
            gone.enter_context(lost(world.members, member))
        if answers:
            with pytest.raises(UsageError, match="a majority of control stores answers"):
                operations.propose(estate, AWAY)
        meant = replace(AWAY, broken=frozenset({"control"})) if answers else AWAY
        assert not operations.propose(estate, meant).noop
    assert not world.estate().control.list("probes/")


def test_a_control_store_that_takes_nothing_is_as_good_as_gone() -> None:
    world = dead_us()
    estate = world.estate(members=Members(1))
    estate.bypassed = world.members.retrying(world.time)
    for store in world.members.stores[:2]:
        store.put = refused  # type: ignore[method-assign]
    assert not operations.propose(estate, AWAY).noop


def refused(*_: object, **__: object) -> Stat:
    raise Denied("it can only be read", right="put")


def test_a_write_of_which_nobody_can_say_whether_it_was_done_is_unknown_and_ours_if_it_was() -> (
    None
):
    world = World(weights={"us": 60, "eu": 40}, settings={"safety": {"step_seconds": 0}})
    drilled(world)
    world.kill("us")
    estate = world.estate()
    there = estate.open_traffic("api")
    mute = False

    class Mute:
        """It does what it is told, and is never heard again."""

        url, features = there.url, there.features
        in_force = there.in_force

        def read(self) -> RouteState:
            if mute:
                raise Unavailable("no answer", store=self.url)
            return there.read()

        def write(
            self, weights: Weights, *, epoch: int, writer: str, expected: RouteState
        ) -> RouteState:
            nonlocal mute
            state = there.write(weights, epoch=epoch, writer=writer, expected=expected)
            mute = weights != expected.weights
            return state if not mute else self.read()

    estate.open_traffic = lambda route: Mute()
    moves = go(estate)
    assert outcomes(moves)["shift"] == "unknown"
    assert dict(world.state.weights) == {"us": 0, "eu": 100}
    stands = operations.stands(world.estate())
    assert not stands.routes[0].by_hand, "they are as we wrote them"
    (_, left) = stands.seen.routes["api"].recoveries
    assert left.moved == 60
