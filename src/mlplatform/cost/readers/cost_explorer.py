"""What AWS Cost Explorer answers to GetCostAndUsage, a day at a time.

Source: AWS Cost Management API, GetCostAndUsage and Expression. An answer is grouped by two
dimensions at most, so that a month is asked for twice, over the two halves of RECORD_TYPE: usage by
region and service, and taxes, credits, refunds and fees by service and kind. BilledCost is
UnblendedCost, EffectiveCost is AmortizedCost. Quantities are left out: over several usage types
they are sums of unlike things. What is `Estimated` has no invoice yet; nothing here has its number.

The answer does not name the account: `Account` beside it does.
"""

from __future__ import annotations

from mlplatform.cost.engine import MONEY, text_of
from mlplatform.cost.readers.shape import Columns, TagNames, selected

_NOWHERE = ("NoRegion", "NoService", "NoRecordType", "")


class CostExplorer:
    """Reads answers of GetCostAndUsage."""

    name = "cost-explorer"
    date_columns = ()
    month_first = False

    def fits(self, columns: Columns) -> bool:
        return columns.has("ResultsByTime", "GroupDefinitions")

    def part(self, relation: str, columns: Columns) -> str | None:
        return None

    def select(self, relation: str, columns: Columns, tags: TagNames, part: str) -> str:
        account = "Account" if columns.has("Account") else "CAST(NULL AS VARCHAR)"
        days = (
            f"SELECT CAST({account} AS VARCHAR) AS account, "
            "CAST(json_extract_string(to_json(GroupDefinitions), '$[*].Key') AS VARCHAR[]) "
            "AS named, unnest(CAST(to_json(ResultsByTime) AS JSON[])) AS told "
            f"FROM {relation}"
        )
        groups = (
            "SELECT account, named, json_extract_string(told, '/TimePeriod/Start') AS day, "
            "unnest(CASE WHEN json_array_length(told, '/Groups') > 0 "
            "THEN CAST(json_extract(told, '/Groups') AS JSON[]) "
            "ELSE [json_object('Keys', [], 'Metrics', json_extract(told, '/Total'))] END) AS found "
            f"FROM ({days})"
        )
        keyed = (
            "SELECT *, CAST(json_extract_string(found, '$.Keys[*]') AS VARCHAR[]) AS keys, "
            f"json_extract(found, '/Metrics') AS metrics FROM ({groups})"
        )
        kind = _key("RECORD_TYPE")
        expressions = {
            "BilledCost": _amount("UnblendedCost"),
            "EffectiveCost": _amount("AmortizedCost"),
            "BillingPeriodStart": "CAST(date_trunc('month', TRY_CAST(day AS DATE)) AS TIMESTAMP)",
            "ChargePeriodStart": "TRY_CAST(day AS TIMESTAMP)",
            "BillingCurrency": "json_extract_string(metrics, '/UnblendedCost/Unit')",
            "BillingAccountId": "account",
            "SubAccountId": _key("LINKED_ACCOUNT"),
            "ServiceProviderName": "'AWS'",
            "RegionId": _key("REGION"),
            "ServiceName": _key("SERVICE"),
            "SkuMeter": _key("USAGE_TYPE"),
            "x_InstanceType": _key("INSTANCE_TYPE"),
            "ChargeCategory": f"""CASE WHEN {kind} = 'Tax' THEN 'Tax'
                WHEN {kind} = 'Credit' OR {kind} LIKE '%Discount' THEN 'Credit'
                WHEN {kind} IN ('Fee', 'RIFee', 'SavingsPlanRecurringFee', 'SavingsPlanUpfrontFee')
                THEN 'Purchase' ELSE 'Usage' END""",
            "ChargeClass": f"CASE WHEN {kind} = 'Refund' THEN 'Correction' END",
        }
        found = {name: _tag(keys) for name, keys in tags.items()}
        return selected(
            expressions,
            found,
            f"({keyed})",
            where="json_extract(metrics, '/UnblendedCost') NOTNULL",
        )


def _amount(metric: str) -> str:
    return f"TRY_CAST(json_extract_string(metrics, '/{metric}/Amount') AS {MONEY})"


def _key(dimension: str) -> str:
    """The value of a dimension that the answer is grouped by; nothing where it is not."""
    value = f"keys[list_position(named, {text_of(dimension)})]"
    nowhere = ", ".join(text_of(each) for each in _NOWHERE)
    return f"CASE WHEN {value} NOT IN ({nowhere}) THEN {value} END"


def _tag(keys: tuple[str, ...]) -> str:
    """A tag that the answer is grouped by: its values are `key$value`."""
    found = [
        f"nullif(regexp_extract(keys[list_position(named, {text_of(key)})], '[$](.*)$', 1), '')"
        for key in keys
    ]
    return f"coalesce({', '.join(found)})"
