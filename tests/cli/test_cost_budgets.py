"""`mlplatform cost budget` and `cost forecast`, as they are typed."""

from __future__ import annotations

import json
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.estate import Estate, require
from tests.features.cost.bills import charge, days_from, write_csv

D = Decimal
LAST = date(2026, 11, 20)


@pytest.fixture
def estate(tmp_path: Path) -> Estate:
    """Sixty days in two regions, 30 a day, imported."""
    made = Estate(tmp_path)
    configure(made, platform={"amount": 700}, eu={"amount": 1000, "region": "eu-west-1"})
    days = days_from(LAST - timedelta(days=59), 60)
    for month in (9, 10, 11):
        rows = [
            charge(day, str(cost + day.day % 3), RegionId=region)
            for day in days
            if day.month == month
            for region, cost in (("us-east-1", 19), ("eu-west-1", 9))
        ]
        if rows:
            write_csv(made.folder / "bills" / f"{month}.csv", rows)
    made.good("cost", "import")
    return made


def configure(estate: Estate, **budgets: Any) -> None:
    estate.write()
    told = {"exports": [f"file://{estate.folder}/bills"], "budgets": budgets}
    topology = estate.folder / "topology.yaml"
    topology.write_text(topology.read_text() + f"\ncost: {json.dumps(told)}\n")


def test_a_budget_that_will_be_exceeded_is_exit_3_until_somebody_knows(estate: Estate) -> None:
    ran = estate.run("cost", "budget")
    require(ran, 3, "platform: will exceed 700.00 USD a month")
    assert "within" in ran.out
    acknowledged = estate.run("cost", "budget", "--acknowledge", "platform", "--note", "known")
    require(acknowledged, 0, "platform: acknowledged for 2026-11: forecast", hint=False)
    rows = estate.good("cost", "budget", "-o", "json").json()["budgets"]
    by_name = {row["budget"]: row for row in rows}
    assert by_name["platform"]["state"] == "forecast"
    assert by_name["platform"]["note"] == "known"
    assert D(by_name["platform"]["spent"]) == 20 * 28 + 2 * sum(day % 3 for day in range(1, 21))
    assert D(by_name["platform"]["low_80"]) < D(by_name["platform"]["high_80"])
    assert by_name["eu"]["state"] == "within"
    configure(estate, platform={"amount": 500})
    require(estate.run("cost", "budget"), 3, "500.00 USD a month")


def test_no_budget_says_how_to_set_one(estate: Estate) -> None:
    configure(estate)
    require(estate.run("cost", "budget"), 0, "budgets")
    require(estate.run("cost", "budget", "--acknowledge", "x"), 2, "no such budget")


def test_a_forecast_to_the_end_of_the_month(estate: Estate) -> None:
    shown = estate.good("cost", "forecast", "--by", "region").out
    first, heading, *rows, last = shown.splitlines()
    assert first == "Effective cost in USD, forecast from 2026-11-21 to 2026-11-30"
    assert heading.split()[0] == "REGION"
    assert [row.split()[0] for row in rows] == ["us-east-1", "eu-west-1", "(total)"]
    assert last.startswith("2026-11: ")


@pytest.mark.parametrize("days", [5, 14, 60])
def test_a_forecast_that_ends_with_no_month_says_nothing_of_months(
    days: int, estate: Estate
) -> None:
    first, _, *rows = estate.good("cost", "forecast", "--days", str(days)).out.splitlines()
    assert first.startswith("Effective cost in USD, forecast from 2026-11-21 to ")
    assert [row.split()[0] for row in rows] == ["(total)"]


def test_a_forecast_for_programs(estate: Estate) -> None:
    told = estate.good("cost", "forecast", "--days", "14", "-o", "json").json()
    assert (told["since"], told["until"]) == ("2026-11-21", "2026-12-04")
    (row,) = told["forecasts"]
    assert 380 < D(row["expected"]) < 460
    low, high = D(row["low_95"]), D(row["high_95"])
    assert low < D(row["low_80"]) < D(row["expected"]) < D(row["high_80"]) < high
    assert len(row["days"]) == 14
    assert D(row["days"][-1]["sum"]) == D(row["expected"])
    assert row["confidence"] == "as stated"
    text = estate.good("cost", "forecast", "--until", "2027-03-01", "-o", "csv").out
    assert "low" in text


def test_rows_beyond_the_limit_are_one(estate: Estate) -> None:
    shown = estate.good(
        "cost", "forecast", "--by", "day,region".removeprefix("day,"), "--limit", "1"
    )
    assert "(2 more)" in shown.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--days", "3", "--until", "2026-12-01"), "give one of them"),
        (("--until", "2026-11-20"), "bills reach 2026-11-20"),
        (("--until", "2029-11-20"), "at most 366 days ahead"),
        (("--cost", "real"), "real"),
        (("--by", "planet"), "planet"),
        (("--by", "day"), "day"),
    ],
)
def test_what_cannot_be_forecast(arguments: tuple[str, ...], said: str, estate: Estate) -> None:
    require(estate.run("cost", "forecast", *arguments), 2, said)


def test_unit_costs_from_files(estate: Estate) -> None:
    told = {
        "exports": [f"file://{estate.folder}/bills"],
        "tags": {"model": ["model"]},
    }
    estate.write()
    topology = estate.folder / "topology.yaml"
    topology.write_text(topology.read_text() + f"\ncost: {json.dumps(told)}\n")
    estate.good("cost", "import")
    counts, nodes = estate.folder / "counts.csv", estate.folder / "nodes.csv"
    counts.write_text("day,model,region,requests\n2026-11-20,resnet50,us-east-1,42000\n")
    nodes.write_text("name,cost,gpus,allocated\ng5,10,4,3\n")
    names = ("--counts", str(counts), "--gpus", str(nodes))
    shown = estate.good("cost", "unit", *names).out
    assert "0.5000" in shown
    assert "unknown" in shown
    found = estate.good("cost", "unit", *names, "-o", "json").json()
    row = next(each for each in found["units"] if each["region"] == "us-east-1")
    assert (row["model"], row["cost_per_1000_requests"]) == ("resnet50", "0.5")
    assert row["cost_per_million_tokens"] is None
    assert found["gpus"][0]["unallocated"] == "2.5"
    assert found["gpus"][0]["busy"] is None


def test_without_counters_unit_costs_are_unknown_and_not_zero(estate: Estate) -> None:
    require(estate.run("cost", "unit"), 2, "cost.tags")
    told = {"exports": [f"file://{estate.folder}/bills"], "tags": {"model": ["model"]}}
    estate.write()
    topology = estate.folder / "topology.yaml"
    topology.write_text(topology.read_text() + f"\ncost: {json.dumps(told)}\n")
    estate.good("cost", "import")
    ran = estate.run("cost", "unit", "-o", "json")
    require(ran, 0, "no prometheus is configured")
    assert {row["cost_per_1000_requests"] for row in ran.json()["units"]} == {None}
