"""A change taken apart: every cent is somewhere, once."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.cost.locate.decompose import Bill, Line, by_dimension, effects, percentages

DIMENSIONS = ("region", "sku")


def bill(*lines: tuple[str, str, str, str | None]) -> Bill:
    return Bill(
        DIMENSIONS,
        tuple(
            Line((region, sku), Decimal(cost), None if quantity is None else Decimal(quantity), "h")
            for region, sku, cost, quantity in lines
        ),
    )


def test_each_dimension_tells_the_whole_change() -> None:
    before = bill(("eu", "g5", "100", None), ("us", "g5", "50", None), ("us", "m5", "10", None))
    after = bill(("eu", "g5", "160", None), ("us", "g5", "45", None), ("ap", "m5", "5", None))
    told = by_dimension(before, after)
    assert [(p.value, p.change, p.share) for p in told["region"]] == [
        ("eu", Decimal(60), Decimal("120.0")),
        ("us", Decimal(-15), Decimal("-30.0")),
        ("ap", Decimal(5), Decimal("10.0")),
    ]
    assert [(p.value, p.change, p.share) for p in told["sku"]] == [
        ("g5", Decimal(55), Decimal("110.0")),
        ("m5", Decimal(-5), Decimal("-10.0")),
    ]


def test_shares_of_three_thirds() -> None:
    assert percentages([Decimal(1), Decimal(1), Decimal(1)]) == [
        Decimal("33.4"),
        Decimal("33.3"),
        Decimal("33.3"),
    ]


def test_shares_of_nothing_are_unknown() -> None:
    assert percentages([Decimal(5), Decimal(-5)]) == [None, None]


MONEY = st.decimals(min_value=-1000, max_value=100000, places=4, allow_nan=False)


@given(st.lists(MONEY, min_size=1, max_size=30))
def test_shares_always_add_up(changes: list[Decimal]) -> None:
    shares = percentages(changes)
    if sum(changes):
        assert sum(share or Decimal(0) for share in shares) == 100
    else:
        assert set(shares) == {None}


CASES = {
    # (what): before, after → price, quantity, mix, new, gone, unmeasured
    "dearer": ([("eu", "g5", "10", "10")], [("eu", "g5", "15", "10")], (5, 0, 0, 0, 0, 0)),
    "more": ([("eu", "g5", "10", "10")], [("eu", "g5", "20", "20")], (0, 10, 0, 0, 0, 0)),
    "dearer, more": ([("eu", "g5", "10", "10")], [("eu", "g5", "40", "20")], (20, 10, 0, 0, 0, 0)),
    "to a dear region": (
        [("eu", "g5", "10", "10"), ("us", "g5", "30", "10")],
        [("eu", "g5", "5", "5"), ("us", "g5", "45", "15")],
        (0, 0, 10, 0, 0, 0),
    ),
    "new": ([], [("eu", "g5", "10", "10")], (0, 0, 0, 10, 0, 0)),
    "gone": ([("eu", "g5", "10", "10")], [], (0, 0, 0, 0, -10, 0)),
    "not measured": ([("eu", "g5", "10", None)], [("eu", "g5", "12", "3")], (0, 0, 0, 0, 0, 2)),
    "of nothing": ([("eu", "g5", "10", "0")], [("eu", "g5", "12", "3")], (0, 0, 0, 0, 0, 2)),
}  # fmt: skip


@pytest.mark.parametrize(("before", "after", "wanted"), CASES.values(), ids=CASES)
def test_price_quantity_and_mix(
    before: list[tuple[str, str, str, str | None]],
    after: list[tuple[str, str, str, str | None]],
    wanted: tuple[int, ...],
) -> None:
    told = effects(bill(*before), bill(*after))
    found = (told.price, told.quantity, told.mix, told.new, told.gone, told.unmeasured)
    assert found == tuple(map(Decimal, wanted))


QUANTITY = st.one_of(st.none(), st.decimals(min_value=0, max_value=1000, places=3, allow_nan=False))
LINES = st.lists(
    st.builds(
        lambda region, sku, cost, quantity, unit: Line((region, sku), cost, quantity, unit),
        st.sampled_from("ab"), st.sampled_from("xyz"), MONEY, QUANTITY, st.sampled_from("hg"),
    ),
    max_size=12,
)  # fmt: skip


@given(LINES, LINES)
def test_effects_add_up_to_the_cent_and_beyond(before: list[Line], after: list[Line]) -> None:
    told = effects(Bill(DIMENSIONS, tuple(before)), Bill(DIMENSIONS, tuple(after)))
    change = sum((line.cost for line in after), Decimal(0)) - sum(
        (line.cost for line in before), Decimal(0)
    )
    assert told.change == change


def test_hours_and_gigabytes_are_never_added() -> None:
    before = Bill(
        ("sku",),
        (
            Line(("m5",), Decimal(10), Decimal(10), "h"),
            Line(("s3",), Decimal(10), Decimal(1000), "GB"),
        ),
    )
    after = Bill(
        ("sku",),
        (
            Line(("m5",), Decimal(20), Decimal(20), "h"),
            Line(("s3",), Decimal(10), Decimal(1000), "GB"),
        ),
    )
    assert effects(before, after).quantity == 10


def test_dimensions_have_to_be_the_same() -> None:
    with pytest.raises(ValueError, match="dimensions differ"):
        by_dimension(Bill(("a",), ()), Bill(("b",), ()))
