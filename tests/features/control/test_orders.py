"""Standing orders: who is heard, on which members, and for how long."""

from datetime import timedelta

import pytest

from mlplatform.control.orders import EVERYTHING, Kind, Order, StandingOrders, in_force
from mlplatform.core.errors import NoMajority, NotFound, UsageError
from tests.features.control.members import Members, lost, read_only
from tests.features.control.weather import VirtualClock


@pytest.fixture
def members() -> Members:
    return Members(3)


@pytest.fixture
def time() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def orders(members: Members, time: VirtualClock) -> StandingOrders:
    return StandingOrders(members.control(time), time, "ann@host:1")


def scopes(orders: StandingOrders) -> dict[str, str]:
    return {order.scope: order.reason for order in orders.read()}


def test_an_order_stands_until_it_is_taken_back(orders: StandingOrders) -> None:
    orders.give(Kind.LOCK, EVERYTHING, reason="launch day")
    assert scopes(orders) == {"all": "launch day"}
    orders.take_back(Kind.LOCK, EVERYTHING, reason="launched")
    assert scopes(orders) == {}
    with pytest.raises(NotFound, match="no lock of all"):
        orders.take_back(Kind.LOCK, EVERYTHING, reason="again")
    orders.give(Kind.LOCK, EVERYTHING, reason="once more")
    assert scopes(orders) == {"all": "once more"}


def test_the_newer_order_counts(orders: StandingOrders) -> None:
    orders.give(Kind.OVERRIDE, "us", value="healthy", reason="probes lie")
    orders.give(Kind.OVERRIDE, "us", value="unhealthy", reason="they do not")
    (order,) = orders.read()
    assert (order.value, order.number) == ("unhealthy", 2)


def test_one_of_another_scope_or_kind_is_another(orders: StandingOrders) -> None:
    orders.give(Kind.MAINTENANCE, "us", reason="disks")
    orders.give(Kind.OVERRIDE, "us", value="healthy", reason="x")
    orders.give(Kind.MAINTENANCE, "us-2", reason="y")
    orders.take_back(Kind.MAINTENANCE, "us", reason="done")
    assert {(order.kind, order.scope) for order in orders.read()} == {
        (Kind.OVERRIDE, "us"),
        (Kind.MAINTENANCE, "us-2"),
    }


def test_it_expires(orders: StandingOrders, time: VirtualClock) -> None:
    until = time.now() + timedelta(minutes=5)
    orders.give(Kind.OVERRIDE, "us", value="healthy", reason="x", expires_at=until)
    assert scopes(orders) == {"us": "x"}
    time.sleep(301)
    assert scopes(orders) == {}


@pytest.mark.parametrize("member", range(3))
def test_no_member_that_is_lost_loses_it_or_brings_it_back(
    members: Members, orders: StandingOrders, member: int
) -> None:
    orders.give(Kind.LOCK, "api", reason="x")
    with lost(members, member):
        assert scopes(orders) == {"api": "x"}
        orders.take_back(Kind.LOCK, "api", reason="y")
    assert scopes(orders) == {}, "the member that was away still has the lock, and is outranked"
    members.rebuild(member)
    assert scopes(orders) == {}


def test_who_is_not_heard_by_a_majority_is_told(members: Members, orders: StandingOrders) -> None:
    with (
        read_only(members, 0),
        read_only(members, 1),
        pytest.raises(NoMajority, match="lock api: 1 of 3 control stores took it"),
    ):
        orders.give(Kind.LOCK, "api", reason="x")
    assert scopes(orders) == {"api": "x"}, "an order that any store knows of stands"


def test_a_damaged_lock_is_a_lock(members: Members, orders: StandingOrders) -> None:
    orders.give(Kind.LOCK, "api", reason="x")
    for store in members.stores:
        store.store.put("orders/lock/api.json", b"{")
    assert scopes(orders) == {"api": "(its record is damaged)"}
    orders.give(Kind.LOCK, "api", reason="again")
    orders.take_back(Kind.LOCK, "api", reason="seen to")
    assert scopes(orders) == {}


def test_a_good_copy_outranks_a_damaged_one(members: Members, orders: StandingOrders) -> None:
    orders.give(Kind.OVERRIDE, "us", value="healthy", reason="x")
    members.stores[0].store.put("orders/override/us.json", b"{}")
    assert scopes(orders) == {"us": "x"}


def test_names_that_cannot_be_keys(orders: StandingOrders) -> None:
    with pytest.raises(UsageError):
        orders.give(Kind.LOCK, "../x", reason="y")


def test_of_two_with_one_number_the_one_that_stands_counts(orders: StandingOrders) -> None:
    given = orders.give(Kind.LOCK, "api", reason="x")
    ended = given.model_copy(update={"stands": False})
    assert in_force([given, ended], given.at) == in_force([ended, given], given.at) == (given,)


def test_round_trip() -> None:
    time = VirtualClock()
    order = Order(kind=Kind.LOCK, scope="a", reason="r", by="b", at=time.now(), number=1)
    assert Order.model_validate_json(order.model_dump_json()) == order


def test_what_is_forgotten_leaves_nothing_behind(orders: StandingOrders, members: Members) -> None:
    orders.give(Kind.ABORT, "op-1", reason="wrong")
    orders.take_back(Kind.ABORT, "op-1", reason="right")
    orders.give(Kind.LOCK, EVERYTHING, reason="launch")
    (abort,) = (order for order in orders.known() if order.kind is Kind.ABORT)
    assert not abort.stands
    orders.forget(abort)
    assert [order.kind for order in orders.known()] == [Kind.LOCK]
    assert members.holding(abort.key) == []
