"""A generated bill of FOCUS, 21 columns: `python -m benchmarks.cost_bill ROWS MONEY FILE`.

`MONEY` is the type of its costs, by DuckDB's name.
"""

import sys
from pathlib import Path

import duckdb

CHARGES = """
SELECT CAST(cost AS $MONEY) AS BilledCost, '111122223333' AS BillingAccountId,
  'Example Corp' AS BillingAccountName, 'USD' AS BillingCurrency,
  TIMESTAMP '2026-10-01' AS BillingPeriodStart, TIMESTAMP '2026-11-01' AS BillingPeriodEnd,
  CASE WHEN chance % 97 = 0 THEN 'Purchase' ELSE 'Usage' END AS ChargeCategory,
  CAST(NULL AS VARCHAR) AS ChargeClass,
  began AS ChargePeriodStart, began + INTERVAL 1 HOUR AS ChargePeriodEnd,
  CAST(cost AS $MONEY) AS ContractedCost, CAST(cost * 0.8 AS $MONEY) AS EffectiveCost,
  CAST(cost * 1.2 AS $MONEY) AS ListCost, CAST(chance % 24 AS $MONEY) AS PricingQuantity,
  'Hours' AS PricingUnit,
  'AWS' AS ProviderName, 'region-' || (chance // 7 % 30) AS RegionId,
  'i-' || (chance // 11 % 5000) AS ResourceId,
  'service-' || (chance // 13 % 140) AS ServiceName, 'sku-' || (chance // 17 % 900) AS SkuId,
  '{"team": "team-' || (chance // 19 % 25) || '", "model": "model-' || (chance // 23 % 60)
  || '"}' AS Tags
FROM (SELECT TIMESTAMP '2026-10-01' + to_seconds(CAST(i * (31 * 86400.0 / $ROWS) AS BIGINT))
    AS began,
  hash(i) % 1000000007 AS chance,
  round((hash(i + 5) % 1000000) / 3333.0, 6) AS cost
  FROM range($ROWS) t(i))
"""


def main() -> None:
    """Write it as CSV or as Parquet with zstd, by the file's name."""
    rows, money, path = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    form = "(FORMAT csv)" if path.suffix == ".csv" else "(FORMAT parquet, COMPRESSION zstd)"
    with duckdb.connect() as connection:
        connection.execute("SET enable_progress_bar = false")
        charges = CHARGES.replace("$ROWS", rows).replace("$MONEY", money)
        connection.execute(f"COPY ({charges}) TO '{path}' {form}").fetchall()


if __name__ == "__main__":
    main()
