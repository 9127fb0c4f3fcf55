"""Series in a CSV file: `series,timestamp,value`, rows in any order, daily or hourly.

A value that is empty, `NaN` or `NULL` is a step of which nothing is known, as is one without a row.
What cannot be read is an error that names line and column: a broken line of a series would
otherwise be a gap that nobody hears of.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from mlplatform.core.errors import UsageError
from mlplatform.cost.detect.baseline import Numbers
from mlplatform.cost.detect.calendar import Calendar, Whole, calendar_of

COLUMNS = ("series", "timestamp", "value")
_UNKNOWN = frozenset({"", "nan", "null", "none", "na", "n/a"})
_CELLS_MOST = 2_000_000
"""Of one table: what is worked on at a time."""
_HOLE_YEARS = 10
_HOUR_SECONDS = 3600
_DAY_SECONDS = 86_400
_NAIVE = 10**9
_EVER = -(2**62)


@dataclass(frozen=True, slots=True)
class Table:
    """Series that share a calendar. `steps` and `lines` say where the rows of the file lie: line
    `lines[i]` is at row `rows[i]`, step `steps[i]`."""

    calendar: Calendar
    values: Numbers
    rows: Whole
    steps: Whole
    lines: Whole


@dataclass(frozen=True, slots=True)
class SeriesFile:
    """A file, read: what its lines say, in their order, and the tables they make."""

    series: Sequence[str]
    timestamps: Sequence[str]
    tables: Sequence[Table]


@dataclass(slots=True)
class _Rows:
    """The rows of one series."""

    walls: list[int]
    """Seconds since 1970 on the clock on the wall."""
    ahead: list[int]
    """Seconds by which that clock is ahead of UTC, or `_NAIVE`."""
    values: list[float]
    lines: list[int]


@dataclass(frozen=True, slots=True)
class _Placed:
    """One series on the steps of its own time."""

    hourly: bool
    steps: Whole
    """Days or hours since 1970; hours are those of UTC where the offset is known."""
    offsets: tuple[tuple[int, int], ...]
    """From which hour on the clock on the wall is ahead by how many hours."""
    rows: _Rows


def read_series(path: Path) -> SeriesFile:
    """Read a file. `UsageError` names the line and the column that are wrong."""
    names: list[str] = []
    stamps: list[str] = []
    by_name: dict[str, _Rows] = {}
    numbers: list[int] = []
    times: dict[str, tuple[int, int]] = {}
    for number, (name, stamp, value) in _rows(path):
        time = times.get(stamp)
        if time is None:
            time = times[stamp] = _time(stamp, path, number)
        rows = by_name.get(name)
        if rows is None:
            rows = by_name[name] = _Rows([], [], [], [])
        rows.walls.append(time[0])
        rows.ahead.append(time[1])
        rows.values.append(_number(value, path, number))
        rows.lines.append(len(names))
        names.append(name)
        stamps.append(stamp)
        numbers.append(number)
    placed = [_place(name, rows, path, numbers) for name, rows in by_name.items()]
    return SeriesFile(names, stamps, list(_tables(placed)))


def _rows(path: Path) -> Iterator[tuple[int, tuple[str, str, str]]]:
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            places = _places(next(reader, []), path)
            width = max(places) + 1
            for fields in reader:
                line = reader.line_num
                if not fields:
                    continue
                if len(fields) < width:
                    missing = next(
                        name
                        for name, place in zip(COLUMNS, places, strict=True)
                        if place >= len(fields)
                    )
                    raise _wrong(path, line, missing, "the line ends before it")
                name, stamp, value = (fields[place].strip() for place in places)
                if not name:
                    raise _wrong(path, line, "series", "it is empty")
                yield line, (name, stamp, value)
    except OSError as error:
        raise UsageError(
            f"{path}: {error.strerror}", hint="name a CSV file: series,timestamp,value"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}: not UTF-8 at byte {error.start}", hint="save it as UTF-8"
        ) from error
    except csv.Error as error:
        raise UsageError(
            f"{path}: after line {line}: {error}",
            hint="check the quotes of that line and of the one before",
        ) from error


def _places(header: Sequence[str], path: Path) -> tuple[int, ...]:
    told = [name.strip().lower() for name in header]
    for name in COLUMNS:
        if told.count(name) != 1:
            how = "there is no such column" if name not in told else "there are two such columns"
            raise _wrong(path, 1, name, how, hint=f"the first line is: {','.join(COLUMNS)}")
    return tuple(told.index(name) for name in COLUMNS)


def _wrong(
    path: Path, number: int, column: str, what: str, *, hint: str | None = None
) -> UsageError:
    return UsageError(
        f"{path}: line {number}, column {column}: {what}",
        hint=hint or "mend the line, or take it out: a step without a row is unknown",
    )


def _number(text: str, path: Path, number: int) -> float:
    try:
        value = float(text)
    except ValueError:
        if text.lower() in _UNKNOWN:
            return math.nan
        raise _wrong(path, number, "value", f"{text[:40]!r} is no number") from None
    if math.isinf(value) or "_" in text:
        raise _wrong(path, number, "value", f"{text[:40]!r} is no amount")
    return value


def _time(text: str, path: Path, number: int) -> tuple[int, int]:
    """Seconds since 1970 on the clock on the wall, and by how many it is ahead of UTC."""
    try:
        told = datetime.fromisoformat(text)
    except ValueError:
        raise _wrong(
            path,
            number,
            "timestamp",
            f"{text[:40]!r} is no date of ISO 8601",
            hint="write 2026-11-21, 2026-11-21T14:00 or 2026-11-21T14:00+01:00",
        ) from None
    ahead = told.utcoffset()
    wall = told.replace(tzinfo=None, microsecond=0) - datetime(1970, 1, 1)  # noqa: DTZ001 - a wall's
    seconds = _NAIVE if ahead is None else ahead.days * _DAY_SECONDS + ahead.seconds
    return wall.days * _DAY_SECONDS + wall.seconds, seconds


def _place(name: str, rows: _Rows, path: Path, numbers: Sequence[int]) -> _Placed:
    """Find out whether the steps of a series are days or hours, and put its rows on them."""

    def wrong(place: int, what: str, hint: str | None = None) -> UsageError:
        return _wrong(path, numbers[rows.lines[place]], "timestamp", f"{name}: {what}", hint=hint)

    walls, ahead = np.array(rows.walls, np.int64), np.array(rows.ahead, np.int64)
    naive = ahead == _NAIVE
    if len(mixed := np.flatnonzero(naive != naive[0])):
        raise wrong(int(mixed[0]), "an offset from UTC is stated in some rows and not in others")
    within = walls % _HOUR_SECONDS
    if len(uneven := np.flatnonzero(within != within[0])):
        raise wrong(
            int(uneven[0]), "neither daily nor hourly", "add costs up by day or by hour first"
        )
    is_hourly = bool((walls % _DAY_SECONDS != walls[0] % _DAY_SECONDS).any())
    steps = walls // (_HOUR_SECONDS if is_hourly else _DAY_SECONDS)
    offsets: tuple[tuple[int, int], ...] = ()
    if is_hourly and not naive[0]:
        hours = ahead // _HOUR_SECONDS
        steps = steps - hours
        offsets = _changes(steps, hours)
    order = np.argsort(steps, kind="stable")
    gaps = np.diff(steps[order])
    if len(again := np.flatnonzero(gaps == 0)):
        place, before = int(order[again[0] + 1]), int(order[again[0]])
        what = f"there is a row for that {'hour' if is_hourly else 'day'} in line "
        hint = "keep one of the two, or add them up"
        if is_hourly and naive[0]:
            hint += "; where clocks were put back, state the offset: 2026-10-25T02:00+02:00"
        raise wrong(place, what + str(numbers[rows.lines[before]]), hint)
    hole = _HOLE_YEARS * 366 * (24 if is_hourly else 1)
    if len(far := np.flatnonzero(gaps > hole)):
        raise wrong(int(order[far[0] + 1]), f"nothing for {_HOLE_YEARS} years before it")
    return _Placed(is_hourly, steps, offsets, rows)


def _changes(steps: Whole, hours: Whole) -> tuple[tuple[int, int], ...]:
    order = np.argsort(steps, kind="stable")
    sorted_hours = hours[order]
    changed = np.flatnonzero(np.diff(sorted_hours)) + 1
    return tuple(
        (int(steps[order[place]]), int(sorted_hours[place])) for place in (0, *changed.tolist())
    )


def _tables(placed: Sequence[_Placed]) -> Iterator[Table]:
    """Series of one kind and one clock together, those of like extent in one table."""
    kinds: dict[tuple[bool, tuple[tuple[int, int], ...]], list[_Placed]] = {}
    for each in placed:
        # The first hour differs from series to series; only the changes make a clock of its own.
        clock = ((_EVER, each.offsets[0][1]), *each.offsets[1:]) if each.offsets else ()
        kinds.setdefault((each.hourly, clock), []).append(each)
    for (_, clock), members in kinds.items():
        members.sort(key=lambda each: (int(each.steps.min()), int(each.steps.max())))
        some: list[_Placed] = []
        since = until = 0
        for each in members:
            low, high = int(each.steps.min()), int(each.steps.max())
            wider = max(until, high) - since + 1
            if some and wider * (len(some) + 1) > _CELLS_MOST:
                yield _table(some, clock)
                some = []
            if not some:
                since, until = low, high
            until = max(until, high)
            some.append(each)
        if some:
            yield _table(some, clock)


def _table(members: Sequence[_Placed], clock: Sequence[tuple[int, int]]) -> Table:
    since = min(int(each.steps.min()) for each in members)
    until = max(int(each.steps.max()) for each in members)
    is_hourly = members[0].hourly
    steps = np.arange(since, until + 1)
    walls = steps.copy()
    for start, ahead in clock:
        walls[steps >= start] = steps[steps >= start] + ahead
    times = walls.astype("datetime64[h]" if is_hourly else "datetime64[D]")
    values = np.full((len(members), len(steps)), np.nan)
    for row, each in enumerate(members):
        values[row, each.steps - since] = each.rows.values
    return Table(
        calendar=calendar_of(times, hourly=is_hourly),
        values=values,
        rows=np.concatenate([np.full(len(each.steps), i) for i, each in enumerate(members)]),
        steps=np.concatenate([each.steps for each in members]) - since,
        lines=np.concatenate([each.rows.lines for each in members]).astype(np.int64),
    )
