"""`mlplatform cost waste`, as it is typed: a report that proposes and removes nothing."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from mlplatform.adapters.local import LocalStore
from tests.cli.estate import PUBLISH, Estate
from tests.features.cost.bills import charge, days_from, write_csv
from tests.real.servers.launch import Endpoint

REGION = "us-east-1"
PRICES = "provider,region,sku,unit,price,currency,valid_from,source\n"
PRICES += "rack,berlin,storage,GB-month,20000,USD,2020-01-01,our accounts\n"


@pytest.fixture
def estate(tmp_path: Path) -> Estate:
    return Estate(tmp_path)


def configure(estate: Estate, **section: Any) -> None:
    topology = estate.folder / "topology.yaml"
    text = topology.read_text()
    store = f'store: "{estate.here("eu")}"'
    assert store in text
    text = text.replace(store, f"{store}, price_zone: berlin")
    topology.write_text(f"{text}\ncost: {json.dumps({'prices': 'prices.csv', **section})}\n")
    (estate.folder / "prices.csv").write_text(PRICES)


def forget(estate: Estate, region: str) -> None:
    """The topology wants the model there no longer."""
    topology = estate.folder / "topology.yaml"
    text = topology.read_text()
    assert "replicate_to: [eu, ap]" in text
    topology.write_text(
        text.replace("[eu, ap]", str([each for each in ("eu", "ap") if each != region]))
    )


def files_of(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def test_a_replica_that_nobody_asks_for(estate: Estate) -> None:
    configure(estate)
    estate.good(*PUBLISH)
    estate.good("replicate", "m", "--to", "eu")
    assert estate.good("cost", "waste", "--source", "grid", "-o", "json").json()["findings"] == []
    forget(estate, "eu")
    before = files_of(estate.folder / "eu")
    told = estate.good("cost", "waste", "--source", "grid", "-o", "json").json()
    (found,) = told["findings"]
    assert (found["kind"], found["object"], found["where"]) == ("unserved replica", "m@v1", "eu")
    size = sum((estate.model / name).stat().st_size for name in ("config.json", "weights.bin"))
    assert Decimal(found["monthly"]) == Decimal(20_000) * size / 10**9
    assert found["priced_by"] == "our accounts"
    assert found["evidence"] == ["mlplatform status m@v1"]
    assert found["command"] == f"rm -r {estate.folder}/eu/models/m/v1/"
    assert told["monthly"] == {"USD": found["monthly"]}
    assert told["unread"] == {}
    assert files_of(estate.folder / "eu") == before, "it proposes, and removes nothing"


def test_what_people_see(estate: Estate) -> None:
    configure(estate)
    estate.good(*PUBLISH)
    estate.good("replicate", "m", "--to", "eu,ap")
    forget(estate, "eu")
    forget_ap = (estate.folder / "topology.yaml").read_text().replace("['ap']", "[]")
    (estate.folder / "topology.yaml").write_text(forget_ap)
    ran = estate.good("cost", "waste")
    assert "Total 20.97 USD a month; 1 of 2 of unknown cost are left out" in ran.out
    assert "unknown" in ran.out
    assert "nothing was removed" in ran.err
    assert "not looked at: cloud: not configured; set cost.inventory" in ran.err
    assert "not looked at: gpus: not configured; set prometheus.url" in ran.err
    assert "not looked at: bill: not configured; set cost.exports" in ran.err


def test_nothing_is_found_and_it_says_so(estate: Estate) -> None:
    ran = estate.good("cost", "waste", "--source", "grid")
    assert ran.out == ""
    assert "nothing was found that costs and serves nobody" in ran.err


def test_a_region_that_cannot_be_read_is_told_and_no_error(estate: Estate) -> None:
    estate.good(*PUBLISH)
    (estate.folder / "ap").write_text("a file, where a folder should be")
    told = estate.good("cost", "waste", "--source", "grid", "-o", "json").json()
    assert any("ap" in reason for reason in told["unread"]["grid"])


def test_a_source_that_there_is_not(estate: Estate) -> None:
    ran = estate.run("cost", "waste", "--source", "attic")
    assert ran.code == 2
    assert "of bill, cloud, grid, gpus" in ran.err


def old_upload(estate: Estate, days: float) -> None:
    """An upload that was begun by a replicator and left."""
    store = LocalStore(estate.folder / "eu")
    store.begin("models/m/v1/weights.bin", size_bytes=6 << 20, part_bytes=5 << 20)
    then = time.time() - days * 86_400
    for path in (estate.folder / "eu").rglob("*"):
        os.utime(path, (then, then))


def test_uploads_that_were_left(estate: Estate) -> None:
    configure(estate)
    estate.good(*PUBLISH)
    old_upload(estate, 20)
    found = [
        each
        for each in estate.good("cost", "waste", "--source", "grid", "-o", "json").json()[
            "findings"
        ]
        if each["kind"] == "unfinished upload"
    ]
    clean = estate.good("clean", "--plan", "-o", "json").json()["uploads"]
    assert [each["object"].partition(" ")[0] for each in found] == [
        each["key"] for each in clean if each["result"] == "drop"
    ]
    assert all(each["command"] == "mlplatform clean --region eu" for each in found)


def test_an_account_and_its_bill(
    estate: Estate, moto: Endpoint, account: Callable[[str], Any]
) -> None:
    configure(
        estate,
        inventory=f"aws://{REGION}?endpoint={moto.url}",
        exports=f"file://{estate.folder}/bills",
    )
    ec2 = account("ec2")
    volume = ec2.create_volume(Size=100, AvailabilityZone=f"{REGION}a")["VolumeId"]
    address = ec2.allocate_address(Domain="vpc")["AllocationId"]
    days = days_from(date(2026, 11, 7), 14)
    arn = f"arn:aws:ec2:{REGION}:1:volume/{volume}"
    write_csv(
        estate.folder / "bills/bill.csv",
        [charge(day, "0.24", ResourceId=arn) for day in days]
        + [charge(day, "5", ResourceId="i-busy") for day in days],
    )
    estate.good("cost", "import")
    told = estate.good("cost", "waste", "--source", "cloud,bill", "-o", "json").json()
    assert told["unread"] == {}
    found = {each["object"]: each for each in told["findings"]}
    assert set(found) == {volume, address}
    # The bill says what the volume costs; the shipped list, what an address does.
    assert found[volume]["priced_by"] == "bill"
    assert Decimal(found[volume]["monthly"]) == Decimal("7.3")
    assert found[address]["priced_by"].startswith("https://")
    assert Decimal(found[address]["monthly"]) == Decimal("3.65")
    assert found[volume]["command"].startswith(f"aws ec2 delete-volume --volume-id {volume}")
    assert [each["VolumeId"] for each in ec2.describe_volumes()["Volumes"]] == [volume]


def test_monitoring_that_knows_no_gpu(estate: Estate, prometheus: Endpoint) -> None:
    topology = estate.folder / "topology.yaml"
    topology.write_text(topology.read_text() + f'\nprometheus: {{url: "{prometheus.url}"}}\n')
    told = estate.good("cost", "waste", "--source", "gpus", "-o", "json").json()
    assert told["findings"] == []
    assert told["unread"]["gpus"] == [f"{prometheus.url}: no GPU was measured for a day"]


def test_monitoring_that_does_not_answer(estate: Estate) -> None:
    topology = estate.folder / "topology.yaml"
    topology.write_text(topology.read_text() + '\nprometheus: {url: "http://127.0.0.1:9"}\n')
    told = estate.good("cost", "waste", "--source", "gpus", "-o", "json").json()
    assert "127.0.0.1:9" in told["unread"]["gpus"][0]
