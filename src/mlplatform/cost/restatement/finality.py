"""Whether a day's cost is final or provisional, and how much of it is there. Pure.

A day is provisional until something says otherwise: that its billing period is closed (FOCUS 1.4,
dataset Billing Period), that its charges are on an invoice, that its provider's completeness curve
is at its end, that a later delivery has repeated it, or that its period is long over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from enum import StrEnum

from mlplatform.cost.cube import Measure
from mlplatform.cost.ledger import Delivery, PeriodStatus
from mlplatform.cost.restatement.curves import (
    SETTLED_WITHIN,
    WHOLE_DAY,
    Curve,
    Share,
    age_days,
    delivered_at,
)

REPEATED_AFTER_DAYS = 2
"""Bills lag by 24 to 48 hours (the reference, section 2): two deliveries that agree before that may
both lack the same charges."""
OVER_AFTER_DAYS = 10
"""Invoices of a month are issued within its first days, the last charges land on day six or seven
(the reference, section 3)."""
LEAST_SHARE = 0.5
"""Of which less is there cannot be judged: what is missing would be most of what is scored."""


class Because(StrEnum):
    """Why a day is final, or is not."""

    CLOSED = "its billing period is closed"
    INVOICED = "its charges are invoiced"
    SETTLED = "complete at its age, as deliveries of this provider are"
    OVER = "its billing period is long over"
    REPEATED = "a later delivery says the same"
    YOUNG = "charges are still to come, as deliveries of this provider show"
    UNKNOWN = "nothing says yet whether it is complete"
    UNFINISHED = "the day was not over when it was delivered"


_FINAL = {Because.CLOSED, Because.INVOICED, Because.SETTLED, Because.OVER, Because.REPEATED}


@dataclass(frozen=True, slots=True)
class Finality:
    """What is known of a day's completeness."""

    because: Because
    share: Share | None
    """How much of it is there; None: unknown."""

    @property
    def final(self) -> bool:
        """Whether nothing is expected to change any more."""
        return self.because in _FINAL

    @property
    def judged(self) -> bool:
        """Whether there is enough of it to judge."""
        if self.because is Because.UNFINISHED:
            return False
        return self.share is None or self.share.middle >= LEAST_SHARE


def finality(
    day: date,
    delivery: Delivery,
    *,
    before: Sequence[Delivery] = (),
    curve: Curve | None = None,
    closed: bool = False,
) -> Finality:
    """What is known of a day of a delivery. `before` are earlier deliveries of its period, `closed`
    says that it was delivered when the period was closed."""
    told = delivery.days.get(day)
    age = age_days(delivery, day)
    if closed:
        return Finality(Because.CLOSED, WHOLE_DAY)
    if told is not None and told.charges and told.invoiced_charges == told.charges:
        return Finality(Because.INVOICED, WHOLE_DAY)
    if delivered_at(delivery).date() >= _end_of(delivery.period) + timedelta(days=OVER_AFTER_DAYS):
        return Finality(Because.OVER, WHOLE_DAY)
    share = (curve or Curve()).at(age)
    if share is not None:
        settled = (curve or Curve()).settled_days
        if settled is not None and age >= settled:
            return Finality(Because.SETTLED, WHOLE_DAY)
        return Finality(Because.YOUNG, share)
    if age <= 0:
        return Finality(Because.UNFINISHED, None)
    if age > REPEATED_AFTER_DAYS and any(_same(each, delivery, day) for each in before):
        return Finality(Because.REPEATED, WHOLE_DAY)
    return Finality(Because.UNKNOWN, None)


def is_closed(delivery: Delivery, statuses: Mapping[tuple[str, str], PeriodStatus]) -> bool:
    """Whether a delivery holds a period as it was when its issuer closed it. One that was made
    before that may not have the last of it."""
    for (issuer, period), status in statuses.items():
        if (
            issuer.casefold() == delivery.bill.provider.casefold()
            and period == delivery.period
            and status.closed
        ):
            since = status.updated or status.imported
            return delivered_at(delivery) >= since - timedelta(days=1)
    return False


def _same(one: Delivery, other: Delivery, day: date) -> bool:
    """Whether two deliveries say the same of a day, the earlier one when it was over for long."""
    then, now = one.days.get(day), other.days.get(day)
    if then is None or now is None or age_days(one, day) <= REPEATED_AFTER_DAYS:
        return False
    if then.totals.keys() != now.totals.keys():
        return False
    return all(
        _near(
            then.totals[currency].get(Measure.BILLED, Decimal(0)),
            now.totals[currency].get(Measure.BILLED, Decimal(0)),
        )
        for currency in now.totals
    )


def _near(one: Decimal, other: Decimal) -> bool:
    return abs(one - other) <= abs(other) * Decimal(str(SETTLED_WITHIN))


def _end_of(period: str) -> date:
    """The day after a period's last."""
    return (date.fromisoformat(f"{period}-01") + timedelta(days=32)).replace(day=1)
