"""What is waste and what is not: cases that an SRE can read."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from mlplatform.core.money import Amount, Price, Prices, Pricing
from mlplatform.core.placement import Grid, Integrity, ModelVersion, Placement, Rung
from mlplatform.core.seen import Unknown
from mlplatform.core.topology import Topology
from mlplatform.cost.gpus.hours import Naming
from mlplatform.cost.gpus.readings import Readings
from mlplatform.cost.waste.findings import (
    Finding,
    Load,
    Routes,
    Upload,
    Waste,
    billed,
    merged,
    of_gpus,
    of_grid,
    of_inventory,
    of_uploads,
    totals,
)
from mlplatform.cost.waste.gpus import loads_of
from mlplatform.ports.inventory import Held, Kind
from mlplatform.ports.measurements import Line

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
GIB = 2**30
V1, V2 = ModelVersion("m", "v1"), ModelVersion("m", "v2")


def price(sku: str, unit: str, amount: str, region: str = "us-east-1") -> Price:
    day = date(2026, 1, 1)
    return Price("aws", region, sku, unit, Decimal(amount), "USD", day, "https://p.example")


TABLE = [
    price("volume/gp3", "GiB-month", "0.08"),
    price("snapshot", "GiB-month", "0.05"),
    price("storage", "GiB-month", "0.02"),
    price("address", "hour", "0.005", "*"),
    price("load-balancer/application", "hour", "0.02"),
    price("gpu/NVIDIA-L4", "hour", "0.8"),
]
TOPOLOGY = """
control: file:///c
regions:
  us: {store: "s3://b", price_zone: us-east-1}
  eu: {store: "file:///eu"}
  ap: {store: "file:///ap"}
models:
  m: {version: v1, home: us, replicate_to: [eu, ap]}
traffic:
  routes:
    api: {actuator: "memory://r", models: [m], weights: {us: 50, eu: 50}}
"""
NO_ROUTES = TOPOLOGY.partition("traffic:")[0]


def pricing(topology: str = TOPOLOGY) -> Pricing:
    return Pricing(Prices(listed=TABLE), Topology.parse(topology), NOW.date())


def days_ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


def held(kind: Kind, **facts: object) -> Held:
    return Held(kind, "it", **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("thing", "why", "monthly"),
    [
        (held(Kind.VOLUME, type="gp3", size_bytes=100 * GIB), "attached to nothing", "8.00"),
        (held(Kind.VOLUME, type="gp3", size_bytes=GIB, used_by=("i-1",)), None, None),
        (held(Kind.VOLUME, type="io9", size_bytes=GIB), "attached to nothing", "unknown"),
        (held(Kind.ADDRESS), "associated with nothing", "3.65"),
        (held(Kind.ADDRESS, used_by=("eni-1",)), None, None),
        (held(Kind.LOAD_BALANCER, type="application"), "no target is registered", "14.60"),
        (
            held(Kind.LOAD_BALANCER, type="application", unwell=("i-1", "i-2")),
            "none of its 2 targets is healthy",
            "14.60",
        ),
        (held(Kind.LOAD_BALANCER, type="application", used_by=("i-1",), requests=7.0), None, None),
        (
            held(Kind.LOAD_BALANCER, type="application", used_by=("i-1",), requests=0.0),
            "no request came in 14 days",
            "14.60",
        ),
        # Nobody counted, or nobody may know: not called idle.
        (held(Kind.LOAD_BALANCER, type="application", used_by=("i-1",)), None, None),
        (
            held(Kind.LOAD_BALANCER, used_by=("i-1",), requests=Unknown("denied")),
            None,
            None,
        ),
        (
            held(Kind.SNAPSHOT, size_bytes=10 * GIB, created=days_ago(90)),
            "90 days old, and no image is made of it",
            "0.50",
        ),
        (held(Kind.SNAPSHOT, size_bytes=GIB, created=days_ago(89.9)), None, None),
        (held(Kind.SNAPSHOT, size_bytes=GIB, created=days_ago(900), used_by=("ami",)), None, None),
        (held(Kind.SNAPSHOT, size_bytes=GIB), None, None),  # nobody knows how old
        (
            held(Kind.UPLOAD, size_bytes=50 * GIB, created=days_ago(8)),
            "begun 8 days ago and never completed",
            "1.00",
        ),
        (held(Kind.UPLOAD, size_bytes=50 * GIB, created=days_ago(6)), None, None),
        (
            held(Kind.UPLOAD, created=days_ago(60)),
            "begun 60 days ago and never completed",
            "unknown",
        ),
    ],
)
def test_what_an_account_holds(thing: Held, why: str | None, monthly: str | None) -> None:
    found = list(of_inventory([thing], "aws/us-east-1", pricing(), NOW))
    assert [each.why for each in found] == ([] if why is None else [why])
    for each in found:
        said = "unknown" if isinstance(each.monthly, Unknown) else f"{each.monthly.value:.2f}"
        assert said == monthly
        assert each.at_most == (thing.kind is Kind.SNAPSHOT)


def load(busy: float, *products: str, region: str | None = "us", **other: Any) -> Load:
    return Load("node-1", region, products or ("NVIDIA-L4",), busy, **other)


@pytest.mark.parametrize(
    ("node", "monthly"),
    [
        (load(0.05), None),
        (load(0.0499), "584.00"),
        (load(0.0, "NVIDIA-L4", "NVIDIA-L4"), "1168.00"),
        (load(0.0, "NVIDIA-L4", "NVIDIA-H9000"), "unknown"),
        (load(0.0, ""), "unknown"),
        (load(0.0, region="eu"), "unknown"),  # a folder has no price zone
        (load(0.0, region=None), "unknown"),
        (load(float("nan")), None),
        (load(0.0, standby=True), None),  # idle on purpose
        (load(0.0, standby=None), "584.00"),
    ],
)
def test_gpu_nodes(node: Load, monthly: str | None) -> None:
    found = list(of_gpus([node], pricing()))
    said = [
        "unknown" if isinstance(each.monthly, Unknown) else f"{each.monthly.value:.2f}"
        for each in found
    ]
    assert said == ([] if monthly is None else [monthly])
    for each in found:
        in_doubt = "nobody can say whether it stands by" in each.why
        assert in_doubt == (node.standby is None)
        assert in_doubt == (not each.command), "what may stand by is not to be drained"


STANDING_BY = Naming("region", {}, "model", {"resnet50": frozenset({"api"})})


@pytest.mark.parametrize(
    ("weights", "standby"), [([0.0], True), ([100.0], False), ([], None)], ids=str
)
def test_a_node_that_stands_by(weights: list[float], standby: bool | None) -> None:
    there = {"region": "eu", "namespace": "ml", "pod": "serve"}
    now = Readings(
        allocatable=[sample(4, node="a", region="eu")],
        requested=[sample(4, node="a", **there)],
        utilisation=[sample(0.0, node="a", region="eu")],
        servers=[sample(9, model="resnet50", **there)],
        weights=[sample(each, route="api", region="eu") for each in weights],
    )
    (found,) = loads_of(now, now.utilisation, STANDING_BY, "asked")
    assert found.standby is standby


def sample(value: float, **labels: str) -> Line:
    return Line(labels, ((0.0, value),))


NAMING = Naming("region", {"use1": "us"})
A100 = {"modelName": "NVIDIA A100-SXM4-40GB", "region": "us"}


def loads(last_day: list[Line], **read: list[Line]) -> list[tuple[object, ...]]:
    """By node; all of what was measured was there a day ago, unless said otherwise."""
    day_ago = read.pop("day_ago", last_day)
    found = loads_of(Readings(utilisation=last_day, **read), day_ago, NAMING, "asked")
    return [(each.node, each.region, each.busy_ratio, each.products) for each in found]


def test_what_monitoring_says_of_nodes() -> None:
    found = loads(
        [
            sample(0.0, Hostname="a", gpu="0", **A100),
            sample(0.5, Hostname="a", gpu="1", **A100),
            sample(float("nan"), Hostname="b", gpu="0", region="us"),
            sample(0.0, Hostname="b", gpu="1", region="us"),  # half of b is not known
            sample(93.0, Hostname="c", gpu="0"),  # in per cent: another metric than it seems
            sample(0.0, gpu="0"),  # nobody's
        ]
    )
    assert found == [("a", "us", 0.25, ("NVIDIA-A100-SXM4-40GB",) * 2)]


GPUS = [sample(4, node="a", region="use1"), sample(4, node="b", region="use1")]


@pytest.mark.parametrize(
    ("last_day", "read", "found"),
    [
        # the exporter's pod is no node, and its scrape says which it is on
        (
            [sample(0.01, Hostname="dcgm-7xk2p", instance="a", gpu="0", region="use1")],
            {"allocatable": GPUS},
            [("a", "us", 0.01, ("",))],
        ),
        # added this morning
        ([sample(0.0, Hostname="a", gpu="0", region="use1")], {"day_ago": []}, []),
        # a GPU that two pods share is stated once for each
        (
            [sample(share, Hostname="a", gpu="0", pod=pod) for pod, share in (("x", 0), ("y", 1))],
            {},
            [("a", None, 1.0, ("",))],
        ),
        # the mean of a node, and what Kubernetes says of it
        (
            [sample(0.02, node="a")],
            {
                "allocatable": [sample(4, node="a")],
                "labels": [
                    sample(
                        1,
                        node="a",
                        label_nvidia_com_gpu_product="NVIDIA-L4",
                        label_topology_kubernetes_io_region="use1",
                    )
                ],
            },
            [("a", "us", 0.02, ("NVIDIA-L4",) * 4)],
        ),
    ],
)
def test_which_node_it_is(
    last_day: list[Line], read: dict[str, list[Line]], found: list[tuple[object, ...]]
) -> None:
    assert loads(last_day, **read) == found


def placed(
    region: str,
    *,
    subject: ModelVersion = V1,
    rung: Rung | Unknown = Rung.STORED,
    integrity: Integrity = Integrity.VERIFIED,
    wanted: bool = True,
    shares: tuple[tuple[str, int], ...] = (),
) -> Placement:
    return Placement(subject, region, rung, integrity, size_bytes=GIB, wanted=wanted, shares=shares)


SEEN = Routes(seen=True)
UNWANTED = "the topology does not ask for it, and no server there holds it"
PASSED_BY = "wanted there, but no route sends requests there and no server holds it"
HOME = placed("us", rung=Rung.SERVING, shares=(("api", 50),))


@pytest.mark.parametrize(
    ("grid", "topology", "routes", "found"),
    [
        # wanted and on a route: a warm standby, not waste
        ([HOME, placed("eu")], TOPOLOGY, SEEN, []),
        ([HOME, placed("eu", wanted=False)], TOPOLOGY, SEEN, [("eu", UNWANTED)]),
        ([HOME, placed("ap")], TOPOLOGY, SEEN, [("ap", PASSED_BY)]),
        # a server holds it, whatever the topology says
        ([HOME, placed("eu", wanted=False, rung=Rung.LOADED)], TOPOLOGY, SEEN, []),
        # the last verified copy is never proposed
        ([placed("eu", wanted=False)], TOPOLOGY, SEEN, []),
        (
            [placed("us", integrity=Integrity.MISMATCH), placed("eu", wanted=False)],
            TOPOLOGY,
            SEEN,
            [],
        ),
        # nobody could see whether it is served
        (
            [HOME, placed("eu", wanted=False), placed("ap")],
            TOPOLOGY,
            Routes(seen=True, unknown=frozenset({("eu", "m"), ("ap", "m")})),
            [],
        ),
        ([HOME, placed("eu", wanted=False), placed("ap")], TOPOLOGY, Routes(seen=False), []),
        ([HOME, placed("eu", wanted=False, rung=Unknown("down"))], TOPOLOGY, SEEN, []),
        # without routes: only what nobody asks for
        ([HOME, placed("eu"), placed("ap")], NO_ROUTES, Routes(seen=False), []),
        (
            [HOME, placed("eu", wanted=False), placed("ap")],
            NO_ROUTES,
            Routes(seen=False),
            [("eu", UNWANTED)],
        ),
        # what is there in part has a cost too
        (
            [HOME, placed("eu", wanted=False, integrity=Integrity.PARTIAL)],
            NO_ROUTES,
            Routes(seen=False),
            [("eu", UNWANTED)],
        ),
        ([HOME, placed("eu", integrity=Integrity.ABSENT, rung=Rung.ABSENT)], TOPOLOGY, SEEN, []),
        # another version's copy is no copy of this one
        ([HOME, placed("eu", subject=V2, wanted=False)], NO_ROUTES, Routes(seen=False), []),
    ],
)
def test_replicas(
    grid: list[Placement], topology: str, routes: Routes, found: list[tuple[str, str]]
) -> None:
    told = list(
        of_grid(
            Grid(tuple(grid)),
            Topology.parse(topology),
            routes,
            pricing(),
            {"eu": "rm -r /eu/{prefix}"},
        )
    )
    assert [(each.where, each.why) for each in told] == found
    for each in told:
        assert each.command == ("rm -r /eu/models/m/v1/" if each.where == "eu" else "")


@pytest.mark.parametrize(
    ("days", "size", "kept", "monthly"),
    [
        (8, 100 * GIB, "", "2.00"),
        (8, None, "", "unknown"),
        (6, GIB, "", None),
        (60, GIB, "its key is no version's: another tool's, perhaps", None),
    ],
)
def test_uploads_of_the_platform(
    days: int, size: int | None, kept: str, monthly: str | None
) -> None:
    upload = Upload("us", "models/m/v1/w.bin", "u1", days_ago(days), size, kept)
    found = list(of_uploads([upload], pricing(), NOW))
    said = [
        "unknown" if isinstance(each.monthly, Unknown) else f"{each.monthly.value:.2f}"
        for each in found
    ]
    assert said == ([] if monthly is None else [monthly])


def finding(name: str, monthly: str | None = None, **other: object) -> Finding:
    known: Amount | Unknown = Unknown("no price")
    if monthly is not None:
        known = Amount(Decimal(monthly), "USD")
    return Finding(Waste.VOLUME, name, "us-east-1", "why", known, **other)  # type: ignore[arg-type]


def test_what_a_bill_says_goes_before_a_list() -> None:
    arn = "arn:aws:ec2:us-east-1:1:volume/vol-1"
    found = list(
        billed(
            [finding(arn, "8", at_most=True), finding("vol-2"), finding("vol-3")],
            {
                "vol-1": [Amount(Decimal("6.5"), "USD")],
                # In two currencies it has no one price.
                "vol-3": [Amount(Decimal(1), "USD"), Amount(Decimal(1), "EUR")],
            },
        )
    )
    assert [each.priced_by for each in found] == ["bill", "", ""]
    assert found[0].monthly == Amount(Decimal("6.5"), "USD")
    assert not found[0].at_most


def test_an_object_is_told_once_and_the_dearest_first() -> None:
    found = merged(
        [
            finding("vol-9"),
            finding("vol-1", "2", evidence=("asked",), command="aws …"),
            finding("vol-2", "30"),
            finding("arn:aws:ec2:us-east-1:1:volume/vol-1", "3", evidence=("billed",)),
        ]
    )
    assert [each.object for each in found] == ["vol-2", "vol-1", "vol-9"]
    assert found[1].evidence == ("asked", "billed")
    assert found[1].command == "aws …"
    assert totals(found) == ({"USD": Decimal(32)}, 1)


def test_replicas_of_one_version_are_several() -> None:
    one = Finding(Waste.REPLICA, "m@v1", "eu", "why", Unknown("x"))
    other = Finding(Waste.REPLICA, "m@v1", "ap", "why", Unknown("x"))
    assert merged([one, other]) == [other, one] or merged([one, other]) == [one, other]
