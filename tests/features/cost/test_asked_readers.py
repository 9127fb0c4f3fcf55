"""What is asked of APIs, as it is answered: OpenCost's allocations and AWS Cost Explorer."""

from __future__ import annotations

import gzip
import json
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from mlplatform.core.errors import UsageError
from mlplatform.cost.readers.allocations import is_answer, unfold
from tests.features.cost.books import Books

Allocation = dict[str, Any]


def allocation(name: str, day: date, **costs: Any) -> Allocation:
    """As OpenCost 1.1xx answers it, for one step of a day."""
    start, end = f"{day}T00:00:00Z", f"{day + timedelta(days=1)}T00:00:00Z"
    namespace = name.partition("/")[0]
    known = {
        "name": name,
        "properties": {
            "cluster": "us-east-1",
            "namespace": namespace,
            "labels": {"team": "vision", "mlplatform_model": "resnet50"},
        },
        "window": {"start": start, "end": end},
        "start": start,
        "end": end,
        "minutes": 1440,
        "cpuCoreHours": 24,
        "cpuCost": 0.1,
        "cpuCostAdjustment": 0,
        "gpuHours": 0,
        "gpuCost": 0,
        "networkCost": 0,
        "networkCrossZoneCost": 0,
        "networkCrossRegionCost": 0,
        "networkInternetCost": 0,
        "pvs": {"cluster=us-east-1:name=pv-1": {"byteHours": 3, "cost": 0.2}},
        **costs,
    }
    fields = [
        *("cpuCost", "cpuCostAdjustment", "gpuCost", "gpuCostAdjustment", "ramCost", "pvCost"),
        *("networkCost", "networkCostAdjustment", "loadBalancerCost", "sharedCost"),
        "externalCost",
    ]
    return {"totalCost": sum(known.get(each, 0) for each in fields), **known}


def answer(*steps: list[Allocation] | None, **more: Any) -> str:
    data = [None if step is None else {each["name"]: each for each in step} for step in steps]
    return json.dumps({"code": 200, **more, "data": data})


ONE, TWO = date(2026, 11, 1), date(2026, 11, 2)


def test_allocations_by_day_and_by_what_they_are_for(books: Books) -> None:
    (books.bills / "allocation.json").write_text(
        answer(
            [
                allocation("ml/resnet", ONE, gpuCost=19.2, gpuHours=24, cpuCostAdjustment=-0.02),
                allocation("__idle__", ONE, cpuCost=3.5),
            ],
            [
                allocation(
                    "ml/resnet",
                    TWO,
                    pvCost=0.2,
                    networkCost=0.6,
                    networkCrossZoneCost=0.1,
                    networkCrossRegionCost=0.4,
                    networkCostAdjustment=0.05,
                    loadBalancerCost=0.6,
                )
            ],
            None,
        )
    )
    (imported,) = books.good()
    assert str(imported.delivery.bill) == "OpenCost us-east-1"
    assert imported.delivery.shape == "opencost"
    assert books.costs("meter", cost="effective") == {
        "gpu": Decimal("19.2"),
        "cpu": Decimal("0.08") + Decimal("3.5") + Decimal("0.1"),
        "volume": Decimal("0.2"),
        "network-cross-zone": Decimal("0.1"),
        "network-cross-region": Decimal("0.4"),
        "network": Decimal("0.15"),
        "load-balancer": Decimal("0.6"),
    }
    assert set(books.costs("day", cost="effective")) == {"2026-11-01", "2026-11-02"}
    assert books.costs("resource", cost="effective")["__idle__"] == Decimal("3.5")
    assert set(books.costs("account", cost="effective")) == {"ml", "__idle__"}
    assert books.costs("team", cost="effective") == {"vision": Decimal("24.33")}
    assert books.costs("model", cost="effective") == {"resnet50": Decimal("24.33")}
    # Nobody is invoiced by OpenCost.
    assert books.report(cost="billed").total == 0


def test_the_total_is_opencost_s_own_whatever_it_is_made_of(books: Books) -> None:
    told = allocation("ml/x", ONE, cpuCost=1.0)
    (books.bills / "allocation.json").write_text(answer([{**told, "totalCost": 1.75}]))
    books.good()
    assert books.costs("meter", cost="effective") == {"cpu": 1, "other": Decimal("0.75")}


@pytest.mark.parametrize("shares", [0.1 + 0.2, 1 / 3, 1e-7 + 2])
def test_binary_fractions_leave_no_rest(books: Books, shares: float) -> None:
    told = allocation("ml/x", ONE, cpuCost=shares, gpuCost=shares / 3, ramCost=shares / 7)
    (books.bills / "allocation.json").write_text(answer([told]))
    books.good()
    assert set(books.costs("meter", cost="effective")) == {"cpu", "gpu", "ram"}


def test_its_currency_is_the_dollar_unless_it_is_said(books: Books) -> None:
    books.currency = "EUR"
    (books.bills / "allocation.json").write_text(
        answer([allocation("ml/x", ONE, cpuCost=2.0)], currency="EUR")
    )
    books.good()
    assert books.report(cost="effective").total == 2


def test_thousands_of_allocations_are_one_document(books: Books) -> None:
    """Names for keys, a document longer than a line may be, and compressed."""
    several = [allocation(f"ns-{n}/pod-{n}", ONE, cpuCost=0.5) for n in range(9000)]
    text = answer(several)
    assert len(text) > 5 << 20, "longer than a line of JSON may be"
    with gzip.open(books.bills / "allocation.json.gz", "wt") as file:
        file.write(text)
    books.good()
    assert books.report("meter", cost="effective").total == 4500


def test_an_answer_without_allocations_is_no_error(books: Books) -> None:
    (books.bills / "allocation.json").write_text(answer([], None))
    assert books.good() == []


def test_an_answer_that_was_cut_is_refused(books: Books) -> None:
    text = answer([allocation("ml/x", ONE)])
    (books.bills / "allocation.json").write_text(text[: len(text) // 2])
    outcome = books.take()
    assert not outcome.imported
    assert "allocation.json" in outcome.errors[0][0] or "allocation" in str(outcome.errors[0][1])


def explored(
    keys: list[str], *days: tuple[date, list[tuple[list[str], str, str]]], account: str | None = "1"
) -> str:
    """As `aws ce get-cost-and-usage` prints it."""
    told: dict[str, Any] = {
        "GroupDefinitions": [{"Type": "DIMENSION", "Key": key} for key in keys],
        "ResultsByTime": [
            {
                "TimePeriod": {"Start": str(day), "End": str(day + timedelta(days=1))},
                "Total": {},
                "Groups": [
                    {
                        "Keys": named,
                        "Metrics": {
                            "UnblendedCost": {"Amount": unblended, "Unit": "USD"},
                            "AmortizedCost": {"Amount": amortised, "Unit": "USD"},
                        },
                    }
                    for named, unblended, amortised in groups
                ],
                "Estimated": True,
            }
            for day, groups in days
        ],
        "DimensionValueAttributes": [],
    }
    if account is not None:
        told["Account"] = account
    return json.dumps(told)


def test_cost_explorer_by_region_and_service(books: Books) -> None:
    folder = books.bills / "2026-11"
    folder.mkdir()
    (folder / "usage-1.json").write_text(
        explored(
            ["REGION", "SERVICE"],
            (
                ONE,
                [
                    (["us-east-1", "Amazon EC2"], "10.123456789012", "8"),
                    (["NoRegion", "AWS Cost Explorer"], "0.02", "0.02"),
                ],
            ),
            (TWO, [(["eu-west-1", "Amazon EC2"], "5", "5")]),
        )
    )
    (folder / "rest-1.json").write_text(
        explored(
            ["SERVICE", "RECORD_TYPE"],
            (
                ONE,
                [
                    (["Tax", "Tax"], "1.5", "1.5"),
                    (["Amazon EC2", "Credit"], "-2", "-2"),
                    (["Amazon EC2", "Refund"], "-0.5", "-0.5"),
                    (["Savings Plans", "SavingsPlanRecurringFee"], "4", "1"),
                ],
            ),
        )
    )
    (imported,) = books.good()
    assert str(imported.delivery.bill) == "AWS 1"
    assert imported.delivery.shape == "cost-explorer"
    assert books.costs("region", cost="billed") == {
        "us-east-1": Decimal("10.123456789012"),
        "eu-west-1": Decimal(5),
        None: Decimal("0.02") + Decimal("1.5") - 2 - Decimal("0.5") + 4,
    }
    report = books.report(cost="effective")
    kinds = {each.kind.value: (each.billed, each.shown) for each in report.reconciled}
    assert kinds["tax"] == (Decimal("1.5"), Decimal("1.5"))
    assert kinds["credits"] == (Decimal(-2), Decimal(-2))
    assert kinds["corrections"] == (Decimal("-0.5"), Decimal("-0.5"))
    assert kinds["purchases"] == (Decimal(4), Decimal(1))
    assert kinds["usage"][1] == Decimal("13.02")


def test_a_total_without_groups_is_a_charge_without_a_service(books: Books) -> None:
    told = json.loads(explored([], (ONE, []), account=None))
    told["ResultsByTime"][0]["Total"] = {"UnblendedCost": {"Amount": "7", "Unit": "USD"}}
    (books.bills / "asked.json").write_text(json.dumps(told))
    books.good()
    assert books.costs("service", cost="billed") == {None: 7}
    assert books.report(cost="effective").unknown == 1, "what nobody asked for is unknown"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('{"code":200,"data":[{"a":{"x":1.10}},{"b/c":{}}]}', ["a", "b/c"]),
        ('{"code":200,"data":[]}', []),
        ('{"code":200,"data":null}', []),
        ('{"code": 200, "data": [null, {}, {"a": null}], "message": "x"}', []),
        (
            '{\n "code": 200,\n "data": [\n  {\n   "a\\n\u00e4": {\n    "x": 1\n   }\n  }\n ]\n}',
            ["a\n\u00e4"],
        ),
    ],
)
def test_answers_are_unfolded(text: str, names: list[str], tmp_path: Path) -> None:
    assert is_answer(text.encode())
    unfold(text.encode(), tmp_path / "lines", "it")
    lines = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    assert [line["allocation_name"] for line in lines] == names
    if names == ["a", "b/c"]:
        assert '"x":1.10' in (tmp_path / "lines").read_text(), "not a digit is lost"


@pytest.mark.parametrize(
    "text",
    [
        '{"code":200,"data":[{"a":{"x":1}',
        '{"code":200,"data":[{"a" {"x":1}}]}',
        '{"code":200,"data":[{"a":{"x":1}} {"b":{}}]}',
        '{"code":200,"data":[' + "[" * 100_000,
    ],
)
def test_what_is_no_whole_answer(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it: no whole answer"):
        unfold(text.encode(), tmp_path / "lines", "it")


def test_other_documents_are_no_answers() -> None:
    assert not is_answer(b'{"data": [], "code": 200}')
    assert not is_answer(b'[{"code": 200}]')
