"""What GPUs cost that nobody uses, as it is typed: a bill, a real Prometheus, and what neither
knows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cli.estate import Estate
from tests.features.cost.bills import HEADING, charge, write_csv
from tests.features.cost.gpus.two_days import EU, US, World, days_until
from tests.real.servers.catalogue import prometheus as start_prometheus
from tests.real.servers.launch import Endpoint, running

TOPOLOGY = """
control: "file://{folder}/control"
regions:
  us-east-1:
    store: "file://{folder}/us"
    price_zone: aws/us-east-1
    cost_region: [us-east-1, use1]
  eu-west-1: {{store: "file://{folder}/eu", price_zone: aws/eu-west-1}}
  ap-southeast-1: {{store: "file://{folder}/ap"}}
models:
  resnet50: {{version: v1, home: us-east-1, replicate_to: [eu-west-1]}}
traffic:
  routes:
    api:
      actuator: "caddy://127.0.0.1:2019/api"
      models: [resnet50]
      weights: {{us-east-1: 100, eu-west-1: 0}}
"""
PRICES = """provider,region,sku,unit,price,currency,valid_from,source
aws,eu-west-1,gpu/NVIDIA-L4,hour,1.50,USD,2020-01-01,contract 4711
aws,us-east-1,gpu/NVIDIA-A10G,hour,1.25,USD,2020-01-01,contract 4711
"""
HOURS = Decimal(48)


def midnight() -> datetime:
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


@pytest.fixture(scope="module")
def monitored(prometheus: Endpoint) -> Iterator[Callable[..., str]]:
    """Starts a Prometheus with the two days."""
    stack: list[Any] = []

    def start(until: datetime | None = None, **world: Any) -> str:
        text = World(**world).text(until or midnight())
        running_one = running("prometheus", start=partial(start_prometheus, history=text))
        stack.append(running_one)
        url: str = running_one.__enter__().url
        return url

    yield start
    for each in stack:
        each.__exit__(None, None, None)


@pytest.fixture
def estate(tmp_path: Path) -> Estate:
    return Estate(tmp_path)


def configure(estate: Estate, url: str | None, **section: Any) -> None:
    """A bill that knows the machines of us-east-1; a list that knows the GPUs of two regions."""
    told = {
        "exports": [f"file://{estate.folder}/bills"],
        "tags": {"model": ["model"]},
        "prices": "prices.csv",
        **section,
    }
    text = TOPOLOGY.format(folder=estate.folder) + f"cost: {json.dumps(told)}\n"
    if url is not None:
        text += f'prometheus: {{url: "{url}"}}\n'
    (estate.folder / "topology.yaml").write_text(text)
    (estate.folder / "prices.csv").write_text(PRICES)
    rows = [
        charge(
            day,
            "480",
            RegionId="use1",
            PricingQuantity="96",
        )
        | {"SkuPriceDetails": '{"InstanceType": "g5.12xlarge"}'}
        for day in days_until(midnight().date())
    ]
    write_csv(estate.folder / "bills" / "bill.csv", rows, heading=[*HEADING, "SkuPriceDetails"])
    estate.good("cost", "import")


def rows_of(told: Any) -> dict[str, dict[str, Any]]:
    return {row["name"].split()[0]: row for row in told["gpus"]}


def money(row: dict[str, Any]) -> dict[str, float | None]:
    names = ("cost", "busy", "allocated_idle", "warm_standby", "unallocated", "unsplit")
    return {name: None if row[name] is None else round(float(row[name])) for name in names}


def test_idle_gpus_by_what_prometheus_and_the_bill_say(
    estate: Estate, monitored: Callable[..., str]
) -> None:
    configure(estate, monitored())
    told = estate.good("cost", "unit", "--days", "2", "-o", "json").json()
    assert told["gpus_unread"] == {}
    assert told["gpus_hours_seen"] == 48
    rows = rows_of(told)
    # Two machines at 5 an hour, by the bill; by its list price a GPU would cost as much.
    us = rows[US]
    assert us["priced_by"] == "bill"
    assert us["name"] == "us-east-1 g5.12xlarge NVIDIA-A10G"
    assert money(us) == {
        "cost": 480, "busy": 210, "allocated_idle": 90, "warm_standby": 60, "unallocated": 120,
        "unsplit": 0,
    }  # fmt: skip
    # Four GPUs at 1.50 an hour, by the list.
    eu = rows[EU]
    assert eu["priced_by"] == "contract 4711"
    assert money(eu) == {
        "cost": 288, "busy": 18, "allocated_idle": 54, "warm_standby": 216, "unallocated": 0,
        "unsplit": 0,
    }  # fmt: skip
    for row in (us, eu):
        parts = ("busy", "allocated_idle", "warm_standby", "unallocated", "unsplit")
        assert sum(Decimal(row[name]) for name in parts) == Decimal(row["cost"])
        assert sum(Decimal(row["hours"][name]) for name in parts) == Decimal(row["gpu_hours"])
    # Nobody knows a price there; how many hours they were is known.
    ap = rows["ap-southeast-1"]
    assert ap["cost"] is None
    assert ap["unallocated"] is None
    assert ap["hours"]["unallocated"] == "192"
    assert "price_zone" in ap["priced_by"]
    table = estate.good("cost", "unit", "--days", "2")
    assert "192.0 h" in table.out
    assert "Not priced: ap-southeast-1: no price zone" in table.out


@pytest.mark.parametrize(
    ("metric", "parts", "unknown", "said"),
    [
        # not measured: what somebody has is busy or idle, and nobody knows which
        (
            "DCGM_FI_DEV_GPU_UTIL",
            (None, None, 60, 120, 300),
            ["utilisation"],
            "cost.gpus.utilisation: no sample",
        ),
        # what no server holds cannot stand by: the training job is known all the same
        (
            "mlplatform_route_weight",
            (120, 0, 0, 120, 240),
            ["warm"],
            "cost.gpus.weights: no sample",
        ),
        (
            "kube_pod_container_resource_requests",
            (None, None, None, None, 480),
            ["allocated"],
            "cost.gpus.requested: no sample",
        ),
    ],
)
def test_a_series_that_nobody_exports_is_unknown_and_named(
    estate: Estate,
    monitored: Callable[..., str],
    metric: str,
    parts: tuple[int | None, ...],
    unknown: list[str],
    said: str,
) -> None:
    configure(estate, monitored(without=frozenset({metric})))
    ran = estate.good("cost", "unit", "--days", "2", "-o", "json")
    us = rows_of(ran.json())[US]
    assert us["unknown"] == unknown
    # What is not known is no zero: it is null, and its money is not told apart.
    assert tuple(money(us).values()) == (480, *parts)
    assert said in ran.err


def test_no_gpu_is_known(estate: Estate, prometheus: Endpoint) -> None:
    configure(estate, prometheus.url)
    ran = estate.good("cost", "unit", "--days", "2", "-o", "json")
    assert ran.json()["gpus"] == []
    assert ran.json()["gpus_unread"] == {"allocatable": "cost.gpus.allocatable: no sample"}


def test_a_prometheus_that_does_not_answer_leaves_the_rest_told(estate: Estate) -> None:
    configure(estate, "http://127.0.0.1:9")
    ran = estate.run("cost", "unit", "--days", "2", "-o", "json")
    assert ran.code == 5
    told = ran.json()
    assert told["units"][0]["cost"] == "960"
    assert told["units"][0]["requests"] is None
    assert "127.0.0.1:9" in told["gpus_unread"]["allocatable"]
    assert ran.err.count("127.0.0.1:9") < 4


def test_queries_of_the_topology(estate: Estate, monitored: Callable[..., str]) -> None:
    configure(
        estate,
        monitored(region_label="dc"),
        gpus={"utilisation": "avg_over_time(DCGM_FI_DEV_GPU_UTIL[$window]) / 200"},
    )
    topology = estate.folder / "topology.yaml"
    text = topology.read_text()
    topology.write_text(text.replace("prometheus: {", "prometheus: {region_label: dc, "))
    us = rows_of(estate.good("cost", "unit", "--days", "2", "-o", "json").json())[US]
    assert money(us)["busy"] == 105
    topology.write_text(topology.read_text().replace('"utilisation"', '"utilization"'))
    ran = estate.run("cost", "unit")
    assert ran.code == 2
    assert "cost.gpus.utilization" in ran.err


def test_idle_nodes_are_waste_by_the_same_queries(
    estate: Estate, monitored: Callable[..., str]
) -> None:
    now = datetime.now(UTC)
    configure(estate, monitored(now))
    told = estate.good("cost", "waste", "--source", "gpus", "-o", "json").json()
    assert told["unread"] == {}
    (found,) = told["findings"]
    assert (found["object"], found["where"]) == ("ap-a", "ap-southeast-1")
    assert found["why"] == "its 4 GPUs were busy for 0.0 % of the last day"
    assert found["monthly"] is None
    configure(estate, monitored(now), gpus={"utilisation": "DCGM_FI_DEV_GPU_UTIL{node='none'}"})
    told = estate.good("cost", "waste", "--source", "gpus", "-o", "json").json()
    assert told["findings"] == []
    assert "no GPU was measured for a day" in told["unread"]["gpus"][0]
