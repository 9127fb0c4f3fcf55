"""The demo's bill tells its story on whatever day it is told."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from mlplatform.cli.demo.bill import Cloud, Day
from mlplatform.cli.demo.cost import AFTER, BEFORE, MODEL, SCALED
from mlplatform.cost.anomalies.records import State
from mlplatform.cost.anomalies.watcher import Asked, Outlook, Watcher
from mlplatform.cost.engine import connect
from tests.features.cost.books import Books

SIZES = {("us-east-1", MODEL): 3_100_000, (SCALED, MODEL): 3_100_000}


def look(books: Books) -> Outlook:
    with connect(books.folder / "scratch") as connection:
        found = Watcher(
            books.ledger,
            connection,
            lambda key: books.folder / "ledger" / key,
            books.regions,
            list(books.tags),
            now=lambda: books.now,
        ).look(Asked())
    assert found is not None
    return found


@pytest.mark.parametrize(
    "today",
    [
        date(2026, 11, 21),
        date(2026, 12, 1),  # yesterday is the end of a month
        date(2026, 12, 2),  # yesterday is the beginning of one, and of a new period
        date(2027, 1, 4),  # a Monday: yesterday was a Sunday
        date(2028, 3, 1),
    ],
    ids=str,
)
def test_the_jump_is_found_and_taken_back(today: date, tmp_path: Path) -> None:
    books = Books(tmp_path)
    yesterday = today - timedelta(days=1)
    cloud = Cloud.until(yesterday, SIZES)
    books.now = datetime(today.year, today.month, today.day, 6, tzinfo=UTC)

    def deliver(last: date, hours: float) -> Outlook:
        days = {yesterday: Day({(SCALED, MODEL): hours})}
        cloud.deliver(books.bills, last, days, books.now)
        books.good()
        return look(books)

    assert deliver(yesterday - timedelta(days=1), 0).alarms == ()
    (found,) = deliver(yesterday, 12.0 * (AFTER - BEFORE)).alarms
    assert found.state is State.OPEN
    assert (found.since, found.until) == (yesterday, yesterday)
    assert (found.where["region"], found.where["model"]) == (SCALED, MODEL)
    (now,) = deliver(yesterday, 2 / 3 * (AFTER - BEFORE)).alarms
    assert (now.id, now.state) == (found.id, State.RETRACTED)
    assert now.story[0].cost is not None
    assert now.now.cost is not None
    assert now.now.cost < now.story[0].cost
