"""A ledger that is delivered to every morning: what is there of a day grows, and alarms with it."""

from __future__ import annotations

import os
import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from mlplatform.cost.anomalies.findings import Rule
from mlplatform.cost.anomalies.records import Alarm, Answer, State
from mlplatform.cost.anomalies.watcher import Asked, Outlook, Watcher
from mlplatform.cost.engine import connect
from tests.features.cost.bills import Charge, charge, write_csv
from tests.features.cost.books import Books

FIRST = date(2026, 8, 3)
LATE = {0: Decimal("0.3"), 1: Decimal("0.7"), 2: Decimal("0.95")}
"""What is there of a day in the delivery of the same morning, of the next, …"""
REGIONS = ("us-east-1", "eu-west-1")


def cost_of(day: date, region: str, spikes: dict[date, float]) -> float:
    noise = random.Random(f"{day} {region}").gauss(1, 0.02)
    return 500 * noise * (spikes.get(day, 1.0) if region == "eu-west-1" else 1.0)


def deliver(books: Books, on: date, spikes: dict[date, float], **other: str) -> None:
    """The morning's delivery of the month that it is in and of the one before."""
    by_month: dict[str, list[Charge]] = {}
    for place in range((on - FIRST).days + 1):
        day = FIRST + timedelta(days=place)
        if (on - day).days > 45:
            continue
        share = LATE.get((on - day).days, Decimal(1))
        for region in REGIONS:
            cost = Decimal(f"{cost_of(day, region, spikes):.6f}") * share
            row = charge(day, f"{cost:.8f}", RegionId=region, **other)
            by_month.setdefault(f"{day:%Y-%m}", []).append(row)
    at = datetime(on.year, on.month, on.day, 6, tzinfo=UTC)
    for month, rows in by_month.items():
        path = write_csv(books.bills / month / "bill.csv", rows)
        os.utime(path, (at.timestamp(), at.timestamp()))
    books.now = at
    books.good()


def look(books: Books, asked: Asked | None = None) -> Outlook:
    with connect(books.folder / "scratch") as connection:
        found = watcher(books, connection).look(asked or Asked())
    assert found is not None
    return found


def watcher(books: Books, connection: object) -> Watcher:
    return Watcher(
        books.ledger,
        connection,  # type: ignore[arg-type]
        lambda key: books.folder / "ledger" / key,
        books.regions,
        list(books.tags),
        now=lambda: books.now,
    )


def region_of(alarm: Alarm) -> str | None:
    return alarm.where.get("region")


@pytest.fixture
def month(books: Books) -> Books:
    """Mornings of three weeks, the last one of them on Monday, 7 September."""
    for place in range(16, 36):
        deliver(books, FIRST + timedelta(days=place), {})
    return books


MONDAY = FIRST + timedelta(days=35)


def test_days_that_are_not_all_there_are_no_fall_and_the_curve_is_learnt(month: Books) -> None:
    outlook = look(month)
    assert outlook.alarms == ()
    curve = outlook.seen.curves["AWS"]
    assert curve.settled_days == 3
    assert [round(share.middle, 2) for _, share in curve.shares[:3]] == [0.3, 0.7, 0.95]
    assert outlook.seen.provisional() == [MONDAY - timedelta(days=each) for each in (2, 1, 0)]


def test_an_alarm_on_a_day_that_is_not_all_there_is_open_and_then_confirmed(month: Books) -> None:
    look(month)
    spikes = {MONDAY: 1.6}
    seen: list[Alarm] = []
    for after in (1, 2, 3):
        deliver(month, MONDAY + timedelta(days=after), spikes)
        seen += look(month).alarms
    assert {(each.id, region_of(each), each.since) for each in seen} == {
        (seen[0].id, "eu-west-1", MONDAY)
    }
    assert [each.state for each in seen] == [State.OPEN, State.OPEN, State.CONFIRMED]
    first, second, third = seen[-1].story
    assert first.cost is not None
    assert first.cost < first.likely  # 70 % of it, and it is judged as what it will be
    assert float(first.likely) == pytest.approx(cost_of(MONDAY, "eu-west-1", spikes), rel=0.02)
    assert third.cost == pytest.approx(third.likely, abs=Decimal("0.01"))
    assert first.deliveries[0].startswith("AWS 111122223333 2026-09, delivery ")
    assert second.at < third.at


def test_what_is_said_twice_of_one_ledger_is_the_same_and_nothing_new_is_kept(
    month: Books,
) -> None:
    deliver(month, MONDAY + timedelta(days=1), {MONDAY: 1.6})
    first = look(month)
    kept = sorted(stat.key for stat in month.ledger.store.list("alarms/"))
    again = look(month)
    assert first.alarms == again.alarms
    assert sorted(stat.key for stat in month.ledger.store.list("alarms/")) == kept


def test_other_questions_have_alarms_of_their_own(books: Books) -> None:
    deliver(books, MONDAY + timedelta(days=3), {MONDAY: 1.7})
    by_region = look(books, Asked(by=("region",)))
    (alarm,) = by_region.alarms
    assert alarm.where == {"region": "eu-west-1"}
    assert set(look(books).alarms[0].where) > {"region"}
    old = look(books, Asked(by=("region",), rule=Rule.DAY_OVER_DAY)).alarms
    assert [each.since for each in old if each.state.stands] == [MONDAY]


def test_what_is_answered_of_one_tree_is_known_in_another(books: Books) -> None:
    deliver(books, MONDAY + timedelta(days=3), {MONDAY: 1.7})
    with connect(books.folder / "scratch") as connection:
        watching = watcher(books, connection)
        watching.say(Answer.PLANNED, {"region": "eu-west-1"}, MONDAY, MONDAY, by="me")
        for asked in (Asked(), Asked(by=("region",))):
            found = watching.look(asked)
            assert found is not None
            assert found.alarms == ()


def test_regions_have_the_topology_s_names(books: Books) -> None:
    books.regions = {"eu-west-1": "ireland"}
    deliver(books, MONDAY + timedelta(days=3), {MONDAY: 1.7})
    assert [region_of(each) for each in look(books).alarms] == ["ireland"]


def test_an_empty_ledger_is_nothing(books: Books) -> None:
    with connect(books.folder / "scratch") as connection:
        assert watcher(books, connection).look(Asked()) is None
