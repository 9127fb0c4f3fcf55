"""`mlplatform cost locate` as a process: the answer, its forms, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

Run = Callable[..., "CompletedProcess[str]"]

BILL = "region,service,actual,expected\n" + "".join(
    f"{region},{service},{100 + n + 800 * (region == 'eu-west-1' and n == 0)},{100 + n}\n"
    for region in ("eu-west-1", "us-east-1", "", "NULL")
    for n, service in enumerate(("g5", "m5", "s3", "sqs", "rds"))
)


def test_the_answer_for_people(mlplatform: Run, tmp_path: Path) -> None:
    (tmp_path / "cube.csv").write_text(BILL)
    ended = mlplatform("cost", "locate", "cube.csv")
    assert ended.returncode == 0
    heading, first, *_ = ended.stdout.splitlines()
    assert heading.split() == ["RANK", "SET", "SHARE", "ACTUAL", "EXPECTED", "CHANGE", "LEAVES"]
    assert first.split() == [
        "1", "region=eu-west-1&service=g5", "100.0", "%", "900.00", "100.00", "800.00", "1",
    ]  # fmt: skip


def test_the_answer_for_programs(mlplatform: Run, tmp_path: Path) -> None:
    (tmp_path / "cube.csv").write_text(BILL)
    lines = mlplatform("cost", "locate", "cube.csv", "-o", "ndjson").stdout.splitlines()
    first = json.loads(lines[0])
    assert first["rank"] == 1
    assert first["set"] == [{"region": "eu-west-1", "service": "g5"}]
    assert first["text"] == "region=eu-west-1&service=g5"
    assert first["share"] == 1
    assert [json.loads(line)["rank"] for line in lines] == list(range(1, len(lines) + 1))
    whole = json.loads(mlplatform("cost", "locate", "cube.csv", "-o", "json").stdout)
    assert whole["sets"][0]["set"] == first["set"]
    assert whole["dimensions"] == ["region", "service"]
    assert whole["change"] == 800
    one = mlplatform("cost", "locate", "cube.csv", "-o", "ndjson", "--candidates", "1").stdout
    assert one == f"{lines[0]}\n"


def test_a_ratio(mlplatform: Run, tmp_path: Path) -> None:
    rows = [
        f"{region},{team},{(30 if region == 'eu' else 10) * n},{10 * n},{n * 3},{n * 2}\n"
        for region in ("eu", "us", "ap")
        for n, team in enumerate(("a", "b", "c", "d", "e"), 5)
    ]
    heading = "region,team,cost_actual,cost_expected,calls_expected,calls_actual\n"
    (tmp_path / "cube.csv").write_text(heading + "".join(rows))
    ended = mlplatform("cost", "locate", "cube.csv", "--ratio", "cost/calls", "-o", "json")
    assert json.loads(ended.stdout)["measure"] == "cost/calls"
    swapped = mlplatform("cost", "locate", "cube.csv")
    assert swapped.returncode == 2
    assert "no column actual" in swapped.stderr


def test_nothing_changed(mlplatform: Run, tmp_path: Path) -> None:
    (tmp_path / "cube.csv").write_text("region,actual,expected\neu,5,5\nus,0,0\n")
    ended = mlplatform("cost", "locate", "cube.csv")
    assert (ended.returncode, ended.stdout) == (0, "")
    assert "nothing changed" in ended.stderr


def test_what_cannot_be_read_names_line_and_column(mlplatform: Run, tmp_path: Path) -> None:
    (tmp_path / "cube.csv").write_text("region,actual,expected\neu,5,5\nus,5,five\n")
    ended = mlplatform("cost", "locate", "cube.csv")
    assert ended.returncode == 2
    assert "cube.csv: line 3, column expected: 'five' is not a number" in ended.stderr
    assert "hint:" in ended.stderr
    assert mlplatform("cost", "locate", "gone.csv").returncode == 2
