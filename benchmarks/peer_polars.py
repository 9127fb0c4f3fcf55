"""The cube in polars, streaming, in an environment of its own: `python peer_polars.py FILE…`."""

import sys
import tempfile

import polars as pl

COSTS = ("BilledCost", "EffectiveCost", "ContractedCost", "ListCost")


def main() -> None:
    """Day × region × service, into a Parquet file; how many rows it has."""
    cube = (
        pl.scan_parquet(sys.argv[1:])
        .group_by(pl.col("ChargePeriodStart").dt.date().alias("day"), "RegionId", "ServiceName")
        .agg(
            *(pl.col(cost).sum() for cost in COSTS),
            *(pl.col(cost).count().alias(f"{cost}_rows") for cost in COSTS),
            pl.col("PricingQuantity").sum(),
            pl.len(),
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        cube.sink_parquet(f"{folder}/cube.parquet")
        print(pl.scan_parquet(f"{folder}/cube.parquet").select(pl.len()).collect().item())


if __name__ == "__main__":
    main()
