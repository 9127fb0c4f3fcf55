"""`mlplatform validate`."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Run


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()[1]


def write(folder: Path, stores: dict[str, str], control: str = "memory://control") -> None:
    regions = "".join(f'  {name}: {{store: "{store}"}}\n' for name, store in stores.items())
    (folder / "topology.yaml").write_text(f'control: "{control}"\nregions:\n{regions}')


def test_all_is_well(mlplatform: Run, tmp_path: Path) -> None:
    write(tmp_path, {"us": "memory://us", "eu": f"file://{tmp_path}/eu"})
    ran = mlplatform("validate")
    assert ran.returncode == 0
    head, *rows = ran.stdout.splitlines()
    assert head.split("  ")[0] == "PLACE"
    assert [row.split()[0] for row in rows] == ["control", "us", "eu"]
    assert all(row.split()[2:] == ["ok"] * 7 for row in rows)
    assert ran.stderr.startswith("warning: ")
    assert not list((tmp_path / "eu" / ".mlplatform").rglob("scratch/*"))


def test_for_programs(mlplatform: Run, tmp_path: Path) -> None:
    write(tmp_path, {"us": "memory://us"})
    told = json.loads(mlplatform("validate", "-o", "json").stdout)
    row = told["stores"][1]
    assert told["schema_version"] == 1
    assert (row["place"], row["conditional_put"], row["missing_rights"]) == ("us", "ok", [])
    assert row["features"]["conditional_delete"] is True
    assert row["leftover"] is None


def test_the_file_alone(mlplatform: Run, tmp_path: Path) -> None:
    write(tmp_path, {"us": f"file://{tmp_path}/us", "eu": "s3://no-such-bucket"})
    ran = mlplatform("validate", "--offline")
    assert ran.returncode == 0
    assert ran.stdout.splitlines()[1:] == [
        "control  memory://control",
        f"us       file://{tmp_path}/us",
        "eu       s3://no-such-bucket",
    ]
    assert not (tmp_path / "us").exists()


def test_errors_of_the_file(mlplatform: Run, tmp_path: Path) -> None:
    (tmp_path / "topology.yaml").write_text("contrl: x\nregions: {us: {stor: y}}\n")
    ran = mlplatform("validate")
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.splitlines() == [
        f"error: {tmp_path}/topology.yaml:1: contrl: unknown key; did you mean 'control'?",
        f"error: {tmp_path}/topology.yaml:1: control: is missing",
        f"error: {tmp_path}/topology.yaml:2: regions.us.stor: unknown key; did you mean 'store'?",
        f"error: {tmp_path}/topology.yaml:2: regions.us.store: is missing",
    ]


def test_no_file(mlplatform: Run) -> None:
    ran = mlplatform("validate")
    assert ran.returncode == 2
    assert "hint: `mlplatform init` writes one" in ran.stderr


@pytest.mark.parametrize("flags", [(), ("--offline",)])
def test_unknown_schemes_are_all_named(
    mlplatform: Run, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    write(tmp_path, {"us": "gcs://us", "eu": "ftp://eu"})
    ran = mlplatform("validate", *flags)
    assert ran.returncode == 2
    assert "error: us: store URL gcs://us: unknown scheme 'gcs'; did you mean gs://?" in ran.stderr
    assert "error: eu: store URL ftp://eu: unknown scheme 'ftp'" in ran.stderr
    assert "hint: known here: memory://, file://, s3://" in ran.stderr


def test_a_folder_that_cannot_be(mlplatform: Run, tmp_path: Path) -> None:
    write(tmp_path, {"us": f"file://{tmp_path}/not/there", "eu": "memory://eu"})
    ran = mlplatform("validate")
    assert ran.returncode == 2
    [error] = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: us: put, list, get, ")
    assert f"file://{tmp_path}/not/there" in error
    assert [row.split()[2] for row in ran.stdout.splitlines()[1:]] == ["ok", "unknown", "ok"]


def test_dead_stores_cost_one_timeout(mlplatform: Run, tmp_path: Path, black_hole: int) -> None:
    dead = f"az://account/{{}}?endpoint=http://127.0.0.1:{black_hole}/account"
    stores = {f"dead-{number}": dead.format(f"store-{number}") for number in range(8)}
    write(tmp_path, {**stores, "ap": "memory://ap"})
    began = time.monotonic()
    ran = mlplatform(
        "validate",
        "--region-timeout",
        "3",
        env={"AZURE_STORAGE_KEY": "c2VjcmV0c2VjcmV0", "AZURE_STORAGE_ACCOUNT": "account"},
    )
    took = time.monotonic() - began
    if "not installed" in ran.stderr:
        pytest.skip("no Azure SDK here")
    assert ran.returncode == 5, ran.stderr
    assert took < len(stores) * 3, "one after the other"
    assert "no answer within 3 s" in ran.stderr
    assert ran.stdout.splitlines()[-1].split()[2:] == ["ok"] * 7


def with_routes(folder: Path, **actuators: str) -> None:
    write(folder, {"us": f"file://{folder}/us", "eu": f"file://{folder}/eu"})
    text = (folder / "topology.yaml").read_text()
    text = text.replace('eu"}', 'eu", endpoint: "http://127.0.0.1:2"}')
    text = text.replace('us"}', 'us", endpoint: "http://127.0.0.1:1"}')
    routes = "".join(
        f'    {name}: {{actuator: "{url}", weights: {{us: 50, eu: 50}}}}\n'
        for name, url in actuators.items()
    )
    (folder / "topology.yaml").write_text(f"{text}traffic:\n  routes:\n{routes}")


def test_routes_are_read(mlplatform: Run, tmp_path: Path) -> None:
    with_routes(tmp_path, api="memory://api")
    ran = mlplatform("validate")
    assert ran.returncode == 0, ran.stderr
    head, row = ran.stdout.splitlines()[-2:]
    assert head.split("  ")[0] == "ROUTE"
    assert row.split()[:2] == ["api", "memory://api"]
    assert "eu 50, us 50" in row
    (told,) = json.loads(mlplatform("validate", "-o", "json").stdout)["routes"]
    assert (told["route"], told["epoch"], told["exercised"]) == ("api", 0, "itself")


def test_an_actuator_that_does_not_answer(mlplatform: Run, tmp_path: Path, black_hole: int) -> None:
    with_routes(tmp_path, api="memory://api", edge=f"caddy://127.0.0.1:{black_hole}/edge")
    ran = mlplatform("validate", "--region-timeout", "1")
    assert ran.returncode == 5
    assert f"error: route edge: caddy://127.0.0.1:{black_hole}/edge: no answer" in ran.stderr


def test_an_actuator_that_is_not_there(mlplatform: Run, tmp_path: Path) -> None:
    with_routes(tmp_path, edge="caddy://127.0.0.1:9/edge")
    ran = mlplatform("validate")
    assert ran.returncode == 5
    assert "route edge: caddy://127.0.0.1:9" in ran.stderr


def test_a_scheme_of_an_actuator_that_nobody_speaks(mlplatform: Run, tmp_path: Path) -> None:
    with_routes(tmp_path, edge="cady://127.0.0.1:2019/edge")
    ran = mlplatform("validate", "--offline")
    assert ran.returncode == 2
    assert "did you mean caddy://?" in ran.stderr
