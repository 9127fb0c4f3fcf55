"""Google Cloud's billing export to BigQuery, standard and detailed, taken out as Parquet or as
lines of JSON.

Source: "Structure of Standard data export" and "Structure of Detailed data export", Cloud Billing.
`cost` is before credits. A credit that is a discount on the usage belongs to its cost; a grant
(a promotion, a subscription's benefit) becomes a charge of its own, as FOCUS has it. Committed use
is billed as it is used up, so EffectiveCost is BilledCost. The billing period is the invoice's
month, which ends at midnight in Pacific time; days are UTC, as everywhere here.
"""

from __future__ import annotations

from mlplatform.cost.engine import MONEY, name_of, text_of
from mlplatform.cost.readers.shape import Columns, TagNames, selected

_DISCOUNTS = (
    *("SUSTAINED_USAGE_DISCOUNT", "DISCOUNT", "COMMITTED_USAGE_DISCOUNT"),
    *("COMMITTED_USAGE_DISCOUNT_DOLLAR_BASE", "FREE_TIER", "FEE_UTILIZATION_OFFSET"),
)


class BigQueryExport:
    """Reads the export with its nested columns."""

    name = "bigquery"
    date_columns = ("usage_start_time",)
    month_first = False

    def fits(self, columns: Columns) -> bool:
        return columns.has("cost", "usage_start_time", "currency") and (
            columns.field("service", "description") is not None
        )

    def part(self, relation: str, columns: Columns) -> str | None:
        return None

    def select(self, relation: str, columns: Columns, tags: TagNames, part: str) -> str:
        column = columns.find("credits")
        has_credits = column is not None and columns.types[column].endswith("[]")
        cost = columns.money("cost")
        own = self._expressions(columns)
        found = {name: _label(columns, keys) for name, keys in tags.items()}
        discount = f"coalesce({_discounts(column)}, 0)" if has_credits and column else "0"
        billed = f"CAST({cost} + {discount} AS {MONEY})"
        charges = selected({**own, "BilledCost": billed, "EffectiveCost": billed}, found, relation)
        if not has_credits or column is None or not _has_type(columns, column):
            return charges
        amount = f"CAST(credit.amount AS {MONEY})"
        granted = {
            name: told
            for name, told in own.items()
            if name not in {"PricingQuantity", "PricingUnit", "PricingCategory"}
        } | {
            "BilledCost": amount,
            "EffectiveCost": amount,
            "ContractedCost": amount,
            "ListCost": amount,
            "ChargeCategory": "'Credit'",
            "ChargeClass": "NULL",
        }
        granted_only = f"NOT {_is_discount('credit')}"
        each = f"(SELECT *, unnest({name_of(column)}) AS credit FROM {relation})"
        return f"{charges} UNION ALL {selected(granted, found, each, where=granted_only)}"

    def _expressions(self, columns: Columns) -> dict[str, str]:
        def text(*path: str) -> str:
            return columns.field(*path) or "CAST(NULL AS VARCHAR)"

        sku = text("sku", "description")
        month = text("invoice", "month")
        return {
            "ContractedCost": columns.money("cost"),
            "ListCost": columns.money("cost_at_list"),
            "PricingQuantity": _as_money(columns.field("usage", "amount_in_pricing_units")),
            "PricingUnit": text("usage", "pricing_unit"),
            "BillingPeriodStart": f"CAST(try_strptime({month} || '01', '%Y%m%d') AS TIMESTAMP)",
            "ChargePeriodStart": columns.time("usage_start_time"),
            "BillingCurrency": columns.text("currency"),
            "BillingAccountId": columns.text("billing_account_id"),
            "SubAccountId": text("project", "id"),
            "ServiceProviderName": "'Google Cloud'",
            "RegionId": f"coalesce({text('location', 'region')}, {text('location', 'location')})",
            "ServiceName": text("service", "description"),
            "SkuId": text("sku", "id"),
            "SkuMeter": sku,
            "ResourceId": f"coalesce({text('resource', 'global_name')}, "
            f"{text('resource', 'name')})",
            "x_InstanceType": _in_list(
                columns, "system_labels", ("compute.googleapis.com/machine_spec",)
            ),
            "ChargeCategory": f"""CASE {columns.text("cost_type")} WHEN 'tax' THEN 'Tax'
                WHEN 'adjustment' THEN 'Adjustment' WHEN 'rounding_error' THEN 'Adjustment'
                ELSE 'Usage' END""",
            "PricingCategory": f"""CASE WHEN {sku} LIKE 'Spot Preemptible %' THEN 'Dynamic'
                WHEN {sku} LIKE 'Preemptible %' THEN 'Dynamic' ELSE 'Standard' END""",
        }


def _as_money(expression: str | None) -> str:
    return f"TRY_CAST({expression or 'NULL'} AS {MONEY})"


def _has_type(columns: Columns, column: str) -> bool:
    return "type" in columns.types[column].lower()


def _is_discount(credit: str) -> str:
    listed = ", ".join(text_of(each) for each in _DISCOUNTS)
    return f"coalesce({credit}.type IN ({listed}), false)"


def _discounts(column: str) -> str:
    """SQL for the sum of the column that are discounts."""
    kept = f"list_filter({name_of(column)}, lambda c: {_is_discount('c')})"
    return f"list_sum(list_transform({kept}, lambda c: CAST(c.amount AS {MONEY})))"


def _label(columns: Columns, keys: tuple[str, ...]) -> str:
    return _in_list(columns, "labels", keys)


def _in_list(columns: Columns, name: str, keys: tuple[str, ...]) -> str:
    """The value of the first of these keys in a list of keys and values."""
    column = columns.find(name)
    if column is None or not columns.types[column].endswith("[]"):
        return "CAST(NULL AS VARCHAR)"
    found = [
        f"nullif(list_filter({name_of(column)}, lambda l: l.key = {text_of(key)})[1].value, '')"
        for key in keys
    ]
    return f"coalesce({', '.join(found)})"
