"""AWS Cost and Usage Report 2.0, and the report before it, whose columns are the same but for their
spelling (`lineItem/UnblendedCost`).

Source: "Cost and Usage Report (CUR) 2.0" table dictionary of AWS Data Exports. BilledCost is the
unblended cost of every line item, so that the total is the bill's: usage under a savings plan is
there at its on-demand cost, and its negation takes it back. EffectiveCost follows the report's own
amortised columns:

    SavingsPlanCoveredUsage   savings_plan_savings_plan_effective_cost
    SavingsPlanNegation       0
    SavingsPlanRecurringFee   total_commitment_to_date - used_commitment, what went unused
    SavingsPlanUpfrontFee     0
    DiscountedUsage           reservation_effective_cost
    RIFee                     unused amortised upfront fee + unused recurring fee
    Fee of a reservation      0
    all else                  unblended cost
"""

from __future__ import annotations

from mlplatform.cost.engine import MONEY
from mlplatform.cost.readers.shape import Columns, TagNames, selected

_UNDER_PLAN = "'SavingsPlanCoveredUsage', 'SavingsPlanNegation'"
_PLAN_FEES = "'SavingsPlanRecurringFee', 'SavingsPlanUpfrontFee'"


class CostAndUsageReport:
    """Reads a report as it lies in its bucket; the period is replaced whole, since identifiers of
    line items do not last from one delivery to the next."""

    name = "cur2"
    date_columns = ("line_item_usage_start_date", "bill_billing_period_start_date")
    month_first = False

    def fits(self, columns: Columns) -> bool:
        return columns.has("line_item_unblended_cost", "line_item_line_item_type")

    def part(self, relation: str, columns: Columns) -> str | None:
        return None

    def select(self, relation: str, columns: Columns, tags: TagNames, part: str) -> str:
        kind = columns.text("line_item_line_item_type")
        unblended = columns.money("line_item_unblended_cost")
        reservation = columns.text("reservation_reservation_a_r_n")
        plan = columns.text("savings_plan_savings_plan_a_r_n")
        product = columns.find("product")
        usage_type = columns.text("line_item_usage_type")

        def of_product(name: str, *more: str) -> str:
            """A property of the product: a column of its own, or a key of the map."""
            named = columns.text(f"product_{name}", *more)
            return f"coalesce({named}, {columns.tag(product, (name,))})"

        unused_plan = (
            f"{columns.money('savings_plan_total_commitment_to_date')} "
            f"- {columns.money('savings_plan_used_commitment')}"
        )
        unused_reservation = (
            f"{columns.money('reservation_unused_amortized_upfront_fee_for_billing_period')} "
            f"+ {columns.money('reservation_unused_recurring_fee')}"
        )
        effective = f"""CAST(CASE {kind}
            WHEN 'SavingsPlanCoveredUsage' THEN
              {columns.money("savings_plan_savings_plan_effective_cost")}
            WHEN 'SavingsPlanNegation' THEN 0
            WHEN 'SavingsPlanRecurringFee' THEN {unused_plan}
            WHEN 'SavingsPlanUpfrontFee' THEN 0
            WHEN 'DiscountedUsage' THEN {columns.money("reservation_effective_cost")}
            WHEN 'RIFee' THEN {unused_reservation}
            WHEN 'Fee' THEN CASE WHEN {reservation} IS NULL THEN {unblended} ELSE 0 END
            ELSE {unblended} END AS {MONEY})"""
        on_demand = columns.money("pricing_public_on_demand_cost")
        expressions = {
            "BilledCost": unblended,
            "EffectiveCost": effective,
            # What reserved usage would have cost at one's own rates the report does not say.
            "ContractedCost": f"""CAST(CASE {kind} WHEN 'SavingsPlanNegation' THEN 0
                WHEN 'DiscountedUsage' THEN NULL ELSE {unblended} END AS {MONEY})""",
            "ListCost": f"""CAST(CASE
                WHEN {kind} IN ('Usage', 'SavingsPlanCoveredUsage', 'DiscountedUsage')
                THEN {on_demand}
                WHEN {kind} = 'SavingsPlanNegation' THEN 0 ELSE {unblended} END AS {MONEY})""",
            "PricingQuantity": columns.money("line_item_usage_amount"),
            "PricingUnit": columns.text("pricing_unit"),
            "BillingPeriodStart": columns.time("bill_billing_period_start_date"),
            "ChargePeriodStart": columns.time("line_item_usage_start_date"),
            "BillingCurrency": columns.text("line_item_currency_code"),
            "BillingAccountId": columns.text("bill_payer_account_id"),
            "SubAccountId": columns.text("line_item_usage_account_id"),
            "ServiceProviderName": "'AWS'",
            "RegionId": of_product("region_code", "product_region"),
            "ServiceName": of_product(
                "product_name", "product_servicename", "line_item_product_code"
            ),
            "SkuId": of_product("sku"),
            "SkuMeter": usage_type,
            "ResourceId": columns.text("line_item_resource_id"),
            "x_InstanceType": of_product("instance_type"),
            "ChargeCategory": f"""CASE WHEN {kind} = 'Tax' THEN 'Tax'
                WHEN {kind} = 'Credit' OR {kind} LIKE '%Discount' THEN 'Credit'
                WHEN {kind} IN ('Fee', 'RIFee', {_PLAN_FEES}) THEN 'Purchase'
                ELSE 'Usage' END""",
            "ChargeClass": f"CASE WHEN {kind} = 'Refund' THEN 'Correction' END",
            "PricingCategory": f"""CASE
                WHEN {kind} IN ({_UNDER_PLAN}, 'DiscountedUsage') THEN 'Committed'
                WHEN {usage_type} LIKE '%SpotUsage%' THEN 'Dynamic'
                WHEN {kind} = 'Usage' THEN 'Standard' END""",
            "CommitmentDiscountId": f"coalesce({plan}, {reservation})",
            "CommitmentDiscountStatus": f"""CASE
                WHEN {kind} IN ('SavingsPlanCoveredUsage', 'DiscountedUsage') THEN 'Used'
                WHEN {kind} IN ('SavingsPlanRecurringFee', 'RIFee') THEN 'Unused' END""",
            "InvoiceId": columns.text("bill_invoice_id"),
        }
        return selected(
            expressions, {name: _tag(columns, keys) for name, keys in tags.items()}, relation
        )


def _tag(columns: Columns, keys: tuple[str, ...]) -> str:
    """A tag out of the map, whose keys say who set them, or out of a column of its own."""
    in_map = columns.tag(
        columns.find("resource_tags"),
        [form for key in keys for form in (f"user_{_plain(key)}", f"user:{key}", key)],
    )
    own = [f"resource_tags_user_{key}" for key in keys]
    return f"coalesce({in_map}, {columns.text(*own)})"


def _plain(key: str) -> str:
    """A tag's key as the report's map has it: small letters, all else an underscore."""
    return "".join(char if char.isalnum() else "_" for char in key.lower())
