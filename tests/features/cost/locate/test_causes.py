"""Why a cost changed, by name: a table of what an SRE would say."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.cost.locate.causes import Facts, Item, Kind, Name, Pricing, name_causes


def machine(sku: str, hours: str, cost: str, **named: Any) -> Item:
    known: dict[str, Any] = {
        "region": "eu", "service": "EC2", "unit": "h", "kind": Kind.MACHINE,
        "pricing": Pricing.ON_DEMAND, **named,
    }  # fmt: skip
    return Item(sku=sku, quantity=Decimal(hours), cost=Decimal(cost), **known)


def other(sku: str, cost: str, quantity: str | None = None, **named: Any) -> Item:
    known: dict[str, Any] = {"region": "eu", "service": "Amazon S3", "unit": "GB", **named}
    return Item(
        sku=sku,
        cost=Decimal(cost),
        quantity=None if quantity is None else Decimal(quantity),
        **known,
    )


SPOT = {"pricing": Pricing.SPOT}
CROSS = {"kind": Kind.TRANSFER, "to_region": "us"}
IDLE = {f"vol-{number}": "attached to nothing" for number in range(1, 6)}

CASES: dict[str, tuple[list[Item], list[Item], Facts, dict[Name, str]]] = {
    "autoscaling": (
        [machine("g5", "24", "24")], [machine("g5", "48", "48")], Facts(), {Name.MORE: "24"},
    ),
    "autoscaling, machine by machine": (
        [machine("g5", "24", "24", resource="i-1")],
        [machine("g5", "24", "24", resource="i-1"), machine("g5", "24", "24", resource="i-2")],
        Facts(), {Name.MORE: "24"},
    ),
    "scaled down": (
        [machine("g5", "48", "48")], [machine("g5", "24", "24")], Facts(), {Name.LESS: "-24"},
    ),
    "dearer": (
        [machine("g5", "24", "24")], [machine("g5", "24", "30")], Facts(), {Name.PRICE: "6"},
    ),
    "dearer and more of it": (
        [machine("g5", "10", "10")], [machine("g5", "20", "40")], Facts(),
        {Name.PRICE: "10", Name.MORE: "20"},
    ),
    "another type": (
        [machine("g4", "24", "12")], [machine("g5", "24", "24")], Facts(),
        {Name.ANOTHER_TYPE: "12"},
    ),
    "another type, and more of it": (
        [machine("g4", "24", "12")], [machine("g5", "30", "30")], Facts(),
        {Name.ANOTHER_TYPE: "12", Name.NEW: "6"},
    ),
    "spot → on-demand": (
        [machine("g5", "24", "8", **SPOT)], [machine("g5", "24", "24")], Facts(),
        {Name.SPOT_TO_ON_DEMAND: "16"},
    ),
    "half of spot → on-demand": (
        [machine("g5", "24", "8", **SPOT), machine("g5", "10", "10")],
        [machine("g5", "12", "4", **SPOT), machine("g5", "22", "22")], Facts(),
        {Name.SPOT_TO_ON_DEMAND: "8"},
    ),
    "bytes between regions": (
        [other("transfer", "1", "50", **CROSS)], [other("transfer", "9", "450", **CROSS)],
        Facts(replicated_bytes={("eu", "us"): 400_000_000_000}), {Name.TRANSFER: "8"},
    ),
    "a volume that nobody uses": (
        [], [other("gp3", "5", "60", resource="vol-1")], Facts(IDLE), {Name.FORGOTTEN: "5"},
    ),
    "one that costs more than it did": (
        [other("gp3", "5", "60", resource="vol-1")], [other("gp3", "8", "96", resource="vol-1")],
        Facts(IDLE), {Name.FORGOTTEN: "3"},
    ),
    "one that costs what it always did": (
        [other("gp3", "5", "60", resource="vol-1"), other("gp3", "1", "12", resource="vol-9")],
        [other("gp3", "5", "60", resource="vol-1"), other("gp3", "3", "36", resource="vol-9")],
        Facts(IDLE), {Name.MORE: "2"},
    ),
    "one that is gone": (
        [other("gp3", "5", "60", resource="vol-1")], [], Facts(IDLE), {Name.GONE: "-5"},
    ),
    "several, beside one that is used": (
        [other("gp3", "5", "60", resource="vol-9")],
        [other("gp3", "1", "12", resource=name) for name in IDLE]
        + [other("gp3", "6", "72", resource="vol-9")],
        Facts(IDLE), {Name.FORGOTTEN: "5", Name.MORE: "1"},
    ),
    "a new service": (
        [other("standard", "5", "9")], [other("standard", "5", "9"), other("bedrock", "7", "1")],
        Facts(), {Name.NEW: "7"},
    ),
    "a service that ended": ([other("bedrock", "7", "1")], [], Facts(), {Name.GONE: "-7"}),
    "no quantity": (
        [other("support", "10")], [other("support", "12")], Facts(), {Name.UNEXPLAINED: "2"},
    ),
    "nothing": ([machine("g5", "1", "1")], [machine("g5", "1", "1")], Facts(), {}),
}  # fmt: skip


@pytest.mark.parametrize(("before", "after", "facts", "wanted"), CASES.values(), ids=CASES)
def test_causes_have_names(
    before: list[Item], after: list[Item], facts: Facts, wanted: dict[Name, str]
) -> None:
    causes = name_causes(before, after, facts)
    assert {cause.name: cause.amount for cause in causes} == {
        k: Decimal(v) for k, v in wanted.items()
    }
    assert len(causes) == len(wanted)


def test_the_sentence() -> None:
    (cause,) = name_causes([machine("g5", "24", "8", **SPOT)], [machine("g5", "24", "24")])
    assert str(cause) == "eu g5: 24 h that were spot are on-demand; 0.3333 → 1 each"
    (cause,) = name_causes([machine("g5", "24", "24")], [machine("g5", "48", "48")])
    assert str(cause) == "eu g5 (on-demand): 24 h more; 2.00 times as many"
    facts = Facts(replicated_bytes={("eu", "us"): 400})
    (cause,) = name_causes([], [other("transfer", "9", "450", **CROSS)], facts)
    assert str(cause) == (
        "eu → us: bytes between regions; +450 GB; replication carried 400 bytes there"
    )


def test_what_nobody_uses_is_named() -> None:
    idle = [other("gp3", "1", "12", resource=name) for name in IDLE]
    (cause,) = name_causes([], idle[:1], Facts(IDLE))
    assert str(cause) == "eu gp3 vol-1: nobody uses it; attached to nothing"
    (cause,) = name_causes([], idle, Facts(IDLE))
    assert str(cause) == ("eu gp3: nobody uses vol-1, vol-2 and 3 more; attached to nothing")


ITEMS = st.lists(
    st.builds(
        Item,
        region=st.sampled_from(["eu", "us"]),
        service=st.just("EC2"),
        sku=st.sampled_from(["g4", "g5"]),
        cost=st.decimals(min_value=-5, max_value=1000, places=4, allow_nan=False),
        quantity=st.one_of(
            st.none(), st.decimals(min_value=0, max_value=100, places=2, allow_nan=False)
        ),
        unit=st.just("h"),
        pricing=st.sampled_from(list(Pricing)),
        kind=st.sampled_from(list(Kind)),
        resource=st.sampled_from(["", "a", "b"]),
    ),
    max_size=10,
)


@given(ITEMS, ITEMS)
def test_nothing_is_lost_and_nothing_is_told_twice(before: list[Item], after: list[Item]) -> None:
    causes = name_causes(before, after, Facts({"b": "attached to nothing"}))
    change = sum((item.cost for item in after), Decimal(0)) - sum(
        (item.cost for item in before), Decimal(0)
    )
    assert sum((cause.amount for cause in causes), Decimal(0)) == change
