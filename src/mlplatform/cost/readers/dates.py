"""How a file writes its dates: as ISO 8601 says, or some local way; which one, is found from all
its rows, and what may be two days is refused rather than guessed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlplatform.core.errors import UsageError
from mlplatform.cost.engine import name_of
from mlplatform.cost.readers.shape import Columns, Reader

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_LOCAL = "'^([0-9]{1,2})([/.-])([0-9]{1,2})[/.-][0-9]{4}'"


def local_forms(
    connection: DuckDBPyConnection, relation: str, columns: Columns, reader: Reader, called: str
) -> dict[str, str]:
    """By column of text: how its dates are written, for those that are not ISO 8601. `UsageError`
    where every date could be read both ways."""
    forms = {}
    for wanted in reader.date_columns:
        column = columns.find(wanted)
        if column is None or columns.types[column] != "VARCHAR":
            continue
        name = name_of(column)
        # The year comes first in ISO 8601, which nearly all have; the pattern is dear.
        local = f"substr({name}, 5, 1) <> '-' AND regexp_matches({name}, {_LOCAL})"
        (found,) = connection.execute(
            "SELECT count(*), "
            f"max(TRY_CAST(regexp_extract({name}, {_LOCAL}, 1) AS INTEGER)), "
            f"max(TRY_CAST(regexp_extract({name}, {_LOCAL}, 3) AS INTEGER)), "
            f"min(regexp_extract({name}, {_LOCAL}, 2)), min({name}) "
            f"FROM {relation} WHERE {local}"
        ).fetchall()
        rows, first, second, sign, sample = found
        if not rows:
            continue
        if first > 12 and second > 12:
            raise UsageError(
                f"{called}: {column} has dates with the day first and with the month first",
                hint="write them as ISO 8601 says: 2026-11-21",
            )
        if first > 12 or sign == ".":
            forms[column] = f"%d{sign}%m{sign}%Y"
        elif second > 12 or reader.month_first:
            forms[column] = f"%m{sign}%d{sign}%Y"
        else:
            raise UsageError(
                f"{called}: {column} {sample} may be two days",
                hint="write dates as ISO 8601 says: 2026-11-21",
            )
    return forms
