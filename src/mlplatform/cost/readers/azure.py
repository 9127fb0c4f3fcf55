"""Azure's cost exports, actual and amortised, of Enterprise Agreements (`CostInBillingCurrency`)
and of Microsoft Customer Agreements (`costInBillingCurrency`).

Source: "Azure cost and usage details data fields", Cost Management. The two exports have the same
columns. In the actual one a commitment is a purchase and usage under it costs nothing; in the
amortised one there is no such purchase, and what was paid ahead lies on the usage, or on lines of
their own where it went unused. Together they are a bill: BilledCost of the one, EffectiveCost of
the other. Dates are MM/DD/YYYY.
"""

from __future__ import annotations

from mlplatform.cost.engine import MONEY, name_of
from mlplatform.cost.readers.shape import (
    ACTUAL,
    AMORTISED,
    Columns,
    TagNames,
    json_tag,
    selected,
)

_COST = ("CostInBillingCurrency", "Cost", "PreTaxCost")
_COMMITTED = "('Reservation', 'SavingsPlan')"
_UNUSED = "('UnusedReservation', 'UnusedSavingsPlan')"


class AzureExport:
    """Reads either export; which one it is, its rows say."""

    name = "azure"
    date_columns = ("Date", "UsageDateTime", "BillingPeriodStartDate")
    month_first = True

    def fits(self, columns: Columns) -> bool:
        return (
            columns.find(*_COST) is not None
            and columns.find("MeterId", "MeterCategory") is not None
            and columns.find("Date", "UsageDateTime") is not None
            and not columns.has("BilledCost")
        )

    def part(self, relation: str, columns: Columns) -> str | None:
        kind, model = columns.text("ChargeType"), columns.text("PricingModel")
        cost = columns.money(*_COST)
        return (
            f"SELECT CASE WHEN count(*) FILTER (WHERE {kind} IN {_UNUSED} OR ({kind} = 'Usage' "
            f"AND {model} IN {_COMMITTED} AND {cost} <> 0)) > 0 "
            f"THEN '{AMORTISED}' ELSE '{ACTUAL}' END FROM {relation}"
        )

    def select(self, relation: str, columns: Columns, tags: TagNames, part: str) -> str:
        kind, model = columns.text("ChargeType"), columns.text("PricingModel")
        cost = columns.money(*_COST)
        commitment = columns.text("BenefitId", "ReservationId")
        is_committed = f"({model} IN {_COMMITTED} OR {kind} IN {_UNUSED})"
        paid_ahead = f"({kind} IN ('Purchase', 'Refund') AND {commitment} IS NOT NULL)"
        if part == AMORTISED:
            billed = f"CAST(CASE WHEN {is_committed} THEN 0 ELSE {cost} END AS {MONEY})"
            effective = cost
        else:
            billed = cost
            # The amortised export has what usage under a commitment really costs.
            effective = f"""CAST(CASE WHEN {paid_ahead} THEN 0
                WHEN {is_committed} THEN NULL ELSE {cost} END AS {MONEY})"""
        quantity = columns.money("Quantity", "UsageQuantity")
        list_price = columns.money("PayGPrice")
        exchange = columns.money("ExchangeRatePricingToBilling")
        region = columns.text("ResourceLocation", "ResourceLocationNormalized", "MeterRegion")
        place = f"lower(replace({region}, ' ', ''))"
        expressions = {
            "BilledCost": billed,
            "EffectiveCost": effective,
            "ContractedCost": f"""CAST(CASE WHEN {is_committed} THEN NULL
                ELSE {cost} END AS {MONEY})""",
            "ListCost": f"""TRY_CAST(CASE WHEN {list_price} > 0 THEN
                CAST({list_price} AS DOUBLE) * CAST({quantity} AS DOUBLE)
                * coalesce(CAST({exchange} AS DOUBLE), 1) END AS {MONEY})""",
            "PricingQuantity": quantity,
            "PricingUnit": columns.text("UnitOfMeasure"),
            "BillingPeriodStart": columns.time("BillingPeriodStartDate"),
            "ChargePeriodStart": columns.time("Date", "UsageDateTime"),
            "BillingCurrency": columns.text("BillingCurrency", "BillingCurrencyCode", "Currency"),
            "BillingAccountId": columns.text("BillingAccountId", "BillingProfileId"),
            "SubAccountId": columns.text("SubscriptionId", "SubscriptionGuid"),
            "ServiceProviderName": "'Microsoft'",
            "RegionId": f"CASE WHEN {place} NOT IN ('unassigned', 'unknown') THEN {place} END",
            "ServiceName": columns.text("MeterCategory", "ConsumedService"),
            "SkuId": columns.text("MeterId"),
            "SkuMeter": columns.text("MeterName", "Meter"),
            "ResourceId": columns.text("ResourceId", "InstanceId", "InstanceName"),
            "x_InstanceType": columns.tag(columns.find("AdditionalInfo"), ("ServiceType",)),
            "ChargeCategory": f"""CASE {kind} WHEN 'Purchase' THEN 'Purchase'
                WHEN 'Refund' THEN 'Purchase' WHEN 'Tax' THEN 'Tax'
                WHEN 'RoundingAdjustment' THEN 'Adjustment' ELSE 'Usage' END""",
            "ChargeClass": f"CASE WHEN {kind} = 'Refund' THEN 'Correction' END",
            "PricingCategory": f"""CASE {model} WHEN 'OnDemand' THEN 'Standard'
                WHEN 'Spot' THEN 'Dynamic' WHEN 'Reservation' THEN 'Committed'
                WHEN 'SavingsPlan' THEN 'Committed' END""",
            "CommitmentDiscountId": commitment,
            "CommitmentDiscountStatus": f"""CASE WHEN {kind} IN {_UNUSED} THEN 'Unused'
                WHEN {is_committed} AND {kind} = 'Usage' THEN 'Used' END""",
            "InvoiceId": columns.text("InvoiceId"),
        }
        column = columns.find("Tags")
        found = {name: _tag(columns, column, keys) for name, keys in tags.items()}
        return selected(expressions, found, relation)


def _tag(columns: Columns, column: str | None, keys: tuple[str, ...]) -> str:
    """A tag out of `"team": "vision","env": "prod"`, which some write without its braces."""
    if column is None or columns.types[column] != "VARCHAR":
        return columns.tag(column, keys)
    name = name_of(column)
    whole = (
        f"(CASE WHEN starts_with(ltrim({name}), '{{') THEN {name} ELSE '{{' || {name} || '}}' END)"
    )
    return json_tag(whole, keys)
