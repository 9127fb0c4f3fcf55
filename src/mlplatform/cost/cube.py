"""The cube: what was charged a day, by everything that reports and detection ask for.

A row of the cube is a day and a combination of dimensions; its measures are sums over the charges
of the bill, as DECIMAL. What a charge does not state (a list cost, an effective cost) is unknown:
it is left out of the sum, and the count beside the sum says of how many charges it was known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

from mlplatform.core.errors import UsageError
from mlplatform.cost.engine import name_of


class Measure(StrEnum):
    """Which cost: `--cost`. The names are FOCUS's."""

    BILLED = "billed"
    EFFECTIVE = "effective"
    CONTRACTED = "contracted"
    LIST = "list"

    @property
    def column(self) -> str:
        """What FOCUS calls it."""
        return f"{self.value.capitalize()}Cost"


DIMENSIONS: Mapping[str, str] = {
    "provider": "ServiceProviderName",
    "billing_account": "BillingAccountId",
    "account": "SubAccountId",
    "region": "RegionId",
    "service": "ServiceName",
    "service_category": "ServiceCategory",
    "sku": "SkuId",
    "meter": "SkuMeter",
    "instance": "x_InstanceType",
    "resource": "ResourceId",
    "pricing": "PricingCategory",
    "unit": "PricingUnit",
    "commitment": "CommitmentDiscountId",
    "commitment_status": "CommitmentDiscountStatus",
    "category": "ChargeCategory",
    "class": "ChargeClass",
    "currency": "BillingCurrency",
}
"""Dimensions by name, each with the column of a charge that it is."""

TAG_PREFIX = "tag_"
DAY = "CAST(ChargePeriodStart AS DATE)"
"""A charge belongs to the day, in UTC, on which its period starts. One that spans a month lies on
its first day, as in the bill."""


def sums() -> list[str]:
    """SQL for the measures of a group of charges."""
    found = [f"sum({each.column}) AS {name_of(each)}" for each in Measure]
    found += [f"count({each.column}) AS {name_of(f'{each}_rows')}" for each in Measure]
    found += ["sum(PricingQuantity) AS quantity", "count(InvoiceId) AS invoiced_rows"]
    return [*found, "count(*) AS charges"]


def cube_of(
    relation: str,
    *,
    dimensions: Sequence[str] = tuple(DIMENSIONS),
    tags: Iterable[str] = (),
    where: str = "",
) -> str:
    """SQL for the cube of a relation of charges: a row for each day and combination."""
    keys = {"day": DAY} | {name: DIMENSIONS[name] for name in dimensions}
    keys |= {f"{TAG_PREFIX}{name}": name_of(f"{TAG_PREFIX}{name}") for name in tags}
    selected = ", ".join(f"{told} AS {name_of(name)}" for name, told in keys.items())
    filtered = f" WHERE {where}" if where else ""
    return f"SELECT {selected}, {', '.join(sums())} FROM {relation}{filtered} GROUP BY ALL"


def dimension(name: str, tags: Iterable[str]) -> str:
    """The cube's column of a name that a user typed: a dimension, a tag, or `day`. `UsageError`
    lists those there are."""
    plain = name.strip().lower().replace("-", "_")
    tags = list(tags)
    if plain == "day" or plain in DIMENSIONS:
        return plain
    for tag in tags:
        if name.strip().lower() == tag.lower():
            return f"{TAG_PREFIX}{tag}"
    known = [*("day", *DIMENSIONS), *tags]
    hint = f"there are: {', '.join(each.replace('_', '-') for each in known)}"
    if not tags or plain in {"model", "team"}:
        hint += f"; `cost.tags` in the topology says which tags are the {name}"
    raise UsageError(f"--by {name}: no such dimension", hint=hint)
