"""From what was spent a day to what a period will have cost: spent, expected, and between which
amounts. Pure.

Days that are not all there yet, since some bill lags, are forecast as the days ahead are; what is
there of them is the least that they can come to.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal

import numpy as np

from mlplatform.cost.daily import Costs, Daily, Keys, days_between
from mlplatform.cost.detect.baseline import Numbers
from mlplatform.cost.forecast import Forecasts, forecast
from mlplatform.cost.spending import ZERO

HISTORY_DAYS = 400
"""So much of the past a forecast is made from: what the baseline remembers, and to test it by."""
LEAST_DAYS = 3
"""Known of a row, or nothing is forecast of it: as many as the detector wants before it speaks."""
SHARES = (80, 95)
"""Percent that intervals hold."""


@dataclass(frozen=True, slots=True)
class Interval:
    """The amounts between which something lies."""

    low: Decimal
    high: Decimal


@dataclass(frozen=True, slots=True)
class Ahead:
    """A day ahead, and all days ahead up to it."""

    day: date
    expected: Decimal
    summed: Decimal
    between: Mapping[int, Interval]
    """Of the sum, by percent."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is expected of a row."""

    keys: Keys
    costs: Costs
    """Of days that are known."""
    complete: date
    """The last day that is all there: what follows is forecast."""
    ahead: tuple[Ahead, ...]
    """Empty: nothing is known, or no day is to be forecast."""
    known_days: int
    low_confidence: bool
    chances: Forecasts
    row: int

    def spent(self, since: date, until: date) -> Decimal:
        """What is known of these days."""
        days = (day for day in self.costs if since <= day <= until)
        return sum((self.costs[day] for day in days), ZERO)

    def expected(self, since: date, until: date) -> Decimal | None:
        """What these days come to: what is known, and what is expected after that."""
        place = self._place(until)
        if place < 0:
            return self.spent(since, until)
        if not self.ahead:
            return None
        least = self.spent(since, until)
        return max(least, self.spent(since, self.complete) + self.ahead[place].summed)

    def between(self, since: date, until: date, share: int) -> Interval | None:
        """And between which amounts they lie. None: nothing is known."""
        place, spent = self._place(until), self.spent(since, self.complete)
        least = self.spent(since, until)
        if place < 0:
            return Interval(least, least)
        if not self.ahead:
            return None
        found = self.ahead[place].between[share]
        # A credit that is known is no bound from below: the rest of its day may be one, too.
        low = spent + found.low
        return Interval(max(low, least) if least > spent else low, max(spent + found.high, least))

    def chance_above(self, amount: Decimal, since: date, until: date) -> float | None:
        """How likely they come to more than an amount, 0 to 1. None: nothing is known."""
        if self.spent(since, until) > amount:
            return 1.0
        place = self._place(until)
        if place < 0:
            return 0.0
        if not self.ahead:
            return None
        rest = np.full((1, 1), float(amount - self.spent(since, self.complete)))
        return float(self.chances.chance_above(rest)[self.row, place])

    def _place(self, until: date) -> int:
        return (until - self.complete).days - 1


def complete_until(daily: Daily, partial: Collection[date] = ()) -> date:
    """The last day of which all charges are there: all bills reach it, and it is not `partial`."""
    unfinished = {*partial, *daily.incomplete}
    day = daily.until
    while day >= daily.since and (day in unfinished or day not in daily.covered):
        day -= timedelta(days=1)
    return day


def look_ahead(
    daily: Daily, rows: Mapping[Keys, Costs], until: date, partial: Collection[date] = ()
) -> list[Outlook]:
    """What is expected of each row until a day. `partial`: days of which charges are still to come,
    beside those that some bill does not reach."""
    unfinished = {*partial, *daily.incomplete}
    complete = complete_until(daily, partial)
    known = days_between(daily.since, complete)
    many = max((until - complete).days, 0)
    values = np.array(
        [
            [
                float(costs[day]) if day in costs and day not in unfinished else np.nan
                for day in known
            ]
            for costs in rows.values()
        ]
    ).reshape(len(rows), len(known))
    found = forecast(values, np.datetime64(daily.since), many)
    between = {share: found.between(share / 100) for share in SHARES}
    told = []
    for row, (keys, costs) in enumerate(rows.items()):
        ahead = []
        if many and found.known_days[row] >= LEAST_DAYS:
            ahead = _ahead(found, between, row, days_between(complete + timedelta(days=1), until))
        told.append(
            Outlook(
                keys,
                costs,
                complete,
                tuple(ahead),
                int(found.known_days[row]),
                bool(found.low_confidence[row]),
                found,
                row,
            )
        )
    return told


def _ahead(
    found: Forecasts,
    between: Mapping[int, tuple[Numbers, Numbers]],
    row: int,
    days: Sequence[date],
) -> list[Ahead]:
    return [
        Ahead(
            day,
            _money(found.expected[row, place]),
            _money(found.summed[row, place]),
            {
                share: Interval(_money(low[row, place]), _money(high[row, place]))
                for share, (low, high) in between.items()
            },
        )
        for place, day in enumerate(days)
    ]


def _money(amount: float) -> Decimal:
    """A forecast has no more digits than people read."""
    return Decimal(f"{amount:.6f}")


def month_of(day: date) -> tuple[date, date]:
    """The first and the last day of a day's month."""
    first = day.replace(day=1)
    return first, (first + timedelta(days=32)).replace(day=1) - timedelta(days=1)
