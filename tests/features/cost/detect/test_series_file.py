"""Files as people have them: what is read, and what is refused, by line and column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlplatform.core.errors import UsageError
from mlplatform.cost.detect.alarms import Rules
from mlplatform.cost.detect.report import Rule, judge_file
from mlplatform.cost.detect.series_file import SeriesFile, read_series


def read(folder: Path, text: str) -> SeriesFile:
    path = folder / "costs.csv"
    path.write_bytes(text.encode())
    return read_series(path)


HEAD = "series,timestamp,value\n"

WRONG = [
    ("", "line 1, column series: there is no such column"),
    ("series,timestamp\na,2026-01-01\n", "line 1, column value: there is no such column"),
    ("series,timestamp,value,value\n", "line 1, column value: there are two such columns"),
    (HEAD + "a,2026-01-01,1\na,2026-01-02,one\n", "line 3, column value: 'one' is no number"),
    (HEAD + "a,2026-01-01,inf\n", "line 2, column value: 'inf' is no amount"),
    (HEAD + 'a,2026-01-01,"1,5"\n', "line 2, column value: '1,5' is no number"),
    (HEAD + "a,2026-01-01\n", "line 2, column value: the line ends before it"),
    (HEAD + ",2026-01-01,1\n", "line 2, column series: it is empty"),
    (HEAD + "a,01/31/2026,1\n", "line 2, column timestamp: '01/31/2026' is no date"),
    (HEAD + "a,2026-02-30,1\n", "line 2, column timestamp"),
    (
        HEAD + "a,2026-01-01,1\nb,2026-01-01,1\na,2026-01-01,2\n",
        "line 4, column timestamp: a: there is a row for that day in line 2",
    ),
    (
        HEAD + "a,2026-10-25T01:00,1\na,2026-10-25T02:00,1\na,2026-10-25T02:00,1\n",
        "line 4, column timestamp: a: there is a row for that hour in line 3",
    ),
    (HEAD + "a,2026-01-01T00:00,1\na,2026-01-01T00:15,1\n", "neither daily nor hourly"),
    (HEAD + "a,2026-01-01,1\na,2026-01-02T00:00Z,1\n", "an offset from UTC is stated in some"),
    (
        HEAD + "a,1970-01-01,1\na,2026-01-01,1\n",
        "line 3, column timestamp: a: nothing for 10 years",
    ),
    (HEAD + 'a,"2026-01-01,1\n', "after line 1"),
]


@pytest.mark.parametrize(("text", "said"), WRONG, ids=lambda text: text[-40:].strip())
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    assert said in caught.value.message
    assert str(tmp_path / "costs.csv") in caught.value.message
    assert caught.value.hint


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_series(tmp_path / "none.csv")
    (tmp_path / "costs.csv").write_bytes(HEAD.encode() + b"a,2026-01-01,\xff\n")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_series(tmp_path / "costs.csv")


@pytest.mark.parametrize("unknown", ["", "NaN", "NULL", " null ", "nan"])
def test_unknown_stays_unknown(tmp_path: Path, unknown: str) -> None:
    file = read(tmp_path, f"{HEAD}a,2026-01-01,5\na,2026-01-02,{unknown}\na,2026-01-03,5\n")
    judged = judge_file(file, Rules())
    assert judged[1][1:] == (None, False, "unknown")
    assert judged[2][0] == pytest.approx(5)


def test_columns_rows_and_endings_in_any_order(tmp_path: Path) -> None:
    text = "\ufeffvalue,Series,note,timestamp\r\n2,b,x,2026-01-02\r\n1,a,,2026-01-03\r\n\r\n"
    file = read(tmp_path, text + "3,a,,2026-01-01\r\n")
    assert file.series == ["b", "a", "a"]
    [table] = file.tables
    np.testing.assert_array_equal(table.values, [[3, np.nan, 1], [np.nan, 2, np.nan]])
    assert [judged[3] for judged in judge_file(file, Rules())] == [
        "first of its series",
        judge_file(file, Rules())[1][3],
        "first of its series",
    ]


def test_local_midnights_are_days_whatever_the_clock_does(tmp_path: Path) -> None:
    rows = "a,2026-03-28T00:00+01:00,1\na,2026-03-29T00:00+01:00,1\na,2026-03-30T00:00+02:00,1\n"
    [table] = read(tmp_path, HEAD + rows).tables
    assert not table.calendar.hourly
    assert table.calendar.weekday.tolist() == [5, 6, 0]


def test_an_hour_that_comes_twice_has_its_offset(tmp_path: Path) -> None:
    rows = [
        "2026-10-25T01:00+02:00",
        "2026-10-25T02:00+02:00",
        "2026-10-25T02:00+01:00",
        "2026-10-25T03:00+01:00",
    ]
    [table] = read(tmp_path, HEAD + "".join(f"a,{row},1\n" for row in rows)).tables
    assert table.calendar.hour.tolist() == [1, 2, 2, 3]
    assert table.values.tolist() == [[1, 1, 1, 1]]


def test_series_that_share_no_clock_share_no_table(tmp_path: Path) -> None:
    daily = "a,2026-01-01,1\na,2026-01-02,1\n"
    hours = "b,2026-01-01T01:00Z,1\nb,2026-01-01T02:00Z,1\n"
    other = "c,2026-01-01T01:00+02:00,1\nc,2026-01-01T02:00+02:00,1\n"
    file = read(tmp_path, HEAD + other + daily + hours)
    assert sorted(table.calendar.hourly for table in file.tables) == [False, True, True]
    assert len(judge_file(file, Rules())) == 6


def test_the_old_rule_by_its_name(tmp_path: Path) -> None:
    file = read(tmp_path, HEAD + "a,2026-01-01,10\na,2026-01-02,16\na,2026-01-03,17\n")
    judged = judge_file(file, Rules(), Rule.DAY_OVER_DAY)
    assert [alarm for _, _, alarm, _ in judged] == [False, True, False]
    assert judged[1][1] == pytest.approx(0.6)
    assert judged[1][3] == "day over day: +6.00 on 10.00 (+60%)"
