"""An incident's days beside the days that they are compared with, leaf by leaf, out of the cubes.

They are compared with the same weekdays of the weeks before, in which nothing was unusual; where
less than a week is known, with the days before. Amounts stay DECIMAL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from mlplatform.cost.anomalies.cells import IS_USAGE
from mlplatform.cost.cube import TAG_PREFIX, Measure
from mlplatform.cost.engine import name_of, text_of, told
from mlplatform.cost.ledger import Partition
from mlplatform.cost.locate.decompose import Line
from mlplatform.cost.waste.charges import SHORT

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

WEEKS = 4
_WEEKS_LOOKED_AT = 8
_DAYS = 7
_QUANTUM = Decimal("0.000000000001")
"""What the ledger keeps: an average of four weeks is rounded to it."""
_NOBODY = "CAST(NULL AS VARCHAR)"
_PLAIN = (
    *("provider", "account", "region", "service", "service_category", "sku", "meter"),
    *("instance", "pricing", "unit"),
)


@dataclass(frozen=True, slots=True)
class Reference:
    """The days that an incident is compared with: their sum times `times` over `over`."""

    days: tuple[date, ...]
    times: int
    over: int
    text: str


def reference_of(
    since: date, until: date, known: Callable[[date], bool], unusual: Callable[[date], bool]
) -> Reference | None:
    """Which days to compare with; None where nothing is known of any before."""
    span = [since + timedelta(days=each) for each in range((until - since).days + 1)]
    weeks: list[list[date]] = []
    first = -(-len(span) // 7)  # whole weeks, so that an incident is not compared with itself
    for back in range(first, first + _WEEKS_LOOKED_AT):
        days = [day - timedelta(weeks=back) for day in span]
        if all(map(known, days)) and not any(map(unusual, days)):
            weeks.append(days)
        if len(weeks) == WEEKS:
            break
    if weeks:
        many = f"{len(weeks)} weeks" if len(weeks) > 1 else "week"
        whole = tuple(sorted(day for week in weeks for day in week))
        return Reference(whole, 1, len(weeks), f"the same weekdays of the {many} before")
    before = [since - timedelta(days=each) for each in range(1, _DAYS + 1)]
    some = tuple(sorted(day for day in before if known(day)))
    if not some:
        return None
    many = f"{len(some)} days" if len(some) > 1 else "day"
    return Reference(some, len(span), len(some), f"the mean of the {many} before")


@dataclass(frozen=True, slots=True)
class Leaf:
    """What a combination of values cost, and was compared with."""

    values: Mapping[str, str]
    unit: str
    before: Decimal | None
    """None: it was not there."""
    before_quantity: Decimal | None
    after: Decimal | None
    after_quantity: Decimal | None
    resource: str = ""
    """Of one that nobody uses, as the bill names it; others are not told apart here."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """All leaves of an incident, and its resources."""

    reference: Reference | None
    dimensions: tuple[str, ...]
    leaves: tuple[Leaf, ...]
    resources: tuple[tuple[Line, ...], tuple[Line, ...]] | None
    """Before and after; None where the ledger does not keep them apart."""


@dataclass(frozen=True, slots=True)
class Comparer:
    """Reads comparisons out of a ledger's cubes."""

    connection: DuckDBPyConnection
    at_hand: Callable[[str], Path]
    measure: Measure
    regions: Mapping[str, str]

    def compare(
        self,
        chosen: Iterable[Partition],
        currency: str,
        where: Mapping[str, str],
        span: Sequence[date],
        reference: Reference | None,
        *,
        tags: Sequence[str],
        resources: bool,
        unused: Iterable[str] = (),
    ) -> Comparison:
        """Read what the days of an incident hold, of a node and all below it. `where` is by level:
        a dimension, or a tag. `unused` are the last parts of the names of resources that are leaves
        of their own, where the ledger keeps resources."""
        before = set(reference.days) if reference else set()
        files = []
        for each in chosen:
            side = "after" if each.day in span else "before" if each.day in before else None
            if side is not None and self.measure in each.measures:
                files.append((str(self.at_hand(each.delivery.days[each.day].key)), side))
        columns = [*_PLAIN, *(f"{TAG_PREFIX}{tag}" for tag in tags)]
        names = tuple(column.removeprefix(TAG_PREFIX) for column in columns)
        if not files:
            return Comparison(reference, names, (), None)
        with told("the ledger"):
            self._gather(files, currency, where, columns, tags, resources=resources)
            apart = _apart(unused) if resources else _NOBODY
            rows = self.connection.execute(
                f"SELECT {', '.join(map(name_of, columns))}, {apart} AS apart, {_SUMS} "
                "FROM compared GROUP BY ALL"
            ).fetchall()
            by_resource = (
                self.connection.execute(
                    f"SELECT resource, {_SUMS} FROM compared GROUP BY ALL"
                ).fetchall()
                if resources
                else None
            )
        leaves = [self._leaf(names, row, reference) for row in rows]
        return Comparison(
            reference,
            names,
            tuple(each for each in leaves if each is not None),
            None if by_resource is None else self._lines(by_resource, reference),
        )

    def _gather(
        self,
        files: Sequence[tuple[str, str]],
        currency: str,
        where: Mapping[str, str],
        columns: Sequence[str],
        tags: Sequence[str],
        *,
        resources: bool,
    ) -> None:
        paths = ", ".join(text_of(path) for path, _ in files)
        sides = ", ".join(f"({text_of(path)}, {text_of(side)})" for path, side in files)
        kept = [*columns, *(["resource"] if resources else [])]
        conditions = [
            IS_USAGE,
            f"{name_of(self.measure)} IS NOT NULL",
            f"currency = {text_of(currency)}",
        ]
        conditions += [self._condition(name, value, tags) for name, value in where.items()]
        self.connection.execute(
            "CREATE OR REPLACE TEMP TABLE compared AS "
            f"SELECT side, {', '.join(map(name_of, kept))}, {name_of(self.measure)} AS cost, "
            "quantity "
            f"FROM read_parquet([{paths}], union_by_name = true, filename = true) "
            f"JOIN (VALUES {sides}) AS named(filename, side) USING (filename) "
            f"WHERE {' AND '.join(conditions)}"
        ).fetchall()

    def _condition(self, name: str, value: str, tags: Sequence[str]) -> str:
        column = name_of(f"{TAG_PREFIX}{name}" if name in tags else name)
        if not value:
            return f"coalesce({column}, '') = ''"
        if name != "region":
            return f"{column} = {text_of(value)}"
        called = {value.lower()} | {
            bills for bills, region in self.regions.items() if region == value
        }
        return f"lower({column}) IN ({', '.join(map(text_of, sorted(called)))})"

    def _leaf(
        self, names: Sequence[str], row: Sequence[object], reference: Reference | None
    ) -> Leaf | None:
        *values, apart, before, before_quantity, before_rows = row[:-3]
        after, after_quantity, after_rows = row[-3:]
        told_values = {
            name: self._named(name, value) for name, value in zip(names, values, strict=True)
        }
        return Leaf(
            told_values,
            told_values["unit"],
            _averaged(before, before_rows, reference),
            _averaged(before_quantity, before_rows, reference, unknown=None),
            _whole(after, after_rows),
            after_quantity if isinstance(after_quantity, Decimal) else None,
            "" if apart is None else str(apart),
        )

    def _lines(
        self, rows: Iterable[Sequence[object]], reference: Reference | None
    ) -> tuple[tuple[Line, ...], tuple[Line, ...]]:
        then, now = [], []
        for name, before, _, before_rows, after, _, after_rows in rows:
            values = ("" if name is None else str(name),)
            if (was := _averaged(before, before_rows, reference)) is not None:
                then.append(Line(values, was))
            if (is_now := _whole(after, after_rows)) is not None:
                now.append(Line(values, is_now))
        return tuple(then), tuple(now)

    def _named(self, name: str, value: object) -> str:
        text = "" if value is None else str(value)
        return self.regions.get(text.lower(), text) if name == "region" else text


_SUMS = ", ".join(
    f"sum({column}) FILTER (WHERE side = '{side}') AS {side}_{column}"
    if column
    else f"count(*) FILTER (WHERE side = '{side}') AS {side}_rows"
    for side in ("before", "after")
    for column in ("cost", "quantity", "")
)


def _apart(unused: Iterable[str]) -> str:
    """SQL for a resource's name where it is one of these, else NULL."""
    names = ", ".join(text_of(each) for each in sorted(unused))
    return f"CASE WHEN {SHORT} IN ({names}) THEN resource END" if names else _NOBODY


def _averaged(
    total: object,
    rows: object,
    reference: Reference | None,
    *,
    unknown: Decimal | None = Decimal(0),
) -> Decimal | None:
    if not rows or reference is None:
        return None
    if not isinstance(total, Decimal):
        return unknown
    return (total * reference.times / reference.over).quantize(_QUANTUM)


def _whole(total: object, rows: object) -> Decimal | None:
    if not rows:
        return None
    return total if isinstance(total, Decimal) else Decimal(0)
