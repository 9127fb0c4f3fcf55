"""The page: what it says, that it agrees with the bill, and that nothing in a bill breaks it."""

from __future__ import annotations

import json
import re
from datetime import date
from decimal import Decimal

import pytest

from mlplatform.core.page.axes import axis
from mlplatform.cost.report.content import Incident
from mlplatform.cost.report.page import page
from tests.features.cost.bills import charge, days_from, month, tax, total, write_csv
from tests.features.cost.books import Books
from tests.html_page import Read

D = Decimal
DAY = date(2026, 11, 1)
KILOBYTES_300 = 300_000
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title></style><svg onload=alert(1)>",
    "javascript:alert(1)",
    "&lt;b&gt;",
)


def test_tables_agree_with_the_total(books: Books) -> None:
    charges = [*month(days_from(DAY, 10)), tax(date(2026, 11, 9), "7.5")]
    write_csv(books.bills / "bill.csv", charges)
    books.good()
    content = books.content(days=5)
    late = [each for each in charges if (each["ChargePeriodStart"] or "") >= "2026-11-06"]
    early = [each for each in charges if (each["ChargePeriodStart"] or "") < "2026-11-06"]
    assert content.total.cost == total(late)
    assert content.total.before == total(early)
    assert [each.dimension for each in content.breakdowns] == ["region", "service", "model", "team"]
    for each in content.breakdowns:
        assert sum(row.compared.cost for row in each.rows) == total(late)
        assert sum(row.compared.before or 0 for row in each.rows) == total(early)
    assert sum(bar.cost or 0 for bar in content.bars) == total(late)
    assert f"{total(late):,.2f}" in page(content)


def test_what_bills_hold_is_text(books: Books) -> None:
    rows = [
        charge(DAY, "1", RegionId=each, ServiceName=each, Tags=json.dumps({"team": each}))
        for each in HOSTILE
    ]
    write_csv(books.bills / "bill.csv", rows)
    books.good()
    incidents = [Incident(each, D(1), each, each) for each in HOSTILE]
    text = page(books.content(incidents=incidents))
    read = Read(text)
    assert not {"script", "img", "iframe", "object", "a", "link", "form"} & {
        name for name, _ in read.elements
    }
    assert not any(
        name.startswith("on") or name in {"src", "href"}
        for _, attributes in read.elements
        for name in attributes
    )
    assert read.open == []
    for each in HOSTILE:
        assert read.texts.count(each) >= 5
    (policy,) = [
        each["content"]
        for each in read.named("meta")
        if each.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_nothing_is_fetched(books: Books) -> None:
    write_csv(books.bills / "bill.csv", month(days_from(DAY, 3)))
    books.good()
    assert not re.search(r"https?:|url\(|@import", page(books.content()))


def test_every_chart_says_what_it_shows_and_has_its_figures_beside_it(books: Books) -> None:
    write_csv(books.bills / "bill.csv", month(days_from(DAY, 5)))
    books.good()
    read = Read(page(books.content(days=3)))
    charts = read.named("svg")
    assert charts
    assert all(each["role"] == "img" and each["aria-label"] for each in charts)
    assert len(read.named("details")) == 1
    assert {f"2026-11-{day:02}" for day in (3, 4, 5)} <= set(read.texts)


def test_a_large_bill_makes_no_large_page(books: Books) -> None:
    days = days_from(date(2026, 9, 1), 60)
    long = "x" * 4_000
    rows = [
        charge(
            day,
            "1.5",
            RegionId=f"r{number}<{long}",
            ServiceName=f"s{number}<{long}",
            Tags=json.dumps({"team": f"t{number}&{long}", "model": f"m{number}'{long}"}),
        )
        for day in days
        for number in range(40)
    ]
    periods: dict[str, list[dict[str, str | None]]] = {}
    for row in rows:
        periods.setdefault((row["BillingPeriodStart"] or "")[:7], []).append(row)
    for period, some in periods.items():
        write_csv(books.bills / f"{period}.csv", some)
    books.good()
    incidents = [Incident(long, D(1), long, "open") for _ in range(500)]
    content = books.content("region", "account", "sku", days=30, incidents=incidents)
    assert all(len(each.rows) <= 12 for each in content.breakdowns)
    assert content.breakdowns[0].rows[-1].rest == 29
    assert content.breakdowns[0].rows[-1].compared.cost == D("1.5") * 30 * 29
    text = page(content)
    assert "29 others" in text
    assert "And 450 more" in text
    assert len(text.encode()) < KILOBYTES_300


def test_a_year_is_drawn_in_fewer_bars(books: Books) -> None:
    write_csv(books.bills / "bill.csv", month(days_from(DAY, 3)))
    books.good()
    content = books.content(days=366)
    assert len(content.bars) == 92
    assert (content.bars[0].since, content.bars[-1].until) == (date(2025, 11, 3), date(2026, 11, 3))


def test_a_missing_day_is_no_zero_and_then_no_change_is_told(books: Books) -> None:
    days = [day for day in days_from(DAY, 6) if day.day != 5]
    write_csv(books.bills / "bill.csv", [charge(day, "1") for day in days])
    books.good()
    content = books.content(days=3)
    assert [bar.cost for bar in content.bars] == [1, None, 1]
    assert content.total.before is None
    assert content.days_known == 2
    text = page(content)
    assert "No bill has data of 2026-11-05" in text
    assert "no data" in text
    assert "unknown" in text


def test_provisional_days_are_marked_and_told(books: Books) -> None:
    write_csv(books.bills / "bill.csv", [charge(day, "1") for day in days_from(DAY, 6)])
    books.good()
    held = frozenset(days_from(date(2026, 11, 5), 2))
    text = page(books.content(days=3, provisional=held))
    assert "2026-11-05 to 2026-11-06: provisional" in text
    assert 'class="soft"' in text
    assert 'class="soft"' not in page(books.content(days=3))


def test_a_bill_that_ends_early_makes_days_incomplete(books: Books) -> None:
    rows = [charge(day, "1") for day in days_from(DAY, 6)]
    rows += [
        charge(day, "1", ProviderName="Google Cloud", BillingAccountId="01AB")
        for day in days_from(DAY, 4)
    ]
    write_csv(books.bills / "bill.csv", rows)
    books.good()
    content = books.content(days=3)
    assert [bar.provisional for bar in content.bars] == [False, True, True]
    assert any("Google Cloud 01AB ends on 2026-11-04" in each for each in content.left_out)
    provider = next(each for each in content.breakdowns if each.dimension == "provider")
    google = next(row for row in provider.rows if row.name == "Google Cloud")
    assert [slot.cost for slot in google.line] == [1, None, None]


def test_incidents_are_values_that_others_give(books: Books) -> None:
    write_csv(books.bills / "bill.csv", [charge(DAY)])
    books.good()
    assert "Unusual costs" not in page(books.content())
    assert "Nobody looked for unusual costs" in page(books.content())
    assert "None was found" in page(books.content(incidents=[]))
    told = Incident("eu-west-1 g5 hours doubled", D("412"), "with rollout 7f3", "open", DAY)
    text = page(books.content(incidents=[told, Incident("x", None, "y", "retracted")]))
    assert "+412.00 USD since 2026-11-01" in text
    assert "Amount unknown" in text


def test_tags_that_the_topology_does_not_name_are_told(books: Books) -> None:
    books.tags = {"team": ("team",)}
    write_csv(books.bills / "bill.csv", [charge(DAY)])
    books.good()
    assert any("nothing is told by model" in each for each in books.content().left_out)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        (["0"], "0", "1"),
        ([], "0", "1"),
        (["910"], "0", "1000"),
        (["0.00042"], "0", "0.0006"),
        (["-30", "70"], "-50", "75"),
        (["-3"], "-3", "0"),
        (["123456789"], "0", "150000000"),
    ],
)
def test_an_axis_has_zero_and_round_marks(values: list[str], low: str, high: str) -> None:
    scale = axis([D(each) for each in values])
    assert (scale.low, scale.high) == (D(low), D(high))
    assert D(0) in scale.ticks
    assert len(scale.ticks) <= 7


# --- By day -------------------------------------------------------------------------------------


def test_only_some_rows_are_asked_for_by_the_names_that_reports_have(books: Books) -> None:
    books.regions = {"us-east-1": "virginia", "use1": "virginia"}
    rows = [charge(DAY, "1"), charge(DAY, "2", RegionId="USE1"), charge(DAY, "4", RegionId="it's")]
    rows += [charge(DAY, "8", RegionId="", RegionName=""), charge(DAY, "16", RegionId="mars")]
    write_csv(books.bills / "bill.csv", rows)
    books.good()
    found = books.daily(
        "region",
        "team",
        since=DAY,
        until=DAY,
        only=[("virginia", "vision"), ("it's", "vision"), (None, "vision")],
    )
    assert {keys[0]: costs[DAY] for keys, costs in found.rows.items()} == {
        "virginia": 3,
        "it's": 4,
        None: 8,
    }


def test_a_day_on_which_a_row_has_no_charge_is_a_zero_if_its_bill_has_others(books: Books) -> None:
    rows = [charge(day, "1") for day in days_from(DAY, 3)]
    rows += [charge(DAY, "2", RegionId="mars")]
    write_csv(books.bills / "bill.csv", rows)
    books.good()
    found = books.daily("region", since=DAY, until=date(2026, 11, 4))
    assert list(found.rows["mars",].values()) == [2, 0, 0]
    assert list(found.total().values()) == [3, 1, 1]
    assert date(2026, 11, 4) not in found.covered
