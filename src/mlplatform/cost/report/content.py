"""What a report for people says, as values: what was spent, by what, how that compares to the days
before, how it adds up to the bill, and what it leaves out. Pure.

Whoever forwards a page is asked what it does not show, so each part says so itself: rows beyond
the first are one, days without data are no zeros, and a change is only told where both periods are
known.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

from mlplatform.cost.daily import Costs, Daily, days_between
from mlplatform.cost.report.sparkline import Slot, slots
from mlplatform.cost.spending import ZERO, Spending

ROWS_MOST = 12
"""Of a table by some dimension; the rest is one row."""
_SLOTS_MOST = 31
_BARS_MOST = 92
NAME_MOST = 120
"""Characters; a tag may be a novel."""


@dataclass(frozen=True, slots=True)
class Incident:
    """Something unusual, as whoever looked for it tells it."""

    title: str
    amount: Decimal | None
    """In the report's currency; None: unknown."""
    explanation: str
    status: str
    """`open`, `confirmed`, `retracted`, …: a word for people."""
    since: date | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """A cost beside that of the days before."""

    cost: Decimal
    before: Decimal | None
    """None: not all days, now and before, are known."""

    @property
    def change(self) -> Decimal | None:
        """By how much it is more."""
        return None if self.before is None else self.cost - self.before

    @property
    def relative(self) -> float | None:
        """The change as a share of what it was; None where that was nothing, or is unknown."""
        return float((self.cost - self.before) / abs(self.before)) if self.before else None


@dataclass(frozen=True, slots=True)
class Share:
    """A row of a breakdown."""

    name: str | None
    """None: the charges do not say it."""
    compared: Compared
    share: float | None
    line: tuple[Slot, ...]
    rest: int = 0
    """Of how many rows it is the sum, if it is what is left."""


@dataclass(frozen=True, slots=True)
class Breakdown:
    """The cost by one dimension."""

    dimension: str
    rows: tuple[Share, ...]


@dataclass(frozen=True, slots=True)
class Bar:
    """A day, or several where there are too many."""

    since: date
    until: date
    cost: Decimal | None
    """Of all its days that are known; None: none is."""
    provisional: bool
    missing: int = 0
    """How many of its days are unknown."""


@dataclass(frozen=True, slots=True)
class Content:
    """All that a page says."""

    spending: Spending
    total: Compared
    before_since: date
    before_until: date
    days_known: int
    """Of how many of the report's days any bill has data."""
    bars: tuple[Bar, ...]
    breakdowns: tuple[Breakdown, ...]
    incidents: tuple[Incident, ...] | None
    """None: nobody looked for any."""
    left_out: tuple[str, ...]
    """In words, a sentence each."""
    made: datetime


def content_of(
    spending: Spending,
    by_dimension: Sequence[Daily],
    made: datetime,
    *,
    provisional: Collection[date] = (),
    incidents: Sequence[Incident] | None = None,
    untold: Sequence[str] = (),
    clean: Callable[[str], str] = str,
) -> Content:
    """Put a page together. `by_dimension`: each over the report's days and as many before them.
    `untold`: what else the page leaves out. `clean`: what names out of bills pass through."""
    since, until = spending.since, spending.until
    days = days_between(since, until)
    before = days_between(since - timedelta(days=len(days)), since - timedelta(days=1))
    whole = by_dimension[0]
    total = whole.total()
    known = all(day in whole.covered for day in [*before, *days])
    known &= not any(day in whole.incomplete for day in before)
    not_final = {*provisional, *whole.incomplete}
    compared = Compared(
        spending.total, sum((total[day] for day in before), ZERO) if known else None
    )
    return Content(
        spending,
        compared,
        before[0],
        before[-1],
        len([day for day in days if day in whole.covered]),
        tuple(_bars(days, total, not_final)),
        tuple(
            _breakdown(each, days, before, compared, provisional, clean) for each in by_dimension
        ),
        None if incidents is None else tuple(incidents),
        (*_left_out(spending, days, whole, provisional, compared), *untold),
        made,
    )


def _bars(days: Sequence[date], total: Costs, provisional: Collection[date]) -> list[Bar]:
    size = -(-len(days) // _BARS_MOST)
    found = []
    for start in range(0, len(days), size):
        own = days[start : start + size]
        known = [day for day in own if day in total]
        found.append(
            Bar(
                own[0],
                own[-1],
                sum((total[day] for day in known), ZERO) if known else None,
                any(day in provisional for day in known),
                len(own) - len(known),
            )
        )
    return found


def _breakdown(
    daily: Daily,
    days: Sequence[date],
    before: Sequence[date],
    total: Compared,
    provisional: Collection[date],
    clean: Callable[[str], str],
) -> Breakdown:
    rows = [
        (keys[0], costs, _sum(costs, days), _sum(costs, before))
        for keys, costs in daily.rows.items()
    ]
    # What cost nothing now and before is no news; a name is what orders equals.
    rows = [each for each in rows if each[2] or each[3]] or rows
    rows.sort(key=lambda each: (-max(abs(each[2]), abs(each[3])), str(each[0])))
    top, rest = rows, rows[:0]
    if len(rows) > ROWS_MOST:
        top, rest = rows[: ROWS_MOST - 1], rows[ROWS_MOST - 1 :]
    top = sorted(top, key=lambda each: (-each[2], str(each[0])))

    def share(name: str | None, costs: Costs, now: Decimal, then: Decimal, many: int) -> Share:
        return Share(
            name,
            Compared(now, None if total.before is None else then),
            float(now / total.cost) if total.cost else None,
            tuple(slots(days, costs, provisional, widest=_SLOTS_MOST)),
            many,
        )

    shown = [
        share(None if name is None else _short(clean(name)), costs, now, then, 0)
        for name, costs, now, then in top
    ]
    if rest:
        others: dict[date, Decimal] = {}
        for _, costs, _, _ in rest:
            for day, cost in costs.items():
                others[day] = others.get(day, ZERO) + cost
        shown.append(
            share("", others, _sum(others, days), _sum(others, before), len(rest)),
        )
    return Breakdown(daily.by[0], tuple(shown))


def _sum(costs: Mapping[date, Decimal], days: Sequence[date]) -> Decimal:
    return sum((costs[day] for day in days if day in costs), ZERO)


def _short(name: str) -> str:
    return name if len(name) <= NAME_MOST else f"{name[: NAME_MOST - 1]}…"


def _left_out(
    spending: Spending,
    days: Sequence[date],
    whole: Daily,
    provisional: Collection[date],
    total: Compared,
) -> list[str]:
    measure = spending.asked.measure.column
    told = []
    if spending.unknown:
        told.append(
            f"{spending.unknown:,} charges do not state their {measure}; they are in no figure."
        )
    if spending.left_out:
        told.append(
            f"{spending.left_out:,} lines of the bills of these months could not be read or "
            "counted."
        )
    missing = [day for day in days if day not in whole.covered]
    if missing:
        told.append(f"No bill has data of {dates_told(missing)}: these days are gaps, not zeros.")
    if spending.behind:
        ends = ", ".join(f"{name} ends on {end}" for name, end in spending.behind.items())
        told.append(f"Not all bills reach {spending.until}, so the total will grow: {ends}.")
    held = [day for day in days if day in provisional]
    if held:
        told.append(
            f"{dates_told(held)}: provisional, since the bill may still be restated for "
            f"{'this day' if len(held) == 1 else 'these days'}."
        )
    if spending.converted:
        told.append(
            f"Charges in {', '.join(spending.converted)} are converted to {spending.currency} by "
            "the organisation's own table of rates, each at the rate of its day."
        )
    if total.before is None:
        told.append(
            "Not all of these days and of those before them are known, so no change is told."
        )
    return told


def dates_told(days: Sequence[date]) -> str:
    """Days for people; those that follow each other as one range."""
    ranges: list[list[date]] = []
    for day in sorted(days):
        if ranges and day - ranges[-1][1] == timedelta(days=1):
            ranges[-1][1] = day
        else:
            ranges.append([day, day])
    told = [f"{first}" if first == last else f"{first} to {last}" for first, last in ranges]
    more = len(told) - 4
    return ", ".join(told[:4]) + (f" and {more} more times" if more > 0 else "")
