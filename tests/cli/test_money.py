"""What plans and the grid say of money."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from tests.cli.estate import PUBLISH, Estate

OWN = """\
provider,region,sku,unit,price,currency,valid_from,source
rack,berlin,storage,GB-month,20000,USD,2020-01-01,our accounts
rack,berlin,transfer/region,GB,1000,USD,2020-01-01,our accounts
rack,berlin,requests/read,request,1,USD,2020-01-01,our accounts
rack,paris,storage,GB-month,10000,EUR,2020-01-01,our accounts
rack,paris,requests/write,request,2,EUR,2020-01-01,our accounts
"""


@pytest.fixture
def estate(tmp_path: Path) -> Estate:
    """Prices for two of three regions, dear enough for a small model to cost something."""
    made = Estate(tmp_path)
    topology = tmp_path / "topology.yaml"
    text = topology.read_text()
    for region, zone in (("us", "berlin"), ("eu", "paris")):
        store = f'store: "{made.here(region)}"'
        assert store in text
        text = text.replace(store, f"{store}, price_zone: {zone}")
    topology.write_text(text + "\ncost: {prices: prices.csv}\n")
    (tmp_path / "prices.csv").write_text(OWN)
    return made


def test_a_plan_states_its_cost(estate: Estate) -> None:
    estate.good(*PUBLISH)
    told = estate.run("replicate", "m", "--to", "eu,ap", "--plan", "-o", "json").json()
    size = (estate.model / "weights.bin").stat().st_size
    size += (estate.model / "config.json").stat().st_size
    assert Decimal(told["cost"]["monthly"]["EUR"]) == Decimal(10_000) * size / 10**9
    once = {name: Decimal(each) for name, each in told["cost"]["once"].items()}
    # Two files to each of two regions, of which one has a price; manifest and receipt besides.
    assert once["EUR"] == 2 * 4
    assert once["USD"] == Decimal(1000) * size / 10**9 + 2 + 2
    assert told["cost"]["left_out"] == ["ap: no price zone; give regions.ap.price_zone"]
    assert [action["cost"]["monthly"] for action in told["actions"]] == [
        told["cost"]["monthly"],
        {},
    ]


def test_people_are_told_what_a_total_leaves_out(estate: Estate) -> None:
    estate.good(*PUBLISH)
    ran = estate.run("replicate", "m", "--to", "ap", "--plan")
    assert "COST" in ran.out
    assert "unknown" in ran.out
    assert "cost by list prices: 2.00 USD once + unknown" in ran.err
    assert "left out: ap: no price zone; give regions.ap.price_zone" in ran.err


def test_the_grid_is_priced(estate: Estate) -> None:
    estate.good(*PUBLISH)
    estate.good("replicate", "m", "--to", "ap")
    told = estate.good("status", "--cost", "-o", "json").json()
    cost = {row["region"]: row["cost"] for row in told["placements"]}
    size = next(row["size_bytes"] for row in told["placements"] if row["region"] == "us")
    assert Decimal(cost["us"]["monthly"]["USD"]) == Decimal(20_000) * size / 10**9
    assert cost["us"]["items"][0]["sources"] == ["our accounts"]
    assert cost["eu"]["monthly"] == {}  # there is nothing, and that costs nothing
    assert cost["eu"]["left_out"] == []
    assert cost["ap"]["left_out"] == ["ap: no price zone; give regions.ap.price_zone"]
    assert told["cost"]["monthly"] == cost["us"]["monthly"]
    assert told["cost"]["left_out"] == cost["ap"]["left_out"]
    shown = estate.good("status", "--cost")
    assert "20.97 USD a month" in shown.out
    assert "Total by list prices: 20.97 USD a month + unknown" in shown.out
    assert "left out: ap: no price zone" in shown.err
    assert "cost" not in estate.good("status", "-o", "json").json()


def test_a_region_that_does_not_answer_costs_nobody_knows_what(estate: Estate) -> None:
    estate.good(*PUBLISH)
    (estate.folder / "us").rename(estate.folder / "gone")
    (estate.folder / "us").write_text("a file, where a folder was")
    ran = estate.run("status", "--cost", "-o", "json")
    assert ran.code == 5, ran.said
    (row,) = [row for row in ran.json()["placements"] if row["region"] == "us"]
    assert row["cost"]["monthly"] == {}
    assert row["cost"]["left_out"]


def test_a_table_that_cannot_be_read_stops_no_plan(estate: Estate) -> None:
    estate.good(*PUBLISH)
    (estate.folder / "prices.csv").write_text("nonsense\n")
    ran = estate.good("replicate", "m", "--to", "eu", "--plan")
    assert "nothing is priced: " in ran.err
    assert "no column currency" in ran.err
    asked = estate.run("status", "--cost")
    assert asked.code == 2, asked.said
    assert "prices.csv: no column" in asked.err
