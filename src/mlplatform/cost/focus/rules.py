"""What the specification asks of rows, as SQL that is true of a row that breaks it.

Each rule names the columns that it needs; where a file lacks one of them, the rule is silent: that
the column is missing is told once. `{Name}` in a rule stands for the column, `NULL` as text being
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mlplatform.cost.engine import text_of
from mlplatform.cost.focus.columns import LATEST, FocusColumn, Kind, columns_of


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule on rows."""

    name: str
    needs: tuple[str, ...]
    broken: str
    """SQL that is true of a row that breaks it."""
    said: str
    since: str = "1.0"
    until: str = LATEST


_CORRECTION = "{ChargeClass} IS NOT DISTINCT FROM 'Correction'"
_PRICED = f"{{ChargeCategory}} IN ('Usage', 'Purchase') AND NOT ({_CORRECTION})"

_PRICING = (
    "PricingQuantity",
    "PricingUnit",
    "SkuId",
    "SkuPriceId",
    "ListUnitPrice",
    "PricingCategory",
)
"""Not null of usage and purchases that are no corrections, null of taxes."""

CONDITIONAL = (
    *(
        Rule(
            f"{name}-given",
            (name, "ChargeCategory", "ChargeClass"),
            f"{_PRICED} AND {{{name}}} IS NULL",
            f"{name} must not be null of usage or a purchase that is no correction",
        )
        for name in _PRICING
    ),
    *(
        Rule(
            f"{name}-of-tax",
            (name, "ChargeCategory"),
            f"{{ChargeCategory}} = 'Tax' AND {{{name}}} IS NOT NULL",
            f"{name} must be null of a tax",
        )
        for name in _PRICING
    ),
    Rule(
        "ConsumedQuantity-of-usage-only",
        ("ConsumedQuantity", "ChargeCategory"),
        "{ChargeCategory} <> 'Usage' AND {ConsumedQuantity} IS NOT NULL",
        "ConsumedQuantity must be null unless the charge is usage",
    ),
    Rule(
        "ConsumedUnit-with-quantity",
        ("ConsumedQuantity", "ConsumedUnit"),
        "({ConsumedQuantity} IS NULL) <> ({ConsumedUnit} IS NULL)",
        "ConsumedQuantity and ConsumedUnit go together",
    ),
    Rule(
        "CommitmentDiscountStatus-of-usage",
        ("CommitmentDiscountId", "CommitmentDiscountStatus", "ChargeCategory"),
        "{CommitmentDiscountId} IS NOT NULL AND {ChargeCategory} = 'Usage' "
        "AND {CommitmentDiscountStatus} IS NULL",
        "CommitmentDiscountStatus must not be null of usage under a commitment",
    ),
    *(
        Rule(
            f"{name}-with-id",
            ("CommitmentDiscountId", name),
            f"({{CommitmentDiscountId}} IS NULL) <> ({{{name}}} IS NULL)",
            f"CommitmentDiscountId and {name} go together",
        )
        for name in ("CommitmentDiscountCategory", "CommitmentDiscountType")
    ),
    Rule(
        "Committed-not-purchase",
        ("PricingCategory", "ChargeCategory"),
        "{PricingCategory} = 'Committed' AND {ChargeCategory} = 'Purchase'",
        "PricingCategory must not be Committed of a purchase",
        since="1.1",
    ),
    Rule(
        "prepaid-effective",
        ("EffectiveCost", "ChargeCategory", "CommitmentDiscountId"),
        "{ChargeCategory} = 'Purchase' AND {CommitmentDiscountId} IS NOT NULL "
        "AND TRY_CAST({EffectiveCost} AS DOUBLE) <> 0",
        "EffectiveCost must be 0 of a purchase that covers later charges",
    ),
    Rule(
        "SubAccountName-without-id",
        ("SubAccountId", "SubAccountName"),
        "{SubAccountId} IS NULL AND {SubAccountName} IS NOT NULL",
        "SubAccountName must be null where SubAccountId is",
    ),
    Rule(
        "ResourceName-without-id",
        ("ResourceId", "ResourceName"),
        "{ResourceId} IS NULL AND {ResourceName} IS NOT NULL",
        "ResourceName must be null where ResourceId is",
    ),
    Rule(
        "RegionName-with-id",
        ("RegionId", "RegionName"),
        "{RegionId} IS NOT NULL AND {RegionName} IS NULL",
        "RegionName must not be null where RegionId is given",
    ),
    Rule(
        "AvailabilityZone-without-region",
        ("RegionId", "AvailabilityZone"),
        "{RegionId} IS NULL AND {AvailabilityZone} IS NOT NULL",
        "AvailabilityZone has no RegionId",
    ),
    Rule(
        "BillingCurrency-code",
        ("BillingCurrency",),
        "NOT regexp_full_match({BillingCurrency}, '[A-Z]{{3}}')",
        "BillingCurrency must be a code of ISO 4217",
    ),
    *(
        Rule(
            f"{what}Period-order",
            (f"{what}PeriodStart", f"{what}PeriodEnd"),
            f"TRY_CAST({{{what}PeriodEnd}} AS TIMESTAMPTZ) "
            f"<= TRY_CAST({{{what}PeriodStart}} AS TIMESTAMPTZ)",
            f"{what}PeriodEnd must be after {what}PeriodStart, since it is exclusive",
        )
        for what in ("Billing", "Charge")
    ),
)
"""Written from the requirements of each column."""


def rules_of(version: str) -> Iterator[Rule]:
    """The rules of a version: those of its columns' tables, then the conditional ones."""
    for column in columns_of(version):
        yield from _of_column(column)
    for rule in CONDITIONAL:
        if rule.since <= version <= rule.until:
            yield rule


def _of_column(column: FocusColumn) -> Iterator[Rule]:
    name = column.name
    if not column.nullable:
        yield Rule(f"{name}-null", (name,), f"{{{name}}} IS NULL", f"{name} must not be null")
    if column.allowed:
        values = ", ".join(text_of(value) for value in column.allowed)
        said = f"{name} must be {' or '.join(column.allowed[:5])}"
        said += " or another of its values" if len(column.allowed) > 5 else ""
        yield Rule(f"{name}-value", (name,), f"{{{name}}} NOT IN ({values})", said)
    broken = {
        Kind.DECIMAL: f"{{{name}}} IS NOT NULL AND TRY_CAST({{{name}}} AS DECIMAL(38,12)) IS NULL",
        # 1.0 and later: ISO 8601 in UTC, with its Z.
        Kind.TIME: f"{{{name}}} IS NOT NULL AND TRY_CAST({{{name}}} AS TIMESTAMPTZ) IS NULL",
        Kind.JSON: f"{{{name}}} IS NOT NULL AND NOT json_valid({{{name}}})",
    }.get(column.kind)
    if broken is not None:
        yield Rule(f"{name}-type", (name,), broken, f"{name} must be of type {column.kind}")
