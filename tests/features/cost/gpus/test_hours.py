"""GPU-hours: what there was, who had it, what stood by and what was busy; and what nobody knows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from mlplatform.adapters.prometheus import Prometheus
from mlplatform.core.cost import Gpus
from mlplatform.core.money import Price, Prices, Pricing
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.cost.gpus.hours import GpuHours, Hours, Kind, Known, Naming
from mlplatform.cost.gpus.readings import STEP_SECONDS, Asker, Readings
from mlplatform.cost.gpus.splitting import on_day, split_all
from mlplatform.cost.rates import Rates
from mlplatform.cost.unit.idle import Parts, Split
from mlplatform.cost.unit.spot import Bought
from mlplatform.ports.measurements import Line
from tests.features.cost.gpus.two_days import World, days_until, midnight
from tests.real.servers.catalogue import prometheus as start_prometheus
from tests.real.servers.launch import Endpoint, running

D = Decimal
HOUR = 3600.0
ROUTES = {"resnet50": frozenset({"api"})}
NAMING = Naming("region", {"use1": "us"}, "model", ROUTES)


def line(value: float, **labels: str) -> Line:
    """One sample, which speaks for an hour."""
    return Line({"region": "us", **labels}, ((0.0, value),))


def nan() -> float:
    return float("nan")


GPUS = [line(4, node="a")]
ZERO = line(0, node="a")
SERVER = line(2, node="a", namespace="ml", pod="serve")
TRAINING = line(1, node="a", namespace="ml", pod="train")
SERVES = line(9, namespace="ml", pod="serve", model="resnet50")
WEIGHTED = Line({"route": "api", "region": "us"}, ((0.0, 50.0),))
WITHOUT = Line({"route": "api", "region": "us"}, ((0.0, 0.0),))
ELSEWHERE = Line({"route": "api", "region": "eu"}, ((0.0, 100.0),))


def busy(*shares: float, **labels: str) -> list[Line]:
    named = labels or {"node": "a"}
    return [line(share, gpu=str(gpu), **named) for gpu, share in enumerate(shares)]


USED = busy(0.5, 0.5, 0.0, 0.0)


def readings(**read: Any) -> Readings:
    """A node of four GPUs: two for a server that half uses them, one for a training job."""
    told: dict[str, Any] = {
        "allocatable": GPUS,
        "requested": [ZERO, SERVER, TRAINING],
        "utilisation": USED,
        "servers": [SERVES],
        "weights": [WEIGHTED],
        **read,
    }
    return Readings(**told)


def counted(read: Readings, naming: Naming = NAMING) -> GpuHours:
    seen = GpuHours()
    seen.add(read, naming, HOUR)
    return seen


ALL = Known(allocated=True, warm=True, busy=True)
UNMEASURED = Known(allocated=True, warm=True, busy=False)
NO_WARM = Known(allocated=True, warm=False, busy=True)
NOT_ASKED = Known(allocated=False, warm=False, busy=True)
CASES: dict[str, tuple[Readings, Known, tuple[float, float, float]]] = {
    # what is read, what is known, and of four GPUs: allocated, warm, busy
    "all of it": (readings(), ALL, (3, 0, 1)),
    "a region without weight stands by": (
        readings(weights=[WITHOUT, ELSEWHERE], utilisation=busy(0, 0, 0.5, 0)), ALL, (3, 2, 0.5),
    ),
    "one that the route does not name stands by too": (
        readings(weights=[ELSEWHERE]), ALL, (3, 2, 1),
    ),
    "a weight under the label that a scrape leaves it": (
        readings(
            weights=[Line({"route": "api", "region": "x", "exported_region": "us"}, ((0.0, 1.0),))]
        ),
        ALL, (3, 0, 1),
    ),
    "a model that no route serves is no standby": (
        readings(
            servers=[line(9, namespace="ml", pod="serve", model="bert")], weights=[WITHOUT]
        ),
        ALL, (3, 0, 1),
    ),
    "a server of two models, one of which has weight": (
        readings(
            servers=[SERVES, line(9, namespace="ml", pod="serve", model="bert")],
            weights=[WITHOUT],
        ),
        ALL, (3, 0, 1),
    ),
    "what is busy is never more than what is allocated and answers": (
        readings(utilisation=busy(1, 1, 1, 1), weights=[WITHOUT]), ALL, (3, 2, 1),
    ),
    "nothing asked for is a zero, since somebody says so": (
        readings(requested=[ZERO], utilisation=busy(0, 0, 0, 0)), ALL, (0, 0, 0),
    ),
    "pods hold more than a node still has": (
        readings(requested=[line(8, node="a", namespace="ml", pod="train")]), ALL, (4, 0, 1),
    ),
    "nobody says what pods ask for": (readings(requested=[]), NOT_ASKED, (0, 0, 1)),
    "or only of another node": (
        readings(requested=[line(1, node="b", namespace="ml", pod="x")]), NOT_ASKED, (0, 0, 1),
    ),
    "nobody measures": (readings(utilisation=[]), UNMEASURED, (3, 0, 0)),
    "one GPU of four is not measured": (
        readings(utilisation=busy(0.5, 0.5, 0)), UNMEASURED, (3, 0, 0),
    ),
    "no number": (readings(utilisation=busy(0.5, 0.5, nan(), 0)), UNMEASURED, (3, 0, 0)),
    "in per cent, against what is asked for": (
        readings(utilisation=busy(50, 50, 0, 0)), UNMEASURED, (3, 0, 0),
    ),
    "the mean of a node": (readings(utilisation=[line(0.25, node="a")]), ALL, (3, 0, 1)),
    "the exporter's pod as Hostname": (
        readings(utilisation=busy(0.5, 0.5, 0, 0, Hostname="dcgm-1", instance="a")), ALL, (3, 0, 1),
    ),
    "a GPU that two pods share is one": (
        readings(utilisation=[*USED, line(0.75, node="a", gpu="0", pod="other")]),
        ALL, (3, 0, 1.25),
    ),
    "an exporter that says no region": (
        readings(
            utilisation=[Line({"node": "a", "gpu": str(g)}, ((0.0, 0.25),)) for g in range(4)]
        ),
        ALL, (3, 0, 1),
    ),
    "nobody says which pods are servers": (readings(servers=[]), NO_WARM, (3, 0, 1)),
    "nobody says what weights there were": (readings(weights=[]), NO_WARM, (3, 0, 1)),
    "a server whose scrape says no region and no namespace": (
        readings(
            servers=[Line({"pod": "serve", "model": "resnet50"}, ((0.0, 1.0),))],
            weights=[WITHOUT],
        ),
        ALL, (3, 2, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("read", "known", "hours"), CASES.values(), ids=CASES)
def test_a_node_for_an_hour(
    read: Readings, known: Known, hours: tuple[float, float, float]
) -> None:
    seen = counted(read)
    ((kind, found),) = seen.kinds.items()
    assert kind == Kind("us", "", "")
    assert found == {known: Hours(1, 4, *hours)}
    assert seen.hours_seen == 1


def test_without_routes_nothing_stands_by() -> None:
    seen = counted(readings(servers=[], weights=[]), replace(NAMING, routes={}))
    assert seen.kinds == {Kind("us", "", ""): {ALL: Hours(1, 4, 3, 0, 1)}}
    assert "weights" not in seen.unread


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ({"label_nvidia_com_gpu_product": "NVIDIA-L4"}, Kind("us", "NVIDIA-L4", "")),
        (
            {"label_node_kubernetes_io_instance_type": "g6.xlarge"},
            Kind("us", "NVIDIA-A10G", "g6.xlarge"),  # the exporter's name of the GPU
        ),
        (
            {"label_topology_kubernetes_io_region": "euw1"},  # the series' own label goes before
            Kind("us", "NVIDIA-A10G", ""),
        ),
    ],
)
def test_kinds_of_nodes(labels: dict[str, str], kind: Kind) -> None:
    used = busy(0.5, 0.5, 0, 0, node="a", modelName="NVIDIA A10G")
    seen = counted(readings(labels=[line(1, node="a", **labels)], utilisation=used))
    assert list(seen.kinds) == [kind]


def test_a_region_by_the_label_of_its_nodes() -> None:
    told = Line({"node": "a", "label_topology_kubernetes_io_region": "USE1"}, ((0.0, 1.0),))
    gpus = Line({"node": "a"}, ((0.0, 4.0),))
    seen = counted(Readings(allocatable=[gpus], labels=[told]))
    assert [kind.region for kind in seen.kinds] == ["us"]
    assert [kind.region for kind in counted(Readings(allocatable=[gpus])).kinds] == [""]


@pytest.mark.parametrize(
    ("read", "unread"),
    [
        (readings(labels=[line(1, node="a")]), set()),
        (readings(), {"labels"}),
        (Readings(), {"allocatable"}),
        (readings(requested=Unknown("timeout")), {"labels", "requested"}),
        (readings(utilisation=[], servers=[], weights=[]),
         {"labels", "utilisation", "servers", "weights"}),
        (readings(utilisation=busy(0, 0, 0, 0, node="z")), {"labels", "utilisation"}),
        (readings(servers=[line(1, model="resnet50")]), {"labels", "servers"}),
    ],
    ids=["all", "labels", "nothing", "refused", "no sample", "another node", "no pod"],
)  # fmt: skip
def test_what_nobody_says_is_named(read: Readings, unread: set[str]) -> None:
    assert set(counted(read).unread) == unread


def test_hours_are_added_up_with_what_is_known_in_each() -> None:
    seen = counted(readings())
    seen.add(readings(utilisation=[]), NAMING, HOUR)
    seen.add(Readings(), NAMING, HOUR)
    assert seen.kinds == {
        Kind("us", "", ""): {ALL: Hours(1, 4, 3, 0, 1), UNMEASURED: Hours(1, 4, 3, 0, 0)}
    }
    assert seen.hours_seen == 2


# --- with money ---------------------------------------------------------------------------------

TOPOLOGY = Topology.parse(
    """
control: file:///c
regions:
  us: {store: "s3://b", price_zone: us-east-1}
  eu: {store: "file:///eu"}
"""
)


def price(sku: str, amount: str, currency: str = "USD") -> Price:
    day = date(2026, 1, 1)
    return Price("aws", "us-east-1", sku, "hour", D(amount), currency, day, f"list of {sku}")


def bought(machine: str, cost: str, hours: str | None, **other: Any) -> Bought:
    told: dict[str, Any] = {"region": "us", "pricing": "Standard", "unit": "Hours", **other}
    return Bought(
        machine=machine,
        cost=D(cost),
        quantity=None if hours is None else D(hours),
        **told,
    )


def priced(kind: Kind, *bills: Bought, listed: tuple[Price, ...] = ()) -> Split:
    """Ten hours of a node of four GPUs, of which one is not asked for and one is busy."""
    seen = GpuHours({kind: {ALL: Hours(10, 40, 30, 0, 10)}}, 10)
    pricing = Pricing(Prices(listed=listed), TOPOLOGY, date(2026, 11, 20))
    convert = on_day(date(2026, 11, 20), "USD", Rates().rate)
    (found,) = split_all(seen, bills, pricing, convert)
    assert found.hours == Parts(D(10), D(0), D(20), D(10), D(0))
    return found


G5 = Kind("us", "NVIDIA-A10G", "g5.12xlarge")
LISTED = (price("gpu/NVIDIA-A10G", "2"), price("instance/p4d", "32"), price("gpu/EURO", "1", "EUR"))


@pytest.mark.parametrize(
    ("kind", "bills", "cost", "source"),
    [
        # 480 for 100 hours, spot and on-demand together: 4.80 an hour of a machine
        (
            G5,
            [
                bought("g5.12xlarge", "450", "75"),
                bought("g5.12xlarge", "30", "25", pricing="Dynamic"),
            ],
            "48",
            "bill",
        ),
        (G5, [bought("g5.12xlarge", "450", "75", region="eu")], "80", "list of gpu/NVIDIA-A10G"),
        (G5, [bought("g5.12xlarge", "450", None)], "80", "list of gpu/NVIDIA-A10G"),
        (G5, [bought("g5.12xlarge", "45", "9", unit="GB")], "80", "list of gpu/NVIDIA-A10G"),
        (Kind("us", "NVIDIA-A100", "p4d"), [], "320", "list of instance/p4d"),
        (Kind("us", "NVIDIA-B200", ""), [], None, "gpu/NVIDIA-B200 in us-east-1: no price"),
        (Kind("us", "", ""), [], None, "its GPUs in us-east-1: no price"),
        (Kind("us", "EURO", ""), [], None, "priced in EUR, and no rate converts"),
        (Kind("eu", "NVIDIA-A10G", ""), [], None, "regions.eu.price_zone"),
        (Kind("", "NVIDIA-A10G", ""), [], None, "nobody says where it is"),
    ],
)
def test_what_they_cost(kind: Kind, bills: list[Bought], cost: str | None, source: str) -> None:
    found = priced(kind, *bills, listed=LISTED)
    assert found.cost == (None if cost is None else D(cost))
    assert source in found.priced_by
    if cost is None:
        assert found.money is None
    else:
        assert found.money is not None
        assert found.money.unallocated == D(cost) / 4
        assert found.money.busy == D(cost) / 4


# --- a real Prometheus --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def monitored(prometheus: Endpoint) -> Iterator[str]:
    start = partial(start_prometheus, history=World().text(midnight()))
    with running("prometheus", start=start) as endpoint:
        yield endpoint.url


def asked(url: str, gpus: Gpus | None = None) -> GpuHours:
    seen = GpuHours()
    asker = Asker(Prometheus(url, timeout_seconds=30), gpus or Gpus(), "region")
    for read in asker.days(days_until(midnight().date())):
        seen.add(read, NAMING, STEP_SECONDS)
    return seen


def test_two_days_of_three_regions(monitored: str) -> None:
    seen = asked(monitored)
    assert seen.unread == {}
    assert seen.hours_seen == 48
    found = {kind: next(iter(hours.values())) for kind, hours in seen.kinds.items()}
    assert all(list(hours) == [ALL] for hours in seen.kinds.values())
    us = found[Kind("us-east-1", "NVIDIA-A10G", "g5.12xlarge")]
    eu = found[Kind("eu-west-1", "NVIDIA-L4", "g6.12xlarge")]
    assert replace(us, busy=0) == Hours(96, 384, 288, 4 * 12)
    assert replace(eu, busy=0) == Hours(48, 192, 192, 4 * 36)
    # A step that begins with one load and ends with another lies between the two.
    assert us.busy == pytest.approx(2 * 48 + 4 * 36 * 0.5, abs=0.2)
    assert eu.busy == pytest.approx(4 * 12 * 0.25, abs=0.2)
    assert found[Kind("ap-southeast-1", "NVIDIA-L4", "g6.12xlarge")] == Hours(48, 192)


def test_queries_of_the_topology_and_one_that_is_not_understood(monitored: str) -> None:
    gpus = Gpus(
        allocatable="max by (node, $region) (kube_node_status_allocatable{resource='cpu'})",
        utilisation="sum by (",
        requested='0 * kube_node_status_allocatable{resource="cpu"}',
    )
    seen = asked(monitored, gpus)
    assert set(seen.unread) == {"utilisation"}
    assert "cost.gpus.utilisation: " in seen.unread["utilisation"]
    assert "parse error" in seen.unread["utilisation"]
    (hours,) = seen.kinds[Kind("eu-west-1", "NVIDIA-L4", "g6.12xlarge")].items()
    assert hours == (UNMEASURED, Hours(48, 48 * 48, 0, 0, 0))


def test_one_that_does_not_answer_is_asked_once() -> None:
    seen = asked("http://127.0.0.1:9")
    assert seen.kinds == {}
    assert list(seen.unread) == ["allocatable"]
    assert "127.0.0.1:9" in seen.unread["allocatable"]
