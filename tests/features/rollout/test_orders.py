"""Who ordered what of a rollout, and to which operation somebody has said yes: in memory and
virtual time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mlplatform.control.orders import Kind as OrderKind
from mlplatform.core.errors import Denied, Interrupted, UsageError
from mlplatform.ports.identity import Identity
from mlplatform.ports.store import read_bytes
from mlplatform.rollout import operations
from mlplatform.rollout.operations import Ended
from mlplatform.rollout.records import Ordered
from mlplatform.rollout.report.making import make_hands
from mlplatform.rollout.report.wording import who
from tests.features.rollout.rolling.world import POLICY, World

ADA = Identity("ada", "the cluster")
BOB = Identity("bob", "the cluster")
TYPED = Identity("ada")
NAMED = {**POLICY, "waves": {"bake_seconds": 60, "approval": "first", "approvers": ["ada"]}}


def left(world: World, after_seconds: float = 60.0) -> None:
    """A rollout of one region that nobody is at work on any more, with its way before it."""
    until = world.time.seconds + after_seconds
    world.stop = lambda: world.time.seconds > until
    with pytest.raises(Interrupted):
        world.apply(plan=world.plan("us"))
    world.stop = lambda: False


def agree(world: World, name: str, by: Identity = ADA) -> operations.Approved:
    return operations.approve(world.sites(), name, by=lambda: by, reason="reviewed")


def hands(world: World) -> list[str]:
    """Of the newest rollout, but for who began it and went on."""
    sites = world.sites()
    found = make_hands(sites, operations.newest(sites, "m"))
    return [f"{who(each)} {each.what}" for each in found if each.what[:4] not in ("bega", "went")]


def when(world: World, seconds: float, then: Callable[[], object]) -> None:
    """Once, so many seconds from now."""
    at = world.time.seconds + seconds
    did: list[bool] = []

    def meanwhile(_: float) -> None:
        if not did and world.time.seconds > at:
            did.append(True)
            then()

    world.time.meanwhile.append(meanwhile)


# --- who ordered it -------------------------------------------------------------------------------


def test_it_is_kept_who_paused_resumed_and_ended_it_though_orders_are_forgotten() -> None:
    world = World()
    left(world)
    sites = world.sites()
    operations.order(sites, OrderKind.PAUSE, "m", by=lambda: ADA, reason="an incident")
    world.time.sleep(1)
    world.stop = lambda: True
    with pytest.raises(Interrupted):
        operations.go_on(sites, "m", by=lambda: BOB)
    world.stop = lambda: False
    world.time.sleep(1)
    _, rolled = operations.abort(sites, "m", by=lambda: TYPED, reason="wrong labels")
    assert rolled is not None
    assert rolled.ended is Ended.RETURNED
    for order in sites.orders.known():
        sites.orders.forget(order)
    assert hands(world) == [
        "ada (verified by the cluster) paused it",
        "bob (verified by the cluster) took back a pause of it",
        "ada (unverified) ended it",
    ]


def test_who_undoes_what_is_over_is_kept_of_the_way_back() -> None:
    world = World()
    assert world.apply("us").ended is Ended.PROMOTED
    there = operations.newest(world.sites(), "m").operation
    rolled = operations.undo(world.sites(), "m", by=lambda: BOB, reason="slow")
    assert rolled is not None
    assert rolled.ended is Ended.RETURNED
    assert hands(world) == [
        "bob (verified by the cluster) ordered that the last good version comes back"
    ]
    assert world.sites().records.ordered(there) == ()


def test_a_brake_is_pulled_before_anybody_is_asked_who_pulls_it() -> None:
    world = World()
    left(world)
    sites = world.sites()

    def slow() -> Identity:
        assert [each.kind for each in sites.orders.read()] == [OrderKind.PAUSE]
        return TYPED

    operations.order(sites, OrderKind.PAUSE, "m", by=slow, reason="")
    assert operations.stands(sites, operations.newest(sites, "m")).state == "paused"


MAY: dict[str, tuple[Identity, bool]] = {
    "named and vouched for": (ADA, True),
    "vouched for, and not named": (BOB, False),
    "the name alone": (TYPED, False),
}


@pytest.mark.parametrize(("by", "may"), MAY.values(), ids=MAY)
@pytest.mark.parametrize("kind", [OrderKind.PROMOTE, OrderKind.PAUSE, OrderKind.ABORT])
def test_only_who_is_named_overrides_the_verdict_and_anybody_pulls_a_brake(
    kind: OrderKind, by: Identity, may: bool
) -> None:
    world = World(policy=NAMED)
    agree(world, world.plan("us").name)
    left(world)
    sites = world.sites()
    if kind is OrderKind.PROMOTE and not may:
        with pytest.raises(Denied, match="may not promote without the verdict"):
            operations.order(sites, kind, "m", by=lambda: by, reason="")
        assert sites.orders.read() == ()
        return
    _, ordered = operations.order(sites, kind, "m", by=lambda: by, reason="")
    assert (ordered.by, ordered.verified) == (by.by, by.verified)
    assert [each.kind for each in sites.orders.read()] == [kind]


@pytest.mark.parametrize(("by", "may"), MAY.values(), ids=MAY)
def test_an_order_to_promote_counts_for_nothing_where_nobody_may_have_given_it(
    by: Identity, may: bool
) -> None:
    """Whatever wrote it: the controller looks who it was. The verdict has nothing to go by."""
    undeclared = {**NAMED, "verdict": {"metrics": ["errors"], "window_seconds": 30}}
    world = World(policy=undeclared)
    plan = world.plan("us")
    agree(world, plan.name)
    sites = world.sites()

    def promote() -> None:
        operation = operations.newest(sites, "m").operation
        order = sites.orders.give(OrderKind.PROMOTE, operation, reason="at night")
        told = {"by": by.by, "verified": by.verified, "reason": "", "at": order.at}
        sites.records.note(Ordered(operation=operation, what="promote", **told))

    when(world, 600, promote)
    when(world, 6_000, lambda: operations.order(sites, OrderKind.ABORT, "m", reason="enough"))
    assert (world.apply(plan=plan).ended is Ended.PROMOTED) is may


def test_where_nobody_is_named_anybody_promotes() -> None:
    world = World()
    left(world)
    operations.order(world.sites(), OrderKind.PROMOTE, "m", by=lambda: TYPED, reason="at night")
    assert hands(world) == ["ada (unverified) promoted it by hand, without waiting for the verdict"]


# --- to what somebody said yes --------------------------------------------------------------------


def test_a_plan_that_was_returned_is_agreed_to_anew() -> None:
    """The very same plan, to the byte."""
    world = World(policy=NAMED, errors={"v1": 0.002, "v2": 0.05})
    first = world.plan("us")
    assert agree(world, first.name).before == []
    assert world.apply(plan=first).ended is Ended.RETURNED
    before = operations.newest(world.sites(), "m").operation

    again = world.plan("us")
    assert again.name == first.name
    told: list[str] = []

    def agree_again() -> None:
        sites = world.sites()
        steps = operations.stands(sites, operations.newest(sites, "m")).steps
        told.extend(each.waits for each in steps if each.waits)
        assert agree(world, again.name).before == [before]

    when(world, 600, agree_again)
    began = world.time.seconds
    world.apply(plan=again)
    assert world.time.seconds - began > 600
    command = f"mlplatform rollout approve {first.name[:12]}"
    assert told == [f"ada has not said yes yet to its being applied again: {command}"]
    assert any("ada has not said yes yet" in each for each in world.said)


def test_who_agrees_before_it_is_applied_again_is_not_asked_twice() -> None:
    world = World(policy=NAMED, errors={"v1": 0.002, "v2": 0.05})
    plan = world.plan("us")
    agree(world, plan.name)
    world.apply(plan=plan)
    agree(world, plan.name)
    world.said.clear()
    assert world.apply(plan=plan).ended is Ended.RETURNED
    assert not any("has not said yes" in each for each in world.said)


def test_an_operation_that_is_gone_on_with_was_agreed_to_already() -> None:
    world = World(policy=NAMED)
    agree(world, world.plan("us").name)
    left(world, 30)
    world.said.clear()
    rolled = world.go_on()
    assert rolled is not None
    assert rolled.ended is Ended.PROMOTED
    assert not any("has not said yes" in each for each in world.said)


def test_one_that_waited_for_a_yes_when_it_was_left_gets_it() -> None:
    """It was given while nobody was at work on it."""
    world = World(policy=NAMED)
    plan = world.plan("us")
    left(world, 30)
    agree(world, plan.name)
    rolled = world.go_on()
    assert rolled is not None
    assert rolled.ended is Ended.PROMOTED


def test_one_whose_journal_is_damaged_may_have_been_with_this_plan() -> None:
    world = World(policy=NAMED)
    plan = world.plan("us")
    agree(world, plan.name)
    world.apply(plan=plan)
    sites = world.sites()
    done = operations.newest(sites, "m").operation
    for store in world.members.stores:
        store.put(f"journal/{done}/00000002.json", b"{}")
    assert operations.operations_with(sites, plan.plan) == [done]


def test_a_plan_that_was_edited_by_hand_can_be_made_again() -> None:
    """And whoever agreed to it before it was applied has not agreed to the next time."""
    world = World(policy=NAMED)
    plan = world.plan("us")
    agree(world, plan.name)
    world.apply(plan=plan)
    operations.undo(world.sites(), "m", reason="slow")
    key = f"plans/rollout/{plan.name}.json"
    for store in world.members.stores:
        held, _ = read_bytes(store, key)
        store.put(key, held.replace(b'"weight":10', b'"weight":90'))
    world.time.sleep(30 * 86_400)
    again = world.plan("us")
    assert (again.name, again.plan) == (plan.name, plan.plan)
    assert world.sites().records.plan(plan.name) == again
    assert len(operations.operations_with(world.sites(), again.plan)) == 1


@pytest.mark.parametrize(
    ("name", "said", "hint"),
    [
        ("0" * 12, "no plan is called so", "prints its name"),
        ("", "is not the name of a plan", "6 digits"),
        ("abc", "is not the name of a plan", "6 digits"),
        ("../../x", "is not the name of a plan", "6 digits"),
    ],
)
def test_names_of_no_plan(name: str, said: str, hint: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        World().sites().records.plan(name)
    assert hint in str(caught.value.hint)
