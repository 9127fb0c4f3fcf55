"""Which days are final, which are provisional, and why."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from mlplatform.cost.ledger import PeriodStatus
from mlplatform.cost.restatement.curves import Curve, Share
from mlplatform.cost.restatement.finality import Because, finality, is_closed

from .deliveries import delivery

DAY = date(2026, 10, 10)
SLOW = Curve(((1, Share(0.5, 0.6, 0.7)), (3, Share(1.0, 1.0, 1.0))))
NEVER = Curve(((1, Share(0.2, 0.3, 0.4)), (3, Share(0.9, 0.95, 1.0))))


@pytest.mark.parametrize(
    ("on", "curve", "closed", "invoiced", "because", "final", "judged"),
    [
        # of a provider of which nothing is known
        (date(2026, 10, 10), None, False, False, Because.UNFINISHED, False, False),
        (date(2026, 10, 11), None, False, False, Because.UNKNOWN, False, True),
        (date(2026, 10, 30), None, False, False, Because.UNKNOWN, False, True),
        (date(2026, 11, 9), None, False, False, Because.UNKNOWN, False, True),
        (date(2026, 11, 11), None, False, False, Because.OVER, True, True),
        # of one whose deliveries are known
        (date(2026, 10, 11), SLOW, False, False, Because.YOUNG, False, True),
        (date(2026, 10, 13), SLOW, False, False, Because.SETTLED, True, True),
        (date(2026, 10, 11), NEVER, False, False, Because.YOUNG, False, False),
        (date(2026, 10, 25), NEVER, False, False, Because.YOUNG, False, True),
        # what the issuer says outranks what is likely
        (date(2026, 10, 11), SLOW, True, False, Because.CLOSED, True, True),
        (date(2026, 10, 11), SLOW, False, True, Because.INVOICED, True, True),
    ],
)
def test_a_day(
    on: date,
    curve: Curve | None,
    closed: bool,
    invoiced: bool,
    because: Because,
    final: bool,
    judged: bool,
) -> None:
    found = finality(DAY, delivery(on, {DAY: 100}, invoiced=invoiced), curve=curve, closed=closed)
    assert (found.because, found.final, found.judged) == (because, final, judged)


@pytest.mark.parametrize(
    ("first_on", "first", "second", "final"),
    [
        (date(2026, 10, 14), 100, 100, True),
        (date(2026, 10, 14), 99.5, 100, True),
        (date(2026, 10, 14), 90, 100, False),
        (date(2026, 10, 14), 160, 100, False),
        (date(2026, 10, 12), 100, 100, False),  # both may lack the same
    ],
)
def test_a_later_delivery_that_says_the_same_makes_a_day_final(
    first_on: date, first: float, second: float, final: bool
) -> None:
    before = [delivery(first_on, {DAY: first})]
    found = finality(DAY, delivery(date(2026, 10, 16), {DAY: second}, number=2), before=before)
    assert found.final is final


@pytest.mark.parametrize(
    ("issuer", "period", "status", "updated", "closed"),
    [
        ("AWS", "2026-10", "Closed", 20, True),
        ("aws", "2026-10", "closed", 20, True),
        ("AWS", "2026-10", "Open", 20, False),
        ("AWS", "2026-09", "Closed", 20, False),
        ("Another", "2026-10", "Closed", 20, False),
        ("AWS", "2026-10", "Closed", 25, False),  # what was delivered is older than that
    ],
)
def test_a_period_that_is_closed(
    issuer: str, period: str, status: str, updated: int, closed: bool
) -> None:
    at = datetime(2026, 10, updated, tzinfo=UTC)
    told = PeriodStatus(issuer=issuer, period=period, status=status, updated=at, imported=at)
    found = is_closed(delivery(date(2026, 10, 21), {DAY: 1}), {(issuer, period): told})
    assert found is closed
