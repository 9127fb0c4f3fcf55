"""Completeness curves: what share of a day's final BilledCost a delivery holds so many days later.
Pure.

They are learnt from the ledger's own deliveries, of each provider by itself: nobody publishes how
late charges come, and it differs between exports. A share below 1 is what is still to come; one
above 1 is an estimate that is taken back later.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from statistics import quantiles

from mlplatform.cost.cube import Measure
from mlplatform.cost.ledger import Bill, Delivery

LEARNT_AFTER_DAYS = 7
"""The amount of a day counts as final for learning once it was delivered so long after: support and
other late charges land on day six or seven (the reference, section 3)."""
SAMPLES_LEAST = 7
"""Fewer deliveries of one age tell nothing."""
SETTLED_WITHIN = 0.01
"""A day is complete where nine deliveries of ten, of its age and of all higher ones, are so near
to the final amount."""
_AGES = (0, 1, 2, 3, 4, 5, 6, 7, 10, 14, 21, 31, 62)
"""Ages that are told apart: each up to the next."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one delivery held of one day."""

    age_days: int
    share: float


@dataclass(frozen=True, slots=True)
class Share:
    """What is there of a day: as a rule, and between which shares eight deliveries of ten lie."""

    low: float
    middle: float
    high: float


WHOLE_DAY = Share(1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Curve:
    """What is there of a day at each age. Without shares nothing is known."""

    shares: tuple[tuple[int, Share], ...] = ()
    """By age in days, from which on it holds; ascending."""

    def at(self, age_days: int) -> Share | None:
        """What is there at an age; between those that are known, in proportion. None where no
        delivery so young was ever seen beside its final amount."""
        if not self.shares or age_days < self.shares[0][0]:
            return None
        ages = [age for age, _ in self.shares]
        if age_days >= ages[-1]:
            return self.shares[-1][1]
        place = bisect_right(ages, age_days) - 1
        (young, one), (old, other) = self.shares[place : place + 2]
        way = (age_days - young) / (old - young)
        return Share(
            one.low + way * (other.low - one.low),
            one.middle + way * (other.middle - one.middle),
            one.high + way * (other.high - one.high),
        )

    @property
    def settled_days(self) -> int | None:
        """The age from which on a day is complete; None where the curve does not say so."""
        settled = None
        for age, share in reversed(self.shares):
            if share.low < 1 - SETTLED_WITHIN or share.high > 1 + SETTLED_WITHIN:
                break
            settled = age
        return settled


def delivered_at(delivery: Delivery) -> datetime:
    """When a delivery was made: when its newest file was written, where the store says it."""
    if delivery.delivered is None:
        return delivery.imported
    return min(delivery.delivered, delivery.imported)


def age_days(delivery: Delivery, day: date) -> int:
    """How old a day was when it was delivered: 0, when it was not over yet."""
    return (delivered_at(delivery).astimezone(UTC).date() - day).days


def samples(history: Sequence[Delivery], *, closed: bool = False) -> list[Sample]:
    """What the deliveries of one period of a bill, the oldest first, teach: those before the newest
    against the newest. `closed`: it is final, whatever its age."""
    if not history:
        return []
    newest = history[-1]
    found = []
    for day, last in newest.days.items():
        if not closed and age_days(newest, day) < LEARNT_AFTER_DAYS:
            continue
        for delivery in history[:-1]:
            then = delivery.days.get(day)
            age = age_days(delivery, day)
            if age < 0 or (then is None and not _reaches(delivery, day)):
                continue
            for currency, totals in last.totals.items():
                final = totals.get(Measure.BILLED, Decimal(0))
                if final <= 0:
                    continue
                was = then.totals.get(currency, {}).get(Measure.BILLED) if then else None
                found.append(Sample(age, float((was or Decimal(0)) / final)))
    return found


def _reaches(delivery: Delivery, day: date) -> bool:
    used = [each for each, told in delivery.days.items() if told.usage_charges]
    return bool(used) and min(used) <= day <= max(used)


def learn(found: Iterable[Sample]) -> Curve:
    """The curve of samples of one provider. An age with too few of them is left out."""
    by_age: dict[int, list[float]] = {}
    for sample in found:
        by_age.setdefault(_AGES[bisect_right(_AGES, sample.age_days) - 1], []).append(sample.share)
    shares = []
    for age, several in sorted(by_age.items()):
        if len(several) >= SAMPLES_LEAST:
            low, *_, middle, _, _, _, high = quantiles(several, n=10, method="inclusive")
            shares.append((age, Share(low, middle, high)))
    return Curve(tuple(shares))


def curves(
    histories: Mapping[tuple[Bill, str], Sequence[Delivery]], closed: Iterable[tuple[str, str]] = ()
) -> dict[str, Curve]:
    """By provider: the curve that its bills' deliveries teach. `histories` is by bill and period;
    `closed` are providers and periods that are said to be final."""
    final = {(provider.casefold(), period) for provider, period in closed}
    found: dict[str, list[Sample]] = {}
    for (bill, period), history in histories.items():
        is_closed = (bill.provider.casefold(), period) in final
        found.setdefault(bill.provider, []).extend(samples(history, closed=is_closed))
    return {provider: learn(several) for provider, several in found.items()}
