"""What was spent: the cube of the last days by some of its dimensions, and how it adds up to the
bill.

Every figure names the cost that it is, and the total is reconciled to BilledCost, since that is
what people hold beside it: what differs is told by kind of charge, to the last digit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlplatform.core.errors import UsageError
from mlplatform.cost.cube import Measure, dimension
from mlplatform.cost.engine import name_of, text_of, told
from mlplatform.cost.ledger import Delivery, Partition, partitions, standing
from mlplatform.cost.rates import Rates

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

ZERO = Decimal(0)


class Kind(StrEnum):
    """What a charge is, for reconciling: each charge is one of these."""

    USAGE = "usage"
    COMMITMENTS = "commitments"
    PURCHASES = "purchases"
    TAX = "tax"
    CREDITS = "credits"
    ADJUSTMENTS = "adjustments"
    CORRECTIONS = "corrections"


KIND = f"""CASE
 WHEN class = 'Correction' THEN '{Kind.CORRECTIONS}'
 WHEN category = 'Tax' THEN '{Kind.TAX}'
 WHEN category = 'Credit' THEN '{Kind.CREDITS}'
 WHEN category = 'Adjustment' THEN '{Kind.ADJUSTMENTS}'
 WHEN category = 'Purchase' AND commitment IS NOT NULL THEN '{Kind.COMMITMENTS}'
 WHEN category = 'Purchase' THEN '{Kind.PURCHASES}'
 WHEN commitment_status = 'Unused' THEN '{Kind.COMMITMENTS}'
 ELSE '{Kind.USAGE}' END"""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a report is to show."""

    by: tuple[str, ...] = ("region",)
    days: int = 7
    measure: Measure = Measure.EFFECTIVE
    until: date | None = None
    """The last day; else the last on which there is usage."""


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the report."""

    keys: tuple[str | None, ...]
    """By what was asked; None: the charges do not say it."""
    cost: Decimal
    charges: int
    unknown: int
    """How many of the charges do not state this cost, and are left out of it."""


@dataclass(frozen=True, slots=True)
class Reconciled:
    """A kind of charge in BilledCost and in the cost that is shown."""

    kind: Kind
    billed: Decimal
    shown: Decimal


@dataclass(frozen=True, slots=True)
class Spending:
    """A report."""

    asked: Asked
    since: date
    until: date
    currency: str
    lines: tuple[Line, ...]
    reconciled: tuple[Reconciled, ...]
    converted: tuple[str, ...] = ()
    """Currencies that were converted."""
    behind: Mapping[str, date] | None = None
    """Bills whose data ends earlier than the report does, and when."""
    left_out: int = 0
    """Lines of the bills of these days' periods that could not be read or counted."""

    @property
    def total(self) -> Decimal:
        """Of the cost that is shown."""
        return sum((line.cost for line in self.lines), ZERO)

    @property
    def billed(self) -> Decimal:
        """What the bill says."""
        return sum((each.billed for each in self.reconciled), ZERO)

    @property
    def unknown(self) -> int:
        """How many charges do not state the cost that is shown."""
        return sum(line.unknown for line in self.lines)


def covered_until(deliveries: Sequence[Delivery]) -> dict[str, date]:
    """By bill: the last day on which there is usage; of one without usage, the last of all. A fee
    may lie on a day that is still to come."""
    found: dict[str, date] = {}
    for delivery in deliveries:
        used = [day for day, told in delivery.days.items() if told.usage_charges]
        last = max(used or delivery.days, default=None)
        name = str(delivery.bill)
        if last is not None:
            found[name] = max(last, found.get(name, last))
    return found


@dataclass(frozen=True, slots=True)
class Spender:
    """Reads reports out of a ledger's deliveries."""

    connection: DuckDBPyConnection
    at_hand: Callable[[str], Path]
    """A partition, by its key, as a file."""
    regions: Mapping[str, str]
    """What bills call a region, in small letters, and its name here."""
    tags: Sequence[str]
    currency: str
    rates: Rates

    def report(self, deliveries: Sequence[Delivery], asked: Asked) -> Spending | None:
        """The last days of what the deliveries hold; None if they hold nothing.

        `UsageError` for a dimension that there is not, and for currencies that no rate converts.
        """
        columns = [dimension(name, self.tags) for name in asked.by]
        stands = standing(deliveries)
        ends = covered_until(stands)
        if not ends:
            return None
        until = asked.until or max(ends.values())
        since = until - timedelta(days=asked.days - 1)
        chosen = list(partitions(stands, since, until))
        lines: dict[tuple[str | None, ...], Line] = {}
        kinds: dict[Kind, Reconciled] = {}
        used: set[str] = set()
        with told("the ledger"):
            rows = self._rows(chosen, columns, asked.measure)
        for *found, kind, currency, day, billed, shown, known, charges in rows:
            rate = self.rate(currency, day, used)
            names = tuple(
                self.named(column, value) for column, value in zip(columns, found, strict=True)
            )
            line = lines.get(names, Line(names, ZERO, 0, 0))
            cost = (shown or ZERO) * rate
            lines[names] = Line(
                names, line.cost + cost, line.charges + charges, line.unknown + charges - known
            )
            before = kinds.get(Kind(kind), Reconciled(Kind(kind), ZERO, ZERO))
            kinds[before.kind] = Reconciled(
                before.kind, before.billed + (billed or ZERO) * rate, before.shown + cost
            )
        return Spending(
            asked,
            since,
            until,
            self.currency,
            tuple(sorted(lines.values(), key=lambda line: (-line.cost, str(line.keys)))),
            tuple(kinds[kind] for kind in Kind if kind in kinds),
            converted=tuple(sorted(used)),
            behind={name: end for name, end in sorted(ends.items()) if end < until},
            left_out=_left_out(chosen),
        )

    def _rows(
        self, chosen: Sequence[Partition], columns: Sequence[str], measure: Measure
    ) -> list[tuple[Any, ...]]:
        """Sums by column, kind and currency; by day where a currency is to be converted."""
        if not chosen:
            return []
        currencies = {
            currency for each in chosen for currency in each.delivery.days[each.day].totals
        }
        keys = [f"{name_of(column)} AS key_{place}" for place, column in enumerate(columns)]
        day = "CAST(NULL AS DATE)" if currencies == {self.currency} else "day"
        summed = (
            f"sum({name_of(Measure.BILLED)}), sum({name_of(measure)}), "
            f"CAST(sum({name_of(f'{measure}_rows')}) AS BIGINT), CAST(sum(charges) AS BIGINT)"
        )
        return self.connection.execute(
            f"SELECT {', '.join(keys)}, {KIND} AS kind, currency, {day} AS its_day, {summed} "
            f"FROM {self.relation(chosen)} GROUP BY ALL"
        ).fetchall()

    def relation(self, chosen: Sequence[Partition]) -> str:
        """SQL for the rows of the partitions, each with only the measures that it speaks for."""
        groups: dict[tuple[Measure, ...], list[str]] = {}
        for each in chosen:
            path = self.at_hand(each.delivery.days[each.day].key)
            groups.setdefault(each.measures, []).append(text_of(str(path)))
        parts = []
        for measures, paths in groups.items():
            silent = [each for each in Measure if each not in measures]
            replaced = [f"0 AS {name_of(each)}" for each in silent]
            # They are known: the other part of the bill holds them.
            replaced += [f"charges AS {name_of(f'{each}_rows')}" for each in silent]
            replace = f" REPLACE ({', '.join(replaced)})" if replaced else ""
            parts.append(
                f"SELECT *{replace} FROM read_parquet([{', '.join(paths)}], union_by_name = true)"
            )
        return f"({' UNION ALL BY NAME '.join(parts)})"

    def rate(self, currency: str, day: date | None, used: set[str]) -> Decimal:
        """What a currency is worth in the report's, kept in `used` if that is another. `UsageError`
        if no rate says it."""
        if currency == self.currency:
            return Decimal(1)
        rate = self.rates.rate(currency, self.currency, day) if day is not None else None
        if rate is None:
            raise UsageError(
                f"the bill has charges in {currency} on {day}, and no rate says what that is in "
                f"{self.currency}",
                hint=f"`cost.rates` in the topology names a table; add {currency},{self.currency},"
                f"RATE,{day}; or set `cost.currency: {currency}`",
            )
        used.add(currency)
        return rate

    def named(self, column: str, value: Any) -> str | None:
        """What a value of a column is called here; None stays unknown."""
        if value is None:
            return None
        text = str(value)
        return self.regions.get(text.lower(), text) if column == "region" else text


def _left_out(chosen: Sequence[Partition]) -> int:
    deliveries = {each.delivery.id: each.delivery for each in chosen}
    return sum(
        finding.rows
        for delivery in deliveries.values()
        for finding in delivery.findings
        if finding.left_out
    )
