"""A forgotten resource is a cause with a name: by what bills say alone, and by what an account says
of what bills cannot tell apart."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.estate import Estate
from tests.features.cost.bills import HEADING, Charge, charge, days_from, write_csv
from tests.real.servers.launch import Endpoint

FIRST = date(2026, 7, 1)
JUMP = date(2026, 9, 15)
LAST = JUMP + timedelta(days=1)
REGION = "us-east-1"
BALANCER = f"arn:aws:elasticloadbalancing:{REGION}:1:loadbalancer/app"
VOLUME = f"arn:aws:ec2:{REGION}:1:volume"


@pytest.fixture
def estate(tmp_path: Path) -> Estate:
    return Estate(tmp_path)


def configure(estate: Estate, **section: Any) -> None:
    estate.write()
    told = {"exports": [f"file://{estate.folder}/bills"], **section}
    topology = estate.folder / "topology.yaml"
    topology.write_text(topology.read_text() + f"\ncost: {json.dumps(told)}\n")


def metered(
    day: date, cost: str, service: str, meter: str, resource: str, quantity: str, unit: str
) -> Charge:
    category = "Storage" if unit == "GB-Mo" else "Networking"
    row = charge(
        day, cost, ServiceName=service, ServiceCategory=category, ResourceId=resource,
        RegionId=REGION, SkuId=meter, SkuPriceId=f"{meter}.1", PricingQuantity=quantity,
        PricingUnit=unit, ConsumedQuantity=quantity, ConsumedUnit=unit,
        ChargeDescription=meter, Tags="{}",
    )  # fmt: skip
    return {**row, "SkuMeter": meter}


def balancer(day: date, name: str, *, used: bool = False, chance: random.Random) -> list[Charge]:
    """A day of a load balancer: its hours, and what passed through it."""
    service, resource = "Elastic Load Balancing", f"{BALANCER}/{name}"
    hours = metered(day, "0.54", service, "LoadBalancerUsage", resource, "24", "Hours")
    if not used:
        return [hours]
    units = chance.gauss(600, 6)
    cost = f"{units * 0.008:.10f}"
    passed = metered(day, cost, service, "LCUUsage", resource, f"{units:.4f}", "LCU-Hours")
    return [hours, passed]


def volume(day: date, name: str, gib: int) -> Charge:
    """A day of a disk, which costs the same whether or not anything is attached."""
    months = Decimal(gib) / 30
    cost = f"{months * Decimal('0.125'):.10f}"
    return metered(
        day, cost, "Amazon Elastic Block Store", "EBS:VolumeUsage.io2", f"{VOLUME}/{name}",
        f"{months:.10f}", "GB-Mo",
    )  # fmt: skip


def deliver(estate: Estate, rows: list[Charge]) -> None:
    months: dict[str, list[Charge]] = {}
    for row in rows:
        months.setdefault(str(row["BillingPeriodStart"])[:7], []).append(row)
    for month, some in months.items():
        path = estate.folder / "bills" / month / "bill.csv"
        write_csv(path, some, heading=[*HEADING, "SkuMeter"])
    estate.good("cost", "import")


def incident(estate: Estate) -> Any:
    ran = estate.run("cost", "anomalies", "-o", "json")
    assert ran.code == 3, ran.said
    (row,) = ran.json()["anomalies"]
    assert row["since"] == JUMP.isoformat()
    return estate.good("cost", "explain", row["incident"], "-o", "json").json()


def balancers(left: int, *, later_used: bool = False, gone: bool = False) -> list[Charge]:
    """Four that carry requests, and from the jump on so many that nobody uses."""
    chance = random.Random(5)
    rows = []
    for day in days_from(FIRST, (LAST - FIRST).days + 1):
        for number in range(4):
            rows += balancer(day, f"shop-{number}/50dc{number}", used=True, chance=chance)
        if day < JUMP or (gone and day > JUMP):
            continue
        for number in range(left):
            used = later_used and day > JUMP
            rows += balancer(day, f"left-{number:02}/7f{number:02}", used=used, chance=chance)
    return rows


def test_load_balancers_that_nobody_uses_are_named_from_the_bill_alone(estate: Estate) -> None:
    configure(estate)
    deliver(estate, balancers(40))
    told = incident(estate)
    (cause, *_) = told["causes"]
    assert cause["cause"] == "forgotten resource"
    assert Decimal(cause["amount"]) == Decimal("0.54") * 40 * told["incident"]["days"]
    assert cause["text"] == (
        f"{REGION} LoadBalancerUsage (on-demand): nobody uses loadbalancer/app/left-00/7f00, "
        "loadbalancer/app/left-01/7f01 and 38 more; charged by the hour, and nothing "
        "passed through it"
    )
    assert told["headline"].startswith("forgotten resource: ")
    assert sum(Decimal(each["amount"]) for each in told["causes"]) == Decimal(told["change"])


def test_one_that_was_removed_since_is_named_all_the_same(estate: Estate) -> None:
    configure(estate)
    deliver(estate, balancers(40, gone=True))
    assert incident(estate)["causes"][0]["cause"] == "forgotten resource"


def test_what_is_used_a_day_later_was_not_forgotten(estate: Estate) -> None:
    configure(estate)
    deliver(estate, balancers(40, later_used=True))
    names = {each["cause"] for each in incident(estate)["causes"]}
    assert names <= {"more of the same", "unexplained", "price change"}


def test_a_ledger_without_resources_cannot_tell_them_apart(estate: Estate) -> None:
    configure(estate, resources=False)
    deliver(estate, balancers(40))
    assert incident(estate)["causes"][0]["cause"] == "more of the same"


def test_a_volume_is_named_by_the_account_that_holds_it(
    estate: Estate, moto: Endpoint, account: Callable[[str], Any]
) -> None:
    ec2 = account("ec2")
    left = ec2.create_volume(Size=2048, AvailabilityZone=f"{REGION}a")["VolumeId"]
    days = days_from(FIRST, (LAST - FIRST).days + 1)
    rows = [volume(day, "vol-used", 500 + day.day) for day in days]
    rows += [volume(day, left, 2048) for day in days if day >= JUMP]
    configure(estate)
    deliver(estate, rows)
    assert {each["cause"] for each in incident(estate)["causes"]} == {"more of the same"}

    configure(estate, inventory=f"aws://{REGION}?endpoint={moto.url}")
    told = incident(estate)
    cause = told["causes"][0]
    assert cause["cause"] == "forgotten resource"
    assert cause["text"].endswith(f"volume/{left}: nobody uses it; attached to nothing")
    assert told["unknown"] == []

    configure(estate, inventory=f"aws://{REGION}?endpoint=http://127.0.0.1:9")
    told = incident(estate)
    assert {each["cause"] for each in told["causes"]} == {"more of the same"}
    assert any("127.0.0.1:9" in line for line in told["unknown"])
