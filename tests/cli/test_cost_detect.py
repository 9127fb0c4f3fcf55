"""`mlplatform cost detect`, as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run


@pytest.fixture
def costs(tmp_path: Path) -> Path:
    """Sixty days of 100, one of them 300; and a series of one day."""
    rows = [f"gpu,{day},{300 if n == 50 else 100 + n % 3}" for n, day in enumerate(_days(60))]
    path = tmp_path / "costs.csv"
    path.write_text("\n".join(["series,timestamp,value", "new,2026-02-01,5", *rows]) + "\n")
    return path


def _days(count: int) -> list[str]:
    from datetime import date, timedelta

    return [str(date(2026, 1, 1) + timedelta(days=n)) for n in range(count)]


def test_a_line_for_each_row_in_the_order_of_the_file(mlplatform: Run, costs: Path) -> None:
    ran = mlplatform("cost", "detect", str(costs))
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [line["series"] for line in lines] == ["new", *["gpu"] * 60]
    assert list(lines[0]) == ["series", "timestamp", "expected", "score", "alarm", "reason"]
    [alarm] = [line for line in lines if line["alarm"]]
    assert alarm["timestamp"] == _days(60)[50]
    assert alarm["reason"].startswith("spike: +19")
    assert alarm["score"] == max(line["score"] for line in lines)


def test_json_is_one_document(mlplatform: Run, costs: Path) -> None:
    told = json.loads(mlplatform("cost", "detect", str(costs), "--output", "json").stdout)
    assert len(told["steps"]) == 61


def test_what_an_alarm_needs_can_be_set(mlplatform: Run, costs: Path) -> None:
    ran = mlplatform("cost", "detect", str(costs), "--money", "500")
    assert '"alarm": true' not in ran.stdout
    ran = mlplatform("cost", "detect", str(costs), "--rule", "day-over-day")
    assert ran.stdout.count('"alarm": true') == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("series,timestamp,value\na,2026-01-01,x\n", "line 2, column value: 'x' is no number"),
        ("series,timestamp\n", "line 1, column value: there is no such column"),
    ],
)
def test_a_bad_file_is_exit_2_with_line_and_column(
    mlplatform: Run, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "bad.csv").write_text(text)
    ran = mlplatform("cost", "detect", "bad.csv")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert f"bad.csv: {said}" in ran.stderr
    assert "hint: " in ran.stderr


def test_a_rule_that_is_not_there(mlplatform: Run, costs: Path) -> None:
    ran = mlplatform("cost", "detect", str(costs), "--rule", "gut")
    assert ran.returncode == 2
    assert "one of day-over-day, model" in ran.stderr


def test_a_heading_alone_is_said(mlplatform: Run, tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("series,timestamp,value\n")
    ran = mlplatform("cost", "detect", "empty.csv")
    assert (ran.returncode, ran.stdout) == (0, "")
    assert "a heading and no row" in ran.stderr
