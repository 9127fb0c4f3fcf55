"""AWS Cost Explorer, as far as moto plays it: it answers what it was told to, in that order."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from mlplatform.adapters import cost_explorer
from mlplatform.adapters.cost_explorer import open_billing
from mlplatform.core.errors import Unavailable, UsageError
from mlplatform.core.store_url import StoreURL
from mlplatform.ports.billing import periods
from tests.real.servers.launch import Endpoint

POLICY = Path(__file__).parents[3] / "infra/iam/cost-explorer-aws.json"
TODAY = date(2026, 11, 3)


def parsed(text: str) -> StoreURL:
    return StoreURL.parse(text, noun="billing API")


def day(number: int, cost: str, *keys: str) -> dict[str, Any]:
    metrics = {name: {"Amount": cost, "Unit": "USD"} for name in ("UnblendedCost", "AmortizedCost")}
    return {
        "TimePeriod": {"Start": f"2026-11-{number:02}", "End": f"2026-11-{number + 1:02}"},
        "Total": {},
        "Groups": [{"Keys": list(keys), "Metrics": metrics}],
        "Estimated": True,
    }


Queue = Callable[..., None]


@pytest.fixture
def answers(moto: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Queue:
    """What is answered next, one after the other."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")

    def post(path: str, body: bytes) -> None:
        request = urllib.request.Request(
            f"{moto.url}/moto-api/{path}",
            data=body,
            headers={"Content-Type": "application/json"},
            method="POST",
        )
        urllib.request.urlopen(request, timeout=10).close()

    post("reset", b"")

    def queue(*told: dict[str, Any]) -> None:
        post("static/ce/cost-and-usage-results", json.dumps({"results": list(told)}).encode())

    return queue


def test_a_month_is_asked_for_in_two_halves(moto: Endpoint, answers: Queue) -> None:
    answers(
        {"ResultsByTime": [day(1, "10", "us-east-1", "EC2")], "NextPageToken": "more"},
        {"ResultsByTime": [day(2, "11", "us-east-1", "EC2")]},
        {"ResultsByTime": [day(1, "1", "Tax", "Tax")]},
    )
    api = open_billing(parsed(f"cost-explorer://?months=1&endpoint={moto.url}"))
    got: dict[str, Any] = {}
    count = api.fetch(TODAY, lambda name, body: got.update({name: json.loads(body)}))
    assert list(got) == ["2026-11/usage-1.json", "2026-11/usage-2.json", "2026-11/rest-1.json"]
    assert count == 3
    assert api.requests(TODAY) == 2, "pages cannot be known before"
    assert {each["Account"] for each in got.values()} == {"123456789012"}
    keys = [[group["Key"] for group in each["GroupDefinitions"]] for each in got.values()]
    assert keys == [["REGION", "SERVICE"], ["REGION", "SERVICE"], ["SERVICE", "RECORD_TYPE"]]
    assert got["2026-11/usage-2.json"]["ResultsByTime"] == [day(2, "11", "us-east-1", "EC2")]


@pytest.mark.parametrize(
    ("today", "months", "found"),
    [
        (date(2026, 11, 3), 1, [("2026-11-01", "2026-11-03")]),
        (
            date(2026, 11, 3),
            2,
            [("2026-10-01", "2026-11-01"), ("2026-11-01", "2026-11-03")],
        ),
        # on the first there is nothing of this month yet
        (date(2026, 11, 1), 2, [("2026-10-01", "2026-11-01")]),
        (date(2027, 1, 2), 2, [("2026-12-01", "2027-01-01"), ("2027-01-01", "2027-01-02")]),
    ],
)
def test_which_days_are_asked_for(today: date, months: int, found: list[tuple[str, str]]) -> None:
    assert [(str(since), str(until)) for since, until in periods(today, months)] == found


def test_it_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    api = open_billing(parsed("cost-explorer://?endpoint=http://127.0.0.1:9"))
    with pytest.raises(Unavailable):
        api.fetch(TODAY, lambda name, body: None)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("cost-explorer://account", "chosen by its credentials"),
        ("cost-explorer://?months=0", "months='0'"),
        ("cost-explorer://?months=many", "months='many'"),
        ("cost-explorer://?colour=red", "unknown option 'colour'"),
        ("cost-explorer://?profile=nobody-has-this", "nobody-has-this"),
    ],
)
def test_urls_that_cannot_be_right(url: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        open_billing(parsed(url))


def test_the_policy_names_what_is_asked() -> None:
    (statement,) = json.loads(POLICY.read_text())["Statement"]
    assert set(statement["Action"]) == {"ce:GetCostAndUsage", "sts:GetCallerIdentity"}
    source = Path(cost_explorer.__file__).read_text()
    assert set(re.findall(r"\.(get_\w+)\(", source)) == {
        "get_caller_identity",
        "get_cost_and_usage",
    }
