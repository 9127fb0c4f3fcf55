"""Exports of three providers as they lie in their buckets, and what they come to in FOCUS's terms.

The lines are shaped as the providers' own pages describe them.
"""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from mlplatform.cost.readers.focus import Focus
from mlplatform.cost.readers.recognise import READERS, recognise
from mlplatform.cost.readers.shape import Columns
from mlplatform.cost.spending import Kind
from tests.features.cost.bills import charge, write_csv, write_parquet
from tests.features.cost.books import Books

Line = dict[str, Any]
D = Decimal


def kinds(books: Books, cost: str = "effective") -> dict[str, tuple[Decimal, Decimal]]:
    """By kind of charge: billed, and the cost that is shown."""
    found = books.report(cost=cost, days=40).reconciled
    return {each.kind.value: (each.billed, each.shown) for each in found}


# --- AWS ----------------------------------------------------------------------------------------


def aws(kind: str, cost: str, **other: Any) -> Line:
    """A line item of CUR 2.0."""
    return {
        "bill_payer_account_id": "111122223333",
        "bill_billing_period_start_date": "2026-11-01 00:00:00.000",
        "bill_invoice_id": None,
        "line_item_line_item_type": kind,
        "line_item_usage_account_id": "444455556666",
        "line_item_usage_start_date": "2026-11-02 03:00:00.000",
        "line_item_unblended_cost": cost,
        "line_item_currency_code": "USD",
        "line_item_product_code": "AmazonEC2",
        "line_item_usage_type": "EUW1-BoxUsage:g5.xlarge",
        "line_item_usage_amount": "1",
        "line_item_resource_id": "i-0abc",
        "pricing_unit": "Hrs",
        "pricing_public_on_demand_cost": cost,
        "product": '{"product_name": "Amazon Elastic Compute Cloud", "instance_type": "g5.xlarge"}',
        "product_region_code": "eu-west-1",
        "product_sku": "SKU1",
        "reservation_effective_cost": None,
        "reservation_reservation_a_r_n": None,
        "reservation_unused_amortized_upfront_fee_for_billing_period": None,
        "reservation_unused_recurring_fee": None,
        "resource_tags": '{"user_team": "vision"}',
        "savings_plan_savings_plan_a_r_n": None,
        "savings_plan_savings_plan_effective_cost": None,
        "savings_plan_total_commitment_to_date": None,
        "savings_plan_used_commitment": None,
        **other,
    }


def plan(**other: Any) -> Line:
    return {"savings_plan_savings_plan_a_r_n": "arn:aws:savingsplans::1:savingsplan/a", **other}


def reserved(**other: Any) -> Line:
    return {"reservation_reservation_a_r_n": "arn:aws:ec2:eu-west-1:1:reserved/a", **other}


AWS = [
    aws("Usage", "10.00"),
    aws("Usage", "3.00", line_item_usage_type="EUW1-SpotUsage:g5.xlarge"),
    # A savings plan of 8 an hour, of which 7 is used up for what would have cost 9 on demand.
    aws("SavingsPlanCoveredUsage", "9.00", **plan(savings_plan_savings_plan_effective_cost="7.00")),
    aws("SavingsPlanNegation", "-9.00", **plan()),
    aws(
        "SavingsPlanRecurringFee",
        "8.00",
        **plan(savings_plan_total_commitment_to_date="8", savings_plan_used_commitment="7"),
    ),
    # A reservation, its upfront fee paid long ago; 2 of its 6 an hour went unused.
    aws("DiscountedUsage", "0", **reserved(reservation_effective_cost="4.00")),
    aws(
        "RIFee",
        "1.00",
        **reserved(
            reservation_unused_amortized_upfront_fee_for_billing_period="1.50",
            reservation_unused_recurring_fee="0.50",
        ),
    ),
    aws("Fee", "500.00", **reserved()),
    aws("Fee", "2.50", product='{"product_name": "AWS Support"}', product_region_code=None),
    aws("Tax", "5.25", product_region_code=None, pricing_public_on_demand_cost=None),
    aws("Credit", "-4.00"),
    aws("EdpDiscount", "-1.30"),
    aws("Refund", "-0.75"),
]
AWS_BILL = sum((D(line["line_item_unblended_cost"]) for line in AWS), D(0))


@pytest.mark.parametrize("form", ["csv", "parquet", "csv of old"])
def test_an_aws_report_comes_to_its_bill_and_its_amortised_cost(form: str, books: Books) -> None:
    if form == "parquet":
        lines = [
            line | {name: json.loads(line[name]) for name in ("product", "resource_tags")}
            for line in AWS
        ]
        types = dict.fromkeys(("product", "resource_tags"), "MAP(VARCHAR, VARCHAR)")
        money = [name for name in AWS[0] if name.endswith(("_cost", "_fee", "_commitment"))]
        types |= dict.fromkeys(money, "DOUBLE")
        types["line_item_usage_start_date"] = "TIMESTAMP"
        write_parquet(books.bills / "cur.snappy.parquet", lines, **types)
    else:
        write_csv(books.bills / "cur.csv.gz", AWS, named=_of_old if "old" in form else str)
    (done,) = books.good()
    assert (done.delivery.shape, str(done.delivery.bill)) == ("cur2", "AWS 111122223333")
    found = books.report(cost="effective")
    assert found.billed == AWS_BILL
    assert kinds(books) == {
        "usage": (D(13), D(10) + 3 + 7 + 0 + 4),
        "commitments": (D(509), D(1) + D("1.5") + D("0.5")),
        "purchases": (D("2.5"), D("2.5")),
        "tax": (D("5.25"), D("5.25")),
        "credits": (D("-5.30"), D("-5.30")),
        "corrections": (D("-0.75"), D("-0.75")),
    }
    assert books.costs("instance", cost="effective")["g5.xlarge"] > 0
    assert books.costs("team", cost="billed") == {"vision": AWS_BILL}
    assert books.costs("pricing")["Dynamic"] == 3
    assert None in books.costs("region")


def _of_old(name: str) -> str:
    """The report before CUR 2.0: `lineItem/UnblendedCost`."""
    if name in {"product", "resource_tags"}:
        return name
    for group in ("line_item", "savings_plan", "reservation", "pricing", "product", "bill"):
        if name.startswith(f"{group}_"):
            head, *tail = group.split("_")
            rest = "".join(part.capitalize() for part in name.removeprefix(f"{group}_").split("_"))
            return f"{head}{''.join(part.capitalize() for part in tail)}/{rest}"
    return name


def test_what_reserved_usage_would_cost_at_one_s_rates_is_unknown(books: Books) -> None:
    write_csv(books.bills / "cur.csv", AWS)
    books.good()
    assert books.report(cost="contracted").unknown == 1


def test_an_invoice_number_makes_charges_final(books: Books) -> None:
    write_csv(
        books.bills / "cur.csv", [aws("Usage", "1", bill_invoice_id="INV"), aws("Usage", "2")]
    )
    (done,) = books.good()
    (day,) = done.delivery.days.values()
    assert (day.invoiced_charges, day.charges) == (1, 2)


# --- Google -------------------------------------------------------------------------------------


def google(cost: float, *granted: tuple[str, float], **other: Any) -> Line:
    """A row of the detailed export."""
    return {
        "billing_account_id": "01AB-CD",
        "service": {"id": "6F81", "description": "Compute Engine"},
        "sku": {"id": "ABCD", "description": "Nvidia L4 GPU running in Belgium"},
        "usage_start_time": "2026-11-02T07:00:00Z",
        "usage_end_time": "2026-11-02T08:00:00Z",
        "project": {"id": "ml-prod", "name": "ML"},
        "labels": [{"key": "team", "value": "vision"}, {"key": "model", "value": "resnet50"}],
        "system_labels": [{"key": "compute.googleapis.com/machine_spec", "value": "g2-standard-4"}],
        "location": {"location": "europe-west1", "country": "BE", "region": "europe-west1"},
        "cost": cost,
        "currency": "USD",
        "usage": {"amount": 3600.0, "amount_in_pricing_units": 1.0, "pricing_unit": "hour"},
        "credits": [
            {"name": kind.lower(), "amount": amount, "id": "c", "type": kind}
            for kind, amount in granted
        ],
        "invoice": {"month": "202611"},
        "cost_type": "regular",
        "cost_at_list": cost * 1.25,
        **other,
    }


GOOGLE = [
    google(10.0),
    google(8.0, ("SUSTAINED_USAGE_DISCOUNT", -2.0), ("PROMOTION", -1.0)),
    google(4.0, ("COMMITTED_USAGE_DISCOUNT", -4.0)),
    google(1.5, cost_type="tax", location=None, labels=[], sku={"id": "t", "description": "VAT"}),
    google(-0.01, cost_type="rounding_error", labels=[]),
    google(0.5, location={"location": "global", "country": None, "region": None}),
]


@pytest.mark.parametrize("form", ["ndjson", "parquet"])
def test_a_google_export_comes_to_its_invoice(form: str, books: Books) -> None:
    lines = books.bills / "export.ndjson"
    lines.write_text("".join(json.dumps(row) + "\n" for row in GOOGLE))
    if form == "parquet":
        to_parquet(lines)
    (done,) = books.good()
    assert (done.delivery.shape, done.delivery.period) == ("bigquery", "2026-11")
    found = books.report(cost="effective")
    assert found.billed == D("10") + 5 + 0 + D("1.5") - D("0.01") + D("0.5")
    assert kinds(books) == {
        "usage": (D("16.5"), D("16.5")),
        "tax": (D("1.5"), D("1.5")),
        "credits": (D("-1"), D("-1")),
        "adjustments": (D("-0.01"), D("-0.01")),
    }
    assert books.costs("team") == {"vision": D("15.5"), None: D("1.49")}
    assert books.costs("region") == {
        "europe-west1": D("14.99"),
        "global": D("0.5"),
        None: D("1.5"),
    }
    assert set(books.costs("instance")) == {"g2-standard-4"}
    assert books.costs("account") == {"ml-prod": found.billed}


def to_parquet(lines: Path) -> None:
    import duckdb

    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT * FROM read_json('{lines}')) "
            f"TO '{lines.with_suffix('.parquet')}' (FORMAT parquet)"
        ).fetchall()
    lines.unlink()


def test_an_invoice_month_ends_in_pacific_time_and_days_are_utc(books: Books) -> None:
    row = google(1.0, usage_start_time="2026-12-01T06:00:00Z")  # 30 November, 22:00 in California
    (books.bills / "export.ndjson").write_text(json.dumps(row) + "\n")
    (done,) = books.good()
    assert (done.delivery.period, set(done.delivery.days)) == ("2026-11", {date(2026, 12, 1)})


# --- Azure --------------------------------------------------------------------------------------


def azure(kind: str, cost: str, model: str = "OnDemand", **other: Any) -> Line:
    """A line of an Enterprise Agreement's export."""
    return {
        "BillingAccountId": "8611537",
        "BillingPeriodStartDate": "11/01/2026",
        "BillingPeriodEndDate": "11/30/2026",
        "SubscriptionId": "64e355d7",
        "Date": "11/02/2026",
        "MeterId": "bb9f3f56",
        "MeterCategory": "Virtual Machines",
        "MeterName": "NC4as T4 v3",
        "Quantity": "2",
        "UnitPrice": "0.5",
        "PayGPrice": "0.6",
        "CostInBillingCurrency": cost,
        "BillingCurrencyCode": "USD",
        "ResourceLocation": "EastUS2",
        "ResourceId": "/subscriptions/64e355d7/x",
        "Tags": '"team": "vision","env": "prod"',
        "AdditionalInfo": '{"ServiceType": "Standard_NC4as_T4_v3"}',
        "ChargeType": kind,
        "PricingModel": model,
        "ReservationId": None,
        "UnitOfMeasure": "1 Hour",
        **other,
    }


ACTUAL = [
    azure("Usage", "1.00"),
    azure("Usage", "0.40", "Spot", ResourceLocation="eastus2"),
    azure("Usage", "0", "Reservation", ReservationId="r1"),
    azure("Purchase", "365.00", "Reservation", ReservationId="r1", Tags="", ResourceLocation=""),
    azure("Refund", "-3.00", ResourceLocation="Unassigned", Tags=None),
    azure("Tax", "2.00", ResourceLocation=None),
]
AMORTISED = [
    *(line for line in ACTUAL if line["PricingModel"] != "Reservation"),
    azure("Usage", "0.75", "Reservation", ReservationId="r1"),
    azure("UnusedReservation", "0.25", "Reservation", ReservationId="r1"),
]


def _camel(name: str) -> str:
    """As a Microsoft Customer Agreement's export has it."""
    return name[0].lower() + name[1:]


@pytest.mark.parametrize("agreement", ["enterprise", "customer"])
def test_azure_s_two_exports_are_one_bill(agreement: str, books: Books) -> None:
    named = _camel if agreement == "customer" else str
    for folder, lines in (("actual", ACTUAL), ("amortized", AMORTISED)):
        write_csv(books.bills / folder / "part_0.csv", lines, named=named)
    done = books.good()
    assert {each.delivery.part for each in done} == {"actual", "amortised"}
    found = books.report(cost="effective")
    assert found.billed == D("365.40")
    assert found.total == D("1.40")
    assert kinds(books) == {
        "usage": (D("1.40"), D("2.15")),
        "commitments": (D(365), D("0.25")),
        "tax": (D(2), D(2)),
        "corrections": (D(-3), D(-3)),
    }
    assert set(books.costs("region")) == {"eastus2", None}
    assert "vision" in books.costs("team")
    assert books.costs("instance") == {"Standard_NC4as_T4_v3": found.billed}


def test_of_the_actual_export_alone_the_effective_cost_of_reserved_usage_is_unknown(
    books: Books,
) -> None:
    write_csv(books.bills / "actual.csv", ACTUAL)
    books.good()
    found = books.report(cost="effective")
    assert (found.billed, found.total, found.unknown) == (D("365.40"), D("0.40"), 1)


def test_a_focus_export_of_the_same_bill_takes_the_place_of_both(books: Books) -> None:
    write_csv(books.bills / "a" / "actual.csv", ACTUAL)
    write_csv(books.bills / "b" / "amortised.csv", AMORTISED)
    books.good()
    same = charge(date(2026, 11, 2), "9", ProviderName="Microsoft", BillingAccountId="x/8611537")
    write_csv(books.bills / "c" / "focus.csv", [same])
    books.good()
    assert books.report().billed == 9


# --- Which is which -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (charge(), "focus"),
        (AWS[0], "cur2"),
        ({_of_old(name): value for name, value in AWS[0].items()}, "cur2"),
        (ACTUAL[0], "azure"),
        ({_camel(name): value for name, value in ACTUAL[0].items()}, "azure"),
    ],
)
def test_a_shape_is_recognised_by_its_columns(row: Line, name: str) -> None:
    columns = Columns(dict.fromkeys(row, "VARCHAR"))
    assert [reader.name for reader in READERS if reader.fits(columns)] == [name]
    assert recognise("f", columns).name == name


def test_a_reader_selects_only_columns_of_a_charge() -> None:
    columns = Columns(dict.fromkeys(charge(), "VARCHAR"))
    assert "BilledCost" in Focus().select("t", columns, {"team": ("team",)}, "whole")


def test_every_kind_of_charge_is_reconciled() -> None:
    assert {kind.value for kind in Kind} >= {
        "usage",
        "commitments",
        "tax",
        "credits",
        "corrections",
    }
