"""From exports to the ledger: what is delivered, replaced, refused and told."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from mlplatform.adapters.memory import MemoryStore
from mlplatform.core.errors import LeaseHeld
from mlplatform.cost.cube import Measure
from mlplatform.cost.readers.shape import WHOLE
from tests.features.cost.bills import (
    Charge,
    charge,
    csv_text,
    days_from,
    month,
    tax,
    time,
    total,
    write_csv,
    write_parquet,
)
from tests.features.cost.books import Books, rules_of

NOVEMBER = days_from(date(2026, 11, 1), 10)
DAY = date(2026, 11, 2)


def billed(books: Books) -> Decimal:
    """What the ledger says the bills come to."""
    return sum(
        (
            totals[Measure.BILLED]
            for delivery in books.ledger.current()
            for day in delivery.days.values()
            for totals in day.totals.values()
        ),
        Decimal(0),
    )


# --- Shapes of files ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bill.csv", "bill.csv.gz", "bill.parquet", "deep/er/bill.csv"])
def test_the_total_is_the_bill_s_to_the_last_digit(name: str, books: Books) -> None:
    charges = month(NOVEMBER)
    write = write_parquet if name.endswith("parquet") else write_csv
    write(books.bills / name, charges)
    (done,) = books.good()
    assert billed(books) == total(charges)
    assert done.delivery.charges == len(charges)
    assert (done.delivery.shape, done.delivery.focus_version) == ("focus", "1.0")


@pytest.mark.parametrize(
    ("delimiter", "line_end"), [(",", "\n"), (";", "\n"), ("\t", "\n"), (",", "\r\n")]
)
def test_dialects_of_csv(delimiter: str, line_end: str, books: Books) -> None:
    rows = [charge(DAY, "1.5", Tags=None), charge(DAY, "2.5", Tags=None)]
    text = csv_text(rows).replace(",", delimiter).replace("\n", line_end)
    (books.bills / "bill.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    books.good()
    assert billed(books) == 4


RENAMED: dict[str, Callable[[str], str]] = {
    "small letters": str.lower,
    "capitals": str.upper,
    "snake case": lambda name: (
        "".join(f"_{c}" if c.isupper() else c for c in name).strip("_").lower()
    ),
    "spaces": lambda name: "".join(f" {c}" if c.isupper() else c for c in name).strip(),
}


@pytest.mark.parametrize("how", RENAMED)
def test_columns_in_another_case_or_with_other_signs_between(how: str, books: Books) -> None:
    charges = month(NOVEMBER)
    write_csv(books.bills / "bill.csv", charges, named=RENAMED[how])
    books.good()
    assert billed(books) == total(charges)
    assert set(books.costs("region")) == {"us-east-1", "eu-west-1", "ap-southeast-1"}


@pytest.mark.parametrize("null", ["NULL", "null", ""])
def test_null_as_text_is_nothing(null: str, books: Books) -> None:
    rows = [charge(DAY, RegionId=None, RegionName=None), charge(DAY)]
    write_csv(books.bills / "bill.csv", rows, null=null)
    books.good()
    assert books.costs("region") == {None: 1, "us-east-1": 1}


def test_null_as_text_in_parquet_is_nothing_too(books: Books) -> None:
    rows = [charge(DAY, RegionId="NULL"), charge(DAY)]
    write_parquet(books.bills / "bill.parquet", rows)
    books.good()
    assert books.costs("region") == {None: 1, "us-east-1": 1}


def test_money_of_any_type_in_parquet(books: Books) -> None:
    rows = [charge(DAY, "0.1", ListCost="3"), charge(DAY, "0.2", ListCost="3")]
    types = {"BilledCost": "DOUBLE", "EffectiveCost": "DECIMAL(18,6)", "ListCost": "INTEGER"}
    write_parquet(books.bills / "bill.parquet", rows, **types)
    books.good()
    assert billed(books) == Decimal("0.3")
    assert books.costs(cost="effective") == {"us-east-1": Decimal("0.3")}
    assert books.costs(cost="list") == {"us-east-1": 6}


@pytest.mark.parametrize(
    "tags",
    [
        pytest.param({"team": "vision", "mlplatform-model": "resnet50"}, id="map"),
        pytest.param('{"team": "vision", "mlplatform-model": "resnet50"}', id="text"),
    ],
)
def test_tags_of_parquet(tags: Any, books: Books) -> None:
    row: dict[str, Any] = {**charge(DAY), "Tags": tags}
    kind = "VARCHAR" if isinstance(tags, str) else "MAP(VARCHAR, VARCHAR)"
    write_parquet(books.bills / "bill.parquet", [row], Tags=kind)
    books.good()
    assert books.costs("team") == {"vision": 1}
    assert books.costs("model") == {"resnet50": 1}


def test_columns_that_are_not_there_are_unknown_and_not_zero(books: Books) -> None:
    rows = [
        {
            k: v
            for k, v in charge(DAY).items()
            if k not in {"ListCost", "RegionId", "RegionName", "Tags"}
        }
    ]
    write_csv(books.bills / "bill.csv", rows)
    (done,) = books.good()
    assert "column-missing" in rules_of(done)
    (line,) = books.report(cost="list").lines
    assert line.keys == (None,)
    assert line.cost == 0
    assert line.unknown == 1


def test_columns_as_they_were_called_before_1_0(books: Books) -> None:
    row = dict(charge(DAY))
    row["Region"] = row.pop("RegionId")
    row["AmortizedCost"] = row.pop("EffectiveCost")
    write_csv(books.bills / "bill.csv", [row])
    books.good()
    assert books.costs(cost="effective") == {"us-east-1": 1}


def test_a_1_4_file_names_its_providers_anew(books: Books) -> None:
    row = dict(charge(DAY))
    row["ServiceProviderName"] = row.pop("ProviderName")
    row["HostProviderName"] = row.pop("PublisherName")
    write_csv(books.bills / "bill.csv", [row])
    (done,) = books.good()
    assert (done.delivery.focus_version, done.delivery.bill.provider) == ("1.4", "AWS")


# --- Rows that are wrong ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "value", "rule"),
    [
        ("BilledCost", None, "unusable-billed-cost"),
        ("BilledCost", "1,234.50", "unusable-billed-cost"),
        ("BilledCost", "NaN", "unusable-billed-cost"),
        ("ChargePeriodStart", "soon", "unusable-charge-period"),
        ("BillingCurrency", None, "unusable-currency"),
    ],
)
def test_a_row_that_cannot_be_counted_is_left_out_and_told(
    column: str, value: str | None, rule: str, books: Books
) -> None:
    write_csv(books.bills / "bill.csv", [charge(DAY), charge(DAY) | {column: value}, charge(DAY)])
    (done,) = books.good()
    assert rules_of(done)[rule] == (1, (2,))
    assert billed(books) == 2
    assert books.report().left_out == 1


BROKEN_LINES = {
    "too short": "1.00,too,short\n",
    "too long": "x," * 60 + "\n",
    "quotes in quotes": '1.00,"in "quotes" ",x' + "," * 30 + "\n",
    "not UTF-8": "\udcff\udcfe" + "," * 34 + "\n",
}


@pytest.mark.parametrize("kind", BROKEN_LINES)
def test_a_broken_line_of_a_large_file_costs_one_line(kind: str, books: Books) -> None:
    charges = month(days_from(date(2026, 11, 1), 20), a_day=800)
    lines = csv_text(charges).splitlines(keepends=True)
    lines.insert(7001, BROKEN_LINES[kind])
    body = "".join(lines).encode(errors="surrogateescape")
    (books.bills / "bill.csv").write_bytes(body)
    assert len(body) > 6_000_000
    (done,) = books.good()
    rows, first = rules_of(done)["line-broken"]
    assert (rows, first) == (1, (7002,))
    assert billed(books) == total(charges)


def test_a_cut_parquet_file_is_refused_and_the_other_folder_goes_on(books: Books) -> None:
    whole = write_parquet(books.bills / "one" / "bill.parquet", month(NOVEMBER))
    whole.write_bytes(whole.read_bytes()[:-2000])
    write_csv(books.bills / "two" / "bill.csv", [charge(DAY)])
    outcome = books.take()
    ((_, error),) = outcome.errors
    assert "one/bill.parquet" in str(error)
    assert error.exit_code == 2
    assert error.hint
    assert billed(books) == 1


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("bill.csv", b""),
        ("bill.csv", b"a,b\n1,2\n"),
        ("bill.csv", b"BilledCost,BilledCost\n1,2\n"),
        ("bill.csv", b"BilledCost,billed_cost,ChargePeriodStart\n1,2,3\n"),
        ("bill.csv.gz", b"no gzip"),
        ("bill.csv", b"\xff\xfe\x00" * 50),
        ("bill.parquet", b"PAR1 and no more"),
    ],
)
def test_what_is_no_bill_is_refused_with_its_name(name: str, body: bytes, books: Books) -> None:
    (books.bills / name).write_bytes(body)
    ((_, error),) = books.take().errors
    assert name in str(error), error
    assert error.exit_code == 2
    assert error.hint
    assert books.ledger.current() == []


def test_a_file_with_a_heading_only_holds_nothing(books: Books) -> None:
    (books.bills / "bill.csv").write_text(csv_text([charge()]).splitlines()[0] + "\n")
    assert books.good() == []
    assert books.empty()


def test_negative_lines_credits_refunds_taxes_and_marketplace_all_count(books: Books) -> None:
    rows = [
        charge(DAY, "100"),
        charge(DAY, "-30", ChargeCategory="Credit"),
        charge(DAY, "-5", ChargeClass="Correction"),
        tax(DAY, "12.5"),
        charge(DAY, "40", ChargeCategory="Purchase", PublisherName="Databricks"),
        charge(DAY, "-0.25", ChargeCategory="Adjustment"),
    ]
    write_csv(books.bills / "bill.csv", rows)
    books.good()
    assert billed(books) == Decimal("117.25")


# --- Dates --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "day"),
    [
        ("2026-11-01T00:00:00Z", date(2026, 11, 1)),
        ("2026-11-01", date(2026, 11, 1)),
        ("2026-11-01 23:59:59", date(2026, 11, 1)),
        ("2026-10-31T23:30:00-05:00", date(2026, 11, 1)),
        ("2026-11-02T00:30:00+02:00", date(2026, 11, 1)),
        ("2026-11-01T00:00:00.000Z", date(2026, 11, 1)),
        ("13/11/2026", date(2026, 11, 13)),
        ("11/13/2026", date(2026, 11, 13)),
        ("01.11.2026", date(2026, 11, 1)),
        ("11/13/2026 00:00", date(2026, 11, 13)),
    ],
)
def test_a_charge_lies_on_its_day_in_utc(written: str, day: date, books: Books) -> None:
    write_csv(books.bills / "bill.csv", [charge(DAY, ChargePeriodStart=written)])
    (done,) = books.good()
    assert set(done.delivery.days) == {day}


@pytest.mark.parametrize(
    ("dates", "said"),
    [
        (("03/04/2026",), "may be two days"),
        (("13/04/2026", "04/13/2026"), "day first and with the month first"),
    ],
)
def test_dates_that_may_be_two_days_are_refused(
    dates: tuple[str, ...], said: str, books: Books
) -> None:
    rows = [charge(DAY, ChargePeriodStart=written) for written in dates]
    write_csv(books.bills / "bill.csv", rows)
    ((_, error),) = books.take().errors
    assert said in str(error)


def test_the_billing_period_is_the_bill_s_and_not_the_charge_s(books: Books) -> None:
    late = charge(date(2026, 11, 3), BillingPeriodStart=time(date(2026, 10, 1)))
    early = charge(date(2026, 10, 31), BillingPeriodStart=time(date(2026, 11, 1)))
    write_csv(books.bills / "bill.csv", [late, early])
    found = {done.delivery.period: set(done.delivery.days) for done in books.good()}
    assert found == {"2026-10": {date(2026, 11, 3)}, "2026-11": {date(2026, 10, 31)}}


# --- Deliveries ---------------------------------------------------------------------------------


def test_nothing_new_changes_nothing(books: Books) -> None:
    write_csv(books.bills / "bill.csv", month(NOVEMBER))
    books.good()
    before = snapshot(books)
    outcome = books.take()
    assert (outcome.imported, outcome.unchanged_files) == ([], 1)
    assert snapshot(books) == before


def test_a_period_is_replaced_whole_and_the_one_before_is_kept(books: Books) -> None:
    charges = month(NOVEMBER)
    write_csv(books.bills / "bill.csv", charges)
    (first,) = books.good()
    restated = [
        row | {"BilledCost": "0.5"} if row["RegionId"] == "us-east-1" else row for row in charges
    ]
    restated = restated[:-12]  # the last day is gone
    write_csv(books.bills / "bill.csv", restated)
    (second,) = books.good()
    assert (second.delivery.number, second.before) == (2, first.delivery)
    assert billed(books) == total(restated)
    history = books.ledger.history(second.delivery.bill, "2026-11")
    assert [each.id for each in history] == [first.delivery.id, second.delivery.id]
    assert NOVEMBER[-1] in second.delivery.changed_days
    moved = sum(
        (
            (each.after or 0) - (each.before or 0)
            for each in second.delivery.changes
            if each.measure is Measure.BILLED
        ),
        Decimal(0),
    )
    assert moved == total(restated) - total(charges)


def test_a_day_that_moved_within_its_total_is_known_to_have_changed(books: Books) -> None:
    write_csv(
        books.bills / "bill.csv", [charge(DAY, "1", RegionId="a"), charge(DAY, "2", RegionId="b")]
    )
    books.good()
    write_csv(
        books.bills / "bill.csv", [charge(DAY, "2", RegionId="a"), charge(DAY, "1", RegionId="b")]
    )
    (done,) = books.good()
    assert done.delivery.changed_days == (DAY,)
    assert done.delivery.changes == ()


def test_files_of_a_folder_are_one_delivery(books: Books) -> None:
    for number, day in enumerate(NOVEMBER):
        write_csv(books.bills / f"part-{number}.csv", month([day], seed=number))
    (done,) = books.good()
    assert len(done.delivery.files) == 10
    assert len(done.delivery.days) == 10


def test_a_file_that_comes_later_joins_the_ones_of_its_period(books: Books) -> None:
    one, two = month(NOVEMBER[:5], seed=1), month(NOVEMBER[5:], seed=2)
    write_csv(books.bills / "one.csv", one)
    books.good()
    write_csv(books.bills / "two.csv", two)
    (done,) = books.good()
    assert billed(books) == total(one) + total(two)
    assert done.delivery.changed_days == tuple(NOVEMBER[5:])


def test_only_the_periods_of_new_files_are_read_again(books: Books) -> None:
    october = month(days_from(date(2026, 10, 1), 5), seed=1)
    write_csv(books.bills / "2026-10.csv", october)
    books.good()
    write_csv(books.bills / "2026-11.csv", month(NOVEMBER))
    outcome = books.take()
    assert [done.delivery.period for done in outcome.imported] == ["2026-11"]
    assert outcome.unchanged_files == 1


def test_folders_with_one_period_are_deliveries_of_it_in_order_of_time(books: Books) -> None:
    import os

    first, second = month(NOVEMBER, seed=1), month(NOVEMBER, seed=2)
    later = write_csv(books.bills / "a-later" / "bill.csv", second)
    earlier = write_csv(books.bills / "z-earlier" / "bill.csv", first)
    os.utime(earlier, (1_000_000, 1_000_000))
    os.utime(later, (2_000_000, 2_000_000))
    outcome = books.take()
    assert billed(books) == total(second)
    assert outcome.several == [("AWS 111122223333 2026-11", 2)]
    assert books.take().imported == []


def test_folders_that_divide_one_delivery_are_one(books: Books) -> None:
    charges = month(NOVEMBER)
    for day in NOVEMBER:
        rows = [row for row in charges if row["ChargePeriodStart"] == time(day)]
        write_csv(books.bills / "BILLING_PERIOD=2026-11" / f"day={day}" / "part.csv", rows)
    (done,) = books.good()
    assert billed(books) == total(charges)
    assert len(done.delivery.files) == 10


def test_the_same_bytes_twice_are_taken_once(books: Books) -> None:
    charges = month(NOVEMBER)
    write_csv(books.bills / "bill.csv", charges)
    write_csv(books.bills / "bill (1).csv", charges)
    outcome = books.take()
    assert len(outcome.duplicates) == 1
    assert billed(books) == total(charges)
    assert books.take().imported == []


def test_the_same_charges_in_two_files_of_a_folder_are_refused(books: Books) -> None:
    charges = month(NOVEMBER)
    write_csv(books.bills / "bill.csv", charges)
    write_parquet(books.bills / "bill.parquet", charges[:-7])
    ((_, error),) = books.take().errors
    assert "billed twice" in str(error)
    assert books.ledger.current() == []


def test_two_bills_do_not_replace_each_other(books: Books) -> None:
    rows: list[Charge] = [charge(DAY, "1"), charge(DAY, "2", BillingAccountId="999988887777")]
    write_csv(books.bills / "bill.csv", rows)
    assert len(books.good()) == 2
    write_csv(books.bills / "bill.csv", [charge(DAY, "5"), rows[1]])
    books.good()
    assert billed(books) == 7


def test_an_account_s_path_and_its_number_are_one_bill(books: Books) -> None:
    write_csv(books.bills / "bill.csv", [charge(DAY, "1", BillingAccountId="billingAccounts/12")])
    books.good()
    write_csv(books.bills / "bill.csv", [charge(DAY, "3", BillingAccountId="12")])
    books.good()
    assert books.costs() == {"us-east-1": 3}


def test_other_tags_in_the_topology_are_read_from_the_same_files(books: Books) -> None:
    write_csv(books.bills / "bill.csv", [charge(DAY, Tags='{"cost-centre": "42"}')])
    books.good()
    books.tags = {"centre": ("cost-centre",)}
    books.good()
    assert books.costs("centre") == {"42": 1}


def test_without_resources_the_ledger_has_none_and_the_same_total(books: Books) -> None:
    charges = month(NOVEMBER)
    write_csv(books.bills / "bill.csv", charges)
    books.resources = False
    books.good()
    assert billed(books) == total(charges)


def test_an_export_elsewhere_is_brought(books: Books) -> None:
    charges = month(NOVEMBER)
    store = MemoryStore("bills")
    store.put("exports/2026-11.csv", csv_text(charges).encode())
    store.put("exports/notes.txt", b"no bill")
    books.good(books.brought(store))
    assert billed(books) == total(charges)
    assert not list((books.folder / "scratch").rglob("*.csv"))


def test_of_two_imports_at_once_the_second_is_told(books: Books) -> None:
    write_csv(books.bills / "bill.csv", [charge(DAY)])
    (done,) = books.good()
    with pytest.raises(LeaseHeld, match="another import"):
        books.ledger.add(done.delivery)


def test_what_is_needed_for_a_day_s_completeness_is_kept(books: Books) -> None:
    write_csv(books.bills / "bill.csv", [charge(DAY, "1")])
    (first,) = books.good()
    rows = [charge(DAY, "1"), charge(DAY, "3", ResourceId="i-late") | {"InvoiceId": "INV1"}]
    write_csv(books.bills / "bill.csv", rows, heading=list(rows[1]))
    books.good()
    curve = [
        (each.imported, each.days[DAY].totals["USD"][Measure.EFFECTIVE], each.days[DAY].charges)
        for each in books.ledger.history(first.delivery.bill, "2026-11", WHOLE)
    ]
    assert [cost for _, cost, _ in curve] == [1, 4]
    assert [charges for *_, charges in curve] == [1, 2]
    assert curve[0][0] < curve[1][0]
    assert books.ledger.current()[0].days[DAY].invoiced_charges == 1


def test_a_large_delivery_is_summed_up_a_few_days_at_a_time(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlplatform.cost import importing

    charges = month(NOVEMBER)
    write_csv(books.bills / "bill.csv", charges)
    monkeypatch.setattr(importing, "_CHARGES_AT_ONCE", 25)
    (done,) = books.good()
    assert billed(books) == total(charges)
    assert len(done.delivery.days) == 10


def snapshot(books: Books) -> dict[str, bytes]:
    folder: Path = books.folder / "ledger"
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".mlplatform" not in path.parts
    }


def test_records_of_deliveries_are_json_that_people_can_read(books: Books) -> None:
    write_csv(books.bills / "bill.csv", [charge(DAY, "1.25")])
    books.good()
    (path,) = (books.folder / "ledger" / "deliveries").rglob("*.json")
    told = json.loads(path.read_text())
    assert told["schema_version"] == 1
    assert Decimal(told["days"]["2026-11-02"]["totals"]["USD"]["billed"]) == Decimal("1.25")


def periods(status: str) -> list[dict[str, str]]:
    """FOCUS 1.4's dataset Billing Period."""
    return [
        {
            "BillingPeriodCreated": "2026-11-01T00:00:00Z",
            "BillingPeriodEnd": "2026-12-01T00:00:00Z",
            "BillingPeriodLastUpdated": "2026-12-05T00:00:00Z",
            "BillingPeriodStart": "2026-11-01T00:00:00Z",
            "BillingPeriodStatus": status,
            "InvoiceIssuerName": "AWS",
        }
    ]


def test_what_the_issuer_says_of_a_period_is_kept_beside_the_charges(books: Books) -> None:
    write_csv(books.bills / "bill.csv", [charge(DAY)])
    write_csv(books.bills / "periods.csv", periods("Open"))
    books.good()
    assert books.ledger.statuses()["AWS", "2026-11"].status == "Open"
    write_csv(books.bills / "periods.csv", periods("Closed"))
    assert books.good() == []
    assert books.ledger.statuses()["AWS", "2026-11"].status == "Closed"
    assert billed(books) == 1


def test_other_datasets_of_focus_beside_the_charges_are_no_error(books: Books) -> None:
    write_csv(books.bills / "bill.csv", [charge(DAY)])
    write_csv(books.bills / "commitments.csv", [{"ContractCommitmentId": "c", "ContractId": "k"}])
    write_csv(books.bills / "invoices.csv", [{"InvoiceDetailId": "d", "InvoiceId": "i"}])
    outcome = books.take()
    assert not outcome.errors
    assert {dataset for _, dataset in outcome.supporting} == {
        "contract commitment",
        "invoice detail",
    }
    assert billed(books) == 1


def test_to_be_delivered_again_without_a_change_is_a_delivery(books: Books) -> None:
    """It says that what was provisional has stood; to look at the same file twice says nothing."""
    bill = write_csv(books.bills / "bill.csv", [charge(DAY), charge(DAY + timedelta(days=1))])
    os.utime(bill, (1_000_000, 1_000_000))
    (first,) = books.good()
    assert books.good() == []
    os.utime(bill, (2_000_000, 2_000_000))
    (again,) = books.good()
    assert (first.delivery.number, again.delivery.number, again.new) == (1, 2, True)
    assert again.delivery.changed_days == again.delivery.changes == ()
    os.utime(bill, (1_500_000, 1_500_000))
    assert not any(each.new for each in books.good())
    assert billed(books) == 2
