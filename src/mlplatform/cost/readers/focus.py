"""FOCUS 1.0 to 1.4, whoever wrote it: https://focus.finops.org/focus-specification/."""

from __future__ import annotations

from mlplatform.cost.focus.columns import OLD_NAMES
from mlplatform.cost.readers.shape import Columns, TagNames, selected

_OLD = {name: old for old, name in OLD_NAMES.items()}


class Focus:
    """Reads any version, columns missing, renamed with spaces or in another case."""

    name = "focus"
    date_columns = ("ChargePeriodStart", "BillingPeriodStart")
    month_first = False

    def fits(self, columns: Columns) -> bool:
        return columns.has("BilledCost") and (
            columns.has("ChargePeriodStart") or columns.has("BillingPeriodStart")
        )

    def part(self, relation: str, columns: Columns) -> str | None:
        return None

    def select(self, relation: str, columns: Columns, tags: TagNames, part: str) -> str:
        def text(name: str, *more: str) -> str:
            return columns.text(name, *([_OLD[name]] if name in _OLD else []), *more)

        details = columns.find("SkuPriceDetails")
        instance = columns.find("x_InstanceType", "x_SkuInstanceType")
        expressions = {
            "BilledCost": columns.money("BilledCost"),
            "EffectiveCost": columns.money("EffectiveCost", "AmortizedCost"),
            "ContractedCost": columns.money("ContractedCost"),
            "ListCost": columns.money("ListCost"),
            "PricingQuantity": columns.money(
                "PricingQuantity", "ConsumedQuantity", "UsageQuantity"
            ),
            "PricingUnit": text("PricingUnit")
            if columns.has("PricingQuantity")
            else text("ConsumedUnit"),
            "BillingPeriodStart": columns.time("BillingPeriodStart"),
            "ChargePeriodStart": columns.time("ChargePeriodStart"),
            "BillingCurrency": text("BillingCurrency"),
            "BillingAccountId": text("BillingAccountId"),
            "SubAccountId": text("SubAccountId"),
            "ServiceProviderName": text(
                "ServiceProviderName", "ProviderName", "Provider", "InvoiceIssuerName"
            ),
            "RegionId": text("RegionId")
            if columns.find("RegionId", "Region")
            else text("RegionName"),
            "ServiceCategory": text("ServiceCategory"),
            "ServiceName": text("ServiceName"),
            "SkuId": text("SkuId", "SkuPriceId"),
            "SkuMeter": text("SkuMeter", "x_UsageType"),
            "ResourceId": text("ResourceId"),
            "ChargeCategory": text("ChargeCategory"),
            "ChargeClass": text("ChargeClass"),
            "PricingCategory": text("PricingCategory"),
            "CommitmentDiscountId": text("CommitmentDiscountId"),
            "CommitmentDiscountStatus": text("CommitmentDiscountStatus"),
            "InvoiceId": text("InvoiceId"),
            "x_InstanceType": columns.text("x_InstanceType", "x_SkuInstanceType")
            if instance is not None
            else columns.tag(details, ("InstanceType", "x_InstanceType")),
        }
        column = columns.find("Tags")
        found = {
            name: columns.tag(column, [form for key in keys for form in (key, f"user:{key}")])
            for name, keys in tags.items()
        }
        return selected(expressions, found, relation)
