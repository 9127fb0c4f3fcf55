"""What `mlplatform cost detect` answers: a line for each row of the file, in the file's order."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any

import numpy as np

from mlplatform.cost.detect.alarms import Reason, Rules, alarms_of, day_over_day, words
from mlplatform.cost.detect.scoring import score
from mlplatform.cost.detect.series_file import SeriesFile, Table


class Rule(StrEnum):
    """By which rule steps are scored."""

    MODEL = "model"
    DAY_OVER_DAY = "day-over-day"


Judged = tuple[float | None, float | None, bool, str]
"""Expected, score, alarm, reason."""


def judge_file(file: SeriesFile, rules: Rules, rule: Rule = Rule.MODEL) -> list[Judged]:
    """Judge every row of a file."""
    judged: list[Judged] = [(None, None, False, "")] * len(file.series)
    for table in file.tables:
        found = _by_model(table, rules) if rule is Rule.MODEL else _by_day(table, rules)
        for line, told in zip(table.lines.tolist(), found, strict=True):
            judged[line] = told
    return judged


def lines_of(
    file: SeriesFile, judged: list[Judged], clean: Callable[[str], str] = str
) -> Iterator[str]:
    """The rows as JSON, a line each. `clean` is what names of series pass through."""
    names = {name: json.dumps(clean(name), ensure_ascii=False) for name in set(file.series)}
    stamps = {stamp: json.dumps(stamp) for stamp in set(file.timestamps)}
    for name, stamp, (expected, found, alarm, reason) in zip(
        file.series, file.timestamps, judged, strict=True
    ):
        yield (
            f'{{"series": {names[name]}, "timestamp": {stamps[stamp]}, '
            f'"expected": {_shown(expected, 10)}, "score": {_shown(found, 6)}, '
            f'"alarm": {"true" if alarm else "false"}, "reason": {json.dumps(reason)}}}\n'
        )


def rows_of(file: SeriesFile, judged: list[Judged]) -> list[dict[str, Any]]:
    """The rows as values."""
    return [
        {
            "series": name,
            "timestamp": stamp,
            "expected": expected,
            "score": found,
            "alarm": alarm,
            "reason": reason,
        }
        for name, stamp, (expected, found, alarm, reason) in zip(
            file.series, file.timestamps, judged, strict=True
        )
    ]


def _shown(value: float | None, digits: int) -> str:
    return "null" if value is None else f"{value:.{digits}g}"


def _by_model(table: Table, rules: Rules) -> Iterator[Judged]:
    scores = score(table.values, table.calendar)
    alarms = alarms_of(table.values, scores, table.calendar, rules)
    at = (table.rows, table.steps)
    for value, expected, found, alarm, reason, young in zip(
        table.values[at].tolist(),
        scores.expected[at].tolist(),
        scores.score[at].tolist(),
        alarms.alarm[at].tolist(),
        alarms.reason[at].tolist(),
        alarms.young[at].tolist(),
        strict=True,
    ):
        told = words(reason, value, expected, young=young, alarm=alarm)
        yield _or_none(expected), _or_none(found), alarm, told


def _by_day(table: Table, rules: Rules) -> Iterator[Judged]:
    change, alarm = day_over_day(table.values, table.calendar, rules)
    at = (table.rows, table.steps)
    before = np.full(table.values.shape, np.nan)
    day = table.calendar.steps_a_day
    before[:, day:] = table.values[:, :-day]
    for (
        value,
        expected,
        found,
        alarms,
    ) in zip(
        table.values[at].tolist(),
        before[at].tolist(),
        change[at].tolist(),
        alarm[at].tolist(),
        strict=True,
    ):
        if math.isnan(value):
            told = words(Reason.UNKNOWN, value, expected, young=False, alarm=False)
        elif math.isnan(expected):
            told = "nothing is known of the day before"
        else:
            told = words(Reason.DAY_OVER_DAY, value, expected, young=False, alarm=alarms)
        yield _or_none(expected), _or_none(found), alarms, told


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
