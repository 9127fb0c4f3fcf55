"""Which rows break which rule of FOCUS: a right charge with one thing wrong about it."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from mlplatform.cost.engine import connect
from mlplatform.cost.focus.validator import Finding, validate
from mlplatform.cost.readers.files import open_file
from mlplatform.cost.readers.shape import Columns
from tests.features.cost.bills import Charge, charge, tax, write_csv, write_parquet

DAY = date(2026, 11, 2)

BROKEN: list[tuple[str, dict[str, Any]]] = [
    ("BilledCost-null", {"BilledCost": None}),
    ("BilledCost-type", {"BilledCost": "1,234.50"}),
    ("EffectiveCost-null", {"EffectiveCost": "NULL"}),
    ("BillingAccountId-null", {"BillingAccountId": None}),
    ("BillingCurrency-null", {"BillingCurrency": None}),
    ("BillingCurrency-code", {"BillingCurrency": "usd"}),
    ("BillingPeriodStart-type", {"BillingPeriodStart": "November"}),
    ("ChargePeriodStart-type", {"ChargePeriodStart": "yesterday"}),
    ("ChargePeriod-order", {"ChargePeriodEnd": "2026-11-02T00:00:00Z"}),
    ("BillingPeriod-order", {"BillingPeriodEnd": "2026-10-01T00:00:00Z"}),
    ("ChargeCategory-null", {"ChargeCategory": None}),
    ("ChargeCategory-value", {"ChargeCategory": "usage"}),
    ("ChargeClass-value", {"ChargeClass": "Refund"}),
    ("ChargeFrequency-value", {"ChargeFrequency": "Monthly"}),
    ("PricingCategory-value", {"PricingCategory": "On-Demand"}),
    ("PricingCategory-given", {"PricingCategory": None}),
    ("PricingQuantity-given", {"PricingQuantity": None}),
    ("PricingUnit-given", {"PricingUnit": None}),
    ("SkuId-given", {"SkuId": None}),
    ("SkuPriceId-given", {"SkuPriceId": None}),
    ("ListUnitPrice-given", {"ListUnitPrice": None}),
    ("ServiceCategory-value", {"ServiceCategory": "Computing"}),
    ("ServiceName-null", {"ServiceName": None}),
    ("ConsumedUnit-with-quantity", {"ConsumedUnit": None}),
    ("CommitmentDiscountCategory-value", {"CommitmentDiscountCategory": "Both"}),
    ("CommitmentDiscountType-with-id", {"CommitmentDiscountType": "Savings Plan"}),
    ("SubAccountName-without-id", {"SubAccountId": None}),
    ("RegionName-with-id", {"RegionName": None}),
    ("Tags-type", {"Tags": "team=vision"}),
]


def findings(path: Path) -> dict[str, Finding]:
    with connect(path.parent) as connection:
        opened = open_file(connection, path, called=path.name)
        found = validate(connection, opened.relation, Columns(opened.types))
    return {each.rule: each for each in found}


def test_right_charges_break_no_rule(tmp_path: Path) -> None:
    rows = [charge(DAY), tax(DAY, "3.10"), charge(DAY, "-4.20", ChargeClass="Correction")]
    assert findings(write_csv(tmp_path / "bill.csv", rows)) == {}


@pytest.mark.parametrize(("rule", "wrong"), BROKEN, ids=[rule for rule, _ in BROKEN])
def test_a_row_that_breaks_a_rule_is_named(
    rule: str, wrong: dict[str, Any], tmp_path: Path
) -> None:
    rows = [charge(DAY), charge(DAY, **wrong), charge(DAY), charge(DAY, **wrong)]
    found = findings(write_csv(tmp_path / "bill.csv", rows))
    assert rule in found, sorted(found)
    assert (found[rule].rows, found[rule].first_rows) == (2, (2, 4))


@pytest.mark.parametrize(
    ("rule", "row"),
    [
        ("PricingQuantity-of-tax", tax(DAY, "1", PricingQuantity="1")),
        ("SkuId-of-tax", tax(DAY, "1", SkuId="SKU1")),
        ("ConsumedQuantity-of-usage-only", tax(DAY, "1", ConsumedQuantity="1", ConsumedUnit="H")),
        (
            "prepaid-effective",
            charge(DAY, "9", ChargeCategory="Purchase", CommitmentDiscountId="sp-1"),
        ),
        ("CommitmentDiscountStatus-of-usage", charge(DAY, "0", CommitmentDiscountId="sp-1")),
    ],
)
def test_rules_of_other_kinds_of_charge(rule: str, row: Charge, tmp_path: Path) -> None:
    found = findings(write_csv(tmp_path / "bill.csv", [charge(DAY), row]))
    assert rule in found, sorted(found)
    assert found[rule].first_rows == (2,)


def test_only_the_first_rows_are_named_and_all_are_counted(tmp_path: Path) -> None:
    rows = [charge(DAY, ServiceName=None) for _ in range(40)]
    found = findings(write_csv(tmp_path / "bill.csv", rows))["ServiceName-null"]
    assert (found.rows, found.first_rows) == (40, (1, 2, 3, 4, 5))


@pytest.mark.parametrize(
    ("change", "rule", "said"),
    [
        (lambda row: row.pop("ListCost"), "column-missing", "ListCost is mandatory"),
        (lambda row: row.update(Department="x"), "column-foreign", "Department"),
        (
            lambda row: row.update({"Billed Cost": row.pop("BilledCost")}),
            "column-name",
            "BilledCost",
        ),
        (lambda row: row.update(Region=row.pop("RegionId")), "column-name", "RegionId"),
    ],
)
def test_what_is_wrong_with_the_columns_is_told_once(
    change: Any, rule: str, said: str, tmp_path: Path
) -> None:
    row = charge(DAY)
    change(row)
    found = findings(write_csv(tmp_path / "bill.csv", [row, row]))[rule]
    assert said in found.said
    assert found.rows == 0


def test_columns_of_one_s_own_that_begin_with_x_are_fine(tmp_path: Path) -> None:
    rows = [charge(DAY) | {"x_Department": "ml"}]
    assert findings(write_csv(tmp_path / "bill.csv", rows)) == {}


def test_a_newer_version_is_judged_by_its_own_rules(tmp_path: Path) -> None:
    row = charge(DAY) | {"ServiceSubcategory": None}
    found = findings(write_csv(tmp_path / "bill.csv", [row]))
    assert "ServiceSubcategory-null" in found


def test_typed_columns_of_parquet_are_judged_as_text_is(tmp_path: Path) -> None:
    rows = [charge(DAY), charge(DAY, ServiceName=None, BilledCost=None)]
    types = {
        "BilledCost": "DOUBLE",
        "ChargePeriodStart": "TIMESTAMP",
        "Tags": "MAP(VARCHAR, VARCHAR)",
    }
    for row in rows:
        row["Tags"] = {"team": "vision"}  # type: ignore[assignment]
    found = findings(write_parquet(tmp_path / "bill.parquet", rows, **types))
    assert set(found) == {"ServiceName-null", "BilledCost-null"}
