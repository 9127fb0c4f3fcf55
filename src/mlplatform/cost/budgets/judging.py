"""Whether a budget holds. Pure.

A budget of a month is held against the month of the last day that is known: what was spent, and
what the month will have cost at its end. A budget of a day is held against the last day that is
all there, and against the day after it, which is forecast.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from enum import IntEnum

from mlplatform.core.cost import Budget
from mlplatform.cost.outlook import Interval, Outlook, month_of


class State(IntEnum):
    """Ordered by how bad it is. Who acknowledges one has acknowledged those before it."""

    WITHIN = 0
    UNKNOWN = 1
    """Not exceeded, and nothing to forecast from."""
    FORECAST = 2
    """It will be exceeded, with the budget's confidence."""
    EXCEEDED = 3

    @property
    def said(self) -> str:
        """For people and programs."""
        return self.name.lower()

    @property
    def stands(self) -> bool:
        """Whether somebody should know."""
        return self >= State.FORECAST


@dataclass(frozen=True, slots=True)
class Judgement:
    """A budget beside what was spent."""

    name: str
    budget: Budget
    currency: str
    since: date
    until: date
    """The period's first and last day."""
    spent_until: date
    """The last day that `spent` knows of."""
    spent: Decimal
    expected: Decimal | None
    """Of the period at its end; of a budget of a day, of the next day."""
    between: Interval | None
    """With a chance of 80 %."""
    chance: float | None
    """Of ending above the amount, 0 to 1; of a budget of a day, of the next day."""
    state: State
    low_confidence: bool

    @property
    def period(self) -> str:
        """The month or the day, as FOCUS writes it."""
        return f"{self.since:%Y-%m}" if self.budget.per == "month" else self.since.isoformat()

    @property
    def used(self) -> float:
        """Share of the amount that is spent."""
        return float(self.spent / self.budget.amount)


def judge(name: str, budget: Budget, currency: str, last: date, outlook: Outlook) -> Judgement:
    """Hold a budget against what was spent up to `last`, the last day that is known of."""
    if budget.per == "month":
        since, until = month_of(last)
        ahead_since, ahead_until, spent_until = since, until, last
    else:
        since = until = spent_until = outlook.complete
        ahead_since = ahead_until = outlook.complete + timedelta(days=1)
    spent = outlook.spent(since, spent_until)
    chance = outlook.chance_above(budget.amount, ahead_since, ahead_until)
    if spent > budget.amount:
        state = State.EXCEEDED
    elif chance is None:
        state = State.UNKNOWN
    elif 100 * chance >= budget.confidence:
        state = State.FORECAST
    else:
        state = State.WITHIN
    return Judgement(
        name,
        budget,
        currency,
        since,
        until,
        spent_until,
        spent,
        outlook.expected(ahead_since, ahead_until),
        outlook.between(ahead_since, ahead_until, 80),
        chance,
        state,
        outlook.low_confidence,
    )


def furthest(budget: Budget, last: date) -> date:
    """Up to which day a forecast is needed."""
    return month_of(last)[1] if budget.per == "month" else last + timedelta(days=1)
