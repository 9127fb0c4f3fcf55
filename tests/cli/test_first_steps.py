"""The first five minutes: from `init` to a model in its regions, and what is said on the way."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import PROGRAM, OnTerminal, Run

PUBLISH = ("publish", "model", "--model", "resnet50", "--version", "v1.0.0")


@pytest.fixture
def begun(mlplatform: Run, tmp_path: Path) -> Run:
    """A folder with a topology, and a model that is not published yet."""
    assert mlplatform("init").returncode == 0
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights.bin").write_bytes(bytes(1000))
    return mlplatform


def test_before_anything_is_done(begun: Run) -> None:
    for command, said in (
        (("history",), "nothing has been done yet\n"),
        (("versions", "bert"), "no version of bert is published\n"),
        (("resume",), "nothing is unfinished\n"),
    ):
        ran = begun(*command)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", said)


def test_what_publish_says(begun: Run) -> None:
    ran = begun(*PUBLISH)
    assert ran.returncode == 0
    assert re.sub(r"[\d.]+ m?s", "T", ran.stderr).splitlines() == [
        "model: read and digested; 1000 B in T",
        "publish resnet50@v1.0.0 in us-east-1: its home region",
        "us-east-1: stored and verified; 1000 B in T",
    ]
    assert ran.stdout.endswith("stored and verified, 1 file\n")


def test_a_plan_is_one_document_whatever_is_in_it(begun: Run, tmp_path: Path) -> None:
    topology = tmp_path / "topology.yaml"
    text = topology.read_text()
    topology.write_text(
        text.replace("models:\n", "models:\n  bert: {version: v7, home: eu-west-1}\n", 1)
    )
    assert begun(*PUBLISH).returncode == 0
    found = json.loads(begun("replicate", "--plan", "-o", "json").stdout)
    assert [action["region"] for action in found["actions"]] == ["eu-west-1", "europe-west4"]
    assert [hold["subject"] for hold in found["holds"]] == ["bert@v7"]
    assert found["noop"] is False


def test_one_reason_is_told_once(begun: Run) -> None:
    ran = begun("replicate")
    assert ran.returncode == 3
    assert ran.stderr == (
        "warning: held: resnet50@v1.0.0 in us-east-1, eu-west-1, europe-west4: "
        "no region holds it verified; publish it in us-east-1 first\n"
    )


def test_a_model_that_the_topology_does_not_name_can_be_pulled(begun: Run, tmp_path: Path) -> None:
    publish = ("publish", "model", "--model", "bert", "--version", "v7", "--region", "eu-west-1")
    assert begun(*publish).returncode == 0
    assert begun("pull", "bert", "here").returncode == 0
    assert (tmp_path / "here/weights.bin").stat().st_size == 1000


@pytest.mark.parametrize("columns", [80, 100])
def test_nothing_is_wider_than_the_screen(
    begun: Run, on_terminal: OnTerminal, columns: int
) -> None:
    assert begun(*PUBLISH).returncode == 0
    for command in ("validate", "replicate", "verify", "status", "history", "versions"):
        reference = ["resnet50"] if command == "verify" else []
        terminal = on_terminal(
            command, *reference, program=PROGRAM, env={"COLUMNS": str(columns)}, pipe_stdout=True
        )
        assert terminal.end() == 0
        terminal = on_terminal(command, *reference, program=PROGRAM, env={"COLUMNS": str(columns)})
        assert terminal.end() == 0
        plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", terminal.shown)
        lines = [line for line in re.split(r"[\r\n]+", plain) if not line.startswith("warning: ")]
        assert max(map(len, lines)) <= columns, f"{command}\n{plain}"
        assert "0 B of 0 B" not in plain
