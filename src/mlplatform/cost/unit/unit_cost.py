"""What 1,000 requests and a million tokens cost, by model and region. Pure.

Cost is the allocation basis: all that is charged for a model in a region, busy or not, since that
is what the bill adds up to. Only days of which both cost and count are known count; what is unknown
stays so, and is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, localcontext

from mlplatform.cost.daily import Costs
from mlplatform.cost.spending import ZERO
from mlplatform.cost.unit.counters import Counts, Place, Served

REQUESTS = 1_000
TOKENS = 1_000_000
_DIGITS = 28


@dataclass(frozen=True, slots=True)
class Unit:
    """Of requests or of tokens."""

    count: Decimal | None
    """On the days that are known; None: on none."""
    cost: Decimal
    """On the same days."""
    days: int
    price: Decimal | None
    """Of 1,000 requests, or a million tokens. None: nothing was counted."""


@dataclass(frozen=True, slots=True)
class UnitCost:
    """A model in a region."""

    place: Place
    cost: Decimal | None
    """Of all days; None: the bill names no cost of it."""
    requests: Unit
    tokens: Unit


def unit_costs(
    costs: Mapping[Place, Costs], counts: Counts, days: Iterable[date]
) -> list[UnitCost]:
    """Every model and region that the bill or a counter names, the dearest first."""
    days = list(days)
    found = []
    for place in {*costs, *counts}:
        spent, served = costs.get(place), counts.get(place, {})
        found.append(
            UnitCost(
                place,
                None if spent is None else sum((spent[day] for day in days if day in spent), ZERO),
                _unit(spent or {}, {day: each.requests for day, each in served.items()}, days).per(
                    REQUESTS
                ),
                _unit(spent or {}, {day: each.tokens for day, each in served.items()}, days).per(
                    TOKENS
                ),
            )
        )
    return sorted(found, key=lambda each: (-(each.cost or ZERO), each.place))


@dataclass(frozen=True, slots=True)
class _Sum:
    count: Decimal | None
    cost: Decimal
    days: int

    def per(self, many: int) -> Unit:
        price = None
        if self.count and self.days:
            with localcontext() as context:
                context.prec = _DIGITS
                price = self.cost / self.count * many
        return Unit(self.count, self.cost, self.days, price)


def _unit(spent: Costs, counted: Mapping[date, Decimal | None], days: Iterable[date]) -> _Sum:
    both = [
        (spent[day], count)
        for day in days
        if day in spent and (count := counted.get(day)) is not None
    ]
    if not both:
        known = [count for day in days if (count := counted.get(day)) is not None]
        return _Sum(sum(known, ZERO) if known else None, ZERO, 0)
    return _Sum(
        sum((count for _, count in both), ZERO), sum((cost for cost, _ in both), ZERO), len(both)
    )


def served_in(counts: Counts, days: Iterable[date]) -> list[Served]:
    """What was counted on some days, of every model and region."""
    wanted = set(days)
    return [each for some in counts.values() for day, each in some.items() if day in wanted]
