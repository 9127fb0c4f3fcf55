"""What each leaf of the tree cost on each day, out of the cubes of deliveries.

Usage alone is judged: taxes, credits, purchases and corrections lie on days that say nothing of
when something happened. Amounts stay DECIMAL; a float is made of them for the detector only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mlplatform.cost.cube import Measure
from mlplatform.cost.engine import name_of, text_of, told
from mlplatform.cost.ledger import Day, Partition

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Where = tuple[str, ...]
"""A leaf's values of the levels; an empty text where charges do not say it."""

IS_USAGE = "category = 'Usage' AND class IS DISTINCT FROM 'Correction'"
"""Which rows of the cube are judged."""
_NONE = ""

Cell = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
"""Leaves, by number, and what each cost; NaN where no charge states it."""


def cube_key(partition: Partition) -> str:
    """Equal for equal cubes of a day of a bill, in whichever delivery they came."""
    day: Day = partition.delivery.days[partition.day]
    slug = partition.delivery.bill.slug
    return f"{slug} {partition.delivery.part} {partition.day} {day.fingerprint}"


@dataclass(slots=True)
class Cells:
    """The leaves of several deliveries, each cube read once."""

    connection: DuckDBPyConnection
    at_hand: Callable[[str], Path]
    columns: Sequence[str]
    """The cube's columns that the levels are."""
    measure: Measure
    regions: Mapping[str, str]
    """What bills call a region, in small letters, and its name here."""
    leaves: list[tuple[str, Where]] = field(default_factory=list)
    """Currency and values, by number."""
    _cells: dict[str, Cell] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)

    def read(self, chosen: Iterable[Partition]) -> None:
        """Read what is needed of these days."""
        wanted: dict[str, Partition] = {}
        for partition in chosen:
            if self.measure in partition.measures:
                wanted.setdefault(cube_key(partition), partition)
        if not wanted:
            return
        paths = {
            str(self.at_hand(each.delivery.days[each.day].key)): key for key, each in wanted.items()
        }
        self._numbers = {key: number for number, key in enumerate(wanted)}
        columns = ", ".join(map(name_of, self.columns))
        files = ", ".join(text_of(path) for path in paths)
        numbers = ", ".join(
            f"({text_of(path)}, {self._numbers[key]})" for path, key in paths.items()
        )
        with told("the ledger"):
            self.connection.execute(
                "CREATE OR REPLACE TEMP TABLE spent AS "
                f"SELECT number, currency, {columns}, sum({name_of(self.measure)}) AS cost "
                f"FROM read_parquet([{files}], union_by_name = true, filename = true) "
                f"JOIN (VALUES {numbers}) AS named(filename, number) USING (filename) "
                f"WHERE {IS_USAGE} GROUP BY ALL"
            ).fetchall()
            self.connection.execute(
                "CREATE OR REPLACE TEMP TABLE leaf AS "
                f"SELECT row_number() OVER () - 1 AS leaf, * FROM "
                f"(SELECT DISTINCT currency, {columns} FROM spent ORDER BY ALL)"
            ).fetchall()
            rows = self.connection.execute("SELECT * FROM leaf ORDER BY leaf").fetchall()
            same = " AND ".join(
                f"spent.{name_of(each)} IS NOT DISTINCT FROM leaf.{name_of(each)}"
                for each in ("currency", *self.columns)
            )
            found = self.connection.execute(
                "SELECT number::BIGINT AS number, leaf::BIGINT AS leaf, cost::DOUBLE AS cost "
                f"FROM spent JOIN leaf ON {same} ORDER BY number"
            ).fetchnumpy()
        self.leaves = [
            (currency, tuple(map(self._named, self.columns, values)))
            for _, currency, *values in rows
        ]
        numbers_found = np.asarray(found["number"], np.int64)
        costs = np.ma.filled(found["cost"].astype(np.float64), np.nan)
        places = np.searchsorted(numbers_found, np.arange(len(wanted) + 1))
        for key, number in self._numbers.items():
            part = slice(places[number], places[number + 1])
            self._cells[key] = (np.asarray(found["leaf"], np.int64)[part], costs[part])

    def of(self, partition: Partition) -> Cell:
        """What a day of a delivery holds."""
        return self._cells[cube_key(partition)]

    def exact(
        self, chosen: Iterable[Partition], currency: str, where: Where, since: date, until: date
    ) -> Decimal | None:
        """What a node cost over some days, to the last digit; None if no charge says so."""
        numbers = [
            str(self._numbers[cube_key(each)])
            for each in chosen
            if self.measure in each.measures and since <= each.day <= until
        ]
        leaves = [
            str(number)
            for number, (coin, values) in enumerate(self.leaves)
            if coin == currency and values[: len(where)] == where
        ]
        if not numbers or not leaves:
            return None
        # A day of a bill may lie in two periods of it, with equal cubes, and then counts twice.
        with told("the ledger"):
            listed = ", ".join(f"({number})" for number in numbers)
            same = " AND ".join(
                f"spent.{name_of(each)} IS NOT DISTINCT FROM leaf.{name_of(each)}"
                for each in ("currency", *self.columns)
            )
            ((cost,),) = self.connection.execute(
                "SELECT sum(cost) FROM spent "
                f"JOIN (VALUES {listed}) AS asked(number) USING (number) "
                f"JOIN leaf ON {same} WHERE leaf.leaf IN ({', '.join(leaves)})"
            ).fetchall()
        return Decimal(cost) if cost is not None else Decimal(0)

    def _named(self, column: str, value: object) -> str:
        text = _NONE if value is None else str(value)
        return self.regions.get(text.lower(), text) if column == "region" else text
