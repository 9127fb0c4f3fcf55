"""Which rows of a file break which rule of the specification. Nothing is refused here: what breaks
a rule is told, and the reader goes on with all that can be counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from mlplatform.cost.engine import name_of
from mlplatform.cost.focus.columns import (
    BY_NAME,
    FOLDED,
    LATEST,
    Level,
    columns_of,
    folded,
    version_of,
)
from mlplatform.cost.focus.rules import Rule, rules_of
from mlplatform.cost.readers.shape import Columns

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

ROWS_NAMED = 5


class Finding(BaseModel):
    """A rule that is broken: by a file's columns, or by some of its rows."""

    model_config = ConfigDict(frozen=True)

    rule: str
    said: str
    rows: int = 0
    """How many rows break it; 0 where it is about the columns."""
    first_rows: tuple[int, ...] = ()
    """The first of them, counted from 1 below the heading."""
    left_out: bool = False
    """Whether these rows are left out of the bill."""


def focus_version(columns: Columns) -> str:
    """The version that a file follows, by its columns."""
    return version_of({FOLDED[key] for name in columns.types if (key := folded(name)) in FOLDED})


def validate(connection: DuckDBPyConnection, relation: str, columns: Columns) -> list[Finding]:
    """Check a relation against the version that its columns show."""
    version = focus_version(columns)
    by_name = {FOLDED[key]: name for name in columns.types if (key := folded(name)) in FOLDED}
    found = list(_of_columns(columns, by_name, version))
    rules = [rule for rule in rules_of(version) if all(need in by_name for need in rule.needs)]
    cleaned = {name: _cleaned(column, columns.types[column]) for name, column in by_name.items()}
    broken = {rule: rule.broken.format_map(cleaned) for rule in rules}
    if not broken:
        return found
    counted = ", ".join(f"count(*) FILTER (WHERE {condition})" for condition in broken.values())
    (counts,) = connection.execute(f"SELECT {counted} FROM {relation}").fetchall()
    many = {rule: rows for rule, rows in zip(broken, counts, strict=True) if rows}
    if many:
        first = ", ".join(f"min(n, {ROWS_NAMED}) FILTER (WHERE {broken[rule]})" for rule in many)
        numbered = f"(SELECT row_number() OVER () AS n, * FROM {relation})"
        (named,) = connection.execute(f"SELECT {first} FROM {numbered}").fetchall()
        found += [
            Finding(rule=rule.name, said=rule.said, rows=rows, first_rows=tuple(which))
            for (rule, rows), which in zip(many.items(), named, strict=True)
        ]
    return found


def _of_columns(columns: Columns, by_name: dict[str, str], version: str) -> Iterator[Finding]:
    for column in columns_of(version):
        if column.level is Level.MANDATORY and column.name not in by_name:
            yield Finding(rule="column-missing", said=f"{column.name} is mandatory in {version}")
    for name, spelt in by_name.items():
        if name != spelt:
            yield Finding(rule="column-name", said=f"{spelt} is called {name}")
        elif not BY_NAME[name].since <= version <= BY_NAME[name].until:
            yield Finding(rule="column-version", said=f"{name} is no column of {version}")
    known = set(by_name.values())
    foreign = [
        name for name in columns.types if name not in known and not name.lower().startswith("x_")
    ]
    if foreign:
        told = ", ".join(foreign[:8]) + (
            f" and {len(foreign) - 8} more" if len(foreign) > 8 else ""
        )
        yield Finding(
            rule="column-foreign", said=f"columns of one's own begin with x_; there are {told}"
        )


def _cleaned(column: str, kind: str) -> str:
    name = name_of(column)
    if kind == "VARCHAR":
        return f"nullif(nullif(nullif({name}, ''), 'NULL'), 'null')"
    if kind.startswith(("MAP(", "STRUCT(")) or kind.endswith("[]"):
        return f"to_json({name})"
    return name


__all__ = ["LATEST", "Finding", "Rule", "focus_version", "validate"]
