"""What was bought of which machine, out of the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from decimal import Decimal

from mlplatform.cost.cube import Measure
from mlplatform.cost.engine import name_of, told
from mlplatform.cost.ledger import Delivery, partitions, standing
from mlplatform.cost.spending import ZERO, Spender
from mlplatform.cost.unit.spot import Bought


def bought(
    spender: Spender, deliveries: Sequence[Delivery], since: date, until: date, measure: Measure
) -> list[Bought]:
    """What was used of each kind of machine on some days, where bills name the kind."""
    # Quantities are in every part of a bill: only of the one that speaks for the cost they count.
    chosen = [
        each for each in partitions(standing(deliveries), since, until) if measure in each.measures
    ]
    if not chosen:
        return []
    with told("the ledger"):
        rows = spender.connection.execute(
            "SELECT region, CAST(instance AS VARCHAR), pricing, unit, currency, day, "
            f"sum({name_of(measure)}), sum(quantity), count(*) - count(quantity) "
            f"FROM {spender.relation(chosen)} "
            "WHERE instance IS NOT NULL AND category = 'Usage' GROUP BY ALL"
        ).fetchall()
    found: dict[tuple[str | None, str, str | None, str | None], Bought] = {}
    used: set[str] = set()
    for region, machine, pricing, unit, currency, day, cost, quantity, unknown in rows:
        key = (spender.named("region", region), machine, pricing, unit)
        before = found.get(key, Bought(*key, ZERO, ZERO))
        found[key] = Bought(
            *key,
            before.cost + (cost or ZERO) * spender.rate(currency, day, used),
            _sum(before.quantity, None if unknown else quantity),
        )
    return list(found.values())


def _sum(one: Decimal | None, other: Decimal | None) -> Decimal | None:
    return None if one is None or other is None else one + other
