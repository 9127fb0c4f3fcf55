"""What a state of the ledger is known by: its deliveries, what issuers have said, and the curves
that both teach."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from mlplatform.cost.ledger import Bill, Delivery, Ledger, PeriodStatus, standing
from mlplatform.cost.restatement.curves import Curve, curves
from mlplatform.cost.restatement.finality import Finality, finality, is_closed

Part = tuple[Bill, str, str]
"""Bill, period and part."""
Histories = Mapping[Part, Sequence[Delivery]]
"""Deliveries, the oldest first."""
Statuses = Mapping[tuple[str, str], PeriodStatus]

_PERIODS = 4
"""Deliveries of so many billing periods of a bill teach how they become complete."""


def histories_of(ledger: Ledger, current: Iterable[Delivery]) -> dict[Part, list[Delivery]]:
    """Every delivery of the last billing periods of each bill."""
    current = list(current)
    periods: dict[str, set[str]] = {}
    for each in current:
        periods.setdefault(each.bill.slug, set()).add(each.period)
    lately = {slug: set(sorted(several)[-_PERIODS:]) for slug, several in periods.items()}
    return {
        (each.bill, each.period, each.part): ledger.history(each.bill, each.period, each.part)
        for each in current
        if each.period in lately[each.bill.slug]
    }


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What was known at one time."""

    histories: Histories
    statuses: Statuses
    curves: Mapping[str, Curve] = field(default_factory=dict)
    """By provider."""

    @classmethod
    def at(cls, histories: Histories, statuses: Statuses, at: datetime | None = None) -> Knowledge:
        """What was known by then; at last, unless given."""
        then = {
            part: [each for each in several if at is None or each.imported <= at]
            for part, several in histories.items()
        }
        said = {key: each for key, each in statuses.items() if at is None or each.imported <= at}
        closed = [key for key, each in said.items() if each.closed]
        return cls(then, said, curves(_by_period(then), closed))

    def finality(self, delivery: Delivery) -> Iterator[tuple[date, Finality]]:
        """What is known of every day that a delivery covers."""
        history = self.histories.get((delivery.bill, delivery.period, delivery.part), ())
        before = [each for each in history if each.number < delivery.number]
        curve = self.curves.get(delivery.bill.provider)
        closed = is_closed(delivery, self.statuses)
        for day in days_of(delivery):
            yield day, finality(day, delivery, before=before, curve=curve, closed=closed)


def provisional_days(ledger: Ledger, current: Sequence[Delivery]) -> frozenset[date]:
    """The days with usage of which some bill may still be restated."""
    knowledge = Knowledge.at(histories_of(ledger, current), ledger.statuses())
    return frozenset(
        day
        for delivery in standing(current)
        for day, known in knowledge.finality(delivery)
        if not known.final and day in used_days(delivery)
    )


def used_days(delivery: Delivery) -> Collection[date]:
    """The days with usage."""
    return {day for day, told in delivery.days.items() if told.usage_charges}


def days_of(delivery: Delivery) -> list[date]:
    """The days that a delivery covers: those of its period, of which some may have cost nothing,
    and those outside of it that it has charges of."""
    start = date.fromisoformat(f"{delivery.period}-01")
    end = (start + timedelta(days=32)).replace(day=1) - timedelta(days=1)
    return sorted({*days_between(start, end), *delivery.days})


def days_between(since: date, until: date) -> list[date]:
    """Both included."""
    return [since + timedelta(days=each) for each in range((until - since).days + 1)]


def _by_period(histories: Histories) -> dict[tuple[Bill, str], Sequence[Delivery]]:
    """One history for each period of a bill, of its longest part: forms are not compared with each
    other."""
    found: dict[tuple[Bill, str], Sequence[Delivery]] = {}
    for (bill, period, _), several in histories.items():
        if len(several) > len(found.get((bill, period), ())):
            found[bill, period] = several
    return found
