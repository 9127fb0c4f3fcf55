"""Files of bills as relations: CSV (also compressed), Parquet and lines of JSON.

A CSV is read as text only, by a dialect found from its heading, and strictly: a line that is broken
is put aside with its reason and costs that line (one with an open quote also costs the line that it
runs into). A Parquet file that was cut has lost its footer, and is refused whole.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from mlplatform.core.errors import UsageError
from mlplatform.cost.engine import name_of, text_of, told
from mlplatform.cost.readers.allocations import UNFOLDED, is_answer, unfold

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_CSV = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
_PARQUET = (".parquet", ".parq")
_JSON = (".ndjson", ".ndjson.gz", ".jsonl", ".jsonl.gz", ".json", ".json.gz")
SUFFIXES = (*_CSV, *_PARQUET, *_JSON)
"""By how a file's name ends it is known what it is."""
_ATHENA = re.compile(r"[0-9]{8}_[0-9]{6}_[0-9]{5}_[a-z0-9]{5}_[0-9a-f-]{36}")
"""What Athena's UNLOAD calls its files, which end with nothing: the query's id, then a number of
its own. `docs/cost-warehouse.md` has it write Parquet."""

_HEADING_BYTES_MAX = 1 << 20
_LINE_BYTES_MAX = 4 << 20
_BUFFER_BYTES = 2 * _LINE_BYTES_MAX
"""DuckDB would read as much as 16 lines of the greatest length at a time, by each thread."""
_DOCUMENT_BYTES_MAX = 512 << 20
_DEFLATED_AT_MOST = 30
"""JSON of costs shrinks to a tenth or so."""
REJECTS_TOLD = 5
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Reject:
    """A line that could not be read."""

    line: int
    what: str


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file as a relation. `relation` is SQL that reads it, once or more often."""

    relation: str
    types: Mapping[str, str]
    rejects_table: str | None = None
    is_clean: bool = False
    """Whether `NULL` as text is read as nothing."""


def is_bill(name: str) -> bool:
    """Whether a file of that name may hold charges."""
    last = name.rpartition("/")[2].lower()
    named = last.endswith(SUFFIXES) or _ATHENA.fullmatch(last) is not None
    return named and not last.startswith((".", "_"))


def open_file(
    connection: DuckDBPyConnection, path: Path, *, called: str, scratch: Path | None = None
) -> OpenFile:
    """A file as a relation; `called` is what errors call it. `scratch`: where it may be unfolded,
    and has to stay as long as the relation. `UsageError` if it cannot be read."""
    lower = path.name.lower()
    if lower.endswith(_PARQUET) or _ATHENA.fullmatch(lower):
        return _described(connection, f"read_parquet({text_of(str(path))})", called)
    if lower.endswith(_JSON):
        return _described(connection, _json(path, lower, called, scratch), called)
    return _open_csv(path, called)


def _json(path: Path, lower: str, called: str, scratch: Path | None) -> str:
    """SQL that reads lines of JSON, or one document: an answer of an API may be as long as its
    file. One that has names for keys is unfolded first: DuckDB would take a hundred times its
    length."""
    longest = _LINE_BYTES_MAX
    if lower.endswith((".json", ".json.gz")):
        if is_answer(_start_of(path, called)):
            if scratch is None:
                raise AssertionError("an answer needs room to be unfolded in")
            scratch.mkdir(parents=True, exist_ok=True)
            target = scratch / f"unfolded-{next(_numbers)}.ndjson"
            with _opened(path) as stream:
                unfold(stream.read(), target, called)
            return (
                f"read_json({text_of(str(target))}, format = 'newline_delimited', "
                f"maximum_object_size = {_LINE_BYTES_MAX}, columns = {UNFOLDED})"
            )
        size = path.stat().st_size * (_DEFLATED_AT_MOST if lower.endswith(".gz") else 1)
        longest = min(max(longest, size + 1), _DOCUMENT_BYTES_MAX)
    return (
        f"read_json({text_of(str(path))}, format = 'auto', sample_size = -1, "
        f"maximum_object_size = {longest}, convert_strings_to_integers = false)"
    )


def _described(connection: DuckDBPyConnection, relation: str, called: str) -> OpenFile:
    with told(called):
        rows = connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
    return OpenFile(relation, {name: kind for name, kind, *_ in rows})


def _open_csv(path: Path, called: str) -> OpenFile:
    delimiter, names = _heading(path, called)
    rejects = f"rejects_{next(_numbers)}"
    columns = ", ".join(f"{text_of(name)}: 'VARCHAR'" for name in names)
    relation = (
        f"read_csv({text_of(str(path))}, auto_detect = false, header = true, "
        f"delim = {text_of(delimiter)}, quote = '\"', escape = '\"', "
        f"strict_mode = true, columns = {{{columns}}}, "
        f"max_line_size = {_LINE_BYTES_MAX}, buffer_size = {_BUFFER_BYTES}, "
        f"nullstr = ['', 'NULL', 'null'], "
        f"store_rejects = true, rejects_table = {text_of(rejects)}, "
        f"rejects_scan = {text_of(rejects + '_scans')}, rejects_limit = 0)"
    )
    return OpenFile(relation, dict.fromkeys(names, "VARCHAR"), rejects, is_clean=True)


def rejects_of(connection: DuckDBPyConnection, file: OpenFile) -> tuple[int, list[Reject]]:
    """How many lines the scans of a file have put aside, and the first of them."""
    if file.rejects_table is None:
        return 0, []
    there = connection.execute(
        "SELECT count(*) FROM duckdb_tables() WHERE table_name = ?", [file.rejects_table]
    ).fetchall()[0][0]
    if not there:
        return 0, []
    table = name_of(file.rejects_table)
    (lines,) = connection.execute(f"SELECT count(DISTINCT line) FROM {table}").fetchall()[0]
    first = connection.execute(
        f"SELECT line, min(error_message) FROM {table} "
        f"GROUP BY line ORDER BY line LIMIT {REJECTS_TOLD}"
    ).fetchall()
    return lines, [Reject(line, str(what).partition("\n")[0]) for line, what in first]


def _opened(path: Path) -> IO[bytes]:
    if path.suffix.lower() == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return path.open("rb")


def _start_of(path: Path, called: str) -> bytes:
    try:
        with _opened(path) as stream:
            return stream.read(_HEADING_BYTES_MAX)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{called}: {error}", hint="deliver the file again") from error


def _heading(path: Path, called: str) -> tuple[str, Sequence[str]]:
    """The delimiter of a CSV, and the names of its columns."""
    start = _start_of(path, called)
    try:
        text = start.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.end < len(start) - 4:
            raise UsageError(
                f"{called}: not UTF-8 at byte {error.start}", hint="save it as UTF-8"
            ) from error
        text = start.decode("utf-8-sig", errors="replace")
    line = text.partition("\n")[0].rstrip("\r")
    if not line.strip():
        raise UsageError(f"{called}: it has no heading", hint="deliver the file again")
    delimiter = max(",;\t|", key=line.count)
    rows: list[list[Any]] = list(csv.reader([line], delimiter=delimiter))
    names = [str(name).strip() for name in rows[0]]
    again = [name for name in names if names.count(name) > 1]
    if again:
        raise UsageError(
            f"{called}: the column {again[0]!r} is there twice", hint="deliver the file again"
        )
    return delimiter, names
