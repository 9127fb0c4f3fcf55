"""Counts and GPU-hours from files, where no monitoring system can be asked.

    day,model,region,requests,tokens
    2026-11-20,resnet50,us-east-1,1204332,

    name,cost,gpus,allocated,warm,utilisation
    us-east-1 g5,812.40,192,168,24,0.61

An empty cell, or a column that is not there, is unknown. JSON holds the same as a list of objects.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from datetime import date
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from mlplatform.core.errors import UsageError
from mlplatform.cost.unit.counters import Counts, Place, Served
from mlplatform.cost.unit.idle import Nodes

_COUNTS = ("day", "model", "region")
_NODES = ("name", "cost", "gpus")


def read_counts(path: Path, regions: Mapping[str, str]) -> Counts:
    """Counts by day, model and region. Lines of the same (versions, say) are added up; what one of
    them does not know is unknown. `regions`: the topology's names by those of bills."""
    found: dict[Place, dict[date, Served]] = {}
    for where, row in _rows(path, _COUNTS):
        region = _text(row, "region", where)
        place = (_text(row, "model", where), regions.get(region.lower(), region))
        try:
            day = date.fromisoformat(_text(row, "day", where))
        except ValueError as error:
            raise UsageError(f"{where}: no day: {row['day']!r}", hint="write 2026-11-20") from error
        served = Served(_number(row, "requests", where), _number(row, "tokens", where))
        mine = found.setdefault(place, {})
        before = mine.get(day)
        mine[day] = served if before is None else _added(before, served)
    return found


def read_nodes(path: Path) -> list[Nodes]:
    """GPU nodes, a line each."""
    found = []
    for where, row in _rows(path, _NODES):
        cost, gpus = _number(row, "cost", where), _number(row, "gpus", where)
        if cost is None or gpus is None:
            raise UsageError(f"{where}: no cost or no gpus", hint="both must be known")
        found.append(
            Nodes(
                _text(row, "name", where),
                cost,
                gpus,
                _number(row, "allocated", where),
                _number(row, "warm", where),
                _number(row, "utilisation", where),
            )
        )
    return found


def _added(one: Served, other: Served) -> Served:
    return Served(
        None if one.requests is None or other.requests is None else one.requests + other.requests,
        None if one.tokens is None or other.tokens is None else one.tokens + other.tokens,
    )


def _rows(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a file, each with where it is."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", hint="name a CSV or JSON file") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: {error}", hint="save it in UTF-8") from error
    if text.lstrip()[:1] in {"[", "{"}:
        rows = _json_rows(path, text)
    else:
        reader = csv.DictReader(text.splitlines(keepends=True))
        rows = ((f"{path}: line {reader.line_num}", row) for row in reader)
        _require(path, needed, reader.fieldnames or ())
    for where, row in rows:
        _require(where, needed, row)
        yield where, row


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        told = json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: {error}", hint="write a list of objects") from error
    if not isinstance(told, list) or not all(isinstance(each, dict) for each in told):
        raise UsageError(f"{path}: no list of objects", hint='write [{"day": …}, …]')
    return ((f"{path}: object {place}", row) for place, row in enumerate(told, 1))


def _require(where: object, needed: tuple[str, ...], names: Any) -> None:
    missing = [name for name in needed if name not in names]
    if missing:
        raise UsageError(f"{where}: no {', '.join(missing)}", hint=f"it needs {', '.join(needed)}")


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = str(row[name] if row[name] is not None else "").strip()
    if not value:
        raise UsageError(f"{where}: {name} is empty", hint="every line says it")
    return value


def _number(row: Mapping[str, Any], name: str, where: str) -> Decimal | None:
    value = row.get(name)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation:
        number = Decimal("NaN")
    if isinstance(value, bool) or not number.is_finite() or number < 0:
        raise UsageError(f"{where}: {name}: no number: {value!r}", hint="0 or more, or empty")
    return number
