"""How much of the machines is spot, and what its loss costs. Pure.

Spot is what FOCUS calls the pricing category Dynamic. Where hours of a kind of machine were spot in
the days before and are on-demand now, the difference of the two prices is what that costs: a cause
that has a name, since nothing else about the machines has changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

SPOT = "Dynamic"
ON_DEMAND = "Standard"


@dataclass(frozen=True, slots=True)
class Bought:
    """What was bought of a kind of machine in a region, in one pricing category."""

    region: str | None
    machine: str
    pricing: str | None
    unit: str | None
    cost: Decimal
    quantity: Decimal | None
    """In `unit`; None: unknown."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A kind of machine in a region, beside the days before."""

    region: str | None
    machine: str
    cost: Decimal
    spot_share: float | None
    """Of the cost that has a pricing category. None: none of it has."""
    before: float | None
    moved: Decimal
    """Units that were spot and are on-demand."""
    unit: str | None
    extra: Decimal | None
    """What that costs. None: a quantity or a price is unknown."""


def spot_shares(now: Iterable[Bought], before: Iterable[Bought]) -> list[Spot]:
    """Each kind of machine of which anything is or was spot, the dearest first."""
    new, old = _by_machine(now), _by_machine(before)
    found = []
    for key in {*new, *old}:
        mine, then = new.get(key, []), old.get(key, [])
        if not any(each.pricing == SPOT for each in [*mine, *then]):
            continue
        moved, unit, extra = _fallback(mine, then)
        cost = sum((each.cost for each in mine), Decimal(0))
        found.append(Spot(*key, cost, _share(mine), _share(then), moved, unit, extra))
    return sorted(found, key=lambda each: (-each.cost, each.machine, each.region or ""))


def _by_machine(bought: Iterable[Bought]) -> dict[tuple[str | None, str], list[Bought]]:
    found: dict[tuple[str | None, str], list[Bought]] = {}
    for each in bought:
        found.setdefault((each.region, each.machine), []).append(each)
    return found


def _share(bought: Iterable[Bought]) -> float | None:
    told = [each for each in bought if each.pricing is not None]
    total = sum((each.cost for each in told), Decimal(0))
    spot = sum((each.cost for each in told if each.pricing == SPOT), Decimal(0))
    return float(spot / total) if total > 0 else None


def _fallback(
    now: Iterable[Bought], before: Iterable[Bought]
) -> tuple[Decimal, str | None, Decimal | None]:
    new, old = _quantities(now), _quantities(before)
    zero = (Decimal(0), Decimal(0))
    if new is None or old is None:
        return Decimal(0), None, None
    moved, extra, unit = Decimal(0), Decimal(0), None
    for each in {unit for _, unit in [*new, *old]}:
        spot_now, spot_then = new.get((SPOT, each), zero), old.get((SPOT, each), zero)
        plain_now, plain_then = new.get((ON_DEMAND, each), zero), old.get((ON_DEMAND, each), zero)
        fell, rose = spot_then[0] - spot_now[0], plain_now[0] - plain_then[0]
        units = min(fell, rose)
        if units <= 0:
            continue
        moved, unit = moved + units, each
        extra += units * (plain_now[1] / plain_now[0] - spot_then[1] / spot_then[0])
    return moved, unit, extra


def _quantities(
    bought: Iterable[Bought],
) -> dict[tuple[str | None, str | None], tuple[Decimal, Decimal]] | None:
    """Quantity and cost by pricing category and unit; None if a quantity is unknown."""
    found: dict[tuple[str | None, str | None], tuple[Decimal, Decimal]] = {}
    for each in bought:
        if each.quantity is None:
            return None
        quantity, cost = found.get((each.pricing, each.unit), (Decimal(0), Decimal(0)))
        found[each.pricing, each.unit] = (quantity + each.quantity, cost + each.cost)
    return found
