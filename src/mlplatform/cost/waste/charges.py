"""Waste in the bill: resources whose own meters say that nobody uses them, and what resources found
elsewhere are charged.

It reads the ledger's cubes: EffectiveCost of usage over the last days that the data covers, told as
a month of 730 hours. Bills name their own currency, and nothing is converted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlplatform.core.money import HOURS_A_MONTH, Amount
from mlplatform.cost.cube import Measure
from mlplatform.cost.engine import name_of, text_of, told
from mlplatform.cost.ledger import Delivery, Partition, partitions, standing
from mlplatform.cost.spending import covered_until
from mlplatform.cost.waste.findings import SNAPSHOT_DAYS, Finding, Waste, last_part
from mlplatform.cost.waste.meters import AGED, IDLE, PAIRED

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

DAYS = 14
"""Over how many days a resource is looked at."""
SHORT = "CASE WHEN resource LIKE 'arn:%' THEN regexp_extract(resource, '[^/]+$') ELSE resource END"
"""SQL for `last_part` of a resource's name."""


@dataclass(frozen=True, slots=True)
class Charges:
    """The last days of a ledger."""

    connection: DuckDBPyConnection
    at_hand: Callable[[str], Path]
    regions: Mapping[str, str]
    """What bills call a region, in small letters, and its name here."""
    deliveries: Sequence[Delivery]
    begins: date | None = None
    """Looked at are the days from there on, and what is gone since counts too; else the last days,
    and what is charged to their end."""

    @property
    def covered(self) -> tuple[date, date] | None:
        """The days that are looked at; None where the ledger holds nothing."""
        ends = covered_until(standing(self.deliveries))
        if not ends:
            return None
        until = max(ends.values())
        if self.begins is not None:
            return self.begins, min(until, self.begins + timedelta(days=DAYS - 1))
        return until - timedelta(days=DAYS - 1), until

    @property
    def keeps_resources(self) -> bool:
        """Whether any delivery keeps resources apart; else waste cannot be found in it."""
        return any("" not in each.tags for each in self.deliveries)

    def findings(self) -> Iterator[Finding]:
        """What its meters call unused."""
        with told("the ledger"):
            yield from self._idle()
            yield from self._paired()
            yield from self._aged()

    def costs(self, resources: Iterable[str]) -> dict[str, list[Amount]]:
        """What these resources are charged a month, by the last part of their names."""
        wanted = sorted({last_part(each) for each in resources})
        relation, days = self._recent()
        if not wanted or relation is None:
            return {}
        names = ", ".join(text_of(each) for each in wanted)
        with told("the ledger"):
            rows = self.connection.execute(
                f"SELECT {SHORT} AS short, currency, sum({name_of(Measure.EFFECTIVE)}) "
                f"FROM {relation} WHERE {_USAGE} AND short IN ({names}) "
                "GROUP BY ALL ORDER BY ALL"
            ).fetchall()
        found: dict[str, list[Amount]] = {}
        for name, currency, cost in rows:
            if cost:
                found.setdefault(name, []).append(_monthly(cost, currency, days))
        return found

    def _idle(self) -> Iterator[Finding]:
        for meter in IDLE:
            for row in self._rows(f"{_METER} LIKE {text_of(meter.like)}", meter.provider):
                yield self._finding(row, meter.kind, f"{meter.why}: {row[2]}")

    def _paired(self) -> Iterator[Finding]:
        for meter in PAIRED:
            used = " OR ".join(f"{_METER} LIKE {text_of(each)}" for each in meter.used)
            relation, _ = self._recent()
            if relation is None:
                return
            busy = (
                f"SELECT resource FROM {relation} WHERE {_USAGE} AND resource IS NOT NULL "
                f"AND ({used}) GROUP BY resource HAVING sum(quantity) > 0 OR count(quantity) = 0"
            )
            where = f"{_METER} LIKE {text_of(meter.like)} AND resource NOT IN ({busy})"
            for row in self._rows(where, meter.provider):
                yield self._finding(row, meter.kind, meter.why)

    def _aged(self) -> Iterator[Finding]:
        covered = self.covered
        if covered is None:
            return
        long_ago = covered[1] - timedelta(days=SNAPSHOT_DAYS)
        before, _ = self._relation(long_ago - timedelta(days=2), long_ago)
        if before is None:
            return
        for meter in AGED:
            where = (
                f"{_METER} LIKE {text_of(meter.like)} AND resource IN (SELECT resource "
                f"FROM {before} WHERE {_USAGE} AND {_METER} LIKE {text_of(meter.like)})"
            )
            for row in self._rows(where, meter.provider):
                why = f"charged {SNAPSHOT_DAYS} days ago already, and every day since"
                yield self._finding(row, meter.kind, why, since=long_ago)

    def _rows(self, where: str, provider: str) -> list[tuple[Any, ...]]:
        """Resources of a provider by these meters."""
        relation, _ = self._recent()
        if relation is None:
            return []
        return self.connection.execute(
            f"SELECT resource, any_value(region), any_value({_METER}), currency, "
            f"sum({name_of(Measure.EFFECTIVE)}), count(DISTINCT day) FROM {relation} "
            f"WHERE {_USAGE} AND resource IS NOT NULL AND {where} "
            f"AND lower(provider) LIKE {text_of(provider)} "
            f"GROUP BY resource, currency HAVING sum({name_of(Measure.EFFECTIVE)}) > 0 "
            f"{'' if self.begins else _TO_THE_END.format(relation=relation)} ORDER BY ALL"
        ).fetchall()

    def _finding(
        self, row: tuple[Any, ...], kind: Waste, why: str, *, since: date | None = None
    ) -> Finding:
        resource, region, meter, currency, cost, days = row
        named = self.regions.get(str(region).lower(), str(region)) if region else "(no region)"
        first, last = self.covered or (date.min, date.max)
        return Finding(
            kind=kind,
            object=resource,
            where=named,
            why=why,
            monthly=_monthly(cost, currency, days),
            priced_by="bill",
            evidence=(f"the bill, {first} to {last}: {meter}",),
            since=None
            if since is None
            else datetime(since.year, since.month, since.day, tzinfo=UTC),
        )

    def _recent(self) -> tuple[str | None, int]:
        covered = self.covered
        return (None, 0) if covered is None else self._relation(*covered)

    def _relation(self, since: date, until: date) -> tuple[str | None, int]:
        """SQL for the cube of these days, and how many of them there are data for."""
        chosen = [
            each
            for each in partitions(standing(self.deliveries), since, until)
            if "" not in each.delivery.tags and Measure.EFFECTIVE in each.measures
        ]
        if not chosen:
            return None, 0
        paths = ", ".join(text_of(str(self._path(each))) for each in chosen)
        days = len({each.day for each in chosen})
        return f"read_parquet([{paths}], union_by_name = true)", days

    def _path(self, each: Partition) -> Path:
        return self.at_hand(each.delivery.days[each.day].key)


_METER = "coalesce(meter, sku)"
_USAGE = "category = 'Usage' AND class IS NULL"
_TO_THE_END = f"AND max(day) >= (SELECT max(day) - 1 FROM {{relation}} WHERE {_USAGE})"


def _monthly(cost: Decimal, currency: str, days: int) -> Amount:
    return Amount(cost * HOURS_A_MONTH / (24 * days), currency)
