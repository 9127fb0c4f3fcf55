"""`mlplatform init`."""

from __future__ import annotations

import json
from pathlib import Path

from mlplatform.core.topology import Topology
from tests.cli.conftest import ROOT, Run


def test_what_it_writes_works_at_once(mlplatform: Run, tmp_path: Path) -> None:
    ran = mlplatform("init")
    assert (ran.returncode, ran.stdout) == (0, "")
    assert ran.stderr == "wrote topology.yaml; next: mlplatform validate\n"
    topology = Topology.load(tmp_path / "topology.yaml")
    assert [str(region.store) for region in topology.regions.values()] == [
        f"file://{tmp_path}/us-east-1",
        f"file://{tmp_path}/eu-west-1",
        f"file://{tmp_path}/europe-west4",
    ]
    assert mlplatform("validate").returncode == 0


def test_it_overwrites_nothing_unless_told(mlplatform: Run, tmp_path: Path) -> None:
    (tmp_path / "topology.yaml").write_text("mine")
    ran = mlplatform("init")
    assert ran.returncode == 2
    assert ran.stderr == "error: topology.yaml: exists already\nhint: --force overwrites it\n"
    assert (tmp_path / "topology.yaml").read_text() == "mine"
    assert mlplatform("init", "--force").returncode == 0
    assert (tmp_path / "topology.yaml").read_text() != "mine"


def test_elsewhere(mlplatform: Run, tmp_path: Path) -> None:
    folder = tmp_path / "a folder #1"
    folder.mkdir()
    ran = mlplatform("init", "--topology", str(folder / "t.yaml"), "-o", "json")
    assert json.loads(ran.stdout) == {
        "schema_version": 1,
        "files": [{"path": str(folder / "t.yaml")}],
    }
    topology = Topology.load(folder / "t.yaml")
    assert topology.region("us-east-1").store.path == f"{folder}/us-east-1"


def test_where_it_cannot_write(mlplatform: Run) -> None:
    ran = mlplatform("init", "--topology", "no/such/folder/t.yaml")
    assert ran.returncode == 2
    assert ran.stderr.endswith("t.yaml: No such file or directory\n")


def test_the_example_beside_the_readme_is_the_one_that_init_writes() -> None:
    packaged = ROOT / "src/mlplatform/cli/topology.example.yaml"
    assert (ROOT / "topology.example.yaml").read_text() == packaged.read_text()


def test_what_the_example_has_in_comments_is_right_too(tmp_path: Path) -> None:
    lines = (ROOT / "topology.example.yaml").read_text().splitlines()
    start = lines.index("# The world's routes: owned by failover.")
    uncommented = [line.removeprefix("# ") for line in lines[start + 1 :]]
    text = "\n".join([*lines[:start], *uncommented])
    topology = Topology.parse(text)
    weights = topology.traffic.routes["api"].weights
    assert weights == {"us-east-1": 50, "eu-west-1": 50, "europe-west4": 0}
    assert len(topology.traffic.domains) == 3
    assert topology.rollout.strategy_of("resnet50", "eu-west-1").kind == "in_place"
    assert topology.cost.currency == "USD"
