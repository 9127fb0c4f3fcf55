"""What was spent a day, by some of the dimensions: it is drawn, forecast, and held against budgets.

A day on which none of the bills that a row is found in has data is no zero: it is not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal

from mlplatform.cost.cube import Measure, dimension
from mlplatform.cost.engine import name_of, text_of, told
from mlplatform.cost.ledger import Delivery, partitions, standing
from mlplatform.cost.spending import ZERO, Spender, covered_until

Keys = tuple[str | None, ...]
Costs = Mapping[date, Decimal]

_UNKNOWN = "unknown"
"""What the ledger calls a bill's provider or account that is not stated."""


@dataclass(frozen=True, slots=True)
class Daily:
    """Costs by day, of some days."""

    since: date
    until: date
    by: tuple[str, ...]
    measure: Measure
    currency: str
    rows: Mapping[Keys, Costs]
    """By what was asked. A day that is not there is unknown."""
    covered: frozenset[date] = frozenset()
    """Days of which any bill has data."""
    incomplete: frozenset[date] = frozenset()
    """Days of which some bill, which has others of these days, has no data yet."""
    converted: tuple[str, ...] = ()
    unknown: int = 0
    """How many charges do not state this cost, and are left out of it."""

    @property
    def days(self) -> list[date]:
        """Every day, known or not."""
        return days_between(self.since, self.until)

    def total(self) -> Costs:
        """Of all rows."""
        summed = dict.fromkeys((day for day in self.days if day in self.covered), ZERO)
        for costs in self.rows.values():
            for day, cost in costs.items():
                summed[day] += cost
        return summed


def days_between(since: date, until: date) -> list[date]:
    """From one day to another, both included."""
    return [since + timedelta(days=each) for each in range((until - since).days + 1)]


def costs_by_day(
    spender: Spender,
    deliveries: Sequence[Delivery],
    by: Iterable[str],
    since: date,
    until: date,
    measure: Measure,
    *,
    only: Sequence[Keys] | None = None,
) -> Daily:
    """What the deliveries that stand say of these days. `only`: just these rows, by the names that
    reports have for them.

    `UsageError` for a dimension that there is not, and for currencies that no rate converts.
    """
    by = tuple(by)
    columns = [dimension(name, spender.tags) for name in by]
    stands = standing(deliveries)
    chosen = list(partitions(stands, since, until))
    known: dict[str, set[date]] = {}
    for each in chosen:
        known.setdefault(str(each.delivery.bill), set()).add(each.day)
    covered = frozenset[date]().union(*known.values()) if known else frozenset[date]()
    rows: dict[Keys, dict[date, Decimal]] = {}
    bills: dict[Keys, set[str]] = {}
    used: set[str] = set()
    unknown = 0
    if chosen and only != ():
        keys = [f"{name_of(column)} AS key_{place}" for place, column in enumerate(columns)]
        bill = (
            f"coalesce(provider, '{_UNKNOWN}') || ' ' || coalesce(nullif("
            f"regexp_extract(billing_account, '[^/]+$'), ''), '{_UNKNOWN}')"
        )
        selected = ", ".join([*keys, f"{bill} AS bill", "currency", "day AS its_day"])
        with told("the ledger"):
            found = spender.connection.execute(
                f"SELECT {selected}, sum({name_of(measure)}), "
                f"CAST(sum(charges) - sum({name_of(f'{measure}_rows')}) AS BIGINT) "
                f"FROM {spender.relation(chosen)} {_where(spender, columns, only)} GROUP BY ALL"
            ).fetchall()
        for *values, name, currency, day, cost, silent in found:
            names = tuple(
                spender.named(column, value) for column, value in zip(columns, values, strict=True)
            )
            row = rows.setdefault(names, {})
            rate = spender.rate(currency, day, used)
            row[day] = row.get(day, ZERO) + (cost or ZERO) * rate
            bills.setdefault(names, set()).add(name)
            unknown += silent
    for names, row in rows.items():
        # A bill under another name than the ledger's speaks for every day that there is.
        for day in covered.intersection(*[_days_of(bills[names], known, covered)]):
            row.setdefault(day, ZERO)
    ends = covered_until(stands)
    incomplete = frozenset(
        day
        for name in known
        for day in covered
        if day not in known[name] and day > ends.get(name, until)
    )
    return Daily(
        since,
        until,
        by,
        measure,
        spender.currency,
        rows,
        covered,
        incomplete,
        tuple(sorted(used)),
        unknown,
    )


def _days_of(
    bills: Iterable[str], known: Mapping[str, set[date]], covered: frozenset[date]
) -> set[date]:
    return set().union(*(known.get(name, covered) for name in bills))


def _where(spender: Spender, columns: Sequence[str], only: Sequence[Keys] | None) -> str:
    """SQL that lets only some rows through, by the names that reports have for them."""
    if only is None or not columns:
        return ""
    shown = ", ".join(f"only_{place}" for place in range(len(columns)))
    rows = ", ".join(
        "(" + ", ".join("NULL" if key is None else text_of(key) for key in keys) + ")"
        for keys in only
    )
    same = " AND ".join(
        f"{_named(spender, column)} IS NOT DISTINCT FROM CAST(only_{place} AS VARCHAR)"
        for place, column in enumerate(columns)
    )
    return f"SEMI JOIN (VALUES {rows}) AS wanted({shown}) ON {same}"


def _named(spender: Spender, column: str) -> str:
    """SQL for what a value is called here."""
    plain = f"CAST({name_of(column)} AS VARCHAR)"
    if column != "region" or not spender.regions:
        return plain
    cases = " ".join(
        f"WHEN {text_of(bill)} THEN {text_of(name)}" for bill, name in spender.regions.items()
    )
    return f"CASE lower({plain}) {cases} ELSE {plain} END"
