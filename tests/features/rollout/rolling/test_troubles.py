"""What befalls a rollout on its way: a newer controller, an entry that is away, orders, failover,
another hand at its weights, counters that lie, clocks that jump."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from mlplatform.adapters.memory_servers import MemoryServers, MemorySplit
from mlplatform.control.orders import Kind as OrderKind
from mlplatform.core.errors import (
    Fenced,
    IntegrityError,
    Interrupted,
    LeaseHeld,
    MlplatformError,
    NoMajority,
    StalePlan,
    Unavailable,
)
from mlplatform.core.seen import Unknown
from mlplatform.ports.servers import Ailing, Group, ServersState, Stuck
from mlplatform.ports.split import Counts
from mlplatform.ports.store import read_bytes
from mlplatform.rollout import operations
from mlplatform.rollout.operations import Ended, Rolled
from mlplatform.rollout.plan.seen import Rule, Standing
from tests.features.control.members import lost
from tests.features.rollout.plan.world import ONE, REGIONS, TWO

from .lives import Judge, Killed, Process
from .test_lives import QUICK
from .world import World, steps


def begun(**told: Any) -> World:
    world = World(**{"policy": QUICK, **told})
    world.look = Judge(world)
    return world


def once(world: World, when: Callable[[], bool], then: Callable[[], object]) -> None:
    """As soon as something is so, while time passes."""
    did: list[bool] = []

    def meanwhile(seconds: float) -> None:
        del seconds
        if not did and when():
            did.append(True)
            then()

    world.time.meanwhile.append(meanwhile)


def share(world: World, region: str = "us") -> int:
    return world.weights(region).get("v2", 0)


def detail_of(rolled: Rolled, step: str) -> str:
    return next(o.detail for o in rolled.report.outcomes if o.action.endswith(f"/{step}"))


def returned(world: World, rolled: Rolled | None, *regions: str) -> None:
    assert rolled is not None
    assert rolled.ended is Ended.RETURNED, (steps(rolled), world.said)
    for region in regions or ("us",):
        assert world.holds(region) == {"v1": 4}
        assert world.weights(region) == {"v1": 100}
    assert not world.sites().pins.read()


def promoted(world: World, rolled: Rolled | None, *regions: str) -> None:
    assert rolled is not None
    assert rolled.ended is Ended.PROMOTED, (steps(rolled), world.said)
    for region in regions or ("us",):
        assert world.holds(region) == {"v2": 4}
        assert world.weights(region) == {"v2": 100}
    assert not world.sites().pins.read()


# --- two controllers ------------------------------------------------------------------------------


def test_while_one_is_at_work_another_is_refused() -> None:
    world = begun()
    plan = world.plan("us")
    refused: list[MlplatformError] = []

    def try_it() -> None:
        try:
            world.apply(plan=plan, writer="two")
        except MlplatformError as error:
            refused.append(error)

    once(world, lambda: share(world) == 10, try_it)
    promoted(world, world.apply(plan=plan))
    assert [type(each) for each in refused] == [LeaseHeld]


@pytest.mark.parametrize("at", [10, 50, 100])
def test_a_deposed_controller_changes_nothing_any_more(at: int) -> None:
    """It stands still for a minute, another takes over and ends the rollout, and it wakes up."""
    world = begun()
    plan = world.plan("us")
    ended: list[Rolled] = []
    epochs: list[int] = []

    def stand_still() -> None:
        leases = world.time._leases[:]
        world.time._leases.clear()  # its renewals stand still as well
        world.time.sleep(60)
        ended.append(world.apply(plan=plan, writer="two", wait=True))
        world.time._leases.extend(leases)
        epochs.append(world.splits["us"].read().epoch)

    first = Process(world)
    once(world, lambda: share(world) == at and not first.dead, stand_still)
    with pytest.raises((Fenced, Interrupted)):
        world.apply(plan=plan, way=first)
    promoted(world, ended[0])
    assert world.splits["us"].read().epoch == epochs[0]


def test_who_was_about_to_start_servers_is_refused_after_the_way_back() -> None:
    """A call that left before its sender was deposed comes after the last good version alone
    serves again: the servers have heard of the newer hand by then, although none had to go."""
    world = begun()
    plan = world.plan("us")
    process = Process(world, dies_before=18)  # it was about to start the canary
    with pytest.raises(Killed):
        world.apply(plan=plan, way=process)
    assert world.holds("us") == {"v1": 4}
    stale = world.servers["us"].read().epoch + 1
    stream = operations.newest(world.sites(), "m")
    world.sites().orders.give(OrderKind.ABORT, stream.operation, reason="enough")
    returned(world, world.go_on())
    with pytest.raises(Fenced):
        world.servers["us"].scale("v2", 1, digest=TWO, epoch=stale, writer="one")


# --- what is away ---------------------------------------------------------------------------------


class Outage(Process):
    """A way to servers and entries, over which none of `gone` can be reached for a while."""

    def __init__(self, world: World, *gone: str) -> None:
        super().__init__(world)
        self.gone = gone
        self.until = 0.0

    def to_servers(self, servers: MemoryServers) -> Any:
        target = super().to_servers(servers)
        return _Gone(self, target) if "servers" in self.gone else target

    def to_split(self, split: MemorySplit) -> Any:
        target = super().to_split(split)
        return _Gone(self, target) if "split" in self.gone else target


class _Gone:
    def __init__(self, outage: Outage, target: Any) -> None:
        self._outage, self._target = outage, target

    def __getattr__(self, name: str) -> Any:
        if self._outage.world.time.seconds < self._outage.until:
            raise Unavailable("connection refused", store="memory")
        return getattr(self._target, name)


OUTAGES: dict[str, Callable[[World], bool]] = {
    "before anything": lambda world: True,
    "while servers start": lambda world: "v2" in world.servers["us"].read().groups,
    "under watch": lambda world: share(world) == 10,
    "when promoted": lambda world: share(world) == 100,
    "on the way back": lambda world: any("going back" in each for each in world.said),
}


@pytest.mark.parametrize("when", OUTAGES)
@pytest.mark.parametrize("gone", ["servers", "split", "both"])
def test_what_is_gone_for_a_minute_is_waited_for(gone: str, when: str) -> None:
    bad = when == "on the way back"
    world = begun(errors={"v1": 0.002, "v2": 0.05 if bad else 0.002})
    plan = world.plan("us")
    world.servers["us"].grace_seconds = 10  # so that the way back takes a while
    outage = Outage(world, *(("servers", "split") if gone == "both" else (gone,)))

    def begins() -> None:
        outage.until = world.time.seconds + 60

    once(world, lambda: OUTAGES[when](world), begins)
    rolled = world.apply(plan=plan, way=outage)
    assert outage.until
    (returned if bad else promoted)(world, rolled)


def test_an_entry_that_stays_away_is_gone_back_from() -> None:
    world = begun()
    plan = world.plan("us")
    outage = Outage(world, "split")

    def begins() -> None:
        outage.until = world.time.seconds + 1000

    once(world, lambda: "v2" in world.servers["us"].read().groups, begins)
    rolled = world.apply(plan=plan, way=outage)
    returned(world, rolled)
    assert "after 600 s" in rolled.because


@pytest.mark.parametrize("member", [0, 1, 2])
@pytest.mark.parametrize("at", [0, 10, 100])
def test_one_of_three_control_stores_may_be_lost(member: int, at: int) -> None:
    world = begun()
    plan = world.plan("us")
    world.members.stores[member].down = at == 0

    def lose() -> None:
        world.members.stores[member].down = True

    once(world, lambda: share(world) == at, lose)
    promoted(world, world.apply(plan=plan))


def test_without_a_majority_it_stops_and_is_gone_on_with() -> None:
    world = begun()
    plan = world.plan("us")

    def lose(down: bool) -> None:
        for store in world.members.stores[:2]:
            store.down = down

    once(world, lambda: share(world) == 10, lambda: lose(True))
    with pytest.raises((NoMajority, Fenced)):
        world.apply(plan=plan)
    lose(False)
    promoted(world, world.go_on())


def test_interrupted_it_leaves_what_was_written_and_is_gone_on_with() -> None:
    world = begun()
    plan = world.plan("us")
    asked: list[bool] = []
    world.stop = lambda: bool(asked)
    once(world, lambda: share(world) == 50, lambda: asked.append(True))
    with pytest.raises(Interrupted, match="weight-50 in us"):
        world.apply(plan=plan)
    assert share(world) == 50
    asked.clear()
    promoted(world, world.go_on())


# --- orders ---------------------------------------------------------------------------------------


def order(world: World, kind: OrderKind) -> Callable[[], object]:
    def give() -> None:
        stream = operations.newest(world.sites("somebody"), "m")
        world.sites("somebody").orders.give(kind, stream.operation, reason="because")

    return give


STEPS = [
    "preflight",
    "load-1",
    "warm-up-1",
    "weight-10",
    "shrink-3",
    "load-2",
    "weight-50",
    "promote",
    "bake",
]


@pytest.mark.parametrize("step", STEPS)
def test_an_order_to_end_is_heard_in_every_step(step: str) -> None:
    world = begun()
    plan = world.plan("us")
    process = Process(world)
    give = order(world, OrderKind.ABORT)
    key = f"m@v2/us/{step}".encode()

    def meanwhile(number: int, what: str) -> None:
        if "journal/" in what and not given and _intent(world, what, key):
            given.append(True)
            give()

    given: list[bool] = []
    process.happened = meanwhile
    rolled = world.apply(plan=plan, way=process)
    assert given
    returned(world, rolled)
    assert rolled.because in ("aborted: because", f"{step} in us: aborted: because")


def test_an_order_to_end_comes_too_late_once_the_old_servers_go() -> None:
    world = begun()
    plan = world.plan("us")
    process = Process(world)
    give = order(world, OrderKind.ABORT)

    def late(number: int, what: str) -> None:
        if what == "scale memory://us v1 0":
            give()

    process.happens = late
    promoted(world, world.apply(plan=plan, way=process))


def _intent(world: World, what: str, key: bytes) -> bool:
    store = world.members.stores[0].store
    found, _ = read_bytes(store, what.removeprefix("put "))
    return b'"kind":"intent"' in found and key + b'"' in found


def test_promoted_by_order_it_waits_for_no_verdict() -> None:
    held = {**QUICK, "verdict": {**QUICK["verdict"], "dispersion": {}}}
    world = begun(policy=held)
    plan = world.plan("us")
    once(world, lambda: world.time.seconds > 900, order(world, OrderKind.PROMOTE))
    rolled = world.apply(plan=plan)
    promoted(world, rolled)
    assert "by order: because" in detail_of(rolled, "promote")
    assert world.time.seconds < 1200


def test_what_is_worse_is_not_promoted_by_order() -> None:
    world = begun(errors={"v1": 0.002, "v2": 0.03})
    plan = world.plan("us")
    once(world, lambda: share(world) == 10, order(world, OrderKind.PROMOTE))
    returned(world, world.apply(plan=plan))


def _paused(world: World, seconds: float, at: int) -> list[int]:
    """Paused for so long once the canary has that share; the shares it had meanwhile."""
    shares: list[int] = []
    state = {"since": -1.0, "over": False}

    def meanwhile(passed: float) -> None:
        del passed
        now = world.time.seconds
        if state["since"] < 0 and share(world) == at:
            state["since"] = now
            order(world, OrderKind.PAUSE)()
        elif 0 <= state["since"] < now - 5 and not state["over"]:
            shares.append(share(world))
            if now - state["since"] > seconds:
                state["over"] = True
                stream = operations.newest(world.sites("somebody"), "m")
                orders = world.sites("somebody").orders
                orders.take_back(OrderKind.PAUSE, stream.operation, reason="go on")

    world.time.meanwhile.append(meanwhile)
    return shares


def test_paused_it_begins_nothing_and_goes_on_after() -> None:
    world = begun()
    plan = world.plan("us")
    shares = _paused(world, 600, 10)
    promoted(world, world.apply(plan=plan))
    assert set(shares) == {10}
    assert any("paused: because" in each for each in world.said)


def test_a_pause_before_promotion_keeps_it_from_being_promoted() -> None:
    world = begun()
    plan = world.plan("us")
    shares = _paused(world, 900, 75)
    promoted(world, world.apply(plan=plan))
    assert set(shares) == {75}


def test_what_is_worse_goes_back_although_it_is_paused() -> None:
    world = begun()
    plan = world.plan("us")
    shares = _paused(world, 900, 10)
    once(world, lambda: len(shares) > 400, lambda: world.errors.update(v2=0.2))
    returned(world, world.apply(plan=plan))
    assert {*shares} <= {10, 0}
    assert any("paused: because" in each for each in world.said)


# --- failover -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [Rule.FAILOVER_TARGET, Rule.UNDER_FAILOVER, Rule.DRAINED])
@pytest.mark.parametrize("at", [0, 10, 75])
def test_while_failover_is_at_work_no_step_begins(rule: Rule, at: int) -> None:
    world = begun()
    plan = world.plan("us")
    since: list[float] = []
    written: list[tuple[float, str]] = []
    process = Process(world)
    process.happened = lambda number, what: written.append((world.time.seconds, what))

    def take_over() -> None:
        since.append(world.time.seconds)
        world.between.closed["us"] = Standing(closed={rule: "ap is lost"}, load=100.0)

    once(world, lambda: share(world) == at, take_over)
    once(
        world,
        lambda: bool(since) and world.time.seconds > since[0] + 600,
        world.between.closed.clear,
    )
    promoted(world, world.apply(plan=plan, way=process))
    meanwhile = [
        what
        for when, what in written
        if since[0] + 5 < when < since[0] + 599 and not what.startswith(("put", "delete"))
    ]
    # A step that was under way ends: a server that was started is let in, or one that ends is.
    assert not [what for what in meanwhile if what.startswith("weights")], meanwhile
    assert len(meanwhile) <= 1


def test_the_way_back_does_not_wait_for_failover() -> None:
    world = begun(errors={"v1": 0.002, "v2": 0.2})
    plan = world.plan("us")
    closed = Standing(closed={Rule.FAILOVER_TARGET: "ap is lost"}, load=100.0)
    once(world, lambda: share(world) == 10, lambda: world.between.closed.update(us=closed))
    returned(world, world.apply(plan=plan))


def test_a_region_that_is_worse_takes_back_those_of_its_wave() -> None:
    policy = {**QUICK, "waves": {"bake_seconds": 60, "concurrency": 2, "spare_region": False}}
    world = begun(policy=policy)
    plan = world.plan("us", "eu")
    us = world.splits["us"]
    world.time.meanwhile.clear()

    def send(seconds: float) -> None:
        for region, split in world.splits.items():
            split.send(seconds * 100, {"v2": 0.2} if region == "us" else {})

    world.time.meanwhile.append(send)
    rolled = world.apply(plan=plan)
    assert us.read().weights["v1"] == 100
    returned(world, rolled, "us", "eu")


@pytest.mark.parametrize("policy", ["keep", "return"])
def test_earlier_waves_are_kept_or_returned_as_policy_says(policy: str) -> None:
    world = begun(policy={**QUICK, "undo": {"earlier_waves": policy}})
    plan = world.plan("us", "eu")
    first, second = dict.fromkeys(a.region for a in plan.plan.actions)
    once(
        world,
        lambda: share(world, first) == 100 and share(world, second) == 10,
        lambda: world.errors.update(v2=0.2),
    )
    rolled = world.apply(plan=plan)
    assert rolled.ended is Ended.RETURNED
    assert world.holds(second) == {"v1": 4}
    assert world.holds(first) == ({"v2": 4} if policy == "keep" else {"v1": 4})


# --- another hand ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "to"),
    [(10, {"v1": 100, "v2": 0}), (10, {"v1": 40, "v2": 60}), (75, {"v1": 0, "v2": 100})],
)
def test_weights_that_another_hand_changed_are_not_written_over_but_gone_back_from(
    at: int, to: dict[str, int]
) -> None:
    world = begun()
    world.look = lambda what: None
    plan = world.plan("us")
    once(world, lambda: share(world) == at, lambda: world.splits["us"].change_by_hand(to))
    rolled = world.apply(plan=plan)
    returned(world, rolled)
    there = ", ".join(f"{each} {weight} %" for each, weight in sorted(to.items()) if weight)
    assert f"another hand is at work there: weights there are {there}" in rolled.because
    assert f"had left v2 {at} %" in rolled.because


def test_gitops_that_reverts_after_promotion_is_noticed_in_the_bake() -> None:
    world = begun()
    world.look = lambda what: None
    plan = world.plan("us")
    git = {"v1": 100, "v2": 0}
    once(world, lambda: share(world) == 100, lambda: world.splits["us"].change_by_hand(git))
    rolled = world.apply(plan=plan)
    returned(world, rolled)
    assert "another hand" in rolled.because


def test_who_undoes_the_way_back_each_time_is_named_in_the_end() -> None:
    world = begun(errors={"v1": 0.002, "v2": 0.2})
    world.look = lambda what: None
    plan = world.plan("us")
    process = Process(world)

    def fights(number: int, what: str) -> None:
        if any("going back" in each for each in world.said) and what.startswith("put journal"):
            world.splits["us"].change_by_hand({"v1": 90, "v2": 10})

    process.happened = fights
    rolled = world.apply(plan=plan, way=process)
    assert rolled.ended is Ended.PARTLY
    assert "weight-0 in us was done 3 times" in "; ".join(o.detail for o in rolled.report.outcomes)
    assert world.holds("us")["v1"] == 4


def test_an_autoscaler_that_fights_is_named() -> None:
    world = begun()
    plan = world.plan("us")
    process = Process(world)
    us = world.servers["us"]

    def fights(number: int, what: str) -> None:
        if what == "scale memory://us v2 2":
            epoch = us.read().epoch
            us.scale("v2", 1, digest=TWO, epoch=epoch, writer="hpa")

    process.happened = fights
    rolled = world.apply(plan=plan, way=process)
    returned(world, rolled)
    assert "another hand set 1 servers of v2, 2 were asked for" in rolled.because


# --- what was agreed to ---------------------------------------------------------------------------


def test_a_plan_whose_world_has_changed_is_stale() -> None:
    world = begun()
    plan = world.plan("us")
    world.servers["us"].scale("v1", 5, digest=ONE, epoch=0, writer="")
    world.time.sleep(30)
    with pytest.raises(StalePlan, match="us changed since it was made"):
        world.apply(plan=plan)
    assert world.holds("us") == {"v1": 5}


def test_what_changes_before_a_later_wave_stops_it_there() -> None:
    world = begun()
    plan = world.plan("us", "eu")
    first, second = dict.fromkeys(a.region for a in plan.plan.actions)
    once(
        world,
        lambda: share(world, first) == 100,
        lambda: world.servers[second].scale("v1", 5, digest=ONE, epoch=0, writer=""),
    )
    world.look = lambda what: None
    rolled = world.apply(plan=plan)
    assert world.holds(first) == {"v2": 4}
    assert world.holds(second) == {"v1": 5}
    assert "5 servers of v1 serve there now, and it was planned for 4 of v1" in rolled.because


def test_a_stored_plan_that_was_edited_is_refused() -> None:
    world = begun()
    plan = world.plan("us")
    records = world.sites().records
    assert records.plan(plan.name[:8]) == plan
    for store in world.members.stores:
        key = f"plans/rollout/{plan.name}.json"
        held, _ = read_bytes(store, key)
        store.put(key, held.replace(b'"weight":10', b'"weight":90'))
    with pytest.raises(IntegrityError, match="edited by hand"):
        records.plan(plan.name)


APPROVED = {**QUICK, "waves": {"bake_seconds": 60, "approval": "first", "approvers": ["ada"]}}


def test_only_who_is_named_and_vouched_for_says_yes() -> None:
    world = begun(policy=APPROVED)
    plan = world.plan("us")
    records = world.sites().records
    records.approve(plan.name, by="bob", verified="the cluster", reason="")
    records.approve(plan.name, by="ada", verified="", reason="")

    def says_yes() -> None:
        assert world.holds("us") == {"v1": 4}
        records.approve(plan.name, by="ada", verified="the cluster", reason="")

    once(world, lambda: world.time.seconds > 900, says_yes)
    rolled = world.apply(plan=plan)
    promoted(world, rolled)
    assert detail_of(rolled, "approve") == "ada said yes"
    said = "; ".join(world.said)
    assert "ada has not said yes yet" in said
    assert "bob, who is not named" in said
    assert "ada, whom nobody verified" in said


def test_an_approval_of_another_plan_is_none() -> None:
    world = begun(policy=APPROVED)
    plan = world.plan("us")
    other = world.plan("eu")
    world.sites().records.approve(other.name, by="ada", verified="the cluster", reason="")
    once(world, lambda: world.time.seconds > 900, order(world, OrderKind.ABORT))
    rolled = world.apply(plan=plan)
    assert rolled.ended is Ended.RETURNED
    assert world.holds("us") == {"v1": 4}


# --- counters and clocks --------------------------------------------------------------------------


class Lying(Process):
    """An entry whose counters are told otherwise."""

    def __init__(self, world: World, tell: Callable[[dict[str, Any]], Any]) -> None:
        super().__init__(world)
        self.tell = tell

    def to_split(self, split: MemorySplit) -> Any:
        target = super().to_split(split)

        class Split:
            def __getattr__(self, name: str) -> Any:
                return getattr(target, name)

            def counts(inner, slow_seconds: float) -> Any:  # noqa: N805
                return self.tell(dict(split.counts(slow_seconds)))

        return Split()


NAN = float("nan")
HELD: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no canary among the versions": lambda counts: {v: c for v, c in counts.items() if v != "v2"},
    "of another version": lambda counts: {f"{v}-old": c for v, c in counts.items()},
    "nothing at all": lambda counts: {},
    "not numbers": lambda counts: {v: Counts(NAN, NAN) for v in counts},
    "more errors than requests": lambda counts: {
        v: Counts(c.requests, 2 * c.requests) for v, c in counts.items()
    },
    "unread": lambda counts: dict.fromkeys(counts, Unknown("HTTP 500")),
}


@pytest.mark.parametrize("how", HELD)
def test_counters_that_say_nothing_hold_it_at_its_first_share(how: str) -> None:
    """Nothing is promoted by what nobody has counted, however long that takes."""
    world = begun()
    plan = world.plan("us")
    shares: set[int] = set()
    world.time.meanwhile.append(lambda seconds: shares.add(share(world)))
    once(world, lambda: world.time.seconds > 3000, order(world, OrderKind.ABORT))
    rolled = world.apply(plan=plan, way=Lying(world, HELD[how]))
    returned(world, rolled)
    assert shares == {0, 10}


def test_counters_that_begin_again_are_no_gap() -> None:
    world = begun()
    plan = world.plan("us")
    for at in (10, 50, 100):
        once(world, lambda at=at: share(world) == at, world.splits["us"].begin_again)  # type: ignore[misc]
    promoted(world, world.apply(plan=plan))


def test_a_bake_whose_counters_cannot_be_read_is_not_over() -> None:
    world = begun()
    plan = world.plan("us")
    split = world.splits["us"]
    since: list[float] = []

    def unread() -> None:
        split.unread = "HTTP 500"
        since.append(world.time.seconds)

    once(world, lambda: share(world) == 100, unread)

    def again() -> None:
        split.unread = ""

    once(world, lambda: bool(since) and world.time.seconds > since[0] + 1000, again)
    rolled = world.apply(plan=plan)
    promoted(world, rolled)
    assert world.time.seconds > since[0] + 1000 + 30
    assert any("the bake waits: HTTP 500" in each for each in world.said)


@pytest.mark.parametrize("hours", [-5, 5])
@pytest.mark.parametrize("bad", [False, True])
def test_a_clock_that_jumps_neither_promotes_nor_returns(hours: int, bad: bool) -> None:
    world = begun(errors={"v1": 0.002, "v2": 0.05 if bad else 0.002})
    plan = world.plan("us")

    def jump() -> None:
        world.time.wall_skew += timedelta(hours=hours)

    def back() -> None:
        world.time.wall_skew -= timedelta(hours=hours)

    once(world, lambda: share(world) == 10, jump)
    once(world, lambda: share(world) == 50, back)
    rolled = world.apply(plan=plan)
    (returned if bad else promoted)(world, rolled)
    assert world.time.seconds < 900


def test_another_machine_whose_clock_is_behind_goes_on_with_the_windows() -> None:
    world = begun()
    plan = world.plan("us")
    asked: list[bool] = []
    world.stop = lambda: bool(asked)
    once(world, lambda: share(world) == 75, lambda: asked.append(True))
    with pytest.raises(Interrupted):
        world.apply(plan=plan)
    asked.clear()
    world.time.wall_skew = timedelta(hours=-3)
    promoted(world, world.go_on())
    assert world.time.seconds < 900


# --- servers --------------------------------------------------------------------------------------


def test_a_canary_that_dies_while_more_are_loaded_has_nothing_at_once() -> None:
    world = begun()
    world.look = Judge(world, crashes=True)
    plan = world.plan("us")
    us = world.servers["us"]
    died: list[float] = []
    zero: list[float] = []

    def dies() -> None:
        died.append(world.time.seconds)
        us.crash("v2", 9)

    once(world, lambda: share(world) == 25 and us.read().groups["v2"].wanted == 2, dies)
    once(world, lambda: bool(died) and not share(world), lambda: zero.append(world.time.seconds))
    rolled = world.apply(plan=plan)
    assert zero[0] - died[0] < 5
    assert rolled.ended in (Ended.PROMOTED, Ended.RETURNED)


def test_what_leaving_servers_hold_is_waited_for() -> None:
    """An old server needs longer to end than a new one may take to start."""
    world = begun(model={"start_seconds": 60})
    plan = world.plan("us")
    us = world.servers["us"]
    full: list[bool] = []
    read = us.read

    def crowded() -> ServersState:
        state = read()
        if any(group.leaving for group in state.groups.values()) and "v2" in state.groups:
            full.append(True)
            v2 = state.groups["v2"]
            ill = (Ailing("v2-1", Stuck.NO_CAPACITY, "Insufficient nvidia.com/gpu"),)
            groups = {**state.groups, "v2": Group("v2", v2.digest, v2.wanted, (), ill)}
            return ServersState(groups, state.epoch, state.writer)
        return state

    us.scale("v0", 1, digest=ONE, epoch=0, writer="")
    us.grace_seconds = 400
    us.scale("v0", 0, digest=ONE, epoch=0, writer="")
    us.grace_seconds = 0
    us.read = crowded  # type: ignore[method-assign]
    promoted(world, world.apply(plan=plan))
    assert full
    assert world.time.seconds > 400


def test_a_server_that_cannot_start_is_named() -> None:
    world = begun()
    world.servers["us"].broken["v2"] = Ailing("v2-1", Stuck.IMAGE, "ErrImagePull")
    rolled = world.apply("us")
    returned(world, rolled)
    assert "v2 does not start: v2-1: image: ErrImagePull" in rolled.because


def test_an_internal_error_of_ours_does_not_leave_the_canary_to_itself() -> None:
    world = begun()
    plan = world.plan("us")

    def tell(counts: dict[str, Any]) -> Any:
        if share(world) == 50:
            raise KeyError("a fault of ours")
        return counts

    rolled = world.apply(plan=plan, way=Lying(world, tell))
    returned(world, rolled)
    assert "internal error: KeyError" in rolled.because


def test_a_way_back_that_gets_stuck_does_not_go_past_the_step_that_failed() -> None:
    """Old servers do not start again: those that are left have all requests, and the pin stays."""
    surge = {**QUICK, "strategy": {"weights": [10, 50], "step_seconds": 60, "surge_servers": 0}}
    world = begun(policy=surge, errors={"v1": 0.002, "v2": 0.002})
    world.look = Judge(world, bear_all=2)
    plan = world.plan("us")
    us = world.servers["us"]

    def worse() -> None:
        us.broken["v1"] = Ailing("v1-9", Stuck.CRASH, "its bytes are gone")
        world.errors["v2"] = 0.2

    once(world, lambda: share(world) == 50, worse)
    rolled = world.apply(plan=plan)
    assert rolled.ended is Ended.PARTLY
    assert world.weights("us") == {"v1": 100}
    assert world.holds("us") == {"v1": 2}
    assert "v1 does not start: v1-9: crash" in detail_of(rolled, "undo/reload-4")
    assert [pin.version for pin in world.sites().pins.read()] == ["v1"]
    us.broken.clear()
    undone = operations.undo(world.sites("three"), "m", reason="the bytes are back", wait=True)
    returned(world, undone)


def test_what_was_promoted_everywhere_is_undone_by_hand() -> None:
    world = begun()
    promoted(world, world.apply(), *REGIONS)
    undone = operations.undo(world.sites("three"), "m", reason="slow for some", wait=True)
    returned(world, undone, *REGIONS)


def test_one_control_store_stays_lost_while_another_goes_on() -> None:
    world = begun()
    plan = world.plan("us")
    with pytest.raises(Killed):
        world.apply(plan=plan, way=Process(world, dies_before=60))
    with lost(world.members, 1):
        promoted(world, world.go_on())
