"""GPU-hours with their money: by what bills say a machine of that type cost there in these days,
else by list prices. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import date
from decimal import Decimal

from mlplatform.core.money import Amount, Pricing
from mlplatform.core.seen import Unknown
from mlplatform.cost.gpus.hours import GpuHours, Hours, Kind, Known
from mlplatform.cost.unit.idle import Nodes, Split, split, together
from mlplatform.cost.unit.spot import Bought

ZERO = Decimal(0)
BILL = "bill"
_HOURS = re.compile(r"(?:hours?|hrs?|h)", re.IGNORECASE)
_QUANTUM = Decimal("0.000001")
"""Hours are sums of twelfths: to a few thousandths of a second."""

Convert = Callable[[Amount], Decimal | None]
"""An amount in the currency of the report; None where no rate says it."""


def split_all(
    seen: GpuHours, bought: Iterable[Bought], pricing: Pricing, convert: Convert
) -> list[Split]:
    """Each kind of nodes, the dearest first and those of unknown cost last."""
    billed = billed_prices(bought)
    found = []
    for kind, hours in seen.kinds.items():
        machine, gpu, source = _prices(kind, billed, pricing, convert)
        parts = [split(_nodes(kind, *each, machine, gpu)) for each in hours.items() if each[1].gpus]
        if parts:
            found.append(replace(together(parts), priced_by=source))
    return sorted(found, key=lambda each: (each.cost is None, -(each.cost or ZERO), each.name))


def billed_prices(bought: Iterable[Bought]) -> dict[tuple[str, str], Decimal]:
    """By region and instance type: what an hour of a machine cost, however it was paid for. Where a
    bill counts otherwise than by the hour, or does not say how many, there is no such price."""
    sums: dict[tuple[str, str], tuple[Decimal, Decimal] | None] = {}
    for each in bought:
        key = (each.region or "", each.machine)
        before = sums.get(key, (ZERO, ZERO))
        told = each.quantity is not None and _HOURS.fullmatch((each.unit or "").strip())
        if before is None or not told:
            sums[key] = None
        else:
            sums[key] = (before[0] + each.cost, before[1] + (each.quantity or ZERO))
    return {key: both[0] / both[1] for key, both in sums.items() if both is not None and both[1]}


def _prices(
    kind: Kind,
    billed: Mapping[tuple[str, str], Decimal],
    pricing: Pricing,
    convert: Convert,
) -> tuple[Decimal | None, Decimal | None, str]:
    """What an hour of a machine costs, else of a GPU; and who says so, or why nobody does."""
    if kind.machine and (price := billed.get((kind.region, kind.machine))) is not None:
        return price, None, BILL
    if not kind.region:
        return None, None, f"{kind}: nobody says where it is"
    zone = pricing.zone(kind.region)
    if isinstance(zone, Unknown):
        return None, None, zone.reason
    skus = [f"instance/{kind.machine}"] if kind.machine else []
    skus += [f"gpu/{kind.product}"] if kind.product else []
    for sku in skus:
        found = pricing.prices.find(zone, sku, pricing.day)
        if isinstance(found, Unknown):
            continue
        hourly = convert(found.of(1))
        if hourly is None:
            return None, None, f"{sku} in {zone}: priced in {found.currency}, and no rate converts"
        by_machine = sku.startswith("instance/")
        return hourly if by_machine else None, None if by_machine else hourly, found.source
    return None, None, f"{' or '.join(skus) or 'its GPUs'} in {zone}: no price for {pricing.day}"


def _nodes(
    kind: Kind, known: Known, hours: Hours, machine: Decimal | None, gpu: Decimal | None
) -> Nodes:
    gpus = _decimal(hours.gpus)
    allocated = min(_decimal(hours.allocated), gpus) if known.allocated else None
    warm = min(_decimal(hours.warm), allocated or ZERO) if known.warm else None
    serving = (allocated or ZERO) - (warm or ZERO)
    busy = min(_decimal(hours.busy), serving)
    cost = None
    if machine is not None:
        cost = machine * _decimal(hours.machines)
    elif gpu is not None:
        cost = gpu * gpus
    return Nodes(str(kind), cost, gpus, allocated, warm, None, busy if known.busy else None)


def _decimal(hours: float) -> Decimal:
    return Decimal(repr(hours)).quantize(_QUANTUM)


def on_day(day: date, wanted: str, rate: Callable[[str, str, date], Decimal | None]) -> Convert:
    """Converts to a currency by the rates of a day."""

    def convert(amount: Amount) -> Decimal | None:
        worth = rate(amount.currency, wanted, day)
        return None if worth is None else amount.value * worth

    return convert
