"""DuckDB as bills are read with it: bounded in memory, spilling into a folder of ours, and never
reaching out: no extension is installed or loaded, no network is spoken."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mlplatform.core.errors import MlplatformError, StoreFull, UsageError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MEMORY_MIB = 1024
MONEY = "DECIMAL(38,12)"
"""Every amount of money and every quantity. Unit prices of a request or a token need 9 digits after
the point and more; 26 digits are left before it."""


def connect(scratch: Path, *, memory_mib: int = MEMORY_MIB) -> DuckDBPyConnection:
    """A database that holds nothing. `scratch`: where it spills what memory has no room for."""
    try:
        import duckdb
    except ModuleNotFoundError as error:
        raise UsageError(
            "bills are read with DuckDB, which is not installed",
            hint="pip install 'mlplatform[cost]'",
        ) from error
    connection = duckdb.connect(
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "memory_limit": f"{memory_mib}MiB",
            "temp_directory": str(scratch / "spill"),
            "preserve_insertion_order": "true",
        }
    )
    # Its bindings complain on stderr of whatever is still there when the interpreter has ended, and
    # our commands end without looking for what could be freed.
    atexit.unregister(gc.unfreeze)
    atexit.register(gc.unfreeze)
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_progress_bar = false")
    return connection


@contextmanager
def one_thread(connection: DuckDBPyConnection) -> Iterator[None]:
    """What writes a file in order: several threads would each hold rows until it is their turn, as
    many as memory has room for."""
    connection.execute("SET threads = 1")
    try:
        yield
    finally:
        connection.execute("RESET threads")


@contextmanager
def told(what: str) -> Iterator[None]:
    """DuckDB's errors as ours: `what` was being read or written."""
    import duckdb

    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise MlplatformError(
            f"{what}: out of memory: {_first_line(error)}", hint="give more by --memory"
        ) from error
    except duckdb.IOException as error:
        text = _first_line(error)
        if "space" in text.lower():
            raise StoreFull(f"{what}: {text}") from error
        raise UsageError(
            f"{what}: {text}", hint="deliver the file again; nothing of it was imported"
        ) from error
    except duckdb.Error as error:
        raise UsageError(
            f"{what}: {_first_line(error)}",
            hint="deliver the file again; nothing of it was imported",
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]


def name_of(column: str) -> str:
    """A column's name in SQL."""
    return '"' + column.replace('"', '""') + '"'


def text_of(value: str) -> str:
    """A text in SQL."""
    return "'" + value.replace("'", "''") + "'"
