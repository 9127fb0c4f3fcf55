"""Waste in bills: what their own meters call unused."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest

from mlplatform.core.money import Amount
from mlplatform.cost.engine import connect
from mlplatform.cost.waste.charges import DAYS, Charges
from mlplatform.cost.waste.findings import Finding, Waste
from tests.features.cost.bills import Charge, charge, days_from, write_csv
from tests.features.cost.books import Books

LAST = date(2026, 11, 20)
RECENT = days_from(LAST - timedelta(days=DAYS - 1), DAYS)
ALL = days_from(LAST - timedelta(days=110), 111)


def metered(day: date, meter: str, cost: str, resource: str, **other: Any) -> Charge:
    found = charge(day, cost, ResourceId=resource, **other)
    return {**found, "SkuMeter": meter}


def every_day(meter: str, cost: str, resource: str, days: list[date], **other: Any) -> list[Charge]:
    return [metered(day, meter, cost, resource, **other) for day in days]


def delivered(books: Books, rows: list[Charge]) -> None:
    """A file for each billing period, each in a folder of its own."""
    months: dict[str, list[Charge]] = {}
    for row in rows:
        months.setdefault(str(row["BillingPeriodStart"])[:7], []).append(row)
    for month, several in months.items():
        (books.bills / month).mkdir(parents=True, exist_ok=True)
        heading = list(dict.fromkeys([*several[0], "SkuMeter"]))
        write_csv(books.bills / month / "bill.csv", several, heading=heading)
    books.good()


def found(books: Books, *names: str) -> tuple[list[Finding], dict[str, list[Amount]]]:
    with connect(books.folder / "scratch") as connection:
        charges = Charges(
            connection,
            lambda key: books.folder / "ledger" / key,
            {"us-east-1": "us"},
            books.ledger.current(),
        )
        return list(charges.findings()), charges.costs(names)


ARN = "arn:aws:ec2:us-east-1:444455556666:elastic-ip/eipalloc-1"
BALANCER = "arn:aws:elasticloadbalancing:us-east-1:1:loadbalancer/app/idle/50dc"


@pytest.mark.parametrize(
    ("rows", "kinds"),
    [
        (every_day("USE1-PublicIPv4:IdleAddress", "0.12", ARN, RECENT), [Waste.ADDRESS]),
        (every_day("USE1-PublicIPv4:InUseAddress", "0.12", ARN, RECENT), []),
        # released a week ago
        (every_day("USE1-PublicIPv4:IdleAddress", "0.12", ARN, RECENT[:7]), []),
        # another provider's meter of that name says nothing to us
        (
            every_day(
                "PublicIPv4:IdleAddress",
                "0.12",
                "ip",
                RECENT,
                ProviderName="Microsoft",
                InvoiceIssuerName="Microsoft",
            ),
            [],
        ),
        (
            every_day("LoadBalancerUsage", "0.54", BALANCER, RECENT),
            [Waste.LOAD_BALANCER],
        ),
        (
            every_day("LoadBalancerUsage", "0.54", BALANCER, RECENT)
            + every_day("LCUUsage", "0", BALANCER, RECENT, PricingQuantity="0"),
            [Waste.LOAD_BALANCER],
        ),
        (
            every_day("LoadBalancerUsage", "0.54", BALANCER, RECENT)
            + every_day("LCUUsage", "0.1", BALANCER, RECENT[3:4], PricingQuantity="2"),
            [],
        ),
        # of what passed through it, nobody knows how much
        (
            every_day("LoadBalancerUsage", "0.54", BALANCER, RECENT)
            + every_day("LCUUsage", "0.1", BALANCER, RECENT[3:4], PricingQuantity="NULL"),
            [],
        ),
        (every_day("USE1-EBS:SnapshotUsage", "0.05", "snap-1", ALL), [Waste.SNAPSHOT]),
        (every_day("USE1-EBS:SnapshotUsage", "0.05", "snap-1", RECENT), []),
        # paid up front, and covered: no money, no finding
        (every_day("USE1-PublicIPv4:IdleAddress", "0", ARN, RECENT), []),
    ],
)
def test_what_meters_say(books: Books, rows: list[Charge], kinds: list[Waste]) -> None:
    others = [charge(day, "10", ResourceId="i-1") for day in RECENT]
    delivered(books, [{**row, "SkuMeter": row.get("SkuMeter") or ""} for row in [*rows, *others]])
    findings, _ = found(books)
    assert [each.kind for each in findings] == kinds
    for each in findings:
        assert each.priced_by == "bill"
        assert each.where == "us"
        assert "the bill, 2026-11-07 to 2026-11-20" in each.evidence[0]


def test_what_it_comes_to_a_month(books: Books) -> None:
    delivered(books, every_day("USE1-PublicIPv4:IdleAddress", "0.12", ARN, RECENT))
    (only,), costs = found(books, "eipalloc-1", "vol-unheard-of")
    month = Decimal("0.12") * Decimal(730) / 24
    assert isinstance(only.monthly, Amount)
    assert only.monthly.value == pytest.approx(month)
    assert list(costs) == ["eipalloc-1"]
    assert costs["eipalloc-1"][0].value == pytest.approx(month)


def test_a_ledger_without_resources_finds_nothing(books: Books) -> None:
    books.resources = False
    delivered(books, every_day("USE1-PublicIPv4:IdleAddress", "0.12", ARN, RECENT))
    assert found(books, "eipalloc-1") == ([], {})
    with connect(books.folder / "scratch") as connection:
        charges = Charges(connection, lambda key: books.folder / key, {}, books.ledger.current())
        assert not charges.keeps_resources


def test_an_empty_ledger_finds_nothing(books: Books) -> None:
    assert found(books, "vol-1") == ([], {})
