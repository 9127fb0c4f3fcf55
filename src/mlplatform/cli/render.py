"""Results on stdout: a table for people, JSON, ndjson and CSV for programs.

    session.show("placements", rows, columns=[Column("region"), Column("size_bytes", "SIZE", size)])

The rows are what programs get; a table shows some of their fields, formatted. The table is no API.
On a screen it is as wide as the screen, its widest cells wrapped; elsewhere nothing is.
"""

from __future__ import annotations

import csv
import io
import json
import re
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
    CSV = "csv"

    @property
    def is_json(self) -> bool:
        """Whether programs read it as JSON; then errors are JSON too."""
        return self in {Output.JSON, Output.NDJSON}


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
    optional: bool = False
    """Left out where it says nothing of any row."""

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
    """Print a result: `rows` under `name`, and beside them `extra`, which a table leaves out. For
    people no rows are no table: the command says in words what there is not."""
    if output is Output.JSON:
        told = {"schema_version": SCHEMA_VERSION, name: list(rows), **extra}
        console.data(json.dumps(_safe(told, console), indent=2, ensure_ascii=False) + "\n")
    elif output is Output.NDJSON:
        lines = [{"schema_version": SCHEMA_VERSION, **row} for row in rows]
        if extra:
            lines.append({"schema_version": SCHEMA_VERSION, "summary": dict(extra)})
        for line in lines:
            console.data(json.dumps(_safe(line, console), ensure_ascii=False) + "\n")
    elif output is Output.CSV:
        console.data(_csv_text([_safe(row, console) for row in rows]))
    elif rows:
        columns = [
            each
            for each in columns
            if not each.optional or any(row.get(each.field) for row in rows)
        ]
        cells = [_heading(columns, console), *_cells(columns, rows, console)]
        laid_out = _laid_out(columns, cells, console.width)
        console.data("".join(f"{line}\n" for row in laid_out for line in row))


def _csv_text(rows: Sequence[Row]) -> str:
    """The rows with a heading: all fields of any row; what is no single value is JSON."""
    fields = list(dict.fromkeys(name for row in rows for name in row))
    if not fields:
        return ""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(fields)
    for row in rows:
        cells = [row.get(name) for name in fields]
        writer.writerow(
            json.dumps(cell, ensure_ascii=False) if isinstance(cell, dict | list) else cell
            for cell in cells
        )
    return text.getvalue()


def show_groups(
    console: Console, groups: Sequence[tuple[str, Sequence[Row]]], columns: Sequence[Column]
) -> None:
    """Print groups of rows for people, each below its heading, all aligned."""
    cells = [cell for _, rows in groups for cell in _cells(columns, rows, console)]
    width = console.width and console.width - len(_INDENT)
    laid_out = iter(_laid_out(columns, cells, width))
    for heading, rows in groups:
        bold = "bold" if console.colour_out else None
        console.data(f"{_styled(console.clean(heading), bold)}\n")
        console.data("".join(f"{_INDENT}{line}\n" for _ in rows for line in next(laid_out)))


NO_BREAK = "\u00a0"
"""A space at which a cell is not wrapped: in `22 s ago`."""

_INDENT = "  "
_GAP = "  "
_WORDS = re.compile(r" |(?<=/)")
_FOLDED = 12
"""Narrower than this no column gets, if the screen is too narrow even for whole words."""
_SGR = {"bold": "1", "red": "31", "green": "32", "yellow": "33"}

Cell = tuple[str, str | None]
"""A text, and its style."""


def table_text(
    columns: Sequence[Column], cells: Sequence[Sequence[str]], *, width: int | None = None
) -> str:
    """Aligned columns, two spaces between them; a cell's further lines below. Nothing is cut off:
    what `width` has no room for is wrapped."""
    told: list[list[Cell]] = [[(text, None) for text in row] for row in cells]
    laid_out = _laid_out(columns, [_heading(columns), *told], width)
    return "".join(f"{line}\n" for row in laid_out for line in row)


def _heading(columns: Sequence[Column], console: Console | None = None) -> list[Cell]:
    bold = "bold" if console is not None and console.colour_out else None
    return [(column.heading, bold) for column in columns]


def _cells(columns: Sequence[Column], rows: Sequence[Row], console: Console) -> list[list[Cell]]:
    def cell(column: Column, value: Any) -> Cell:
        style = column.style(value) if column.style and console.colour_out else None
        return console.clean(column.show(value)), style

    return [[cell(column, row.get(column.field)) for column in columns] for row in rows]


def _laid_out(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int | None
) -> list[list[str]]:
    """The lines of each row."""
    texts = [[text for text, _ in row] for row in rows]
    widths = _widths(columns, texts, width)
    laid_out = []
    for row in rows:
        cells = [
            [piece for line in text.split("\n") for piece in _wrapped(line, room)]
            for (text, _), room in zip(row, widths, strict=True)
        ]
        lines = []
        for depth in range(max(map(len, cells), default=0)):
            line = ""
            for column, cell, (_, style), room in zip(columns, cells, row, widths, strict=True):
                text = cell[depth] if depth < len(cell) else ""
                blank = " " * (room - len(text))
                shown = _styled(text, style)
                line += (blank + shown if column.right else shown + blank) + _GAP
            lines.append(line.replace(NO_BREAK, " ").rstrip())
        laid_out.append(lines)
    return laid_out


def _widths(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None
) -> list[int]:
    """How wide each column is. Where there is no room, the widest gives way first: headings to
    their words, then cells to theirs, then to parts of these."""
    cells = [[row[i] for row in rows] for i in range(len(columns))]
    widths = [max(map(_longest, each), default=0) for each in cells]
    if width is None:
        return widths
    room = width - len(_GAP) * (len(columns) - 1)
    headings = [
        max((_longest(text, words=text == column.heading) for text in each), default=0)
        for column, each in zip(columns, cells, strict=True)
    ]
    words = [
        # A number stays with its unit.
        now if column.right else max((_longest(text, words=True) for text in each), default=0)
        for column, each, now in zip(columns, cells, headings, strict=True)
    ]
    for least in (headings, words, [min(each, _FOLDED) for each in words]):
        while sum(widths) > room:
            slack = [(now, i) for i, now in enumerate(widths) if now > least[i]]
            if not slack:
                break
            _, widest = max(slack)
            widths[widest] -= 1
    return widths


def _longest(text: str, *, words: bool = False) -> int:
    """The longest line of a cell, or the longest that stays together: a word, a path's folder."""
    lines = text.split("\n")
    return max(len(piece) for line in lines for piece in (_WORDS.split(line) if words else [line]))


def _wrapped(text: str, width: int) -> list[str]:
    lines = []
    while len(text) > width > 0:
        cut = max(text.rfind(" ", 0, width + 1), text.rfind("/", 0, width) + 1)
        if cut <= 0:
            cut = width
        lines.append(text[:cut].rstrip(" "))
        text = text[cut:].lstrip(" ")
    return [*lines, text]


def _styled(text: str, style: str | None) -> str:
    return f"\x1b[{_SGR[style]}m{text}\x1b[0m" if style and text else text


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


def ago(seconds: float) -> str:
    """How long ago, in one unit and never wrapped: `22 s ago`."""
    whole = max(0, round(seconds))
    unit, name = next((unit, name) for unit, name in _UNITS if whole >= unit or unit == 1)
    return NO_BREAK.join((str(whole // unit), name, "ago"))


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
