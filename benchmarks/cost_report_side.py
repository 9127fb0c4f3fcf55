"""A report out of the ledger beside DuckDB's own query of the export, in one process that has
imported both: `python -m benchmarks.cost_report_side TOPOLOGY EXPORT`; prints the two times."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import duckdb

from mlplatform.core.topology import Topology
from mlplatform.cost.cost_analyzer import open_office
from mlplatform.cost.spending import Asked

QUERY = """
SELECT RegionId, sum(EffectiveCost) AS cost, count(*) AS charges FROM '$FILE'
WHERE ChargePeriodStart >= (SELECT max(ChargePeriodStart)::DATE - 6 FROM '$FILE')
GROUP BY ALL ORDER BY cost DESC
"""


def main() -> None:
    """Each once to warm, then once to be timed."""
    topology, export = Topology.load(Path(sys.argv[1])), sys.argv[2]

    def ours() -> float:
        with open_office(topology) as office:
            began = time.perf_counter()
            office.spender().report(office.ledger.current(), Asked(("region",), 7))
            return time.perf_counter() - began

    def peer() -> float:
        with duckdb.connect() as connection:
            began = time.perf_counter()
            connection.execute(QUERY.replace("$FILE", export)).fetchall()
            return time.perf_counter() - began

    sides: tuple[Callable[[], float], ...] = (ours, peer)
    for side in sides:
        side()
    print(*(side() for side in sides))


if __name__ == "__main__":
    main()
