"""Schemathesis against the description: over a thousand requests, right ones and wrong ones, none
of which may be answered otherwise than it is described, or by an error of the server's own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.rig import DATATYPES, ServerProcess, environment, identity, publish, running

SEED = "20261121"
# What every scenario names, so that what it does is done to a model, and to a token's holder.
CONFIGURATION = """
[warnings]
enabled = false
[parameters]
"path.model" = "every"
"path.version" = "v1.0.0"
"""
CHANGING = "(^/admin$|load$)"
"""What would unload the model under the others, or make the server a lame duck."""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("described")
    publish(folder / "models", "every", "v1.0.0", identity(*DATATYPES))
    (folder / "token").write_text("secret\n")
    files = {f"{scope}_TOKEN_FILE": folder / "token" for scope in ("INFER", "ADMIN", "METRICS")}
    with running(folder / "models", **files) as server:
        yield server


@pytest.mark.parametrize("which", ["--exclude-path-regex", "--include-path-regex"])
def test_nothing_is_answered_otherwise_than_described(
    schemathesis: Path, guarded: ServerProcess, tmp_path: Path, which: str
) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    checks = ["positive_data_acceptance"]  # that data fill their shape is beyond a schema
    if which == "--include-path-regex":
        checks.append("not_a_server_error")  # what is unloaded is not ready: 503, as described
    done = subprocess.run(
        [
            *(schemathesis, "-m", "schemathesis.cli", "run", f"{guarded.url}/openapi.json"),
            *("--seed", SEED, "--max-examples", "20", "--generation-database", "none"),
            *("--exclude-checks", ",".join(checks), "--continue-on-failure"),
            *("-H", "Authorization: Bearer secret", which, CHANGING),
        ],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert guarded.ask("GET", "/health").status == 200
    unexpected = [line for line in guarded.lines if "in a way it should not" in line["message"]]
    assert unexpected == []
