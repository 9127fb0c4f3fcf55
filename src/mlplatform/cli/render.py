"""Results on stdout: a table for people, JSON and ndjson for programs.

    session.show("placements", rows, columns=[Column("region"), Column("size_bytes", "SIZE", size)])

The rows are what programs get; a table shows some of their fields, formatted. The table is no API.
Without colour it is plain text, so that Rich is loaded only to draw.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlplatform.cli.console import Console

SCHEMA_VERSION = 1

Row = Mapping[str, Any]


class Output(StrEnum):
    """`--output`."""

    TABLE = "table"
    JSON = "json"
    NDJSON = "ndjson"


def plain(value: Any) -> str:
    """A value as people read it: nothing is a dash, a list has commas."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(plain(each) for each in value) or "-"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%SZ")
    return str(value)


@dataclass(frozen=True, slots=True)
class Column:
    """A field of the rows, as a table shows it."""

    field: str
    title: str = ""
    show: Callable[[Any], str] = plain
    right: bool = False
    """Numbers are read from the right."""
    style: Callable[[Any], str | None] | None = None
    """The colour of a value; it must say nothing that the text does not."""

    @property
    def heading(self) -> str:
        return self.title or self.field.replace("_", " ").upper()


def show(
    console: Console,
    output: Output,
    name: str,
    rows: Sequence[Row],
    columns: Sequence[Column],
    extra: Mapping[str, Any],
) -> None:
    """Print a result: `rows` under `name`, and beside them `extra`, which a table leaves out."""
    if output is Output.JSON:
        told = {"schema_version": SCHEMA_VERSION, name: list(rows), **extra}
        console.data(json.dumps(_safe(told, console), indent=2, ensure_ascii=False) + "\n")
    elif output is Output.NDJSON:
        lines = [{"schema_version": SCHEMA_VERSION, **row} for row in rows]
        if extra:
            lines.append({"schema_version": SCHEMA_VERSION, "summary": dict(extra)})
        for line in lines:
            console.data(json.dumps(_safe(line, console), ensure_ascii=False) + "\n")
    else:
        cells = [
            [console.clean(each.show(row.get(each.field))) for each in columns] for row in rows
        ]
        if console.colour_out:
            styles = [
                [each.style(row.get(each.field)) if each.style else None for each in columns]
                for row in rows
            ]
            _draw(console, columns, cells, styles)
        else:
            console.data(table_text(columns, cells))


def table_text(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> str:
    """Aligned columns, two spaces between them, nothing cut off; a cell's further lines below."""
    grid = [[column.heading for column in columns], *cells]
    split = [[cell.split("\n") for cell in row] for row in grid]
    widths = [max(len(line) for row in split for line in row[i]) for i in range(len(columns))]
    lines: list[str] = []
    for row in split:
        for depth in range(max(map(len, row))):
            shown = [cell[depth] if depth < len(cell) else "" for cell in row]
            padded = (
                text.rjust(width) if column.right else text.ljust(width)
                for column, text, width in zip(columns, shown, widths, strict=True)
            )
            lines.append("  ".join(padded).rstrip())
    return "".join(f"{line}\n" for line in lines)


def size(value: int | None) -> str:
    """Bytes for people: `4.2 GiB`."""
    if value is None:
        return "-"
    if abs(value) < 1024:
        return f"{value} B"
    amount, unit = value / 1024, "KiB"
    for larger in ("MiB", "GiB", "TiB", "PiB"):
        if abs(amount) < 1023.95:  # else it would be shown as 1024.0
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.1f} {unit}"


_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


def duration(seconds: float | None) -> str:
    """Seconds for people, two units at most: `3 m 20 s`."""
    if seconds is None:
        return "-"
    if seconds < 0.95:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for (large, name), (small, below) in pairwise(_UNITS):
        if whole >= large:
            rest = whole % large // small
            return f"{whole // large} {name}" + (f" {rest} {below}" if rest else "")
    return f"{whole} s"


def age(now: datetime) -> Callable[[datetime | None], str]:
    """How a column shows times as time ago."""

    def shown(then: datetime | None) -> str:
        return "-" if then is None else duration(max(0.0, (now - then).total_seconds()))

    return shown


def _safe(value: Any, console: Console) -> Any:
    """A JSON value in which no text holds a secret."""
    if isinstance(value, str):
        return console.redact(value)
    if isinstance(value, Mapping):
        return {str(key): _safe(each, console) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_safe(each, console) for each in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if value is None or isinstance(value, bool | int | float):
        return value
    return console.redact(str(value))


def _draw(
    console: Console,
    columns: Sequence[Column],
    cells: Sequence[Sequence[str]],
    styles: Sequence[Sequence[str | None]],
) -> None:
    from rich.console import Console as RichConsole
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        justify = "right" if column.right else "left"
        table.add_column(column.heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row, colours in zip(cells, styles, strict=True):
        table.add_row(
            *(Text(cell, style=colour or "") for cell, colour in zip(row, colours, strict=True))
        )
    drawing = RichConsole(
        file=console.out,
        force_terminal=True,
        color_system="standard",
        highlight=False,
        # A screen has a width; a file that was asked to have colour has none.
        width=None if console.out is not None and console.out.isatty() else 10_000,
    )
    with drawing.capture() as capture:
        drawing.print(table)
    console.data(capture.get())
