"""Budgets: when one stands, who has acknowledged it, and currencies."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from mlplatform.adapters.memory import MemoryStore
from mlplatform.core.cost import Budget, Cost
from mlplatform.core.errors import UsageError
from mlplatform.cost.budgets.acknowledging import Acknowledgement, Acknowledgements, holding
from mlplatform.cost.budgets.holding import judge_all
from mlplatform.cost.budgets.judging import Judgement, State
from mlplatform.cost.open_days import partial_days
from mlplatform.cost.rates import Rates
from tests.features.cost.bills import Charge, charge, days_from, write_csv
from tests.features.cost.books import Books

D = Decimal
LAST = date(2026, 11, 20)
EVENING = datetime(2026, 11, 20, 22, tzinfo=UTC)


def deliver(books: Books, rows: list[Charge], at: datetime | None = None) -> None:
    for period in sorted({(row["BillingPeriodStart"] or "")[:7] for row in rows}):
        some = [row for row in rows if (row["BillingPeriodStart"] or "").startswith(period)]
        path = write_csv(books.bills / f"{period}.csv", some)
        if at is not None:
            os.utime(path, (at.timestamp(), at.timestamp()))
    books.good()


def steady(days: int, cost: str = "10", **other: Any) -> list[Charge]:
    """Days of the same cost, but for a cent or so, until the last."""
    first = LAST - timedelta(days=days - 1)
    return [
        charge(day, str(D(cost) * (1 + D(day.toordinal() % 5) / 1000)), **other)
        for day in days_from(first, days)
    ]


def judged(books: Books, **section: Any) -> Judgement:
    with books.spender() as spender:
        (found,) = judge_all({"it": Budget(**section)}, spender, books.ledger.current())
    return found


@dataclass(frozen=True)
class Case:
    """What was spent, the budget, and what is to be said of it."""

    why: str
    budget: dict[str, Any]
    state: State
    days: int = 90


CASES = (
    Case("200 of 300 are spent, 300.6 will be: a coin's toss", {"amount": 301}, State.WITHIN),
    Case("the month will come to 300.6", {"amount": 280}, State.FORECAST),
    Case("200.4 are spent", {"amount": 200}, State.EXCEEDED),
    Case("far off", {"amount": 10_000}, State.WITHIN),
    Case("within, and not sure enough yet", {"amount": 298, "confidence": 99.9}, State.WITHIN),
    Case("a day costs 10", {"amount": 9, "per": "day"}, State.EXCEEDED),
    Case("a day costs 10, and 12 are allowed", {"amount": 12, "per": "day"}, State.WITHIN),
    Case("a region that spends all", {"amount": 200, "region": "us-east-1"}, State.EXCEEDED),
    Case("a region that spends nothing", {"amount": 200, "region": "mars"}, State.WITHIN),
    Case("all of its scope at once", {"amount": 1, "region": "mars", "team": "vision"}, State(0)),
    Case("a team", {"amount": 1, "team": "vision"}, State.EXCEEDED),
    Case("two days known: nothing to forecast from", {"amount": 100}, State.UNKNOWN, days=2),
    Case("one day known, and above", {"amount": 9}, State.EXCEEDED, days=1),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.why)
def test_a_budget(case: Case, books: Books) -> None:
    deliver(books, steady(case.days))
    assert judged(books, **case.budget).state is case.state


def test_a_month_is_spent_and_forecast(books: Books) -> None:
    deliver(books, steady(90))
    found = judged(books, amount=1000)
    assert (found.period, found.spent_until) == ("2026-11", LAST)
    assert found.spent == sum((D(row["BilledCost"] or 0) for row in steady(20)), D(0))
    assert found.expected is not None
    assert found.between is not None
    assert abs(found.expected - 300) < 3
    assert found.between.low < found.expected < found.between.high


def test_the_next_day_of_a_daily_budget_is_forecast(books: Books) -> None:
    weekend = steady(88)  # ends on a Friday: Saturdays cost five times as much
    for row in weekend:
        day = date.fromisoformat((row["ChargePeriodStart"] or "")[:10])
        if day.weekday() == 5:
            row["EffectiveCost"] = "50"
    deliver(books, weekend)
    found = judged(books, amount=30, per="day")
    assert found.period == "2026-11-20"
    assert found.state is State.FORECAST


def test_each_cost_is_its_own(books: Books) -> None:
    deliver(books, [row | {"EffectiveCost": "1"} for row in steady(60)])
    assert judged(books, amount=100, cost="effective").state is State.WITHIN
    assert judged(books, amount=100, cost="billed").state is State.EXCEEDED


def test_a_bill_that_lags_is_forecast_and_what_is_there_is_the_least(books: Books) -> None:
    late = steady(90, ProviderName="Google Cloud", BillingAccountId="01AB")[:-3]
    deliver(books, [*steady(90), *late])
    found = judged(books, amount=10_000)
    assert found.spent == sum(
        (D(row["BilledCost"] or 0) for row in [*steady(20), *late[-17:]]), D(0)
    )
    assert found.expected is not None
    assert abs(found.expected - 600) < 10


def test_no_forecast_starts_from_half_a_day(books: Books) -> None:
    rows = steady(60)
    rows[-1]["EffectiveCost"] = "2"  # so much of it was there at noon
    deliver(books, rows, at=datetime.combine(LAST, time(12), UTC))
    partial = partial_days(books.ledger, books.ledger.current())
    assert partial == {LAST}
    with books.spender() as spender:
        budgets = {"it": Budget(amount=D(100), per="day")}
        (found,) = judge_all(budgets, spender, books.ledger.current(), partial)
    assert judged(books, amount=100, per="day").since == LAST
    assert found.since == LAST - timedelta(days=1)
    assert found.expected is not None
    assert 9 < found.expected < 11


def test_currencies_are_converted_by_a_rate_or_refused(books: Books) -> None:
    deliver(books, steady(40))
    with pytest.raises(UsageError, match=r"cost\.budgets\.it: .*USD") as caught:
        judged(books, amount=100, currency="EUR")
    assert "cost.rates" in str(caught.value.hint)
    books.rates = Rates({("USD", "EUR"): [(date(2026, 1, 1), D("0.5"))]})
    found = judged(books, amount=100, currency="EUR")
    assert (found.currency, found.state) == ("EUR", State.EXCEEDED)
    assert found.spent == sum((D(row["BilledCost"] or 0) for row in steady(20)), D(0)) / 2


def test_nothing_imported_is_no_judgement(books: Books) -> None:
    with books.spender() as spender:
        assert judge_all({"it": Budget(amount=D(1))}, spender, []) == []


# --- Who knows ----------------------------------------------------------------------------------


def said(state: State, period: str = "2026-11", amount: str = "280") -> Acknowledgement:
    return Acknowledgement(
        budget="it", period=period, amount=D(amount), state=state, at=EVENING, by="ada"
    )


@pytest.mark.parametrize(
    ("amount", "by", "known"),
    [
        (280, [], False),
        (280, [said(State.FORECAST)], True),
        (280, [said(State.EXCEEDED)], True),
        (280, [said(State.FORECAST, period="2026-10")], False),
        (280, [said(State.FORECAST, amount="290")], False),
        (200, [said(State.FORECAST, amount="200")], False),  # it got worse: it is exceeded now
        (200, [said(State.EXCEEDED, amount="200")], True),
    ],
)
def test_an_acknowledgement_holds_for_what_it_was_said_of(
    amount: int, by: list[Acknowledgement], known: bool, books: Books
) -> None:
    deliver(books, steady(90))
    assert (holding(judged(books, amount=amount), by) is not None) is known


def test_acknowledgements_are_kept(books: Books) -> None:
    deliver(books, steady(90))
    found = judged(books, amount=280)
    book = Acknowledgements(MemoryStore())
    assert book.of(found) is None
    book.add(found, EVENING, "ada", "load test")
    kept = book.of(found)
    assert kept is not None
    assert (kept.by, kept.note, kept.state) == ("ada", "load test", State.FORECAST)


# --- The section --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "said_of_it"),
    [
        ({"it": {"amount": 0}}, "greater than 0"),
        ({"it": {"amount": "lots"}}, "decimal"),
        ({"it": {"amount": "NaN"}}, "finite"),
        ({"it": {"amount": 1, "per": "week"}}, "month"),
        ({"it": {"amount": 1, "currency": "dollars"}}, "pattern"),
        ({"it": {"amount": 1, "confidence": 20}}, "50"),
        ({"it": {"amount": 1, "planet": "mars"}}, "planet"),
        ({"a/b": {"amount": 1}}, "pattern"),
        ({"it": {"amount": 1, "team": "vision"}}, "no tag is said to be it"),
    ],
)
def test_a_section_that_is_wrong(section: dict[str, Any], said_of_it: str) -> None:
    with pytest.raises(ValidationError, match=said_of_it):
        Cost.model_validate({"budgets": section})
