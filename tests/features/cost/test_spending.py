"""Reports: which days, which cost, by what, and how it adds up to the bill."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from mlplatform.core.errors import UsageError
from mlplatform.cost.rates import Rates, read_rates
from tests.features.cost.bills import charge, days_from, month, tax, total, write_csv
from tests.features.cost.books import Books

D = Decimal
DAY = date(2026, 11, 10)


def test_days_end_at_the_last_one_that_the_data_covers(books: Books) -> None:
    write_csv(books.bills / "bill.csv", [charge(day, "1") for day in days_from(DAY, 10)])
    books.good()
    found = books.report(days=7)
    assert (found.since, found.until) == (date(2026, 11, 13), date(2026, 11, 19))
    assert found.total == 7


def test_a_fee_that_lies_ahead_does_not_move_the_last_day(books: Books) -> None:
    fee = charge(date(2026, 11, 30), "99", ChargeCategory="Purchase")
    write_csv(books.bills / "bill.csv", [charge(DAY, "1"), fee])
    books.good()
    assert books.report().until == DAY


def test_a_bill_that_ends_earlier_is_named(books: Books) -> None:
    late = [charge(day, "1") for day in days_from(DAY, 3)]
    early = charge(DAY, "1", ProviderName="Google Cloud", BillingAccountId="01AB")
    write_csv(books.bills / "bill.csv", [*late, early])
    books.good()
    assert books.report().behind == {"Google Cloud 01AB": DAY}


def test_charges_without_a_region_are_a_row_and_not_lost(books: Books) -> None:
    rows = [charge(DAY, "3"), tax(DAY, "0.5"), charge(DAY, "1", RegionId="", RegionName="")]
    write_csv(books.bills / "bill.csv", rows)
    books.good()
    assert books.costs() == {"us-east-1": 3, None: D("1.5")}


def test_regions_have_the_topology_s_names(books: Books) -> None:
    books.regions = {"us-east-1": "virginia", "use1": "virginia", "eu-west-1": "ireland"}
    regions = ["us-east-1", "USE1", "EU-West-1", "mars-1"]
    write_csv(books.bills / "bill.csv", [charge(DAY, "1", RegionId=each) for each in regions])
    books.good()
    assert books.costs() == {"virginia": 2, "ireland": 1, "mars-1": 1}


@pytest.mark.parametrize(
    "by", ["region", "service", "provider", "account", "sku", "resource", "day"]
)
def test_whatever_it_is_by_the_total_is_the_same(by: str, books: Books) -> None:
    charges = month(days_from(DAY, 5))
    write_csv(books.bills / "bill.csv", charges)
    books.good()
    assert books.report(by).total == total(charges)


def test_by_several_at_once(books: Books) -> None:
    rows = [charge(DAY, "1"), charge(DAY, "2", RegionId="eu-west-1"), charge(DAY, "4", Tags=None)]
    write_csv(books.bills / "bill.csv", rows)
    books.good()
    found = {line.keys: line.cost for line in books.report("team", "region").lines}
    assert found == {
        ("vision", "us-east-1"): 1,
        ("vision", "eu-west-1"): 2,
        (None, "us-east-1"): 4,
    }


def test_the_first_tag_that_a_charge_has_counts(books: Books) -> None:
    tags = ['{"model": "b", "mlplatform-model": "a"}', '{"model": "b"}', '{"mlplatform-model": ""}']
    write_csv(books.bills / "bill.csv", [charge(DAY, "1", Tags=each) for each in tags])
    books.good()
    assert books.costs("model") == {"a": 1, "b": 1, None: 1}


@pytest.mark.parametrize("tags", ["no json", "[]", "{", "null", '"a"', "{}"])
def test_tags_that_are_no_object_are_no_tags(tags: str, books: Books) -> None:
    write_csv(books.bills / "bill.csv", [charge(DAY, "1", Tags=tags)])
    books.good()
    assert books.costs("team") == {None: 1}


def test_the_total_is_reconciled_by_kind_of_charge(books: Books) -> None:
    commitment = {"CommitmentDiscountId": "sp-1"}
    rows = [
        charge(DAY, "10"),
        charge(DAY, "0", EffectiveCost="6", CommitmentDiscountStatus="Used", **commitment),
        charge(DAY, "0", EffectiveCost="2", CommitmentDiscountStatus="Unused", **commitment),
        charge(DAY, "240", EffectiveCost="0", ChargeCategory="Purchase", **commitment),
        charge(DAY, "5", ChargeCategory="Purchase"),
        tax(DAY, "3"),
        charge(DAY, "-4", ChargeCategory="Credit"),
        charge(DAY, "-1", ChargeCategory="Adjustment"),
        charge(DAY, "-2", ChargeClass="Correction"),
    ]
    write_csv(books.bills / "bill.csv", rows)
    books.good()
    found = books.report(cost="effective")
    assert {each.kind.value: [each.billed, each.shown] for each in found.reconciled} == {
        "usage": [10, 16],
        "commitments": [240, 2],
        "purchases": [5, 5],
        "tax": [3, 3],
        "credits": [-4, -4],
        "adjustments": [-1, -1],
        "corrections": [-2, -2],
    }
    assert found.billed == total(rows) == 251
    assert found.total == total(rows, "EffectiveCost") == 19


@pytest.mark.parametrize("cost", ["billed", "effective", "contracted", "list"])
def test_each_cost_is_its_own_column(cost: str, books: Books) -> None:
    row = charge(DAY, "1", EffectiveCost="2", ContractedCost="3", ListCost="4")
    write_csv(books.bills / "bill.csv", [row])
    books.good()
    found = books.report(cost=cost)
    assert found.total == {"billed": 1, "effective": 2, "contracted": 3, "list": 4}[cost]
    assert found.billed == 1


# --- Currencies ---------------------------------------------------------------------------------

EUROS = Rates({("EUR", "USD"): [(date(2026, 11, 1), D("1.10")), (date(2026, 11, 11), D("1.20"))]})


def mixed(books: Books) -> None:
    rows = [charge(day, "1") for day in days_from(DAY, 2)]
    rows += [charge(day, "10", BillingCurrency="EUR") for day in days_from(DAY, 2)]
    write_csv(books.bills / "bill.csv", rows)
    books.good()


def test_currencies_are_never_added_up(books: Books) -> None:
    mixed(books)
    with pytest.raises(UsageError, match="EUR on 2026-11-1") as caught:
        books.report()
    assert "cost.rates" in str(caught.value.hint)


def test_currencies_are_converted_by_the_rate_of_their_day(books: Books) -> None:
    mixed(books)
    books.rates = EUROS
    found = books.report()
    assert found.total == 1 + 11 + 1 + 12
    assert found.converted == ("EUR",)


def test_a_rate_that_begins_too_late_is_no_rate(books: Books) -> None:
    mixed(books)
    books.rates = Rates({("EUR", "USD"): [(date(2026, 11, 11), D(1))]})
    with pytest.raises(UsageError, match="2026-11-10"):
        books.report()


def test_a_bill_in_one_other_currency_needs_its_rate_too(books: Books) -> None:
    write_csv(books.bills / "bill.csv", [charge(DAY, "5", BillingCurrency="JPY")])
    books.good()
    with pytest.raises(UsageError, match="JPY"):
        books.report()
    books.currency = "JPY"
    assert books.report().total == 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("from,to,rate\nEUR,USD,1\n", "valid_from"),
        ("from,to,rate,valid_from\nEUR,USD,x,2026-01-01\n", "line 2"),
        ("from,to,rate,valid_from\nEUR,USD,0,2026-01-01\n", "line 2"),
        ("from,to,rate,valid_from\nEUR,USD,NaN,2026-01-01\n", "line 2"),
        ("from,to,rate,valid_from\nEUR,USD,1,soon\n", "line 2"),
    ],
)
def test_a_table_of_rates_that_is_wrong(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "rates.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_rates(path)


def test_a_table_of_rates(tmp_path: Path) -> None:
    path = tmp_path / "rates.csv"
    path.write_text("from,to,rate,valid_from\nEUR,USD,1.2,2026-11-11\nEUR,USD,1.1,2026-11-01\n")
    rates = read_rates(path)
    assert rates.rate("EUR", "USD", date(2026, 11, 10)) == D("1.1")
    assert rates.rate("EUR", "USD", date(2026, 11, 11)) == D("1.2")
    assert rates.rate("EUR", "USD", date(2026, 10, 31)) is None
    assert rates.rate("USD", "EUR", date(2026, 11, 11)) is None


# --- Nothing, and zero --------------------------------------------------------------------------


def test_nothing_imported_is_no_report(books: Books) -> None:
    assert books.empty()


def test_a_bill_of_zeros_has_rows(books: Books) -> None:
    write_csv(books.bills / "bill.csv", [charge(DAY, "0")])
    books.good()
    found = books.report()
    assert [(line.keys, line.cost) for line in found.lines] == [(("us-east-1",), D(0))]


def test_an_unknown_dimension_lists_those_there_are(books: Books) -> None:
    write_csv(books.bills / "bill.csv", [charge(DAY)])
    books.good()
    with pytest.raises(UsageError, match="planet") as caught:
        books.report("planet")
    assert "region" in str(caught.value.hint)
    assert "team" in str(caught.value.hint)
