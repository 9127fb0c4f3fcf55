"""`mlplatform cost import` of bills that are asked for: the price first, then the question."""

from __future__ import annotations

import json
import urllib.request
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.estate import Estate
from tests.real.servers.launch import Endpoint


def yesterday() -> date:
    """Asked for by each test: these may have been loaded the day before."""
    return datetime.now(UTC).date() - timedelta(days=1)


@pytest.fixture
def estate(tmp_path: Path) -> Estate:
    made = Estate(tmp_path)
    made.env |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    return made


@pytest.fixture
def explorer(moto: Endpoint) -> str:
    """A Cost Explorer that knows of one day."""

    day = yesterday()

    def answer(cost: str, *keys: str) -> dict[str, Any]:
        metrics = {
            name: {"Amount": cost, "Unit": "USD"} for name in ("UnblendedCost", "AmortizedCost")
        }
        group = {"Keys": list(keys), "Metrics": metrics}
        period = {"Start": str(day), "End": str(day + timedelta(days=1))}
        return {"ResultsByTime": [{"TimePeriod": period, "Total": {}, "Groups": [group]}]}

    told = [answer("12.5", "us-east-1", "Amazon EC2"), answer("2.5", "Tax", "Tax")]
    # This month's questions come last; on the first of a month there are none of it.
    nothing: list[dict[str, Any]] = [{"ResultsByTime": []}] * 2
    results = told if (day + timedelta(days=1)).day == 1 else [*nothing, *told]
    for path, body in (
        ("reset", b""),
        ("static/ce/cost-and-usage-results", json.dumps({"results": results}).encode()),
    ):
        request = urllib.request.Request(
            f"{moto.url}/moto-api/{path}",
            data=body,
            headers={"Content-Type": "application/json"},
            method="POST",
        )
        urllib.request.urlopen(request, timeout=10).close()
    return f"cost-explorer://?endpoint={moto.url}"


def test_nobody_pays_unasked(estate: Estate, explorer: str) -> None:
    ran = estate.run("cost", "import", explorer)
    assert ran.code == 2, ran.said
    assert "requests, and one more for each further page: 0.0" in ran.err
    assert "hint: add --yes" in ran.err
    assert not list((estate.folder / "control").rglob("*.parquet"))


def test_agreed_to_it_is_asked_and_imported(estate: Estate, explorer: str) -> None:
    ran = estate.good("cost", "import", explorer, "--yes", "-o", "json")
    (row,) = ran.json()["deliveries"]
    assert (row["bill"], row["shape"]) == ("AWS 123456789012", "cost-explorer")
    assert "USD at least" in ran.err
    report = estate.good("cost", "report", "--cost", "billed", "-o", "json").json()
    assert Decimal(report["total"]) == 15
    assert {each["region"]: each["cost"] for each in report["costs"]} == {
        "us-east-1": "12.5",
        None: "2.5",
    }


def test_an_allocation_that_somebody_saved(estate: Estate) -> None:
    day = f"{yesterday()}T00:00:00Z"
    told = {
        "name": "ml/resnet",
        "properties": {"cluster": "us", "labels": {"team": "vision"}},
        "window": {"start": day},
        "cpuCost": 1.25,
        "totalCost": 1.25,
    }
    path = estate.folder / "allocation.json"
    path.write_text(json.dumps({"code": 200, "data": [{"ml/resnet": told}]}))
    (row,) = estate.good("cost", "import", str(path), "-o", "json").json()["deliveries"]
    assert (row["bill"], row["shape"], row["charges"]) == ("OpenCost us", "opencost", 1)
