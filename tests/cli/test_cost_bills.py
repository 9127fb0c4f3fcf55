"""`mlplatform cost import` and `report`, and the line of old runbooks, as they are typed."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from mlplatform.cost.secrecy import looks_secret
from tests.cli.conftest import CLEAN
from tests.cli.estate import Estate, Ran, require
from tests.features.cost.bills import charge, days_from, month, tax, total, write_csv

DAYS = days_from(date(2026, 11, 1), 10)
SECRET = "AKIAIOSFODNN7EXAMPLE"  # the providers' own example of one


@pytest.fixture
def estate(tmp_path: Path) -> Estate:
    made = Estate(tmp_path)
    configure(made)
    return made


def configure(estate: Estate, **section: Any) -> None:
    """Write the topology with a section `cost`."""
    told = {
        "exports": [f"file://{estate.folder}/bills"],
        "tags": {"team": ["team"], "model": "model"},
        **section,
    }
    estate.write()
    (estate.folder / "bills").mkdir(exist_ok=True)
    topology = estate.folder / "topology.yaml"
    topology.write_text(topology.read_text() + f"\ncost: {json.dumps(told)}\n")


def deliver(estate: Estate, rows: list[Any], name: str = "bill.csv") -> Path:
    return write_csv(estate.folder / "bills" / name, rows)


def test_import_then_report(estate: Estate) -> None:
    charges = [*month(DAYS), tax(DAYS[-1], "7.5")]
    deliver(estate, charges)
    (row,) = estate.good("cost", "import", "--output", "json").json()["deliveries"]
    assert (row["bill"], row["period"], row["charges"]) == (
        "AWS 111122223333",
        "2026-11",
        len(charges),
    )
    shown = estate.good("cost", "report", "--by", "region", "--days", "30", "--cost", "billed").out
    first, heading, *rows, last = shown.splitlines()
    assert rows.pop(-2) == ("Provisional, the bill may still be restated: 2026-11-01 to 2026-11-10")
    assert first == (
        "Billed cost in USD, 30 days to 2026-11-10, the last that the data covers (from 2026-10-12)"
    )
    assert heading.split() == ["REGION", "BILLED", "USD", "SHARE", "PER", "DAY", "CHARGES"]
    assert any(row.startswith("(none)") for row in rows)
    assert rows[-1] == f"Total {total(charges):,.2f} USD billed"
    assert last.startswith(f"BilledCost {total(charges):,.2f} = usage ")
    assert last.endswith("+ tax 7.50")


def test_the_report_for_programs(estate: Estate) -> None:
    charges = month(DAYS)
    deliver(estate, charges)
    estate.good("cost", "import")
    told = estate.good("cost", "report", "--days", "10", "-o", "json").json()
    assert told["measure"] == "effective"
    assert (told["since"], told["until"]) == ("2026-11-01", "2026-11-10")
    assert Decimal(told["total"]) == total(charges) == Decimal(told["billed"])
    assert sum(Decimal(row["cost"]) for row in told["costs"]) == total(charges)
    assert told["reconciliation"][0]["kind"] == "usage"
    lines = estate.good("cost", "report", "--days", "10", "-o", "ndjson").lines()
    assert len(lines) == len(told["costs"]) + 1
    text = estate.good("cost", "report", "--days", "10", "-o", "csv")
    rows = list(csv.DictReader(io.StringIO(text.out)))
    assert sum(Decimal(row["cost"]) for row in rows) == total(charges)
    assert "BilledCost" in text.err


def test_the_line_of_old_runbooks(estate: Estate) -> None:
    deliver(estate, month(DAYS))
    estate.good("cost", "import")
    argv = (sys.executable, "-m", "mlplatform.cost.cost_analyzer", "--days", "7", "--by-region")
    ran = subprocess.run(
        argv, cwd=estate.folder, env=CLEAN, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == estate.good("cost", "report", "--by", "region", "--days", "7").out
    assert ran.stderr == ""


def test_no_export_configured_is_exit_2_with_the_key(estate: Estate) -> None:
    configure(estate, exports=[])
    for command in (("cost", "import"), ("cost", "report"), ("cost", "report", "--by", "team")):
        require(estate.run(*command), 2, "cost.exports")


def test_nothing_imported_yet_says_what_to_do_and_is_exit_0(estate: Estate) -> None:
    ran = estate.run("cost", "report")
    assert ran.code == 0
    assert "mlplatform cost import" in ran.err
    assert estate.run("cost", "report", "-o", "json").json()["costs"] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("cost", "report", "--by", "planet"), "planet"),
        (("cost", "report", "--cost", "real"), "real"),
        (("cost", "report", "--days", "0"), "--days"),
        (("cost", "import", "nowhere.csv"), "nowhere.csv"),
        (("cost", "import", "ftp://bills/x"), "ftp"),
    ],
)
def test_what_cannot_be_asked(arguments: tuple[str, ...], said: str, estate: Estate) -> None:
    deliver(estate, [charge(DAYS[0])])
    estate.good("cost", "import")
    require(estate.run(*arguments), 2, said)


def test_one_file_a_folder_and_a_url_are_named(estate: Estate, tmp_path: Path) -> None:
    elsewhere = tmp_path / "else"
    for number, month_ in enumerate((8, 9, 10)):
        write_csv(elsewhere / f"{number}" / "bill.csv", [charge(date(2026, month_, 3), "1")])
    one = estate.good("cost", "import", str(elsewhere / "0" / "bill.csv"), "-o", "json").json()
    assert [each["period"] for each in one["deliveries"]] == ["2026-08"]
    folder = estate.good("cost", "import", str(elsewhere / "1"), "-o", "json").json()
    assert [each["period"] for each in folder["deliveries"]] == ["2026-09"]
    url = estate.good("cost", "import", f"file://{elsewhere}/2", "-o", "json").json()
    assert [each["period"] for each in url["deliveries"]] == ["2026-10"]


def test_rows_that_break_rules_and_broken_lines_are_told(estate: Estate) -> None:
    path = deliver(estate, [charge(DAYS[0]), charge(DAYS[0], ServiceCategory="Computing")])
    path.write_text(path.read_text() + "1,2,3\n")
    ran = estate.good("cost", "import")
    assert "ServiceCategory must be" in ran.err
    assert "first 2" in ran.err
    assert "line 4" in ran.err
    assert "1 lines of these bills could not be counted" in estate.good("cost", "report").out


def test_what_a_restatement_changed_is_told(estate: Estate) -> None:
    deliver(estate, [charge(DAYS[0], "10"), charge(DAYS[1], "1")])
    estate.good("cost", "import")
    deliver(estate, [charge(DAYS[0], "12.5"), charge(DAYS[1], "1")])
    (row,) = estate.good("cost", "import", "-o", "json").json()["deliveries"]
    assert (row["delivery"], row["days_changed"], row["changed"]) == (2, 1, ["+2.50 USD"])
    billed = next(each for each in row["changes"] if each["measure"] == "billed")
    assert Decimal(billed["before"]) == 10
    assert Decimal(billed["after"]) == Decimal("12.5")


def test_a_file_that_cannot_be_read_is_exit_2_and_the_others_are_imported(estate: Estate) -> None:
    deliver(estate, [charge(DAYS[0], "3")], "good/bill.csv")
    (estate.folder / "bills" / "bad").mkdir()
    (estate.folder / "bills" / "bad" / "bill.parquet").write_bytes(b"PAR1")
    ran = estate.run("cost", "import")
    require(ran, 2, "bad/bill.parquet")
    assert "Total 3.00" in estate.good("cost", "report").out


@pytest.mark.parametrize("output", ["table", "json", "ndjson", "csv"])
def test_a_tag_with_a_secret_in_it_is_never_printed_in_full(output: str, estate: Estate) -> None:
    other = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY0"
    rows = [charge(DAYS[0], "1", Tags=json.dumps({"team": each})) for each in (SECRET, other)]
    deliver(estate, rows)
    estate.good("cost", "import")
    shown = estate.good("cost", "report", "--by", "team", "--output", output)
    assert SECRET not in shown.said
    assert other not in shown.said
    assert "wJal" in shown.out


@pytest.mark.parametrize(
    ("value", "secret"),
    [
        (SECRET, True),
        ("hf_abcdefghijklmnopqrstuvwxyz0123", True),
        ("wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY0", True),
        ("password=hunter2!", True),
        ("vision", False),
        ("team-recommendation-platform-emea", False),
        ("arn:aws:ec2:eu-west-1:123456789012:instance/i-0abcdef1234567890", False),
        ("/subscriptions/64e355d7-997c-491d-b0c1-8414dccfcf42/resourceGroups/ML", False),
        ("3f2504e0-4f89-41d3-9a0c-0305e82c3301", False),
        ("i-0abcdef1234567890", False),
        ("Amazon Elastic Compute Cloud", False),
        ("resnet50@v1.2.0", False),
    ],
)
def test_what_may_be_a_secret(value: str, secret: bool) -> None:
    assert looks_secret(value) is secret


def test_long_tables_are_cut_for_people_and_not_for_programs(estate: Estate) -> None:
    deliver(estate, [charge(DAYS[0], str(n), ResourceId=f"i-{n:04}") for n in range(1, 61)])
    estate.good("cost", "import")
    table = estate.good("cost", "report", "--by", "resource", "--limit", "5").out
    assert "(56 more)" in table
    assert "Total 1,830.00" in table
    told = estate.good("cost", "report", "--by", "resource", "--limit", "5", "-o", "json").json()
    assert len(told["costs"]) == 60


def test_rates_lie_beside_the_topology(estate: Estate) -> None:
    deliver(estate, [charge(DAYS[0], "10", BillingCurrency="EUR")])
    estate.good("cost", "import")
    require(estate.run("cost", "report"), 2, "EUR", "cost.rates")
    configure(estate, rates="rates.csv")
    (estate.folder / "rates.csv").write_text("from,to,rate,valid_from\nEUR,USD,1.25,2026-01-01\n")
    ran: Ran = estate.good("cost", "report")
    assert "Total 12.50 USD" in ran.out
    assert "EUR converted by `cost.rates`" in ran.out


def test_a_row_is_drawn_day_by_day_and_a_missing_day_is_a_gap(estate: Estate) -> None:
    costs = {0: "1", 1: "8", 3: "4"}
    deliver(estate, [charge(DAYS[place], cost) for place, cost in costs.items()])
    estate.good("cost", "import")
    shown = estate.good("cost", "report", "--days", "4").out
    assert " ▂█·▅ " in shown
    assert "PER 2 DAYS" in estate.good("cost", "report", "--days", "60").out


def test_days_that_may_be_restated_stand_in_brackets(estate: Estate) -> None:
    rows = [charge(day, "4") for day in DAYS]
    deliver(estate, rows)
    estate.good("cost", "import")
    deliver(estate, [*rows[:8], *(row | {"BilledCost": "5"} for row in rows[8:])])
    estate.good("cost", "import")
    shown = estate.good("cost", "report", "--days", "10").out
    assert " ████████(██) " in shown
    assert "restated: 2026-11-09 to 2026-11-10" in shown
    told = estate.good("cost", "report", "--days", "10", "-o", "json").json()
    assert told["provisional_days"] == ["2026-11-09", "2026-11-10"]


def test_a_page_to_forward(estate: Estate) -> None:
    hostile = "<script>alert(1)</script>"
    rows = [*month(DAYS), charge(DAYS[-1], "5", Tags=json.dumps({"team": hostile}))]
    rows += [charge(DAYS[-1], "5", Tags=json.dumps({"team": SECRET}))]
    deliver(estate, rows)
    estate.good("cost", "import")
    page = estate.folder / "page.html"
    ran = estate.good("cost", "report", "--days", "5", "--html", str(page))
    assert f"wrote {page}" in ran.err
    assert "BilledCost" in ran.out
    text = page.read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert SECRET not in text
    require(estate.run("cost", "report", "--html", "/nowhere/page.html"), 2, "/nowhere/page.html")


def test_a_page_says_that_nobody_could_look_for_incidents(estate: Estate) -> None:
    deliver(estate, [tax(day, "5") for day in DAYS])
    estate.good("cost", "import")
    page = estate.folder / "page.html"
    ran = estate.good("cost", "report", "--html", str(page))
    assert "no incident is on the page: the ledger holds no charges of usage" in ran.err
    assert "Nobody looked for unusual costs" in page.read_text()


def test_incidents_in_another_currency_are_converted_by_the_table(estate: Estate) -> None:
    first = DAYS[0] - timedelta(days=28)
    days = [first + timedelta(days=each) for each in range(28 + len(DAYS))]
    deliver(
        estate,
        [charge(day, "300" if day == days[-1] else "100", BillingCurrency="EUR") for day in days],
    )
    (estate.folder / "rates.csv").write_text("from,to,rate,valid_from\nEUR,USD,2,2026-01-01\n")
    configure(estate, rates="rates.csv")
    estate.good("cost", "import")
    page = estate.folder / "page.html"
    estate.good("cost", "report", "--html", str(page))
    text = page.read_text()
    assert f"+400.00 USD since {days[-1]}" in text
    assert "300.00 EUR, 100.00 expected" in text


def test_help_needs_neither_numpy_nor_duckdb(estate: Estate) -> None:
    probe = (
        "import sys; from mlplatform.cli import app, frame; "
        "frame.run(app.build(), ['cost', 'report', '--help'], prog='mlplatform'); "
        "print(sorted({'duckdb', 'numpy'} & set(sys.modules)))"
    )
    ran = estate.process(program=(sys.executable, "-c", probe))
    assert ran.out.splitlines()[-1] == "[]"
