"""Deliveries as values: what each day had come to by then."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from mlplatform.cost.cube import Measure
from mlplatform.cost.ledger import Bill, Day, Delivery, changed_days

BILL = Bill(provider="AWS", account="1")
START = date(2026, 10, 1)


def day(amount: float, *, invoiced: bool = False) -> Day:
    """A day of one charge."""
    told = {Measure.BILLED: Decimal(str(amount)), Measure.EFFECTIVE: Decimal(str(amount))}
    return Day(
        key="",
        size_bytes=1,
        charges=1,
        usage_charges=1,
        invoiced_charges=int(invoiced),
        totals={"USD": told},
        fingerprint=f"1:{amount}",
    )


def delivery(
    on: date,
    amounts: Mapping[date, float],
    *,
    number: int = 1,
    before: Delivery | None = None,
    bill: Bill = BILL,
    period: str = "2026-10",
    invoiced: bool = False,
    hour: int = 6,
) -> Delivery:
    """What was delivered on a day."""
    at = datetime(on.year, on.month, on.day, hour, tzinfo=UTC)
    days = {each: day(amount, invoiced=invoiced) for each, amount in amounts.items()}
    return Delivery(
        bill=bill,
        period=period,
        number=number,
        id=f"{bill.account}-{period}-{number}",
        imported=at,
        delivered=at,
        shape="focus",
        files=(),
        tags={},
        days=days,
        changed_days=tuple(changed_days(before, days)),
    )


def daily(days: int, shares: Mapping[int, float], *, amount: float = 100) -> list[Delivery]:
    """A delivery each morning of a month: of a day so many days old there is that share."""
    found: list[Delivery] = []
    for number in range(1, days + 1):
        on = START + timedelta(days=number)
        amounts = {}
        for place in range(number):
            each = START + timedelta(days=place)
            age = (on - each).days
            amounts[each] = amount * shares[max(known for known in shares if known <= age)]
        before = found[-1] if found else None
        found.append(delivery(on, amounts, number=number, before=before))
    return found
