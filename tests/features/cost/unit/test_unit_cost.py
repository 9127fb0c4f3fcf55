"""Unit cost: counters that restart, days that are unknown, and what is never guessed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mlplatform.adapters.prometheus import Prometheus
from mlplatform.core.cost import Counters
from mlplatform.core.errors import UsageError
from mlplatform.cost.unit.asking import STEP_SECONDS, ask
from mlplatform.cost.unit.counters import Served, by_day, joined
from mlplatform.cost.unit.files import read_counts, read_nodes
from mlplatform.cost.unit.unit_cost import UnitCost, unit_costs
from mlplatform.ports.measurements import Line
from tests.features.cost.bills import days_from
from tests.features.cost.gpus.two_days import midnight
from tests.real.servers.catalogue import prometheus as start_prometheus
from tests.real.servers.launch import Endpoint, running

D = Decimal
DAY = date(2026, 11, 10)
MIDNIGHT = datetime(2026, 11, 10, tzinfo=UTC).timestamp()
HOUR = 3600.0


def line(*values: float, first_hour: float = 0, server: str = "a", every: float = 6) -> Line:
    """A counter's samples, some hours apart."""
    samples = tuple(
        (MIDNIGHT + (first_hour + place * every) * HOUR, value)
        for place, value in enumerate(values)
    )
    return Line({"server": server}, samples)


@pytest.mark.parametrize(
    ("why", "lines", "counted"),
    [
        ("it rises", [line(100, 110, 120, 130, 140)], [40]),
        ("two days", [line(0, 1, 2, 3, 4, 10, 20, 30, 40)], [4, 36]),
        ("midnight's sample ends the day before", [line(0, 9, first_hour=18)], [9]),
        ("it starts again from nothing", [line(100, 120, 5, 8)], [28]),
        ("it restarts twice", [line(50, 10, 4, 6)], [16]),
        ("a server that was started has counted from nothing", [line(7, 9, first_hour=6)], [9]),
        ("one that was there counts from then on", [line(7, 9)], [2]),
        ("servers are added up", [line(0, 5), line(10, 13, server="b")], [8]),
        ("one ends, one begins", [line(0, 5), line(2, 4, first_hour=12, server="b")], [9]),
        ("a gap is bridged", [line(0, math.nan, math.nan, 12)], [12]),
        (
            "a gap across midnight falls on the day that ends it",
            [line(0, 12, every=30)],
            [None, 12],
        ),
        ("nothing but NaN", [line(math.nan, math.nan)], []),
        ("no growth is a zero", [line(5, 5, 5)], [0]),
        ("nothing", [], []),
    ],
)
def test_counters(why: str, lines: list[Line], counted: list[int | None]) -> None:
    found = by_day(lines, MIDNIGHT, STEP_SECONDS)
    days = days_from(DAY, len(counted))
    assert found == {
        day: count for day, count in zip(days, counted, strict=True) if count is not None
    }, why


def test_pieces_are_joined_by_their_labels() -> None:
    first, second = line(1, 2), line(2, 3, first_hour=6)
    (whole,) = joined([[first], [second]])
    assert [value for _, value in whole.samples] == [1, 2, 3]


class Remembered:
    """A monitoring system's history, as values."""

    url = "memory"

    def __init__(self, **series: list[Line]) -> None:
        self.series = series

    def range(
        self, query: str, *, since: float, until: float, step_seconds: float
    ) -> tuple[Line, ...]:
        return tuple(
            Line(each.labels, tuple(pair for pair in each.samples if since <= pair[0] <= until))
            for each in self.series.get(query, [])
        )


def of(region: str, *values: float, **how: Any) -> Line:
    return Line({"model": "resnet50", "region": region}, line(*values, **how).samples)


def test_what_is_asked() -> None:
    history = Remembered(
        model_serving_requests_total=[of("use1", 0, 10, 20, 30, 40, 50), of("eu", 0, 1)],
        prompt=[of("us", 0, 100)],
        generated=[of("us", 0, 50)],
    )
    counters = Counters(tokens=("prompt", "generated"))
    found = ask(history, counters, "region", {"use1": "us"}, days_from(DAY, 2))
    assert found == {
        ("resnet50", "us"): {DAY: Served(D(40), D(150)), date(2026, 11, 11): Served(D(10), None)},
        ("resnet50", "eu"): {DAY: Served(D(1), None)},
    }


def test_a_history_that_begins_later_has_no_first_day() -> None:
    history = Remembered(
        model_serving_requests_total=[of("us", 900, 910, 920, 930, 940, first_hour=10)]
    )
    found = ask(history, Counters(), "region", {}, days_from(DAY, 2))
    assert found == {("resnet50", "us"): {date(2026, 11, 11): Served(D(20), None)}}


@pytest.fixture(scope="module")
def two_days(prometheus: Endpoint) -> Iterator[str]:
    """A Prometheus that holds two days of a server that restarts, up to last midnight."""
    end = midnight().timestamp()
    lines = ["# TYPE model_serving_requests counter"]
    for step in range(2 * 288 + 1):
        value = step * 10 if step < 400 else (step - 400) * 10
        at = end - (2 * 288 - step) * 300
        lines.append(
            f'model_serving_requests_total{{model="resnet50",region="us"}} {value} {at:.3f}'
        )
    text = "\n".join([*lines, "# EOF"]) + "\n"
    with running("prometheus", start=partial(start_prometheus, history=text)) as endpoint:
        yield endpoint.url


def test_a_real_prometheus(two_days: str) -> None:
    today = midnight().date()
    days = [today - timedelta(days=2), today - timedelta(days=1)]
    found = ask(Prometheus(two_days), Counters(), "region", {}, days)
    # Between the last sample before the restart and it nothing is known to have been counted.
    assert {day: each.requests for day, each in found["resnet50", "us"].items()} == {
        days[0]: 2880,
        days[1]: 2870,
    }
    assert ask(Prometheus(two_days), Counters(requests="nothing"), "region", {}, days) == {}
    with pytest.raises(UsageError):
        Prometheus(two_days).range("sum(", since=0, until=1, step_seconds=1)


# --- The price of a unit ------------------------------------------------------------------------

PLACE = ("resnet50", "us")


def one(costs: dict[date, Any] | None, served: dict[date, Served] | None) -> UnitCost:
    (found,) = unit_costs(
        {} if costs is None else {PLACE: {day: D(str(cost)) for day, cost in costs.items()}},
        {} if served is None else {PLACE: served},
        days_from(DAY, 3),
    )
    return found


FIRST, SECOND, THIRD = days_from(DAY, 3)


@pytest.mark.parametrize(
    ("why", "costs", "served", "price", "days"),
    [
        ("as it should be", {FIRST: 10, SECOND: 20}, {FIRST: 5000, SECOND: 10000}, "2", 2),
        (
            "a day without counts is left out of both",
            {FIRST: 10, SECOND: 99},
            {FIRST: 5000},
            "2",
            1,
        ),
        ("a day without a cost too", {FIRST: 10}, {FIRST: 5000, SECOND: 7777}, "2", 1),
        ("another time's", {FIRST: 10}, {date(2026, 1, 1): 5}, None, 0),
        ("no counter", {FIRST: 10}, None, None, 0),
        ("a counter that says nothing of requests", {FIRST: 10}, {FIRST: None}, None, 0),
        ("no cost in the bill", None, {FIRST: 5000}, None, 0),
        ("idle: there is no price of nothing", {FIRST: 10}, {FIRST: 0}, None, 1),
        ("free", {FIRST: 0}, {FIRST: 1000}, "0", 1),
        ("an idle day costs, too", {FIRST: 10, SECOND: 10}, {FIRST: 10000, SECOND: 0}, "2", 2),
    ],
)
def test_a_thousand_requests(
    why: str,
    costs: dict[date, int] | None,
    served: dict[date, int | None] | None,
    price: str | None,
    days: int,
) -> None:
    counts = {
        day: Served(None if count is None else D(count)) for day, count in (served or {}).items()
    }
    found = one(costs, counts or None)
    assert found.requests.price == (None if price is None else D(price)), why
    assert found.requests.days == days
    assert (found.cost is None) is (costs is None)


def test_a_million_tokens() -> None:
    found = one({FIRST: 3}, {FIRST: Served(None, D(1_500_000))})
    assert found.tokens.price == 2
    assert found.requests.price is None


# --- Files --------------------------------------------------------------------------------------

COUNTS = "day,model,region,requests,tokens\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "counts"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        COUNTS + "2026-11-10,m,USE1,5,\n2026-11-10,m,us,7,\n",
        "model,requests,day,region\nm,12,2026-11-10,us\n",
        '[{"day": "2026-11-10", "model": "m", "region": "use1", "requests": 12, "tokens": null}]',
    ],
)
def test_counts_from_a_file(text: str, tmp_path: Path) -> None:
    found = read_counts(write(tmp_path, text), {"use1": "us"})
    assert found == {("m", "us"): {DAY: Served(D(12), None)}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("day,model\n", "no region"),
        (COUNTS + "today,m,us,1,\n", "line 2.*today"),
        (COUNTS + "2026-11-10,m,us,-1,\n", "line 2.*requests"),
        (COUNTS + "2026-11-10,m,us,many,\n", "many"),
        (COUNTS + "2026-11-10,m,us,NaN,\n", "NaN"),
        (COUNTS + "2026-11-10,,us,1,\n", "model is empty"),
        ("[1]", "no list of objects"),
        ("{", "list of objects|Expecting"),
        ('[{"day": "2026-11-10"}]', "object 1: no model"),
        ('[{"day": "2026-11-10", "model": "m", "region": "r", "requests": true}]', "True"),
    ],
)
def test_a_file_of_counts_that_is_wrong(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        read_counts(write(tmp_path, text), {})


def test_a_file_of_nodes(tmp_path: Path) -> None:
    text = "name,cost,gpus,allocated,warm,utilisation\ng5,10,24,,,0\n"
    (found,) = read_nodes(write(tmp_path, text))
    assert (found.cost, found.allocated, found.utilisation) == (D(10), None, D(0))
    with pytest.raises(UsageError, match="cost"):
        read_nodes(write(tmp_path, "name,cost,gpus\ng5,,24\n"))
