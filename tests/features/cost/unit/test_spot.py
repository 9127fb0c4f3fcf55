"""Spot: its share, and what it costs where it fell back to on-demand."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from mlplatform.cost.cube import Measure
from mlplatform.cost.unit.buying import bought
from mlplatform.cost.unit.spot import ON_DEMAND, SPOT, Bought, spot_shares
from tests.features.cost.bills import charge, write_csv
from tests.features.cost.books import Books

D = Decimal
Hours = tuple[str | None, str, str | None]
"""Pricing category, cost, quantity."""


def of(*some: Hours, machine: str = "g5.xlarge") -> list[Bought]:
    return [
        Bought("us", machine, pricing, "Hours", D(cost), None if hours is None else D(hours))
        for pricing, cost, hours in some
    ]


@pytest.mark.parametrize(
    ("why", "before", "now", "share", "moved", "extra"),
    [
        ("all stays spot", [(SPOT, "4", "10")], [(SPOT, "4", "10")], 1.0, 0, 0),
        ("all falls back", [(SPOT, "4", "10")], [(ON_DEMAND, "10", "10")], 0.0, 10, 6),
        (
            "half of it",
            [(SPOT, "4", "10"), (ON_DEMAND, "10", "10")],
            [(SPOT, "2", "5"), (ON_DEMAND, "15", "15")],
            2 / 17,
            5,
            3,
        ),
        (
            "spot ends and nothing takes its place",
            [(SPOT, "4", "10")],
            [(SPOT, "2", "5")],
            1.0,
            0,
            0,
        ),
        (
            "more on-demand beside as much spot is growth",
            [(SPOT, "4", "10")],
            [(SPOT, "4", "10"), (ON_DEMAND, "10", "10")],
            4 / 14,
            0,
            0,
        ),
        ("back to spot", [(ON_DEMAND, "10", "10")], [(SPOT, "4", "10")], 1.0, 0, 0),
        ("how much is unknown", [(SPOT, "4", None)], [(ON_DEMAND, "10", "10")], 0.0, 0, None),
        ("now first", [], [(SPOT, "4", "10")], 1.0, 0, 0),
        ("gone", [(SPOT, "4", "10")], [], None, 0, 0),
        ("no category", [(SPOT, "4", "10")], [(None, "10", "10")], None, 0, 0),
    ],
)
def test_a_machine(
    why: str,
    before: list[Hours],
    now: list[Hours],
    share: float | None,
    moved: int,
    extra: int | None,
) -> None:
    (found,) = spot_shares(of(*now), of(*before))
    assert found.spot_share == (None if share is None else pytest.approx(share)), why
    assert found.moved == moved
    assert found.extra == extra


def test_machines_that_were_never_spot_are_no_rows() -> None:
    assert spot_shares(of((ON_DEMAND, "1", "1")), of((ON_DEMAND, "1", "1"))) == []


def test_what_was_bought_is_in_the_ledger(books: Books) -> None:
    day = date(2026, 11, 10)
    rows = [
        charge(day, "4", PricingCategory="Dynamic", PricingQuantity="10"),
        charge(day, "2", PricingCategory="Dynamic", PricingQuantity="5"),
        charge(day, "1", PricingCategory="Standard", PricingQuantity="1"),
    ]
    for row in rows:
        row["x_InstanceType"] = "g5.xlarge"
    rows.append(charge(day, "9") | {"x_InstanceType": None})
    write_csv(books.bills / "bill.csv", rows)
    books.good()
    with books.spender() as spender:
        found = bought(spender, books.ledger.current(), day, day, Measure.BILLED)
        assert bought(spender, [], day, day, Measure.BILLED) == []
    assert {(each.pricing, each.cost, each.quantity) for each in found} == {
        ("Dynamic", D(6), D(15)),
        ("Standard", D(1), D(1)),
    }
