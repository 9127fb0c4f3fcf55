"""What stores hold, verified: how it is known, what makes it doubtful, and what asking costs."""

from __future__ import annotations

import threading

import pytest

from mlplatform.core.errors import Denied, Unavailable
from mlplatform.core.manifest import Receipt
from mlplatform.core.placement import ModelVersion
from mlplatform.core.seen import Unknown
from mlplatform.failover.standby.stock import FRESH_SECONDS, REFRESHED, STANDS_SECONDS, Kept, Stock
from mlplatform.ports.store import read_bytes
from mlplatform.replication.verify import Depth
from tests.features.control.members import lost
from tests.features.replication.world import Call

from .warehouse import Warehouse

V1, V2 = ModelVersion("resnet50", "v1"), ModelVersion("resnet50", "v2")


def look(warehouse: Warehouse, stock: Stock, region: str = "eu") -> Kept | Unknown:
    return stock.look({region: [V2]})[region][V2]


def digest(found: Kept | Unknown) -> str | None:
    assert isinstance(found, Kept)
    return found.digest


@pytest.fixture
def warehouse() -> Warehouse:
    return Warehouse()


@pytest.fixture
def stock(warehouse: Warehouse) -> Stock:
    return Stock(warehouse.catalogue, warehouse.clock)


# --- what is true of it --------------------------------------------------------------------------


def test_a_version_that_is_stored(warehouse: Warehouse, stock: Stock) -> None:
    expected = warehouse.publish("eu", "v2")
    assert look(warehouse, stock) == Kept(expected, warehouse.clock.now())


def test_what_is_not_there(warehouse: Warehouse, stock: Stock) -> None:
    warehouse.publish("us", "v2")
    assert look(warehouse, stock) == Kept()


def test_a_check_that_found_it_wrong_counts_until_it_is_repaired(
    warehouse: Warehouse, stock: Stock
) -> None:
    expected = warehouse.publish("eu", "v2", body=b"right" * 20)
    assert digest(look(warehouse, stock)) == expected
    warehouse.spoil("eu", "v2")
    warehouse.clock.seconds += FRESH_SECONDS + 1
    assert digest(look(warehouse, stock)) is None
    warehouse.stores["eu"].store.put(f"{V2.prefix}model.bin", b"right" * 20)
    warehouse.replicas.check(V2, ["eu"], Depth.DEEP)  # which proves it anew, by another receipt
    warehouse.clock.seconds += FRESH_SECONDS + 1
    assert digest(look(warehouse, stock)) == expected


def test_a_check_of_another_region_is_not_its_own(warehouse: Warehouse, stock: Stock) -> None:
    for region in ("us", "eu"):
        warehouse.publish(region, "v2", body=b"right" * 20)
    warehouse.spoil("us", "v2")
    assert digest(look(warehouse, stock, "eu")) is not None
    assert digest(look(warehouse, stock, "us")) is None


def test_other_bytes_than_the_name_was_taken_for(warehouse: Warehouse, stock: Stock) -> None:
    warehouse.publish("eu", "v2", body=b"right" * 20)
    other = Warehouse()
    other.publish("eu", "v2", body=b"wrong" * 20)
    for each in other.stores["eu"].store.list(""):  # as if somebody had copied a bucket
        body, _ = read_bytes(other.stores["eu"].store, each.key)
        warehouse.stores["eu"].store.put(each.key, body)
    assert digest(look(warehouse, stock)) is None


def test_a_withdrawal_is_seen(warehouse: Warehouse, stock: Stock) -> None:
    warehouse.publish("eu", "v2")
    assert look(warehouse, stock) != Kept(withdrawn=True)
    warehouse.replicas.withdraw(V2, "poisoned")
    warehouse.clock.seconds += FRESH_SECONDS + 1
    found = look(warehouse, stock)
    assert isinstance(found, Kept)
    assert found.withdrawn


# --- what it costs -------------------------------------------------------------------------------


def test_what_is_fresh_is_not_asked_for(warehouse: Warehouse, stock: Stock) -> None:
    warehouse.publish("eu", "v2")
    first = look(warehouse, stock)
    warehouse.quiet()
    warehouse.clock.seconds += FRESH_SECONDS
    assert look(warehouse, stock) == first
    assert warehouse.asked("eu") == []
    assert [store.calls for store in warehouse.members.stores] == [[], [], []]


def test_one_question_says_that_nothing_is_new(warehouse: Warehouse, stock: Stock) -> None:
    warehouse.publish("eu", "v2")
    first = look(warehouse, stock)
    warehouse.quiet()
    warehouse.clock.seconds += FRESH_SECONDS + 1
    assert look(warehouse, stock) == first
    assert warehouse.asked("eu") == [f"stat {V2.receipt_key}"]


def test_a_new_receipt_is_read(warehouse: Warehouse, stock: Stock) -> None:
    warehouse.publish("eu", "v2")
    look(warehouse, stock)
    store = warehouse.stores["eu"].store
    receipt = Receipt.parse(read_bytes(store, V2.receipt_key)[0], where="test")
    other = receipt.model_copy(update={"manifest_digest": "blake3:other", "nonce": "n"})
    store.put(V2.receipt_key, other.encoded)
    warehouse.clock.seconds += FRESH_SECONDS + 1
    assert digest(look(warehouse, stock)) is None


def test_of_many_versions_so_many_are_looked_at_again_in_a_round_and_all_in_turn(
    warehouse: Warehouse, stock: Stock
) -> None:
    subjects = [ModelVersion("resnet50", f"v{number:03}") for number in range(3 * REFRESHED)]
    for subject in subjects:
        warehouse.publish("eu", subject.version)
    found = stock.look({"eu": subjects})["eu"]
    assert all(isinstance(each, Kept) and each.digest for each in found.values())
    seen: set[str] = set()
    for _ in range(3):
        warehouse.clock.seconds += FRESH_SECONDS + 1
        warehouse.quiet()
        stock.look({"eu": subjects})
        asked = warehouse.asked("eu")
        assert len(asked) == REFRESHED
        seen.update(asked)
    assert seen == {f"stat {subject.receipt_key}" for subject in subjects}


# --- bad weather ---------------------------------------------------------------------------------


def away(call: Call) -> None:
    raise Unavailable("no answer")


def test_what_was_verified_stands_while_its_store_is_away_but_not_for_ever(
    warehouse: Warehouse, stock: Stock
) -> None:
    warehouse.publish("eu", "v2")
    first = look(warehouse, stock)
    warehouse.stores["eu"].before = away
    warehouse.clock.seconds += STANDS_SECONDS
    assert look(warehouse, stock) == first
    warehouse.clock.seconds += 1
    found = look(warehouse, stock)
    assert isinstance(found, Unknown)
    assert "no answer" in found.reason


def test_a_store_that_was_never_read_is_unknown_and_not_asked_for_each_version(
    warehouse: Warehouse, stock: Stock
) -> None:
    subjects = [ModelVersion("resnet50", f"v{number}") for number in range(50)]
    warehouse.stores["eu"].before = away
    found = stock.look({"eu": subjects, "us": [V2]})
    assert all(isinstance(each, Unknown) and "eu" in each.reason for each in found["eu"].values())
    assert len(warehouse.asked("eu")) < 20
    assert found["us"] == {V2: Kept()}


def test_one_version_that_cannot_be_read_is_not_the_others(
    warehouse: Warehouse, stock: Stock
) -> None:
    expected = warehouse.publish("eu", "v2")

    def broken(call: Call) -> None:
        if V1.version in call.key:
            raise ValueError("an adapter's mistake")

    warehouse.stores["eu"].before = broken
    found = stock.look({"eu": [V1, V2]})["eu"]
    assert digest(found[V2]) == expected
    v1 = found[V1]
    assert isinstance(v1, Unknown)
    assert "internal error: ValueError" in v1.reason


def test_no_right_to_read_is_unknown(warehouse: Warehouse, stock: Stock) -> None:
    def denied(call: Call) -> None:
        raise Denied("Access Denied", right="get")

    warehouse.stores["eu"].before = denied
    found = look(warehouse, stock)
    assert isinstance(found, Unknown)
    assert "Access Denied" in found.reason


def test_a_container_that_is_gone_is_not_an_empty_one(warehouse: Warehouse, stock: Stock) -> None:
    warehouse.stores["eu"].store.drop()  # type: ignore[attr-defined]
    assert isinstance(look(warehouse, stock), Unknown)


def test_one_control_store_may_be_lost(warehouse: Warehouse, stock: Stock) -> None:
    expected = warehouse.publish("eu", "v2")
    with lost(warehouse.members, 0):
        assert digest(look(warehouse, stock)) == expected


def test_without_a_majority_nobody_knows_what_speaks_against_it(
    warehouse: Warehouse, stock: Stock
) -> None:
    expected = warehouse.publish("eu", "v2")
    with lost(warehouse.members, 0), lost(warehouse.members, 1):
        assert isinstance(look(warehouse, stock), Unknown)
    first = look(warehouse, stock)
    assert digest(first) == expected
    with lost(warehouse.members, 0), lost(warehouse.members, 1):
        warehouse.clock.seconds += STANDS_SECONDS / 2
        assert look(warehouse, stock) == first
        warehouse.clock.seconds += STANDS_SECONDS / 2 + 1
        assert isinstance(look(warehouse, stock), Unknown)


@pytest.mark.parametrize("read_before", [False, True])
def test_a_store_that_hangs_is_asked_once_and_not_once_a_round(*, read_before: bool) -> None:
    warehouse = Warehouse(threads=True, timeout_seconds=1.5)
    warehouse.publish("eu", "v2")
    stock = Stock(warehouse.catalogue, warehouse.clock)
    expected: str | None = None
    release, asked = threading.Event(), threading.Semaphore(0)

    def hang(call: Call) -> None:
        asked.release()
        release.wait(timeout=30)

    if read_before:
        expected = digest(look(warehouse, stock))
        warehouse.clock.seconds += FRESH_SECONDS + 1
    warehouse.stores["eu"].before = hang
    try:
        for _ in range(3):
            found = look(warehouse, stock)
            assert digest(found) == expected if read_before else isinstance(found, Unknown)
        warehouse.clock.seconds += STANDS_SECONDS
        assert isinstance(look(warehouse, stock), Unknown)
        assert asked.acquire(timeout=10)
        assert not asked.acquire(blocking=False)
    finally:
        release.set()


# --- which versions there are --------------------------------------------------------------------


def test_every_published_version_is_named(warehouse: Warehouse, stock: Stock) -> None:
    for version in ("v1", "v2", "v2-rc1"):
        warehouse.publish("us", version)
    warehouse.publish("us", "v9", model="resnet50-large")
    assert stock.versions(["resnet50"]) == {"resnet50": ["v1", "v2-rc1", "v2"]}
    with lost(warehouse.members, 0), lost(warehouse.members, 1):
        assert isinstance(stock.versions(["bert"])["bert"], Unknown)
